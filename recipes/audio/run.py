"""Run one audio recipe: features of every fold, then k-nearest-neighbour accuracy of every arm.

    python -m recipes.audio.run recipes/audio/fsdd_sample.json --model FOLDER_OR_ID

A recipe names the data (a parquet file with whole sound files, labels and a fold column), the
objectives, and the arms: which blocks of the feature are concatenated. Negatives come from the
training folds only. The result is JSON, with every fold's accuracy.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet

from fungi_hf.config import FungiConfig
from fungi_hf.extraction.state import FittedState
from fungi_hf.extractor import FungiExtractor
from fungi_hf.features import FungiFeatures
from fungi_hf.neighbors.classifier import KNNClassifier
from fungi_hf.neighbors.shots import draw_few

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Sounds:
    """Sound files with labels [N] and folds [N]."""

    files: list[bytes]
    labels: np.ndarray
    folds: np.ndarray

    def digest(self) -> str:
        """Give a digest of the files and of which fold each is in, in their order."""
        parts = [hashlib.sha256(file).digest() for file in self.files]
        parts += [str(fold).encode() for fold in self.folds]
        return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def read(path: Path, fold_column: str) -> Sounds:
    """Read a parquet file with `audio_bytes`, `label` and a fold column."""
    table = pyarrow.parquet.read_table(path)
    return Sounds(
        table["audio_bytes"].to_pylist(),
        np.array(table["label"].to_pylist()),
        np.array(table[fold_column].to_pylist()).astype(str),
    )


def extract(sounds: Sounds, model: str, config: FungiConfig, cache: Path | None = None) -> Any:
    """Give all clips' features, kept in `cache`; blocks that need training clips once per fold.

    The clips and their views are encoded once for all folds: only the negatives differ, so a
    SimCLR block "name" becomes "name_fold", whose bank (and head) belongs to that fold's training
    clips.
    """
    if cache is None:
        return computed(sounds, model, config)
    path = cache / f"audio-{sounds.digest()}-{key(model, config)}.safetensors"
    if path.exists():
        return FungiFeatures.load(path)
    features = computed(sounds, model, config)
    cache.mkdir(parents=True, exist_ok=True)
    features.save(path)
    return features


def key(model: str, config: FungiConfig) -> str:
    """Give the fingerprint of the extractor before any fold is fitted."""
    return FungiExtractor.from_pretrained(model, config).fingerprint


def computed(sounds: Sounds, model: str, config: FungiConfig) -> FungiFeatures:
    """Extract; see `extract`."""
    fitted = [spec for spec in config.objectives if spec.needs_fit]
    if not fitted:
        return FungiExtractor.from_pretrained(model, config)(sounds.files)
    plain = [spec for spec in config.objectives if not spec.needs_fit]
    banks: dict[str, Any] = {}
    variants: list[Any] = []
    for fold in sorted(set(sounds.folds)):
        here = [dataclasses.replace(spec, name=f"{spec.name}_{fold}") for spec in fitted]
        training = [f for f, s in zip(sounds.files, sounds.folds, strict=True) if s != fold]
        extractor = FungiExtractor.from_pretrained(model, config.replace(objectives=tuple(here)))
        banks |= extractor.fit(training).state.objectives
        variants += here
        print(f"negatives without {fold}", flush=True)
    config = config.replace(objectives=(*plain, *variants))
    extractor = FungiExtractor.from_pretrained(model, config)
    extractor.restore(FittedState(banks))  # fit learns from one training set; here are several
    return extractor(sounds.files, fitted[0].n_views)  # a batch per view family: cheap pullbacks


def columns(features: Any, blocks: list[str], fold: str = "") -> np.ndarray:
    """Concatenate some blocks of the features, each of unit length, those of a fold if there."""
    layout = features.layout
    names = [name if name in layout else f"{name}_{fold}" for name in blocks]
    return np.concatenate([features.array[:, layout[name]] for name in names], axis=1)


def score(
    array: np.ndarray, sounds: Sounds, fold: str, recipe: dict[str, Any]
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Judge one fold by its training clips, all of them and a few.

    Returns:
        Accuracies in percent, few-shot averaged over draws; and for all training clips which test
        clips were right.
    """
    test = sounds.folds == fold
    train, y = array[~test], sounds.labels[~test]

    def right(rows: np.ndarray, k: int) -> np.ndarray:
        knn = KNNClassifier(n_neighbors=min(k, len(rows)), metric="cosine")
        knn.fit(train[rows], y[rows].tolist())
        hits: np.ndarray = np.asarray(knn.predict(array[test])) == sounds.labels[test]
        return hits

    full = {f"full k={k}": right(np.arange(len(y)), k) for k in recipe["neighbors"]}
    shots, codes = recipe["shots"], np.unique(y, return_inverse=True)[1]
    drawn = [right(draw_few(codes, shots, draw), shots).mean() for draw in range(recipe["draws"])]
    accuracies = {name: 100 * float(hits.mean()) for name, hits in full.items()}
    return accuracies | {f"{shots}-shot k={shots}": 100 * float(np.mean(drawn))}, full


def run(
    recipe: dict[str, Any], model: str, data: Path, cache: Path | None = None
) -> dict[str, Any]:
    """Give the result of one recipe."""
    sounds = read(data, recipe["fold_column"])
    config = FungiConfig.from_dict(recipe["config"])
    folds = sorted(set(sounds.folds))
    scores: dict[str, dict[str, dict[str, float]]] = {arm: {} for arm in recipe["arms"]}
    right: dict[str, list[dict[str, np.ndarray]]] = {arm: [] for arm in recipe["arms"]}
    features = extract(sounds, model, config, cache)
    for fold in folds:
        for arm, blocks in recipe["arms"].items():
            array = columns(features, blocks, fold)
            scores[arm][fold], hits = score(array, sounds, fold, recipe)
            right[arm].append(hits)
    return {
        "recipe": recipe["name"],
        "clips": len(sounds.files),
        "folds": folds,
        "model": Path(model).name,
        "config": config.to_dict(),
        "fingerprint": key(model, config),
        "mean": {arm: mean(by_fold) for arm, by_fold in scores.items()},
        "against_first_arm": {
            arm: against(hits, next(iter(right.values()))) for arm, hits in right.items()
        },
        "by_fold": scores,
    }


def against(
    hits: list[dict[str, np.ndarray]], base: list[dict[str, np.ndarray]]
) -> dict[str, dict[str, int]]:
    """Count test clips of all folds that are right here and wrong there, and the reverse."""
    found = {}
    for name in hits[0]:
        here, there = (np.concatenate([fold[name] for fold in arm]) for arm in (hits, base))
        found[name] = {"gained": int((here & ~there).sum()), "lost": int((there & ~here).sum())}
    return found


def mean(by_fold: dict[str, dict[str, float]]) -> dict[str, float]:
    """Average over folds."""
    names = next(iter(by_fold.values()))
    return {n: round(float(np.mean([f[n] for f in by_fold.values()])), 2) for n in names}


def table(result: dict[str, Any]) -> str:
    """Give a Markdown table of the means, in percent."""
    names = list(next(iter(result["mean"].values())))
    lines = ["| features | " + " | ".join(names) + " |", "| --- |" + " ---: |" * len(names)]
    for arm, values in result["mean"].items():
        lines.append(f"| {arm} | " + " | ".join(f"{values[n]:.1f}" for n in names) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run the recipe named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--model", required=True, help="Hub id or folder of the encoder")
    parser.add_argument("--data", type=Path, help="parquet file; default: the recipe's own")
    parser.add_argument("--out", type=Path, help="default: recipes/results/<recipe>.json")
    parser.add_argument("--cache", type=Path, default=Path("out/features"))
    arguments = parser.parse_args()
    recipe = json.loads(arguments.recipe.read_text("utf-8"))
    data = arguments.data or (ROOT / recipe["data"] if recipe.get("data") else None)
    if data is None:
        parser.error(
            f"recipe {recipe['name']!r} needs --data: its sounds are not in the repository"
        )
    result = run(recipe, arguments.model, data, arguments.cache)
    out = arguments.out or ROOT / "recipes/results" / f"{recipe['name']}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(table(result))


if __name__ == "__main__":
    main()
