"""How well sketches keep the exact kernel of a gradient: kind x width x rank in one pass."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fungi_hf.errors import ConfigError
from fungi_hf.evaluation.knn import knn_protocol
from fungi_hf.evaluation.sweep_records import SweepResult
from fungi_hf.evaluation.sweeps import sweep_settings
from fungi_hf.neighbors.base import check_count
from fungi_hf.neighbors.labels import encode_labels, read_labels
from fungi_hf.variants import SketchSettings, VariantExtractor, exact_cosines

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fungi_hf.evaluation.sweep_records import Cell
    from fungi_hf.evaluation.sweeps import SweepData
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

    Args:
        extractor: Gives encoder, layer, objective and seed.
        data: What to judge on; cosines are those of test with training inputs.
        kinds: Of `KINDS`.
        widths: P.
        ranks: Terms of Khatri-Rao sketches; dense kinds have none.
        n_seeds: Sketches drawn for each setting; figures are means over them.

    Returns:
        A row for the exact kernel, then one for each kind, width and rank: `cosine_rmse` against
        exact cosines, `neighbours_kept` (share of the 10 true nearest training inputs), and the
        accuracy of the gradient alone with its standard deviation over seeds.

    Raises:
        ConfigError: If nothing is to be swept.
    """
    n_seeds = check_count(n_seeds, "n_seeds", 1, None)
    dense = [kind for kind in kinds if kind != "khatri_rao"]
    grid: list[Setting] = [
        *itertools.product([k for k in kinds if k not in dense], widths, ranks),
        *itertools.product(dense, widths, [None]),
    ]
    if not grid:
        raise ConfigError("kinds, widths and ranks must each name at least one value")
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
    rows = [_row(("exact", left.delta.shape[1] * left.inputs.shape[1], None), [exact], exact, data)]
    for one in grid:
        keys = [(*place, _label(one, seed)) for seed in range(n_seeds)]
        cosines = [asked.gradients[key] @ known.gradients[key].T for key in keys]
        rows.append(_row(one, cosines, exact, data))
    settings = sweep_settings(extractor, data) | {"objective": place[1], "n_seeds": n_seeds}
    return SweepResult(kind="sketches", rows=tuple(rows), settings=settings)


def _row(
    setting: Setting, drawn: list[Float32Array], exact: Float32Array, data: SweepData
) -> dict[str, Cell]:
    accuracies = [_accuracy(cosines, data) for cosines in drawn]
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


def _accuracy(cosines: Any, data: SweepData) -> float:
    """Give kNN accuracy by similarities [Q, N]: the protocol's K, uniform votes, ties smallest."""
    classes, codes = encode_labels(data.train_labels, "train labels")
    near = codes[_nearest(cosines, knn_protocol(data.protocol).n_neighbors)]
    votes = np.zeros((len(cosines), len(classes)), np.int64)
    np.add.at(votes, (np.arange(len(cosines))[:, None], near), 1)
    truth = read_labels(data.test_labels, "test labels")
    return float(np.mean(classes[votes.argmax(axis=1)] == truth))
