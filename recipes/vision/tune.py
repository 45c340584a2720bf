"""Tune on the training images of a set, and judge the choice on its test images.

    FUNGI_DATA=FOLDER python -m recipes.vision.tune imagenette128 cifar10_3k --model FOLDER_OR_ID

"last" keeps the layer of the activation and the pooling, "free" chooses both; KL is the gradient
that is tried. Tuned features are compared with embedding and activation on all test rows, and with
the paper preset (62 views an image) on a few rows a class, there fitted on the same few.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fungi_hf.config import Activation, FungiConfig
from fungi_hf.evaluation import evaluate_knn, evaluate_linear
from fungi_hf.extractor import FungiExtractor
from fungi_hf.statistics import mcnemar
from fungi_hf.tuning import TuningSearch
from recipes.vision.data import load

if TYPE_CHECKING:
    import numpy as np

    from recipes.vision.data import Images

RESULTS = Path(__file__).parents[1] / "results" / "vision"
SEARCHES = {
    "last": TuningSearch(objectives=("kl",), free_pooling=False, free_layer=False),
    "free": TuningSearch(objectives=("kl",)),
}
PAPER_ROWS = {"train": 10, "test": 10}  # a class


def right(extractor: FungiExtractor, train: Images, test: Images, block: str = "") -> np.ndarray:
    """Say which test rows 20 neighbours have right, by all blocks or by one."""
    left, queries = (extractor(side.files) for side in (train, test))
    wanted = [[block] if block else list(left.layout)]
    whole = left if block or len(left.layout) == 1 else left.array
    asked = queries if whole is left else queries.array
    found = evaluate_knn(
        whole, train.labels, asked, test.labels, combinations=wanted if whole is left else None
    )
    scores = found[0].scores
    if scores is None:
        raise ValueError("the evaluation kept no scores")
    return scores[0].astype(bool)


def judge(name: str, model: str) -> dict[str, Any]:
    """Give one data set's case."""
    train, test = load(name, "train"), load(name, "test")
    few = [side.spread(PAPER_ROWS[s]) for side, s in ((train, "train"), (test, "test"))]
    config = FungiConfig(pooling="cls", objectives=(Activation(),))
    base = FungiExtractor.from_pretrained(model, config)
    sides = (train, test)
    outcome = {block: right(base, *sides, block=block) for block in ("embedding", "activation")}
    tuned, chosen = {}, {}
    for arm, search in SEARCHES.items():
        start = time.perf_counter()
        found = base.tune(train.files, train.labels.tolist(), search=search)
        tuned[arm] = found
        outcome[arm] = right(found, *sides)
        chosen[arm] = {
            "pooling": found.config.pooling,
            "blocks": [spec.name for spec in found.config.objectives],
            "embedding_weight": found.config.embedding_weight,
            "whitening": found.config.whitening,
            "center": found.config.center,
            "components": found.config.reduction and found.config.reduction.n_components,
            "seconds": round(time.perf_counter() - start, 1),
        }
        print(name, arm, outcome[arm].mean(), chosen[arm], flush=True)
    preset = FungiConfig.paper("vision").replace(reduction=None)
    published = FungiExtractor.from_pretrained(model, preset).fit(few[0].files, progress=True)
    paper = {"paper": right(published, *few)}
    for arm, found in tuned.items():
        again = FungiExtractor(found.encoder, found.config)
        paper[arm] = right(again.fit(few[0].files) if again.config.needs_fit else again, *few)
    probe = {
        block: one.metrics["accuracy"]
        for block, one in zip(
            ("embedding", "activation"),
            evaluate_linear(
                base(train.files),
                train.labels,
                base(test.files),
                test.labels,
                combinations=[["embedding"], ["activation"]],
            ),
            strict=True,
        )
    }
    tests = {
        arm: {
            **{b: _compared(outcome[b], outcome[arm]) for b in ("embedding", "activation")},
            "paper": _compared(paper["paper"], paper[arm]),
        }
        for arm in SEARCHES
    }
    return {
        "case": name,
        "rows": {"train": len(train), "test": len(test)},
        "accuracy": {arm: float(rows.mean()) for arm, rows in outcome.items()},
        "linear": probe,
        "paper_rows": {"train": len(few[0]), "test": len(few[1])},
        "on_paper_rows": {arm: float(rows.mean()) for arm, rows in paper.items()},
        "tests": tests,
        "chosen": chosen,
    }


def _compared(baseline: np.ndarray, tuned: np.ndarray) -> dict[str, float]:
    test = mcnemar(baseline, tuned)
    return {"difference": test.difference, "p": test.p}


def main() -> None:
    """Write recipes/results/vision/tuning.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="+")
    parser.add_argument("--model", required=True, help="Hub id or folder of the encoder")
    options = parser.parse_args()
    torch.set_num_threads(2)
    cases = [judge(name, options.model) for name in options.data]
    record = {"model": Path(options.model).name, "n_neighbors": 20, "cases": cases}
    text = json.dumps(record, indent=1) + "\n"
    (RESULTS / "tuning.json").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
