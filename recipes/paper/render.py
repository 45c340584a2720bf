"""Tables of recorded runs as Markdown: the embedding, then differences with paired intervals."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fungi_hf.evaluation.records import CONTROL
from recipes.paper import plan, tables
from recipes.paper.judge import title

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

RESULTS: Final = Path(__file__).parents[1] / "results" / "paper"
_NAMES: Final = {
    "full": "all training rows",
    "few-shot": "few",
    "patches": "single patches, 20 neighbours",
    "linear": "probe",
}
_PROBE: Final = "linear probe on the embedding"


def markdown(record: dict[str, Any]) -> str:
    """Give the table of one record: a line for each set and judge."""
    lines: list[list[str]] = []
    head: list[str] = []
    for one in record["sets"]:
        results = one["results"]
        probe = _rows(one, "linear")
        for judge in results:
            if judge == "linear":
                continue
            rows = _rows(one, judge)
            columns = [row for row in rows if not _is_bare(row)]
            head = head or _head(columns)
            name = _NAMES.get(judge, judge)
            if judge == "few-shot" and record["table"] not in ("segmentation", "landmarks"):
                name = f"{record['options']['shots']} a class"
            facts = f"{one['rows']['train']:,} / {one['rows']['test']:,}"
            cells = [one["title"], facts, name, *(_cell(row, rows[0]) for row in columns)]
            same = judge == ("patches" if "patches" in results else "full")
            cells.append(_cell(probe[0], probe[0]) if probe and same else "")
            lines.append(cells)
    if not lines:
        return "nothing was judged"
    return _table(["data", "train / test", "from", *head, _PROBE], lines)


def probes(record: dict[str, Any]) -> str:
    """Give the linear probe of every column that has one."""
    lines = [
        [one["title"], *(_cell(row, rows[0]) for row in rows)]
        for one in record["sets"]
        if len(rows := _rows(one, "linear")) > 1
    ]
    rows = next((own for one in record["sets"] if (own := _rows(one, "linear"))), [])
    return _table(["data", *_head(rows)], lines) if lines else ""


def controls(record: dict[str, Any]) -> str:
    """Give the segmentations that need no encoder."""
    lines = [
        [one["title"], row["blocks"][0].removeprefix(CONTROL), _share(row["value"])]
        for one in record["sets"]
        for row in _rows(one, "full")
        if _is_bare(row)
    ]
    return _table(["data", "control without an encoder", "mIoU"], lines) if lines else ""


def about(record: dict[str, Any]) -> str:
    """Give one line on encoder, preset, protocols, seed and versions."""
    model = record["model"]
    first = record["sets"][0]["results"] if record["sets"] else {}
    rules = ", ".join(dict.fromkeys(judgement["protocol"] for judgement in first.values()))
    versions = ", ".join(f"{name} {one}" for name, one in record["versions"].items())
    return (
        f"{model['id']} ({model['class']}, {model['layer']}), preset {record['preset']}, seed "
        f"{record['seed']}; protocols {rules}; {versions}"
    )


def records() -> dict[str, dict[str, Any]]:
    """Give the recorded runs by the names of their files."""
    paths = sorted(RESULTS.glob("*.json"))
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths}


def documented(name: str, _: Any = None) -> str:
    """Give all recorded runs of one table, each with its facts."""
    parts = []
    for record in records().values():
        if record["table"] != name:
            continue
        shown = [markdown(record), probes(record), controls(record)]
        parts += ["\n\n".join([f"{about(record)}:", *(one for one in shown if one)])]
    return "\n\n".join(parts) or "No run is recorded."


def registry() -> str:
    """Give the registry as a table."""
    head = ["set", "Hub (revision)", "columns", "splits", "metric", "licence", "files that stand "
            "for it", "differs from the paper's"]  # fmt: skip
    return _table(head, plan.rows_of_registry(), texts=len(head))


def overview() -> str:
    """Give what makes each table, its encoders, and what was run here."""
    rows = []
    for table in tables.TABLES.values():
        ran = [
            f"{record['model']['id']} ({record['preset']}): "
            + ", ".join(one["title"] for one in record["sets"])
            for record in records().values()
            if record["table"] == table.name
        ]
        rows.append(
            [
                table.title,
                f"`python -m recipes.paper --table {table.name} --model ID`",
                f"{len(table.sets)}",
                "; ".join(f"{name}: {model}" for name, model in table.models.items()),
                "; ".join(ran) or "nothing",
            ]
        )
    head = ["table", "command", "sets", "encoders of the paper", "run here"]
    return _table(head, rows, texts=len(head))


TABLES: Final[dict[str, Callable[[Any], str]]] = {
    "paper-sets": lambda _: registry(),
    "paper-overview": lambda _: overview(),
    **{f"paper-{name}": functools.partial(documented, name) for name in tables.TABLES},
}


def _rows(one: dict[str, Any], judge: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = one["results"].get(judge, {}).get("rows", [])
    return found


def _is_bare(row: dict[str, Any]) -> bool:
    return str(row["blocks"][0]).startswith(CONTROL)


def _head(rows: Sequence[dict[str, Any]]) -> list[str]:
    return [title(row["blocks"]) for row in rows]


def _cell(row: dict[str, Any], first: dict[str, Any]) -> str:
    if row is first or "against_first" not in row:
        low, high = row.get("interval", (None, None))
        ends = f" ({_share(low)} to {_share(high)})" if low is not None else ""
        return _share(row["value"]) + ends
    one = row["against_first"]
    points = [f"{100 * one[name]:+.1f}" for name in ("difference", "low", "high")]
    return f"{points[0]} ({points[1]} to {points[2]})"


def _share(value: float) -> str:
    return f"{100 * value:.1f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]], texts: int = 3) -> str:
    texts = min(texts, len(head))
    rule = ["---"] * texts + ["---:"] * (len(head) - texts)
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in (head, rule, *rows))
