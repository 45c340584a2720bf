"""Tune hundreds of tasks cut out of all sets; count where the choice loses to the embedding.

FUNGI_DATA=FOLDER FUNGI_MODELS=FOLDER python -m recipes.tuning_tasks [CASE ...]

A task is a draw of 100 to 4,000 training rows, of all labels or of some, under one pooling, which
is held. It is judged by 20 neighbours on at most 1,500 test rows, against the plain embedding; so
is the leader of all candidates, which would be chosen if no evidence were asked for. Blocks are
those of `recipes.tuning_blocks`.
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from fungi_hf.seeding import numpy_generator
from fungi_hf.tuning import TuningSearch
from fungi_hf.tuning.candidates import costs
from fungi_hf.tuning.choice import Rule
from recipes.tuning import HERE, compare, decide, features, neighbours, raws_of
from recipes.tuning_blocks import CASES, Case

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fungi_hf.tuning.stages import Decision

SIZES = (100, 150, 200, 300, 400, 500, 700, 1000, 2000, 4000)
ONE_DRAW = 1000  # of more rows one draw is enough
DRAWS, SOME_LABELS = 3, 8
MOST_ROWS, MOST_QUERIES, LEAST_QUERIES = 900, 1500, 80
OUT = HERE / "results/tuning-tasks.json"
SEARCH = TuningSearch(free_pooling=False)
Task = tuple[str, np.ndarray, np.ndarray]


def tasks(case: Case) -> Iterator[Task]:
    """Cut tasks out of one case, seeded by its name: name, training rows, test rows."""
    generator = numpy_generator(0, "tasks", case.name)
    labels, train, test = case.rows.labels, case.rows.train, case.rows.test
    classes = np.unique(labels)
    for size in SIZES:
        if size > len(train) or size < 2 * len(classes):
            continue
        for draw in range(1 if size > ONE_DRAW else DRAWS):
            rows = generator.permutation(train)[:size]
            queries = generator.permutation(test)[:MOST_QUERIES]
            yield f"{case.name} {size} rows, draw {draw}", np.sort(rows), np.sort(queries)
    for draw in range(SOME_LABELS if len(classes) > 4 else 0):
        number = int(generator.integers(2, min(len(classes), 20)))
        some = np.isin(labels, generator.permutation(classes)[:number])
        wanted = int(generator.integers(SIZES[0], MOST_ROWS))
        rows = generator.permutation(train[some[train]])[:wanted]
        queries = generator.permutation(test[some[test]])[:MOST_QUERIES]
        if len(rows) >= SIZES[0] and len(queries) >= LEAST_QUERIES:
            name = f"{case.name} {number} labels, {len(rows)} rows, draw {draw}"
            yield name, np.sort(rows), np.sort(queries)


def leader(case: Case, found: Decision) -> int:
    """Give the position of the best candidate, whatever the evidence."""
    whole = [one for one in found.outcomes if one.candidate.components is None]
    rule = Rule([one.candidate for one in whole], costs(whole, case.space.specs), SEARCH)
    return rule(np.stack([one.share for one in whole]))


def judge(case: Case, raws: Any, task: Task) -> dict[str, Any]:
    """Tune one task and compare."""
    name, train, test = task
    labels = case.rows.labels
    found = decide(case, raws, labels, train, SEARCH)
    arms = {"embedding": 0, "tuned": found.position, "leader": leader(case, found)}
    hits = {}
    for arm, position in arms.items():
        candidate = found.outcomes[position].candidate
        sides = features(case, raws, candidate, train, test)
        hits[arm] = neighbours(*sides, labels, train, test)
    return {
        "task": name,
        "rows": {"train": len(train), "test": len(test)},
        "labels": len(set(labels[train].tolist())),
        "features": f"{found.chosen.name}, {found.chosen.transform.name}",
        "components": found.chosen.components,
        "held_out_gain": found.evidence.gain,
        "error": found.evidence.error,
        "p": found.evidence.p,
        "accuracy": {arm: float(rows.mean()) for arm, rows in hits.items()},
        "tests": {arm: compare(hits["embedding"], hits[arm]) for arm in ("tuned", "leader")},
    }


def main() -> None:
    """Run the tasks of the cases named on the command line; others keep their results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cases", nargs="*", default=CASES, help=", ".join(CASES))
    options = parser.parse_args()
    done: list[dict[str, Any]] = []
    if OUT.exists():
        done = json.loads(OUT.read_text("utf-8"))["tasks"]
    for name in options.cases:
        case = Case(name)
        raws = raws_of(case, is_free=False)
        done = [one for one in done if not one["task"].startswith(f"{name} ")]
        for task in tasks(case):
            done.append(judge(case, raws, task))
            print(done[-1]["task"], done[-1]["accuracy"], done[-1]["features"], flush=True)
        done.sort(key=lambda one: CASES.index(one["task"].split(" ")[0]))
        OUT.write_text(json.dumps({"tasks": done}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
