"""Whitening within classes beside plain whitening: neighbours, k = 20, on the test rows.

FUNGI_DATA=FOLDER FUNGI_MODELS=FOLDER python -m recipes.discriminant

Fitted on all training rows, or on 4,000 of them drawn within each class; test labels only judge.
The probe is logistic regression on the plain embedding (`LinearProtocol` "fungi"). Blocks are
those of `recipes.tuning_blocks`. p is exact McNemar, discriminant 3 against none.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch

from fungi_hf import FungiConfig
from fungi_hf.extraction.finish import Finisher
from fungi_hf.tuning.sample import draw_rows
from recipes.tuning import HERE, compare, neighbours, probe
from recipes.tuning_blocks import Case

CASES = (
    "trec6-mean",
    "sst2-mean",
    "sst5-mean",
    "cifar10_3k-cls",
    "imagenette128-cls",
    "esc10-mean",
)
MOST = 4000
ARMS: dict[str, dict[str, float]] = {
    "plain": {},
    "whitened": {"whitening": 1.0},
    "within classes": {"whitening": 1.0, "discriminant": 1.0},
    "discriminant 3": {"whitening": 1.0, "discriminant": 3.0},
}
OUT = HERE / "results/discriminant.json"


def judge(name: str) -> dict[str, Any]:
    """Judge three sets of blocks of one case under every transform."""
    case = Case(name)
    raw, labels, test = case.blocks(case.pooling), case.rows.labels, case.rows.test
    train = case.rows.train[draw_rows(labels[case.rows.train], MOST, 0)]
    activations = list(case.space.activations.values())[-4:]
    gradients = list(case.space.gradients)
    sets = {
        "embedding": ["embedding"],
        "last four activations": activations,
        "KL at several layers": gradients,
    }
    codes = np.unique(labels[train], return_inverse=True)[1].astype(np.int64)
    hits: dict[tuple[str, str], np.ndarray] = {}
    for which, blocks in sets.items():
        for arm, fields in ARMS.items():
            sides = _finished(case, {b: raw[b] for b in blocks}, fields, codes, train, test)
            hits[which, arm] = neighbours(*sides, labels, train, test)
    plain = _finished(case, {"embedding": raw["embedding"]}, {}, codes, train, test)
    return {
        "case": name,
        "rows": {"train": len(train), "test": len(test)},
        "embedding, linear probe": float(probe(*plain, labels, train, test).mean()),
        "accuracy": {
            which: {arm: float(hits[which, arm].mean()) for arm in ARMS} for which in sets
        },
        "against whitened": {
            which: compare(hits[which, "whitened"], hits[which, "discriminant 3"]) for which in sets
        },
    }


def _finished(
    case: Case,
    raw: dict[str, np.ndarray],
    fields: dict[str, float],
    codes: np.ndarray,
    *sides: np.ndarray,
) -> list[np.ndarray]:
    specs = [part for s in case.space.specs if (part := s.only([b for b in s.blocks if b in raw]))]
    weight = float("embedding" in raw)
    config = FungiConfig(objectives=tuple(specs), embedding_weight=weight, **fields)
    finisher = Finisher(config, {name: rows.shape[1] for name, rows in raw.items()}, {})
    blocks = {name: torch.from_numpy(rows) for name, rows in raw.items()}
    finisher.fit(
        {name: rows[sides[0]] for name, rows in blocks.items()},
        codes if config.discriminant else None,
    )
    return [finisher.finish({name: rows[some] for name, rows in blocks.items()}) for some in sides]


def table(cases: list[dict[str, Any]]) -> str:
    """Give the table of the docs."""
    lines = [
        "| data, pooling | features | plain | whitened | within classes | discriminant 3 "
        "| against whitened | linear probe on the embedding |",
        "| --- | --- |" + " ---: |" * 6,
    ]
    for one in cases:
        for which, shares in one["accuracy"].items():
            test = one["against whitened"][which]
            cells = [one["case"].replace("-", ", "), which]
            cells += [f"{100 * shares[arm]:.1f}" for arm in ARMS]
            cells.append(f"{100 * test['difference']:+.1f} (p = {test['p']:.2g})")
            cells.append(f"{100 * one['embedding, linear probe']:.1f}")
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Write recipes/results/discriminant.json and print the table."""
    cases = []
    for name in CASES:
        cases.append(judge(name))
        print(name, cases[-1]["accuracy"], flush=True)
    OUT.write_text(json.dumps({"cases": cases}, indent=1) + "\n", encoding="utf-8")
    print(table(cases))


if __name__ == "__main__":
    main()
