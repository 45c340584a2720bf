"""Retrieve landmarks (Revisited Oxford and Paris, or any set with such judgements) as published.

    python -m recipes.vision.landmarks --images FOLDER --truth gnd.json --model FOLDER_OR_ID

The pictures are the user's: those that the ground truth names, anywhere below the folder, by file
name. `fungi_hf.evaluation.landmarks` says what the JSON holds, docs/images.md how it is made of the
published file. Dot products of 512 principal components of the database, not normalised; whole
pictures as queries; every combination of blocks at each level.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fungi_hf.config import KL, FungiConfig
from fungi_hf.errors import InputError
from fungi_hf.evaluation import RETRIEVAL_PROTOCOLS, evaluate_retrieval
from fungi_hf.evaluation.landmarks import read_landmarks
from fungi_hf.extractor import FungiExtractor
from fungi_hf.specs.targets import DINO

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fungi_hf.evaluation import EvaluationResult

SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".webp")
LEVELS: Final = ("easy", "medium", "hard")
CONFIG: Final = FungiConfig(objectives=(KL(), DINO()), pooling="cls")


def found_in(folder: Path, names: Sequence[str]) -> list[str]:
    """Give the picture of each name.

    Raises:
        InputError: If one is not there.
    """
    files = {p.stem: str(p) for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES}
    missing = [name for name in names if Path(name).stem not in files]
    if missing:
        raise InputError(
            f"{folder} lacks {len(missing)} of {len(names)} pictures, such as "
            f"{', '.join(missing[:3])}; download the set's images and unpack them there"
        )
    return [files[Path(name).stem] for name in names]


def judge(images: Path, truth_file: Path, model: Any, config: FungiConfig = CONFIG) -> Any:
    """Give the records of every level, by level."""
    truth = read_landmarks(truth_file)
    database, queries = found_in(images, truth.images), found_in(images, truth.queries)
    extractor = FungiExtractor.from_pretrained(model, config)
    if extractor.config.needs_fit:
        extractor.fit(database, progress=True)
    pool, asked = (extractor(side, progress=True) for side in (database, queries))
    found: dict[str, list[EvaluationResult]] = {}
    for level in LEVELS:
        relevance = truth.relevance(level)
        if any(relevance.gains):
            rule = RETRIEVAL_PROTOCOLS["paper-landmarks"]
            found[level] = evaluate_retrieval(pool, asked, relevance, protocol=rule)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the scores as JSON and print them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", required=True, type=Path)
    parser.add_argument("--truth", required=True, type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--config", help="a config: a folder, Hub id or JSON file")
    parser.add_argument("--out", type=Path, default=Path("landmarks.json"))
    options = parser.parse_args(arguments)
    config = FungiConfig.from_pretrained(options.config) if options.config else CONFIG
    found = judge(options.images, options.truth, options.model, config)
    scores = {
        level: {
            one.name: {name: round(100 * value, 2) for name, value in one.metrics.items()}
            | {"against_first": dict(one.against_baseline), "notes": list(one.notes)}
            for one in records
        }
        for level, records in found.items()
    }
    record = {"model": options.model, "config": config.to_dict(), "scores": scores}
    options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    for level, rows in scores.items():
        for name, row in rows.items():
            print(f"{level:6} {name:24} mAP {row['map']:5.1f}  mP@10 {row['mp@10']:5.1f}")


if __name__ == "__main__":
    main()
