"""Landmark retrieval on a folder of images: extract once, judge three levels, write JSON.

    python -m recipes.vision.landmarks --images FOLDER --truth roxford5k.json \
        --model FOLDER_OR_ID --out roxford5k-results.json

The ground truth is that of docs/evaluation.md; the folder holds database and queries, whole and
not cropped. Objectives are those of the paper's image experiments; each row of the table adds one.
The protocol reduces the features, so the config does not.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fungi_hf.cli.rows import files_in
from fungi_hf.config import FungiConfig
from fungi_hf.evaluation import evaluate_landmarks, read_landmarks
from fungi_hf.extractor import FungiExtractor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fungi_hf.evaluation import EvaluationResult

PRESET = FungiConfig.paper("vision").replace(reduction=None)
OBJECTIVES = tuple(spec.name for spec in PRESET.objectives)
SHOWN = ("map", "mp@1", "mp@5", "mp@10")


def chosen(names: Sequence[str]) -> FungiConfig:
    """Give the preset with some of its objectives, in its order."""
    return PRESET.replace(objectives=tuple(s for s in PRESET.objectives if s.name in names))


def judge(
    images: Path, truth: Path, model: str, config: FungiConfig, device: str | None = None
) -> dict[str, Any]:
    """Extract database and queries, and score every level of every row of the table."""
    landmarks = read_landmarks(truth)
    names = [str(one) for one in files_in(images)]
    database, queries = (
        [names[row] for row in rows]
        for rows in (landmarks.database_rows(names), landmarks.query_rows(names))
    )
    extractor = FungiExtractor.from_pretrained(model, config, device=device)
    start = time.perf_counter()
    if extractor.config.needs_fit:
        extractor.fit(database, progress=True)
    fitted = time.perf_counter()
    pool, asked = (extractor(side, progress=True) for side in (database, queries))
    done = time.perf_counter()
    blocks = list(pool.layout)
    wanted = [blocks[: n + 1] for n in range(len(blocks))]
    found = evaluate_landmarks(pool, asked, landmarks, combinations=wanted)
    return {
        "truth": truth.name,
        "model": Path(model).name,
        "fingerprint": extractor.fingerprint,
        "config": extractor.config.to_dict(),
        "layer": extractor.encoder.layer_path,
        "rows": {"database": len(pool), "queries": len(asked)},
        "seconds": {"fit": round(fitted - start, 1), "extract": round(done - fitted, 1)},
        "levels": _levels(found),
        "notes": list(dict.fromkeys(f"{one.protocol}: {n}" for one in found for n in one.notes)),
    }


def _levels(found: list[EvaluationResult]) -> dict[str, dict[str, Any]]:
    levels: dict[str, dict[str, Any]] = {}
    for one in found:
        row: dict[str, Any] = {name: round(100 * one.metrics[name], 2) for name in SHOWN}
        if one.against_baseline:
            row["against_embedding"] = dict(one.against_baseline)
        levels.setdefault(str(one.settings["level"]), {})[one.name] = row
    return levels


def table(result: dict[str, Any]) -> str:
    """Give mAP and mP@10 of each level in percent, as Markdown."""
    levels = result["levels"]
    head = [f"{level}: {name}" for level in levels for name in ("mAP", "mP@10")]
    lines = [["features", *head], ["---", *["---:"] * len(head)]]
    for name in next(iter(levels.values())):
        rows = [own[name] for own in levels.values()]
        lines.append([name, *(f"{row[key]:.1f}" for row in rows for key in ("map", "mp@10"))])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Judge the images named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True, help="folder of all images")
    parser.add_argument("--truth", type=Path, required=True, help="JSON file of the ground truth")
    parser.add_argument("--model", required=True, help="Hub id or folder of an image encoder")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    words = "default: all; may be repeated"
    parser.add_argument("--objective", action="append", choices=OBJECTIVES, help=words)
    parser.add_argument("--device", help="e.g. cuda")
    options = parser.parse_args()
    config = chosen(options.objective or OBJECTIVES)
    result = judge(options.images, options.truth, options.model, config, options.device)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(table(result))


if __name__ == "__main__":
    main()
