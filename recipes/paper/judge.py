"""What features of one set are worth: the paper's columns beside the controls, row by row paired.

Controls: the activation beside the embedding, and as many further columns as all gradients have,
once random and once the embedding again. The linear probe stands on the bare embedding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fungi_hf.errors import LabelError
from fungi_hf.evaluation import evaluate_knn, evaluate_landmarks, evaluate_linear
from fungi_hf.features import FungiFeatures, make_layout
from fungi_hf.seeding import numpy_generator
from recipes.paper import tables

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fungi_hf.evaluation import EvaluationResult
    from recipes.paper.loading import Loaded
    from recipes.paper.tables import Table

CONTROLS: Final = ("activation", "random", "repeated")
WORDS: Final = {
    "kl": "KL",
    "dino": "DINO",
    "simclr": "SimCLR",
    "deepcluster": "DeepCluster",
    "dense_infonce": "dense InfoNCE",
    "activation": "activation (control)",
    "random": "random columns (control)",
    "repeated": "the embedding again (control)",
}


def classify(
    left: FungiFeatures,
    right: FungiFeatures,
    loaded: Loaded,
    table: Table,
    *,
    preset: str,
    seed: int,
    shots: int = 5,
    judges: Sequence[str] = tables.JUDGES,
    probe_all: bool = False,
) -> dict[str, Any]:
    """Give judge -> rows of the table, and why one was left out under "notes"."""
    width = left.block("embedding").shape[1]
    pair = [widened(side, name, seed) for side, name in ((left, "train"), (right, "test"))]
    sides = (pair[0], loaded.train.labels, pair[1], loaded.test.labels)
    wanted = arms(list(left.layout))
    found: dict[str, Any] = {"notes": []}
    for judge, few in (("full", None), ("few-shot", shots)):
        if judge not in judges:
            continue
        rule = tables.neighbours(table, preset, width, seed, few)
        try:
            records = evaluate_knn(*sides, protocol=rule, combinations=wanted)
        except LabelError as error:
            found["notes"].append(f"{judge} was not judged: {error}")
            continue
        found[judge] = judgement(records)
    if "linear" in judges:
        some = wanted if probe_all else wanted[:1]
        rule = tables.probe(preset, width, seed)
        records = evaluate_linear(*sides, protocol=rule, combinations=some)
        found["linear"] = judgement(records)
    return found


def find_landmarks(
    pool: FungiFeatures, asked: FungiFeatures, loaded: Loaded, *, seed: int
) -> dict[str, Any]:
    """Give level -> rows of the table. There are no classes, so there is no linear probe."""
    if loaded.truth is None:
        raise LabelError("the set has no ground truth of landmarks")
    pair = [widened(side, name, seed) for side, name in ((pool, "train"), (asked, "test"))]
    records = evaluate_landmarks(*pair, loaded.truth, combinations=arms(list(pool.layout)))
    levels: dict[str, list[EvaluationResult]] = {}
    for one in records:
        levels.setdefault(str(one.settings["level"]), []).append(one)
    found = {level: judgement(own) for level, own in levels.items()}
    return found | {"notes": ["no classes: no linear probe"]}


def arms(blocks: list[str], first: str = "embedding") -> list[tuple[str, ...]]:
    """Give the table's columns: the embedding, each objective more, then each control beside it."""
    gradients = [name for name in blocks if name not in (first, *CONTROLS)]
    grown = [(first, *gradients[:n]) for n in range(len(gradients) + 1)]
    controls = ["activation"] if "activation" in blocks else []
    controls += ["random", "repeated"] if gradients and first == "embedding" else []
    return [*grown, *((first, name) for name in controls)]


def widened(features: FungiFeatures, side: str, seed: int) -> FungiFeatures:
    """Add the blocks "random" and "repeated", each as wide and as long as all gradients together.

    A part of each has the width of one gradient and unit length. Random numbers are keyed by side
    and row, so they know nothing of the input.
    """
    gradients = [n for n in features.layout if n not in ("embedding", *CONTROLS)]
    if not gradients:
        return features
    embedding = features.block("embedding")
    width = features.block(gradients[0]).shape[1]
    generator = numpy_generator(seed, "paper", "random columns", side)
    parts = generator.standard_normal((len(features), len(gradients), width))
    parts /= np.linalg.norm(parts, axis=2, keepdims=True)
    random = parts.reshape(len(features), -1)
    blocks = {name: features.block(name) for name in features.layout}
    blocks |= {"random": random, "repeated": np.tile(embedding, (1, len(gradients)))}
    array = np.concatenate(list(blocks.values()), axis=1, dtype=np.float32)
    layout = make_layout({name: block.shape[1] for name, block in blocks.items()})
    return FungiFeatures(array, features.fingerprint, layout)


def judgement(records: Sequence[EvaluationResult]) -> dict[str, Any]:
    """Give the protocol of some records and a row of the table for each."""
    first = records[0]
    settings = {name: value for name, value in first.settings.items() if name != "name"}
    rows = [row(one) for one in records]
    return {"protocol": first.protocol, "settings": settings, "rows": rows}


def row(one: EvaluationResult) -> dict[str, Any]:
    """Give what a result keeps of a record; shares are in [0, 1]."""
    kept: dict[str, Any] = {
        "blocks": list(one.blocks),
        "metric": one.main,
        "value": _rounded(one.metrics[one.main]),
        "metrics": {name: _rounded(value) for name, value in one.metrics.items()},
    }
    if one.main in one.intervals:
        kept["interval"] = [_rounded(end) for end in one.intervals[one.main]]
    if one.spread:
        kept["spread"] = {name: _rounded(value) for name, value in one.spread.items()}
    if one.against_baseline:
        against = one.against_baseline.items()
        kept["against_first"] = {name: _rounded(value) for name, value in against}
    if one.notes:
        kept["notes"] = list(one.notes)
    return kept | {"n_train": one.n_train, "n_test": one.n_test}


def title(blocks: Sequence[str]) -> str:
    """Give a column's name: "embedding", "+ KL", "+ KL + DINO", "+ activation (control)"."""
    if len(blocks) == 1:
        return blocks[0]
    return " ".join(f"+ {WORDS.get(name, name)}" for name in blocks[1:])


def _rounded(value: Any) -> float:
    return round(float(value), 6)
