"""Time of kNN on the whole of Banking-77, all combinations of four blocks, after extraction.

python -m benchmarks.evaluation_speed

MiniLM's first token; the fourth block is KL with a wider head, since only widths matter here. The
bar: full kNN and the 5-shot draws of every combination under 60 s on 2 cores.
"""

from __future__ import annotations

import time

from benchmarks import text_models, timing
from fungi_hf.config import KL, FungiConfig
from fungi_hf.evaluation import evaluate_knn
from recipes.datasets import load

OBJECTIVES = ("kl", KL(name="kl_wide", latent_dim=3072), "activation")
PROTOCOLS = ("fungi", "fungi-5-shot", "paper-text-5-shot", "paper")


def main() -> None:
    """Write benchmarks/results/evaluation_speed.json."""
    extractor = text_models.extractor(
        *text_models.load("minilm"), FungiConfig(pooling="cls", objectives=OBJECTIVES)
    )
    train, test = load("banking77", "train"), load("banking77", "test")
    known, judged = extractor(train.texts), extractor(test.texts)
    rows = []
    for protocol in PROTOCOLS:
        start = time.perf_counter()
        results = evaluate_knn(known, train.labels, judged, test.labels, protocol=protocol)
        seconds = time.perf_counter() - start
        rows.append(
            {
                "protocol": protocol,
                "combinations": len(results),
                "draws": len(results[0].seeds),
                "seconds": round(seconds, 2),
                "accuracy": {one.name: round(one.metrics["accuracy"], 4) for one in results},
            }
        )
    timed = sum(row["seconds"] for row in rows if row["protocol"] in ("fungi", "fungi-5-shot"))
    timing.write(
        "evaluation_speed",
        {
            "train_rows": len(train),
            "test_rows": len(test),
            "width": known.shape[1],
            "bound_s": 60,
            "full_and_5_shot_s": round(timed, 2),
            "protocols": rows,
        },
    )


if __name__ == "__main__":
    main()
