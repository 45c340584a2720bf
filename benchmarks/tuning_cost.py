"""What tuning costs, in extractions of all the objectives that it tries.

python -m benchmarks.tuning_cost

MiniLM on 4,000 rows of Banking-77 with the default search: one forward pass per pooling, one
extraction of KL and both SimCLR variants (12 views), the votes of all candidates, and the fit of
what was chosen. The yardstick is one such extraction of the same rows, from raw text.
"""

from __future__ import annotations

import time

from benchmarks import text_models, timing
from fungi_hf.config import FungiConfig
from fungi_hf.tuning import TuningSearch
from recipes.datasets import load

ROWS = 4000


def main() -> None:
    """Write benchmarks/results/tuning_cost.json."""
    train = load("banking77", "train").head(ROWS)
    rows = []
    for pooling in ("cls", "mean"):
        model, tokenizer = text_models.load("minilm")
        plain = text_models.extractor(model, tokenizer, FungiConfig(pooling=pooling, objectives=()))
        config = plain.config.replace(objectives=TuningSearch().specs(plain.config))
        whole = text_models.extractor(model, tokenizer, config)
        start = time.perf_counter()
        whole.fit(train.texts)(train.texts)
        extraction = time.perf_counter() - start
        start = time.perf_counter()
        tuned = plain.tune(train.texts, train.labels)
        seconds = time.perf_counter() - start
        report = tuned.tuning
        stages = dict(report.seconds)
        rows.append(
            {
                "pooling": pooling,
                "rows": len(train),
                "candidates": len(report.candidates),
                "chosen": f"{report.chosen.name}, {report.chosen.pooling}, "
                f"{report.chosen.transform}",
                "extraction_s": round(extraction, 1),
                "tune_s": round(seconds, 1),
                "stages_s": stages,
                "ratio_to_one_extraction": round(seconds / extraction, 2),
                "encoder_ratio_to_one_extraction": round(
                    (seconds - stages["votes"]) / extraction, 2
                ),
            }
        )
        print(rows[-1], flush=True)
    timing.write("tuning_cost", {"rows": rows})


if __name__ == "__main__":
    main()
