"""Few training rows: tuned features with a linear probe against a probe on the embedding.

FUNGI_DATA=FOLDER FUNGI_MODELS=FOLDER python -m recipes.tuning_shots [CASE ...]

8, 16 and 64 rows a class in ten draws, the pooling held; all that follows, the choice, the
whitening and the probe, sees these rows alone. Blocks are those of `recipes.tuning_blocks`; at
most 1,500 test rows judge.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np

from fungi_hf.neighbors.shots import draw_few
from fungi_hf.seeding import numpy_generator
from fungi_hf.tuning import TuningSearch
from recipes.tuning import HERE, decide, features, probe, raws_of
from recipes.tuning_blocks import CASES, Case

SHOTS = (8, 16, 64)
DRAWS = 10
MOST_QUERIES = 1500
OUT = HERE / "results/tuning-shots.json"
SEARCH = TuningSearch(judge="linear", free_pooling=False)


def judge(case: Case) -> list[dict[str, Any]]:
    """Give a record for each number of shots."""
    rows, raws = case.rows, raws_of(case, is_free=False)
    generator = numpy_generator(0, "shots", case.name)
    test = np.sort(generator.permutation(rows.test)[:MOST_QUERIES])
    found = []
    for shots in SHOTS:
        shares: dict[str, list[float]] = {"embedding": [], "tuned": []}
        kept = 0
        for draw in range(DRAWS):
            train = rows.train[draw_few(rows.labels[rows.train], shots, draw)]
            decision = decide(case, raws, rows.labels, train, SEARCH)
            kept += decision.position == 0
            for arm, position in (("embedding", 0), ("tuned", decision.position)):
                candidate = decision.outcomes[position].candidate
                sides = features(case, raws, candidate, train, test)
                shares[arm].append(float(probe(*sides, rows.labels, train, test).mean()))
        ahead = np.array(shares["tuned"]) - np.array(shares["embedding"])
        found.append(
            {
                "case": case.name,
                "shots": shots,
                "accuracy": {arm: float(np.mean(some)) for arm, some in shares.items()},
                "gain": float(ahead.mean()),
                "error": float(ahead.std(ddof=1) / DRAWS**0.5),
                "worst": float(ahead.min()),
                "kept_the_embedding": int(kept),
                "draws": shares,
            }
        )
        print(case.name, shots, found[-1]["accuracy"], found[-1]["error"], kept, flush=True)
    return found


def main() -> None:
    """Run the cases named on the command line; others keep their results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cases", nargs="*", default=CASES, help=", ".join(CASES))
    options = parser.parse_args()
    done: list[dict[str, Any]] = []
    if OUT.exists():
        done = json.loads(OUT.read_text("utf-8"))["cases"]
    for name in options.cases:
        done = [one for one in done if one["case"] != name] + judge(Case(name))
        done.sort(key=lambda one: CASES.index(one["case"]))
        OUT.write_text(json.dumps({"cases": done}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
