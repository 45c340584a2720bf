"""Tables of late views against full views, for `recipes.table`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

COST = Path(__file__).parent.parent / "benchmarks" / "results" / "late_views.json"
SETS = {"banking77": "Banking-77", "trec6": "TREC-6", "sst2": "SST-2", "sst5": "SST-5"}
BLOCKS = ("simclr", "embedding+simclr", "embedding+kl+simclr")
DEPTHS = (1, 2)


def accuracy_table(found: dict[str, dict[str, Any]]) -> str:
    """Give accuracy with full views and, by k, with late ones; the difference in brackets."""
    lines = [
        "| data, pooling | embedding | blocks | full views | "
        + " | ".join(f"k = {k}" for k in DEPTHS)
        + " |",
        "| --- | ---: | --- | ---: |" + " ---: |" * len(DEPTHS),
    ]
    for data, title in SETS.items():
        for pooling in ("cls", "mean"):
            name = f"{data}-minilm-{pooling}"
            late = [found.get(f"{name}-late{k}") for k in DEPTHS]
            if not any(late):
                continue
            full = found[name]["test"]
            for blocks in BLOCKS:
                cells = [f"{title}, {pooling}", _percent(full["embedding"]), blocks]
                cells.append(_percent(full[blocks]))
                cells += [_against(record, full, blocks) for record in late]
                lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _against(record: dict[str, Any] | None, full: dict[str, Any], blocks: str) -> str:
    if record is None:
        return ""
    scores = record["test"][blocks]
    return f"{_percent(scores)} ({100 * (scores['full'] - full[blocks]['full']):+.1f})"


def _percent(scores: dict[str, Any]) -> str:
    return f"{100 * scores['full']:.1f}"


def cost_table(_: dict[str, dict[str, Any]]) -> str:
    """Give ratios to one plain forward pass of the originals from the benchmark's file."""
    record = json.loads(COST.read_text(encoding="utf-8"))
    by_encoder: dict[str, dict[str, float]] = {}
    for row in record["rows"]:
        by_encoder.setdefault(row["encoder"], {}).update(row["ratio_to_plain_forward"])
    columns = ("k=1", "k=2", "full views")
    lines = [
        "| encoder | pooling | " + " | ".join(columns) + " |",
        "| --- | --- |" + " ---: |" * len(columns),
    ]
    for encoder, ratios in by_encoder.items():
        for pooling in ("first token", "mean"):
            cells = [f"{ratios[f'{pooling}, {column}']:.2f}" for column in columns]
            lines.append(f"| {encoder} | {pooling} | " + " | ".join(cells) + " |")
    machine = record["machine"]
    where = f"{machine['processor']}, {machine['threads']} threads"
    lines.append(f"\n({where}. Yardstick: {record['yardstick']}.)")
    return "\n".join(lines)


def sound_table(found: dict[str, dict[str, Any]]) -> str:
    """Give accuracy on ESC-10 with patches dropped before all blocks and before the last."""
    columns = ("full k=1", "full k=5", "full k=20")
    titles = ("1 neighbour", "5 neighbours", "20 neighbours")
    lines = ["| features | late_views | " + " | ".join(titles) + " |"]
    lines.append("| --- | --- |" + " ---: |" * len(columns))
    for arm in ("embedding", "SimCLR", "embedding + SimCLR", "embedding + KL + SimCLR"):
        for k in (4, 1):
            if arm == "embedding" and k == 1:
                continue
            scores = found[f"audio_esc10_late{k}"]["mean"][arm]
            cells = [arm, "" if arm == "embedding" else str(k)]
            cells += [f"{scores[column]:.1f}" for column in columns]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
