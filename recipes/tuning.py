"""Tune every case on its training rows for both judges, and judge the choice on its test rows.

FUNGI_DATA=FOLDER FUNGI_MODELS=FOLDER python -m recipes.tuning [CASE ...] [--most ROWS]

Neighbours: k = 20, cosine, majority, ties to the smallest label. Linear: logistic regression whose
strength is chosen on a fifth of the training rows (`LinearProtocol` "fungi"). What is chosen is
fitted on all training rows, or on a draw within each class. Test labels are read after the choice;
tests are exact McNemar.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fungi_hf.evaluation import evaluate_linear
from fungi_hf.extraction.finish import Finisher
from fungi_hf.statistics import mcnemar
from fungi_hf.tuning import TuningSearch, stages
from fungi_hf.tuning.candidates import EMBEDDING, Candidate
from fungi_hf.tuning.sample import draw_rows, read_groups
from fungi_hf.tuning.stages import Voters
from recipes import protocol
from recipes.tuning_blocks import CASES, POOLINGS, Case

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fungi_hf.tuning.stages import Decision
    from recipes.tuning_blocks import Blocks

HERE = Path(__file__).parent
MOST = 1_000_000
SEARCHES = {
    "neighbors": TuningSearch(),
    "linear": TuningSearch(judge="linear"),
}


class Cut:
    """Blocks of the rows that judge, cut out of those of all rows, which were computed before."""

    def __init__(self, case: Case, raws: dict[str, Blocks], rows: np.ndarray) -> None:
        self._case, self._raws, self._rows = case, raws, rows

    def scans(self) -> Iterator[tuple[str, Blocks]]:
        """Cut embedding and activations."""
        names = (EMBEDDING, *self._case.space.activations.values())
        for pooling, raw in self._raws.items():
            yield pooling, {name: raw[name][self._rows] for name in names}

    def gradients(
        self, pooling: str, names: Sequence[str], places: np.ndarray | None = None
    ) -> Blocks:
        """Cut gradients."""
        rows = self._rows if places is None else self._rows[places]
        return {name: self._raws[pooling][name][rows] for name in names}


def raws_of(case: Case, *, is_free: bool) -> dict[str, Blocks]:
    """Give all blocks under the case's own pooling, and under the set's others where it is free."""
    others = [one for one in POOLINGS[case.data] if one != case.pooling and is_free]
    return {pooling: case.blocks(pooling) for pooling in (case.pooling, *others)}


def decide(
    case: Case, raws: dict[str, Blocks], labels: np.ndarray, train: np.ndarray, search: TuningSearch
) -> Decision:
    """Choose from training rows."""
    codes = np.unique(labels[train], return_inverse=True)[1]
    groups = None if case.rows.groups is None else case.rows.groups[train]
    numbers, _ = read_groups(groups, len(train))
    drawn = draw_rows(codes, search.most_rows, search.seed)
    voters = Voters.of(codes[drawn], numbers[drawn], search)
    return stages.decide(Cut(case, raws, train[drawn]), case.space, voters, search)


def features(
    case: Case, raws: dict[str, Blocks], candidate: Candidate, *sides: np.ndarray
) -> list[np.ndarray]:
    """Give a candidate's features, fitted on the rows of the first side, of all sides."""
    raw = raws[candidate.pooling]
    config = candidate.config(case.extractor.config, case.space.specs)
    finisher = Finisher(config, {name: rows.shape[1] for name, rows in raw.items()}, {})
    blocks = {name: torch.from_numpy(raw[name]) for name, _ in candidate.weights}
    finisher.fit({name: rows[sides[0]] for name, rows in blocks.items()})
    cut = ({name: rows[some] for name, rows in blocks.items()} for some in sides)
    return [np.ascontiguousarray(finisher.finish(one)) for one in cut]


def neighbours(
    left: np.ndarray, right: np.ndarray, labels: np.ndarray, train: np.ndarray, test: np.ndarray
) -> np.ndarray:
    """Say which test rows the nearest training rows have right."""
    return protocol.predict(right @ left.T, labels[train]) == labels[test]


def probe(
    left: np.ndarray, right: np.ndarray, labels: np.ndarray, train: np.ndarray, test: np.ndarray
) -> np.ndarray:
    """Say which test rows a linear probe has right."""
    (found,) = evaluate_linear(left, labels[train], right, labels[test])
    if found.scores is None:
        raise ValueError("the evaluation kept no scores")
    return found.scores[0].astype(bool)


HEADS = {"neighbors": neighbours, "linear": probe}


def judge(name: str, most: int) -> dict[str, Any]:
    """Tune a case with its pooling held and free, and compare with what is to be beaten."""
    case = Case(name)
    labels, start = case.rows.labels, time.perf_counter()
    train = case.rows.train[draw_rows(labels[case.rows.train], most, 0)]
    test = case.rows.test
    own = {"pooling": case.pooling, "layer": case.space.layer}
    held = raws_of(case, is_free=False)
    arms = {
        EMBEDDING: Candidate(**own),
        "activation": Candidate(**own, weights=((case.space.activations[case.space.layer], 1.0),)),
    }
    outcome: dict[str, np.ndarray] = {}
    for arm, candidate in arms.items():
        sides = features(case, held, candidate, train, test)
        for head, predict in HEADS.items():
            outcome[f"{arm}, {head}"] = predict(*sides, labels, train, test)
    chosen = {}
    for head, search in SEARCHES.items():
        for pooling in ("held", "free"):
            is_free = pooling == "free"
            if is_free and len(POOLINGS[case.data]) == 1:
                outcome[f"tuned {pooling}, {head}"] = outcome[f"tuned held, {head}"]
                chosen[f"{pooling}, {head}"] = chosen[f"held, {head}"]
                continue
            raws = raws_of(case, is_free=is_free)
            found = decide(case, raws, labels, train, replace(search, free_pooling=is_free))
            sides = features(case, raws, found.chosen, train, test)
            outcome[f"tuned {pooling}, {head}"] = HEADS[head](*sides, labels, train, test)
            chosen[f"{pooling}, {head}"] = record(found)
    baselines = {head: outcome[f"{EMBEDDING}, {head}"] for head in HEADS}
    return {
        "case": name,
        "rows": {"train": len(train), "test": len(test), "all_train": len(case.rows.train)},
        "accuracy": {arm: float(hits.mean()) for arm, hits in outcome.items()},
        "tests": {
            arm: {head: compare(base, hits) for head, base in baselines.items()}
            for arm, hits in outcome.items()
            if arm.startswith("tuned")
        },
        "chosen": chosen,
        "seconds": round(time.perf_counter() - start, 1),
    }


def record(found: Decision) -> dict[str, Any]:
    """Give what was chosen, and on what evidence."""
    one = found.chosen
    return {
        "features": one.name,
        "pooling": one.pooling,
        "blocks": one.transform.name,
        "components": one.components,
        "leave_one_out": float(found.outcomes[found.position].right.mean()),
        "embedding_leave_one_out": float(found.outcomes[0].right.mean()),
        "held_out_gain": found.evidence.gain,
        "p": found.evidence.p,
        "candidates": len(found.outcomes),
    }


def compare(baseline: np.ndarray, tuned: np.ndarray) -> dict[str, float]:
    """Give the difference in shares and the exact paired p."""
    test = mcnemar(baseline, tuned)
    return {"difference": test.difference, "p": test.p}


def summary(cases: list[dict[str, Any]]) -> dict[str, Any]:
    """Average the gains over each head's own baseline; list where a choice is worse."""
    result: dict[str, Any] = {}
    for head in HEADS:
        for pooling in ("held", "free"):
            arm = f"tuned {pooling}, {head}"
            tests = {one["case"]: one["tests"][arm][head] for one in cases}
            large = [one["case"] for one in cases if one["rows"]["all_train"] >= 2000]
            gains = {case: test["difference"] for case, test in tests.items()}
            result[arm] = {
                "mean_gain": float(np.mean(list(gains.values()))),
                "mean_gain_2000_rows": float(np.mean([gains[case] for case in large])),
                "significantly_worse": [
                    case for case, t in tests.items() if t["difference"] < 0 and t["p"] < 0.05
                ],
            }
    return result


def main() -> None:
    """Run the cases named on the command line; others keep their results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cases", nargs="*", default=CASES, help=", ".join(CASES))
    parser.add_argument(
        "--most", type=int, default=MOST, help="training rows, drawn where there are more"
    )
    parser.add_argument("--out", type=Path, default=HERE / "results/tuning.json")
    options = parser.parse_args()
    done: dict[str, dict[str, Any]] = {}
    if options.out.exists():
        done = {one["case"]: one for one in json.loads(options.out.read_text("utf-8"))["cases"]}
    for name in options.cases:
        done[name] = judge(name, options.most)
        cases = [done[key] for key in CASES if key in done]
        text = json.dumps({"cases": cases, "summary": summary(cases)}, indent=1)
        options.out.write_text(text + "\n", encoding="utf-8")
        shown = {k: round(100 * v, 1) for k, v in done[name]["accuracy"].items()}
        print(name, shown, done[name]["seconds"], flush=True)
    print(json.dumps(summary(cases), indent=1))


if __name__ == "__main__":
    main()
