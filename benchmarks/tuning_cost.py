"""What tuning costs, in extractions of all that it tries.

FUNGI_DATA=FOLDER python -m benchmarks.tuning_cost

MiniLM on 800 and 4,000 rows of Banking-77 with the default search: one forward pass per pooling,
one extraction of KL at four layers, the votes or fits of all candidates, the baselines and the fit
of what was chosen. The yardstick is one extraction of the same gradients and activations of the
same rows, from raw text. What the encoder does is everything but votes.
"""

from __future__ import annotations

import itertools
import time

from benchmarks import text_models, timing
from fungi_hf.config import FungiConfig
from fungi_hf.tuning import TuningSearch
from fungi_hf.tuning.scan import space_of
from recipes.datasets import load

ROWS = (800, 4000)


def main() -> None:
    """Write benchmarks/results/tuning_cost.json."""
    rows = []
    for n_rows, judge in itertools.product(ROWS, ("neighbors", "linear")):
        train = load("banking77", "train").head(n_rows)
        model, tokenizer = text_models.load("minilm")
        plain = text_models.extractor(model, tokenizer, FungiConfig(objectives=()))
        search = TuningSearch(judge=judge)
        space = space_of(plain.encoder, plain.config, search)
        whole = plain.with_config(plain.config.replace(objectives=space.specs))
        whole(train.texts[:64])
        start = time.perf_counter()
        whole(train.texts)
        extraction = time.perf_counter() - start
        start = time.perf_counter()
        tuned = plain.tune(train.texts, train.labels, search=search)
        seconds = time.perf_counter() - start
        report = tuned.tuning
        stages = dict(report.seconds)
        encoding = seconds - stages["votes"]
        rows.append(
            {
                "rows": len(train),
                "judge": judge,
                "candidates": len(report.candidates),
                "chosen": f"{report.chosen.name}, {report.chosen.pooling}, "
                f"{report.chosen.transform}",
                "extraction_s": round(extraction, 1),
                "tune_s": round(seconds, 1),
                "stages_s": stages,
                "encoder_ratio_to_one_extraction": round(encoding / extraction, 2),
            }
        )
        print(rows[-1], flush=True)
    timing.write("tuning_cost", {"rows": rows})


if __name__ == "__main__":
    main()
