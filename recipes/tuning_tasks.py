"""Tune many small tasks cut out of the text sets, and count where the choice loses.

python -m recipes.tuning_tasks [CASE ...]

The margins of `fungi_hf.tuning.stages` were set on tasks like these: draws of 1,500,
500 and 150 training rows, some intents of Banking-77 alone or with ten rows each, and TREC's fine
labels, all of them and those of one coarse class. A task is judged on its test rows, with the
pooling held, against the plain embedding and the plain activation. Features are those of
`recipes.tuning`.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fungi_hf.seeding import numpy_generator
from fungi_hf.tuning.candidates import Candidate
from recipes.datasets import load_fine
from recipes.tuning import compare, decide, right
from recipes.tuning_cases import HERE, TEXTS, text_case

if TYPE_CHECKING:
    from collections.abc import Iterator

    from recipes.tuning_cases import Case

SIZES = (1500, 500, 150)
MOST_QUERIES = 1500
OUT = HERE / "results/tuning-tasks.json"


def tasks(case: Case) -> Iterator[Case]:
    """Cut tasks out of one case, seeded by its name."""
    generator = numpy_generator(0, "tasks", case.name)
    labels, (train, test) = case.labels, case.splits[0]

    def task(name: str, rows: Any, queries: Any, own: np.ndarray = labels) -> Case:
        split = (np.sort(rows), np.sort(generator.permutation(queries)[:MOST_QUERIES]))
        return replace(case, name=f"{case.name} {name}", labels=own, splits=[split], paper=[])

    def each(rows: np.ndarray, number: int) -> np.ndarray:
        drawn = [generator.permutation(rows[labels[rows] == c])[:number] for c in set(labels[rows])]
        return np.concatenate(drawn)

    for size in SIZES:
        for draw in range(2):
            rows = each(train, max(2, size // len(set(labels))))
            yield task(f"{size} rows, draw {draw}", rows, test)
    if case.name.startswith("banking77"):
        for number, most, draws in ((12, None, 4), (30, 10, 2)):
            for draw in range(draws):
                some = np.isin(labels, generator.permutation(77)[:number])
                rows = train[some[train]]
                rows = rows if most is None else each(rows, most)
                name = f"{number} classes{f' of {most} rows' if most else ''}, draw {draw}"
                yield task(name, rows, test[some[test]])
    if case.name.startswith("trec6"):
        fine = np.unique(load_fine(), return_inverse=True)[1]
        yield task("fine labels", train, test, fine)
        for coarse in range(6):
            rows = generator.permutation(np.flatnonzero(labels == coarse))
            if len(rows) > 500:  # the test set alone has too few of a class
                half = len(rows) // 2
                yield task(f"fine labels of class {coarse}", rows[:half], rows[half:], fine)


def judge(case: Case) -> dict[str, Any]:
    """Tune one task with the pooling held and compare."""
    own, (train, test) = case.extractor.encoder, case.splits[0]
    search = replace(case.search, free_pooling=False)
    chosen, (score, plain, _) = decide(case, train, search)
    place = {"pooling": own.pooling, "layer": own.layer_path}
    arms = {
        "embedding": Candidate(**place),
        "activation": Candidate(**place, weights=(("activation", 1.0),)),
    }
    hits = {name: right(case, one, train, test) for name, one in arms.items()}
    tuned = right(case, chosen, train, test)
    return {
        "task": case.name,
        "rows": {"train": len(train), "test": len(test)},
        "classes": len(set(case.labels[train])),
        "features": f"{chosen.name}, {chosen.transform.name}",
        "components": chosen.components,
        "leave_one_out": score.accuracy,
        "embedding_leave_one_out": plain.accuracy,
        "accuracy": {n: float(h.mean()) for n, h in {**hits, "tuned": tuned}.items()},
        "tests": {name: compare(baseline, tuned) for name, baseline in hits.items()},
    }


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Count over all tasks, and over the small ones."""

    def counted(some: list[dict[str, Any]]) -> dict[str, Any]:
        gains = [min(t["difference"] for t in one["tests"].values()) for one in some]
        return {
            "tasks": len(some),
            "mean_gain_over_best_baseline": float(np.mean(gains)),
            "smallest_gain": float(min(gains)),
            "behind": sum(gain < 0 for gain in gains),
            "significantly_worse": [
                one["task"]
                for one in some
                if any(t["difference"] < 0 and t["p"] < 0.05 for t in one["tests"].values())
            ],
        }

    small = [one for one in found if one["rows"]["train"] <= SIZES[1]]
    return {"all": counted(found), "at most 500 rows": counted(small)}


def main() -> None:
    """Run the tasks of the cases named on the command line; others keep their results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=TEXTS, help=", ".join(TEXTS))
    options = parser.parse_args()
    done: list[dict[str, Any]] = []
    if OUT.exists():
        done = json.loads(OUT.read_text("utf-8"))["tasks"]
    for name in options.cases:
        done = [one for one in done if not one["task"].startswith(f"{name} ")]
        for task in tasks(text_case(name)):
            done.append(judge(task))
            print(done[-1]["task"], done[-1]["accuracy"], done[-1]["features"], flush=True)
        done.sort(key=lambda one: TEXTS.index(one["task"].split(" ")[0]))
        text = json.dumps({"tasks": done, "summary": summary(done)}, indent=1)
        OUT.write_text(text + "\n", encoding="utf-8")
    print(json.dumps(summary(done), indent=1))


if __name__ == "__main__":
    main()
