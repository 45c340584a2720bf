"""How well sketches keep the exact kernel of a gradient: kind x width x rank in one pass."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fungi_hf.errors import ConfigError, choices
from fungi_hf.evaluation.inputs import unseen_note
from fungi_hf.evaluation.knn import check_neighbors, knn_protocol
from fungi_hf.evaluation.sampling import draw_shots
from fungi_hf.evaluation.sweeps.layers import sweep_settings, unused_fields
from fungi_hf.evaluation.sweeps.records import SweepResult
from fungi_hf.extraction.variants import SketchSettings, VariantExtractor
from fungi_hf.gradients.factors import exact_cosines
from fungi_hf.neighbors.base import check_count
from fungi_hf.neighbors.classifier import count_votes, decide
from fungi_hf.neighbors.labels import encode_labels, read_labels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fungi_hf.evaluation.knn import KNNProtocol
    from fungi_hf.evaluation.sweeps.layers import SweepData
    from fungi_hf.evaluation.sweeps.records import Cell
    from fungi_hf.extractor import FungiExtractor
    from fungi_hf.neighbors.labels import LabelArray
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

    Args:
        extractor: Gives encoder, layer, objective and seed.
        data: What to judge on; cosines are those of test with training inputs. Its protocol must
            go by cosines: no PCA, and no Euclidean distance.
        kinds: Of `KINDS`.
        widths: P.
        ranks: Terms of Khatri-Rao sketches; dense kinds have none.
        n_seeds: Sketches drawn for each setting; figures are means over them.

    Returns:
        A row for the exact kernel, then one for each kind, width and rank: `cosine_rmse` against
        exact cosines, `neighbours_kept` (share of the 10 true nearest training inputs), and the
        accuracy of the gradient alone with its standard deviation over seeds; few-shot accuracies
        are means over the protocol's draws.
    """
    n_seeds = check_count(n_seeds, "n_seeds", 1, None)
    grid = _grid(kinds, widths, ranks)
    judge = _judge(data)
    sketches = {
        _label(one, seed): SketchSettings(
            kind=one[0], width=one[1], rank=one[2] or 1, seed=extractor.config.seed + seed
        )
        for one in grid
        for seed in range(n_seeds)
    }
    variants = VariantExtractor(extractor.encoder, extractor.config, sketches=sketches)
    variants.fit(data.train)
    place = (extractor.encoder.layer_path, next(iter(variants.objectives)))
    known, asked = (variants(side, progress=data.progress) for side in (data.train, data.test))
    left, right = (variants.exact_gradients(side)[place] for side in (data.test, data.train))
    exact = exact_cosines(left, right)  # [Q, N]
    rows = [
        _row(("exact", left.delta.shape[1] * left.inputs.shape[1], None), [exact], exact, judge)
    ]
    for one in grid:
        keys = [(*place, _label(one, seed)) for seed in range(n_seeds)]
        cosines = [asked.gradients[key] @ known.gradients[key].T for key in keys]
        rows.append(_row(one, cosines, exact, judge))
    settings = sweep_settings(extractor, data) | {"objective": place[1], "n_seeds": n_seeds}
    notes = judge.notes + unused_fields(extractor.config)
    return SweepResult(kind="sketches", rows=tuple(rows), settings=settings, notes=notes)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judge:
    """Labels and the protocol that similarities are judged by.

    Attributes:
        rule: The protocol.
        classes: Of the training labels.
        codes: [N] class numbers of the training inputs.
        draws: Training rows of each draw; all of them where the protocol is not few-shot.
        truth: [Q] test labels.
        notes: For the record.
    """

    rule: KNNProtocol
    classes: LabelArray
    codes: Int64Array
    draws: list[Int64Array]
    truth: LabelArray
    notes: tuple[str, ...]

    def accuracy(self, cosines: Any) -> float:
        """Give the kNN accuracy by similarities [Q, N], as `evaluate_knn` gives it."""
        return float(np.mean([self._of_draw(cosines[:, rows], rows) for rows in self.draws]))

    def _of_draw(self, cosines: Any, rows: Int64Array) -> float:
        rule = self.rule
        nearest = _nearest(cosines, rule.n_neighbors)
        near = self.codes[rows][nearest]
        scores = np.take_along_axis(cosines, nearest, axis=1)
        votes = count_votes(near, scores, len(self.classes), rule.weights, rule.metric)
        return float(np.mean(self.classes[decide(votes, near, rule.tie)] == self.truth))


def _judge(data: SweepData) -> _Judge:
    """Prepare what all settings are judged by, before the first forward pass.

    Raises:
        ConfigError: If the protocol needs more than cosines.
    """
    rule = knn_protocol(data.protocol)
    if rule.pca is not None or rule.metric == "euclidean":
        raise ConfigError(
            f"protocol {rule.name!r} has metric {rule.metric} and pca {rule.pca}, but sketches are "
            "judged by cosines alone; choose 'fungi', 'fungi-N-shot', or a KNNProtocol of metric "
            "cosine or dot without pca"
        )
    known = read_labels(data.train_labels, "train labels")
    truth = read_labels(data.test_labels, "test labels")
    classes, codes = encode_labels(known, "train labels")
    notes = unseen_note(known, truth)
    check_neighbors(rule, len(known))
    draws = [np.arange(len(known))]
    if rule.n_shots is not None:
        draws = [
            draw_shots(known, rule.n_shots, rule.sampling, rule.seed + place)
            for place in range(rule.n_draws)
        ]
    fewest = min(map(len, draws))
    if fewest < rule.n_neighbors:
        notes += (f"n_neighbors {rule.n_neighbors} -> {fewest}: all rows",)
    return _Judge(rule=rule, classes=classes, codes=codes, draws=draws, truth=truth, notes=notes)


def _grid(kinds: Sequence[str], widths: Sequence[int], ranks: Sequence[int]) -> list[Setting]:
    """Give all settings.

    Raises:
        ConfigError: If a kind is unknown, or nothing is to be swept.
    """
    wide, terms = _whole(widths, "widths"), _whole(ranks, "ranks")
    if isinstance(kinds, str) or not isinstance(kinds, Iterable):
        raise ConfigError(f"kinds are {kinds!r}; give a sequence, as [{KINDS[0]!r}]")
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise ConfigError(f"unknown kind of sketch {choices(unknown[0], KINDS)}")
    dense = [kind for kind in kinds if kind != "khatri_rao"]
    grid: list[Setting] = [
        *itertools.product([k for k in kinds if k not in dense], wide, terms),
        *itertools.product(dense, wide, [None]),
    ]
    if not grid:
        raise ConfigError("kinds, widths and ranks must each name at least one value")
    return grid


def _whole(given: object, name: str) -> list[int]:
    """Give whole numbers above 0.

    Raises:
        ConfigError: If there is anything else.
    """
    values: list[Any] = list(given) if isinstance(given, Iterable) else [None]
    whole = [isinstance(v, int | np.integer) and not isinstance(v, bool) for v in values]
    if not all(whole) or min(values, default=1) < 1:
        raise ConfigError(f"{name} are {given!r}; give whole numbers of at least 1, as [1, 2]")
    return [int(value) for value in values]


def _row(
    setting: Setting, drawn: list[Float32Array], exact: Float32Array, judge: _Judge
) -> dict[str, Cell]:
    accuracies = [judge.accuracy(cosines) for cosines in drawn]
    kept = [_share_kept(_nearest(cosines), _nearest(exact)) for cosines in drawn]
    return {
        "kind": setting[0],
        "width": setting[1],
        "rank": setting[2],
        "cosine_rmse": float(np.mean([np.sqrt(np.mean((one - exact) ** 2)) for one in drawn])),
        "neighbours_kept": float(np.mean(kept)),
        "accuracy": float(np.mean(accuracies)),
        "accuracy_sd": float(np.std(accuracies, ddof=1)) if len(drawn) > 1 else None,
    }


def _label(setting: Setting, seed: int) -> str:
    return " ".join(map(str, (*setting, seed)))


def _nearest(cosines: Float32Array, k: int = _NEAREST) -> Int64Array:
    order: Int64Array = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return order


def _share_kept(found: Int64Array, true: Int64Array) -> float:
    shares = [np.isin(one, other).mean() for one, other in zip(true, found, strict=True)]
    return float(np.mean(shares))
