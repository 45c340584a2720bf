"""The paper's tables as one command.

    python -m recipes.paper --table text --model google-bert/bert-base-uncased --out text.json
    python -m recipes.paper --table vision --model ID --data FOLDER --sets cifar10 --rows 2000 1000
    python -m recipes.paper --table audio --model ID --dry     # what it would download and compute
    python -m recipes.paper --list

Sets come from the Hub at a commit that the result names; folders under --data or FUNGI_DATA stand
for them (`--hub` takes none), and the result says so. docs/paper.md says what differs by design.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fungi_hf.errors import ConfigError, FungiError, choices
from recipes.paper import plan, render, tables
from recipes.paper.access import Places
from recipes.paper.registry import SETS
from recipes.paper.run import Options, run

if TYPE_CHECKING:
    from collections.abc import Sequence


def parser() -> argparse.ArgumentParser:
    """Give the parser of the command."""
    words = (__doc__ or "").splitlines()
    made = argparse.ArgumentParser(
        prog="python -m recipes.paper", description=words[0], epilog="\n".join(words[1:]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = made.add_argument
    add("--table", help=f"one of {', '.join(tables.TABLES)}")
    add("--model", help="Hub id or folder of the encoder")
    add("--list", action="store_true", help="show tables, encoders and sets, and stop")
    add("--dry", action="store_true", help="say what would be downloaded and computed, and stop")
    add("--preset", default="paper", help="paper (default), or fungi: the toolkit's own choices")
    add("--sets", nargs="+", default=(), metavar="SET", help="some of the table's sets")
    add("--objectives", nargs="*", metavar="NAME", help="some of the preset's objectives")
    add("--pooling", help="in place of the preset's")
    add("--image-size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="in pixels")
    words = "a folder with a folder for each set, or SET=FOLDER; may be repeated"
    add("--data", action="append", default=[], metavar="[SET=]FOLDER", help=words)
    add("--hub", action="store_true", help="let no local files stand for a set")
    add("--revision", action="append", default=[], metavar="SET=REVISION", help="on the Hub")
    add("--rows", "--limit", type=int, nargs=2, metavar=("TRAIN", "TEST"),
        help="so many rows of each split, evenly spread (of landmarks: queries)")  # fmt: skip
    add("--shots", type=int, default=5, help="rows a class of the few-shot columns (default: 5)")
    add("--judges", nargs="+", default=tables.JUDGES, metavar="NAME", help="full, few-shot, linear")
    add("--probe-all", action="store_true", help="a linear probe for every column")
    add("--skip-missing", action="store_true", help="list sets that are not at hand, and go on")
    add("--seed", type=int, default=42)
    add("--device", help="of torch")
    add("--threads", type=int, help="of torch")
    add("--out", type=Path, help="JSON of the result")
    return made


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; give the exit status."""
    given = parser().parse_args(words)
    try:
        return _run(given)
    except (FungiError, OSError) as error:
        sys.stderr.write(f"recipes.paper: error: {error}\n")
        return 1


def _run(given: argparse.Namespace) -> int:
    places = _places(given)
    if given.list:
        print(plan.listing(places))
        return 0
    for name in ("table", "model"):
        if not getattr(given, name):
            allowed = f": {', '.join(tables.TABLES)}" if name == "table" else ": an encoder"
            raise ConfigError(f"--{name} is needed{allowed}; --list shows what there is")
    table = tables.table_named(given.table)
    options = _options(given, places)
    if given.dry:
        print(plan.plan(table, options))
        return 0
    if given.threads:
        torch.set_num_threads(given.threads)

    def keep(record: dict[str, Any]) -> None:
        if given.out:
            given.out.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
            given.out.write_text(text, encoding="utf-8")

    record, missing = run(table, options, keep)
    shown = [render.about(record), render.markdown(record), render.probes(record)]
    print("\n\n".join(one for one in [*shown, render.controls(record)] if one))
    for line in missing.values():
        print(f"missing: {line}")
    return 0


def _options(given: argparse.Namespace, places: Places) -> Options:
    for name in given.judges:
        if name not in tables.JUDGES:
            raise ConfigError(f"--judges: {choices(name, tables.JUDGES)}")
    for name in ("shots", *(("rows",) if given.rows else ())):
        values = getattr(given, name)
        if min(values if isinstance(values, list) else [values]) < 1:
            raise ConfigError(f"--{name} is {values}; allowed: at least 1")
    made = Options(model=given.model, places=places)
    return replace(
        made, preset=given.preset, sets=tuple(given.sets), pooling=given.pooling,
        objectives=None if given.objectives is None else tuple(given.objectives),
        image_size=tuple(given.image_size) if given.image_size else None,
        rows=tuple(given.rows) if given.rows else None, shots=given.shots,
        judges=tuple(given.judges), probe_all=given.probe_all, seed=given.seed,
        device=given.device, skip_missing=given.skip_missing,
    )  # fmt: skip


def _places(given: argparse.Namespace) -> Places:
    roots = [one for one in given.data if "=" not in one]
    if len(roots) > 1:
        raise ConfigError(f"--data names {len(roots)} folders for all sets; allowed: one")
    folders = _pairs("--data", [one for one in given.data if "=" in one])
    for root in roots:
        if not Path(root).is_dir():
            raise ConfigError(f"--data names {root}, which is no folder")
    return Places(
        root=Path(roots[0]) if roots else None,
        folders={name: Path(folder) for name, folder in folders.items()},
        hub_only=given.hub,
        revisions=_pairs("--revision", given.revision),
    )


def _pairs(option: str, words: Sequence[str]) -> dict[str, str]:
    found = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign or not value:
            raise ConfigError(f"{option} {word!r} must be SET=VALUE")
        if name not in SETS:
            raise ConfigError(f"{option} names a set {choices(name, SETS)}")
        found[name] = value
    return found


if __name__ == "__main__":
    raise SystemExit(main())
