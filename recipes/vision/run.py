"""Run one image recipe: extract once, judge every combination of blocks, write JSON.

    FUNGI_DATA=FOLDER python -m recipes.vision.run recipes/vision/NAME.json --model FOLDER_OR_ID

`kind` "blocks" judges combinations by neighbours (all and five images a class, with and without
PCA), a linear probe and clusters, and compares blocks by CKA and classes by their recall. "patches"
varies the views of patchify, "layers" and "sketches" are the package's sweeps.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fungi_hf.config import FungiConfig, SimCLR
from fungi_hf.evaluation import (
    block_cka,
    change_per_class,
    evaluate_clustering,
    evaluate_knn,
    evaluate_linear,
)
from fungi_hf.evaluation.sweeps.layers import SweepData, sweep_layers
from fungi_hf.evaluation.sweeps.sketches import sweep_sketches
from fungi_hf.extractor import FungiExtractor
from recipes.vision.data import load

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fungi_hf.evaluation import EvaluationResult
    from recipes.vision.data import Images

RESULTS = Path(__file__).parents[1] / "results" / "vision"
_TASKS = ("knn", "few", "pca", "linear")


def splits(recipe: dict[str, Any]) -> tuple[Images, Images]:
    """Give both splits, or as many rows a class as the recipe says."""
    rows = recipe.get("per_class") or {}
    train, test = (load(recipe["data"], name).spread(rows.get(name)) for name in ("train", "test"))
    return train, test


def blocks(recipe: dict[str, Any], model: str) -> dict[str, Any]:
    """Judge combinations of blocks."""
    train, test = splits(recipe)
    extractor = FungiExtractor.from_pretrained(model, FungiConfig.from_dict(recipe["config"]))
    start = time.perf_counter()
    if extractor.config.needs_fit:
        extractor.fit(train.files, progress=True)
    fitted = time.perf_counter() - start
    left, right = (extractor(side.files, progress=True) for side in (train, test))
    seconds = time.perf_counter() - start - fitted
    wanted = [name.split("+") for name in recipe["combinations"]]
    sides = (left, train.labels, right, test.labels)
    plain, few, pca, probe = (
        evaluate_knn(*sides, combinations=wanted),
        evaluate_knn(*sides, combinations=wanted, protocol="fungi-5-shot"),
        evaluate_knn(*sides, combinations=wanted, protocol="paper"),
        evaluate_linear(*sides, combinations=wanted),
    )
    clusters = evaluate_clustering(right, test.labels, combinations=wanted)
    names, cka = block_cka(right)
    by_name = {one.name: one for one in plain}
    changed = {
        name: {train.names[int(label)]: round(100 * change, 1) for label, change in all_of.items()}
        for name, one in by_name.items()
        if (all_of := change_per_class(one, by_name["embedding"])) and name != "embedding"
    }
    return {
        "fingerprint": extractor.fingerprint,
        "config": extractor.config.to_dict(),
        "layer": extractor.encoder.layer_path,
        "rows": {"train": len(train), "test": len(test)},
        "seconds": {"fit": round(fitted, 1), "extract": round(seconds, 1)},
        "scores": _scores(zip(_TASKS, (plain, few, pca, probe), strict=True), clusters),
        "cka": {"blocks": names, "values": [[round(x, 3) for x in row] for row in cka.tolist()]},
        "change_per_class": changed,
    }


def _scores(
    tasks: Iterable[tuple[str, list[EvaluationResult]]], clusters: list[EvaluationResult]
) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for task, results in tasks:
        for one in results:
            row = found.setdefault(one.name, {})
            row[task] = round(100 * one.metrics["accuracy"], 2)
            if task == "knn" and one.against_baseline:
                row["against_embedding"] = dict(one.against_baseline)
    for one in clusters:
        row = found[one.name]
        row["nmi"] = round(one.metrics["nmi"], 4)
        row["clustering"] = round(100 * one.metrics["accuracy"], 2)
    return found


def patches(recipe: dict[str, Any], model: str) -> dict[str, Any]:
    """Judge SimCLR by the number of its patches, and time it."""
    train, test = splits(recipe)
    config = FungiConfig.from_dict(recipe["config"])
    rows = []
    for n_views in recipe["numbers"]:
        spec = SimCLR(
            n_views=n_views,
            views="patchify",
            latent_dim=96,
            n_negatives=recipe["n_negatives"],
            negative_views=recipe["negative_views"],
        )
        extractor = FungiExtractor.from_pretrained(model, config.replace(objectives=(spec,)))
        extractor.fit(train.files)
        start = time.perf_counter()
        left, right = (extractor(side.files, progress=True) for side in (train, test))
        seconds = time.perf_counter() - start
        found = evaluate_knn(left, train.labels, right, test.labels)
        scores = {one.name: one.metrics["accuracy"] for one in found}
        rows.append(
            {
                "patches": n_views,
                "images_per_second": round((len(train) + len(test)) / seconds, 2),
                "knn": {name: round(100 * value, 2) for name, value in scores.items()},
            }
        )
        print(rows[-1], flush=True)
    return {"rows": {"train": len(train), "test": len(test)}, "patches": rows}


def swept(recipe: dict[str, Any], model: str) -> dict[str, Any]:
    """Run one of the package's sweeps."""
    train, test = splits(recipe)
    extractor = FungiExtractor.from_pretrained(model, FungiConfig.from_dict(recipe["config"]))
    data = SweepData(
        train=train.files,
        train_labels=train.labels,
        test=test.files,
        test_labels=test.labels,
        progress=True,
    )
    run = {"layers": sweep_layers, "sketches": sweep_sketches}[recipe["kind"]]
    found: Any = run(extractor, data, **(recipe.get("options") or {}))
    return found.to_dict()  # type: ignore[no-any-return]


def main() -> None:
    """Run the recipes named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="+", type=Path)
    parser.add_argument("--model", required=True, help="Hub id or folder of the encoder")
    options = parser.parse_args()
    torch.set_num_threads(2)
    kinds = {"blocks": blocks, "patches": patches, "layers": swept, "sketches": swept}
    for path in options.recipes:
        recipe = json.loads(path.read_text(encoding="utf-8"))
        found = kinds[recipe["kind"]](recipe, options.model)
        result = {"recipe": recipe, "model": Path(options.model).name, **found}
        out = RESULTS / f"{recipe['name']}.json"
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(result.get("scores") or result.get("patches") or "done", indent=1))


if __name__ == "__main__":
    main()
