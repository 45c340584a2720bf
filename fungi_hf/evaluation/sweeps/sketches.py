"""How well sketches keep the exact kernel of a gradient: kind x width x rank in one pass."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fungi_hf.checks import check_choice, check_integer
from fungi_hf.errors import ConfigError
from fungi_hf.evaluation.inputs import listed, unseen_note
from fungi_hf.evaluation.knn import KNNJudge, knn_protocol
from fungi_hf.evaluation.protocols import AS_INPUT
from fungi_hf.evaluation.sweeps.layers import sweep_result
from fungi_hf.extraction.variants import SketchSettings, VariantExtractor
from fungi_hf.gradients.factors import exact_cosines
from fungi_hf.neighbors.base import Neighbors
from fungi_hf.neighbors.labels import read_labels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fungi_hf.evaluation.knn import KNNProtocol
    from fungi_hf.evaluation.records import Cell, SweepResult
    from fungi_hf.evaluation.sweeps.layers import SweepData
    from fungi_hf.extractor import FungiExtractor
    from fungi_hf.types import Float32Array, Int64Array

Setting: TypeAlias = tuple[str, int, int | None]  # kind, width, rank
KINDS = ("khatri_rao", "rademacher", "gaussian", "sparse")
_NEAREST = 10


def sweep_sketches(
    extractor: FungiExtractor,
    data: SweepData,
    *,
    kinds: Sequence[str] = KINDS,
    widths: Sequence[int] = (96, 192, 384, 768),
    ranks: Sequence[int] = (1, 2, 4, 8),
    n_seeds: int = 3,
) -> SweepResult:
    """Compare sketches of the first objective's gradients with the exact kernel.

    The extractor gives encoder, layer, objective and seed. Cosines are those of test with training
    inputs, so the data's protocol must go by cosines: no PCA, and no Euclidean distance. Settings
    are kinds (of `KINDS`) x widths P x ranks, the terms of Khatri-Rao sketches; dense kinds have
    none. Of each setting n_seeds sketches are drawn; figures are means over them.

    Returns:
        A row for the exact kernel, then one for each kind, width and rank: `cosine_rmse` against
        exact cosines, `neighbours_kept` (share of the 10 true nearest training inputs), and the
        accuracy of the gradient alone with its standard deviation over seeds; few-shot accuracies
        are means over the protocol's draws.
    """
    check_integer("n_seeds", n_seeds, **AS_INPUT)
    grid = _grid(kinds, widths, ranks)
    rule = _protocol(data)
    labels = read_labels(data.train_labels, "train labels")
    truth = read_labels(data.test_labels, "test labels")
    notes = unseen_note(labels, truth)
    judge = KNNJudge(rule, labels, truth)
    seeds = [extractor.config.seed + number for number in range(n_seeds)]
    sketches = {
        f"{one} {seed}": SketchSettings(kind=one[0], width=one[1], rank=one[2] or 1, seed=seed)
        for one, seed in itertools.product(grid, seeds)
    }
    variants = VariantExtractor(extractor.encoder, extractor.config, sketches=sketches)
    known, asked = data.blocks(variants)
    place = (next(iter(variants.layers)), next(iter(variants.objectives)))
    left, right = (variants.exact_gradients(side)[place] for side in (data.test, data.train))
    exact = exact_cosines(left, right)  # [Q, N]

    def row(setting: Setting, drawn: list[Float32Array]) -> dict[str, Cell]:
        accuracies = [_accuracy(cosines, judge, rule) for cosines in drawn]
        near = [zip(_nearest(exact), _nearest(cosines), strict=True) for cosines in drawn]
        kept = [np.mean([np.isin(*pair).mean() for pair in pairs]) for pairs in near]
        return {
            "kind": setting[0],
            "width": setting[1],
            "rank": setting[2],
            "cosine_rmse": float(np.mean([np.sqrt(np.mean((one - exact) ** 2)) for one in drawn])),
            "neighbours_kept": float(np.mean(kept)),
            "accuracy": float(np.mean(accuracies)),
            "accuracy_sd": float(np.std(accuracies, ddof=1)) if len(drawn) > 1 else None,
        }

    rows = [row(("exact", left.delta.shape[1] * left.inputs.shape[1], None), [exact])]
    for one in grid:
        keys = [(*place, f"{one} {seed}") for seed in seeds]
        rows.append(row(one, [asked.gradients[key] @ known.gradients[key].T for key in keys]))
    notes += judge.notes
    further = {"objective": place[1], "n_seeds": n_seeds}
    return sweep_result("sketches", extractor, data, rows, notes, **further)


def _protocol(data: SweepData) -> KNNProtocol:
    rule = knn_protocol(data.protocol)
    if rule.pca is not None or rule.metric == "euclidean":
        raise ConfigError(
            f"protocol {rule.name!r} has metric {rule.metric} and pca {rule.pca}, but sketches are "
            "judged by cosines alone; choose 'fungi', 'fungi-N-shot', or a KNNProtocol of metric "
            "cosine or dot without pca"
        )
    return rule


def _grid(kinds: Sequence[str], widths: Sequence[int], ranks: Sequence[int]) -> list[Setting]:
    wide, terms = _whole("widths", widths), _whole("ranks", ranks)
    grid: list[Setting] = []
    for kind in listed("kinds are", kinds, "kinds of sketch", ConfigError):
        check_choice("a kind of sketch", kind, KINDS)
        grid += itertools.product([kind], wide, terms if kind == "khatri_rao" else [None])
    if not grid:
        raise ConfigError("kinds, widths and ranks must each name at least one value")
    return grid


def _whole(name: str, given: object) -> list[int]:
    values = listed(f"{name} are", given, "whole numbers", ConfigError)
    return [check_integer(f"{name}: each", value) for value in values]


def _accuracy(cosines: Any, judge: KNNJudge, rule: KNNProtocol) -> float:
    """Give the kNN accuracy by similarities [Q, N], the mean over draws."""
    votes = []
    for number, rows in enumerate(judge.sets):
        held = cosines if rows is None else cosines[:, rows]
        near = _nearest(held, rule.n_neighbors)
        scores = np.take_along_axis(held, near, axis=1)
        votes.append(judge.vote(number, Neighbors(indices=near, scores=scores, metric=rule.metric)))
    return float(np.mean([vote.metrics["accuracy"] for vote in votes]))


def _nearest(cosines: Float32Array, k: int = _NEAREST) -> Int64Array:
    order: Int64Array = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return order
