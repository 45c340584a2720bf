"""Do tuned features bring better demonstrations? The vote and the coverage of the nearest rows.

FUNGI_DATA=FOLDER FUNGI_MODELS=FOLDER python -m recipes.icl.votes

Tuned for neighbours on the training rows with the pooling free, against the embedding with its
trained pooling (mean): the majority of 5 and of 20 nearest training rows, and whether the right
label is among them. Exact McNemar tests over all test rows. No language model is asked.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from fungi_hf.tuning import TuningSearch
from fungi_hf.tuning.candidates import Candidate
from recipes.tuning import HERE, compare, decide, features, raws_of
from recipes.tuning_blocks import Case

if TYPE_CHECKING:
    from fungi_hf.types import Float32Array

SETS = ("banking77", "trec6", "sst5")
NUMBERS = (5, 20)
OUT = HERE / "results/icl-votes.json"


def judged(left: Float32Array, right: Float32Array, labels: np.ndarray, truth: np.ndarray) -> Any:
    """Give, for each number of demonstrations, which rows the vote has right and which are covered.

    Ties go to the label of the nearest demonstration among the tied.
    """
    similar = right @ left.T
    order = np.argsort(-similar, axis=1, kind="stable")[:, : max(NUMBERS)]
    found = {}
    for number in NUMBERS:
        shown = labels[order[:, :number]]
        votes = np.zeros((len(shown), labels.max() + 1))
        for place in range(number):  # a nearer one breaks ties
            votes[np.arange(len(shown)), shown[:, place]] += 1 + (number - place) * 1e-6
        found[f"vote of {number}"] = votes.argmax(1) == truth
        found[f"coverage of {number}"] = (shown == truth[:, None]).any(1)
    return found


def case(data: str) -> dict[str, Any]:
    """Give one set's record."""
    one = Case(f"{data}-mean")
    rows = one.rows
    raws = raws_of(one, is_free=True)
    decision = decide(one, raws, rows.labels, rows.train, TuningSearch())
    arms = {
        "embedding": Candidate(pooling="mean", layer=one.space.layer),
        "tuned": decision.chosen,
    }
    hits = {
        arm: judged(
            *features(one, raws, candidate, rows.train, rows.test),
            rows.labels[rows.train],
            rows.labels[rows.test],
        )
        for arm, candidate in arms.items()
    }
    return {
        "data": data,
        "rows": {"train": len(rows.train), "test": len(rows.test)},
        "tuned": f"{decision.chosen.name}, {decision.chosen.pooling}, "
        f"{decision.chosen.transform.name}",
        "shares": {
            arm: {k: float(v.mean()) for k, v in some.items()} for arm, some in hits.items()
        },
        "tests": {
            measure: compare(hits["embedding"][measure], hits["tuned"][measure])
            for measure in hits["tuned"]
        },
    }


def main() -> None:
    """Write recipes/results/icl-votes.json."""
    cases = []
    for data in SETS:
        cases.append(case(data))
        print(json.dumps(cases[-1]), flush=True)
    OUT.write_text(json.dumps({"cases": cases}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
