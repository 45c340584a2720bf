"""Tune every case on its training rows and judge the choice on its test rows.

python -m recipes.tuning [CASE ...] [--audio FOLDER --whisper MODEL]

A case is a text set under one pooling of MiniLM ("trec6-cls"), or a sound set ("fsdd", one speaker
left out and the speakers as groups; "fsdd-ungrouped", the same without groups; "fsdd-official", the
split of the set; "esc10", one fold left out). Each input passes the encoder once per pooling and
once for the gradients; what the tuner would compute of its training rows is cut out of that. Test
labels are read after the choice.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fungi_hf.extraction.finish import Finisher
from fungi_hf.statistics import mcnemar
from fungi_hf.tuning import stages
from fungi_hf.tuning.candidates import EMBEDDING, Candidate, costs, scores
from fungi_hf.tuning.sample import draw_rows, read_groups
from fungi_hf.tuning.scan import space_of
from fungi_hf.tuning.stages import Voters
from recipes import protocol
from recipes.tuning_cases import HERE, SOUNDS, TEXTS, audio_case, text_case

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fungi_hf.tuning import TuningSearch
    from fungi_hf.tuning.search import Space
    from recipes.tuning_cases import Blocks, Case


class Cut:
    """Blocks of the rows that vote, cut out of those of all rows, which were computed before."""

    def __init__(self, case: Case, rows: np.ndarray, space: Space, search: TuningSearch) -> None:
        self._case, self._rows, self._space = case, rows, space
        own = case.extractor.encoder.pooling
        self._poolings = [own, *(p for p in case.scans if p != own and search.free_pooling)]

    def scans(self) -> Iterator[tuple[str, Blocks]]:
        """Cut the scans."""
        names = {EMBEDDING: EMBEDDING, **self._space.activations}
        for pooling in self._poolings:
            found = self._case.scans[pooling]
            yield pooling, {name: found[place][self._rows] for place, name in names.items()}

    def gradients(self, pooling: str) -> Blocks:
        """Cut the extraction at the target layer."""
        found = self._case.gradients[pooling]
        return {name: block[self._rows] for name, block in found.items()}


def space_of_case(case: Case) -> Space:
    """Give what may be chosen for a case."""
    return space_of(case.extractor.encoder, case.extractor.config, case.search)


def decide(case: Case, train: np.ndarray, search: TuningSearch) -> tuple[Candidate, Any]:
    """Choose from training rows; give the candidate, and its score with the embedding's."""
    labels = np.unique(case.labels[train], return_inverse=True)[1]
    groups = None if case.groups is None else case.groups[train]
    numbers, _ = read_groups(groups, len(train))
    drawn = draw_rows(labels, search.max_rows, search.seed)
    space = space_of_case(case)
    voters = Voters.of(labels[drawn], numbers[drawn], search)
    rows = Cut(case, train[drawn], space, search)
    outcomes, place, _ = stages.decide(rows, space, voters, search)
    found = scores(outcomes, costs(outcomes, space.specs))
    return outcomes[place].candidate, (found[place], found[0], len(found))


def right(case: Case, candidate: Candidate, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Say which test rows a candidate, fitted on training rows, has right."""
    scanned, space = case.scans[candidate.pooling], space_of_case(case)
    raw = {**case.gradients.get(candidate.pooling, {}), EMBEDDING: scanned[EMBEDDING]}
    raw |= {name: scanned[layer] for layer, name in space.activations.items()}
    config = candidate.config(case.extractor.config, space.specs)
    finisher = Finisher(config, {name: rows.shape[1] for name, rows in raw.items()}, {})
    blocks = {name: torch.from_numpy(raw[name]) for name, _ in candidate.weights}
    finisher.fit({name: rows[train] for name, rows in blocks.items()})
    left, queries = (
        finisher.finish({name: rows[some] for name, rows in blocks.items()})
        for some in (train, test)
    )
    whole = [np.ascontiguousarray(rows) for rows in (left, queries)]
    return protocol.predict(whole[1] @ whole[0].T, case.labels[train]) == case.labels[test]


def judge(case: Case) -> dict[str, Any]:
    """Tune with pooling held and free, and compare with what is to be beaten."""
    own = case.extractor.encoder
    arms = {
        "embedding": Candidate(pooling=own.pooling, layer=own.layer_path),
        "activation": Candidate(
            pooling=own.pooling, layer=own.layer_path, weights=(("activation", 1.0),)
        ),
    }
    outcome: dict[str, list[np.ndarray]] = {name: [] for name in (*arms, "fixed", "free")}
    chosen: dict[str, list[Any]] = {"fixed": [], "free": []}
    paper: dict[str, list[np.ndarray]] = {name: [] for name in ("paper", "fixed", "free")}
    for split, (train, test) in enumerate(case.splits):
        found = dict(arms)
        for name, is_free in (("fixed", False), ("free", True)):
            if is_free and len(case.scans) == 1:
                found[name] = found["fixed"]
                chosen[name] = chosen["fixed"]
                continue
            search = replace(case.search, free_pooling=is_free)
            found[name], evidence = decide(case, train, search)
            chosen[name].append(record(found[name], *evidence))
        for name, candidate in found.items():
            outcome[name].append(right(case, candidate, train, test))
        if case.paper:
            rows, queries, hits = case.paper[split]
            paper["paper"].append(hits)
            for name in ("fixed", "free"):
                same = len(rows) == len(train) and len(queries) == len(test)
                there = outcome[name][-1] if same else right(case, found[name], rows, queries)
                paper[name].append(there)
    joined = {name: np.concatenate(rows) for name, rows in outcome.items()}
    result: dict[str, Any] = {
        "case": case.name,
        "rows": {"train": len(case.splits[0][0]), "test": len(joined["embedding"])},
        "splits": len(case.splits),
        "accuracy": {name: float(rows.mean()) for name, rows in joined.items()},
        "chosen": chosen,
        "notes": case.notes,
    }
    tests = {
        name: {b: compare(joined[b], joined[name]) for b in ("embedding", "activation")}
        for name in ("fixed", "free")
    }
    if case.paper:
        there = {name: np.concatenate(rows) for name, rows in paper.items()}
        for name in ("fixed", "free"):
            tests[name]["paper"] = compare(there["paper"], there[name])
        result["accuracy"]["paper"] = float(there["paper"].mean())
        result["paper_rows"] = {"train": len(case.paper[0][0]), "test": len(there["paper"])}
        result["on_paper_rows"] = {n: float(there[n].mean()) for n in ("fixed", "free")}
    return {**result, "tests": tests}


def record(candidate: Candidate, score: Any, plain: Any, n: int) -> dict[str, Any]:
    """Give what was chosen, and on what evidence."""
    return {
        "features": candidate.name,
        "pooling": candidate.pooling,
        "layer": candidate.layer,
        "blocks": candidate.transform.name,
        "components": candidate.components,
        "leave_one_out": score.accuracy,
        "embedding_leave_one_out": plain.accuracy,
        "candidates": n,
    }


def compare(baseline: np.ndarray, tuned: np.ndarray) -> dict[str, float]:
    """Give the difference in shares and the exact paired p."""
    test = mcnemar(baseline, tuned)
    return {"difference": test.difference, "p": test.p}


def summary(cases: list[dict[str, Any]]) -> dict[str, Any]:
    """Average over cases; list where a tuned choice is significantly worse than a baseline."""
    result: dict[str, Any] = {}
    for name in ("fixed", "free"):
        gains = [
            {
                b: one["tests"][name][b]["difference"]
                for b in ("embedding", "activation", "paper")
                if b in one["tests"][name]
            }
            for one in cases
        ]
        hard = [
            g["embedding"] for g, c in zip(gains, cases, strict=True) if "mean" not in c["case"]
        ]
        result[name] = {
            "mean_gain_over_best_baseline": float(np.mean([min(g.values()) for g in gains])),
            "mean_gain_over_embedding_cls_and_sounds": float(np.mean(hard)) if hard else None,
            "significantly_worse": [
                f"{one['case']} against {b}"
                for one in cases
                for b, test in one["tests"][name].items()
                if test["difference"] < 0 and test["p"] < 0.05
            ],
        }
    return result


def main() -> None:
    """Run the cases named on the command line; others keep their results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=TEXTS, help=", ".join([*TEXTS, *SOUNDS]))
    parser.add_argument("--audio", type=Path, help="folder of fsdd/ and esc10/")
    parser.add_argument("--whisper", help="Whisper model: folder or Hub id")
    parser.add_argument("--out", type=Path, default=HERE / "results/tuning.json")
    options = parser.parse_args()
    done: dict[str, dict[str, Any]] = {}
    if options.out.exists():
        done = {one["case"]: one for one in json.loads(options.out.read_text("utf-8"))["cases"]}
    for name in options.cases:
        if name in SOUNDS:
            done[name] = judge(audio_case(name, options.audio, options.whisper))
        else:
            done[name] = judge(text_case(name))
        cases = [done[key] for key in (*TEXTS, *SOUNDS) if key in done]
        text = json.dumps({"cases": cases, "summary": summary(cases)}, indent=1)
        options.out.write_text(text + "\n", encoding="utf-8")
        print(name, {k: round(100 * v, 1) for k, v in done[name]["accuracy"].items()}, flush=True)
        for kind, some in done[name]["chosen"].items():
            print("  ", kind, some[0]["features"], some[0]["pooling"], some[0]["layer"],
                  some[0]["blocks"], some[0]["components"], flush=True)  # fmt: skip
    print(json.dumps(summary(cases), indent=1))


if __name__ == "__main__":
    main()
