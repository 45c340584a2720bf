"""Demonstrations for queries: rows of a labelled pool, in a guaranteed order, without leaks."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Self

import numpy as np

from fungi_hf.errors import DemoConfigError, InputError, InputTypeError, NotFittedError, choices
from fungi_hf.icl.demos import ORDERS, DemoSet, ranks_in_order
from fungi_hf.icl.diversity import DiversePicker
from fungi_hf.icl.drawing import draw
from fungi_hf.icl.examples import Examples, first_of, label_codes
from fungi_hf.icl.leaks import as_guard
from fungi_hf.icl.picking import Quota, pick
from fungi_hf.icl.rankings import Asked, DenseRanking, ranker_for
from fungi_hf.icl.strategies import (
    BM25,
    DPP,
    KNN,
    MMR,
    Random,
    Stratified,
    as_strategy,
    name_of,
    rankings_of,
    whole_number,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fungi_hf.icl.demos import Order
    from fungi_hf.icl.leaks import LeakGuard
    from fungi_hf.icl.rankings import Ranker, Rows, Scores
    from fungi_hf.icl.strategies import (
        Strategy,
    )


class DemoSelector:
    """Chooses k demonstrations for each query.

    Example:
        >>> pool = Examples(features=[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], targets=["a", "b", "c"])
        >>> demos = DemoSelector("knn", k=2).fit(pool).select(Examples(features=[[1.0, 0.1]]))
        >>> demos.indices, [shown.target for shown in demos[0]]
        (array([[0, 2]]), ['c', 'a'])
    """

    def __init__(
        self,
        strategy: str | Strategy,
        k: int | None = None,
        *,
        max_per_class: int | None = None,
        order: Order = "nearest_last",
        leaks: str | LeakGuard = "drop",
        n_shared: int = 0,
        seed: int = 0,
    ) -> None:
        """Check the settings.

        Args:
            strategy: A name ("knn", "bm25", "hybrid", "mmr", "dpp", "stratified", "random") or a
                record of `fungi_hf.icl.strategies` with options.
            k: Demonstrations per query; may be left out for `Stratified(per_label=...)`.
            max_per_class: Most demonstrations of one label; rows of a full label are skipped.
            order: Prompt order: "nearest_last", "nearest_first", "alternate" or "shuffled".
            leaks: "drop", "keep", "error", or a `LeakGuard`.
            n_shared: Demonstrations, of the k, that are drawn once and open every prompt.
            seed: For random rows and shuffled orders.

        Raises:
            DemoConfigError: If a setting is unknown or out of range.
        """
        self.strategy = as_strategy(strategy)
        if order not in ORDERS:
            raise DemoConfigError(f"order is {choices(order, ORDERS)}")
        if max_per_class is not None:
            whole_number("max_per_class", max_per_class, 1)
        whole_number("n_shared", n_shared, 0)
        whole_number("seed", seed, 0)
        per_label = self.strategy.per_label if isinstance(self.strategy, Stratified) else None
        if k is not None or per_label is None:
            whole_number("k", k, 1)
        if k is not None and n_shared >= k:
            raise DemoConfigError(f"n_shared is {n_shared}, k is {k}; n_shared must be below k")
        if per_label is not None and (n_shared or max_per_class not in (None, per_label)):
            raise DemoConfigError(
                f"per_label={per_label} fixes the rows of each label; leave out n_shared and "
                "max_per_class"
            )
        if isinstance(self.strategy, (MMR, DPP)) and self.strategy.candidates <= (k or 0):
            raise DemoConfigError(
                f"candidates is {self.strategy.candidates}, k is {k}; candidates must exceed k"
            )
        self.k = None if k is None else int(k)
        cap = max_per_class if per_label is None else per_label
        self.max_per_class = None if cap is None else int(cap)
        self.order: Order = order
        self.leaks = as_guard(leaks)
        self.n_shared = int(n_shared)
        self.seed = int(seed)
        self._fitted: _Fitted | None = None

    @property
    def pool(self) -> Examples:
        """The examples that `fit` took; there are none before."""
        return self._state.pool

    def fit(self, pool: Examples) -> Self:
        """Index the pool.

        Args:
            pool: The labelled examples; kept, not copied.

        Returns:
            The selector itself.

        Raises:
            InputTypeError: If the pool is no `Examples`.
            InputError: If it lacks what the strategy needs. A k that it can never fill is a
                `DemoConfigError`.
        """
        if not isinstance(pool, Examples):
            raise InputTypeError(f"pool is {type(pool).__name__}; an Examples is needed")
        self._check_parts(pool, "the pool")
        needs_labels = self.max_per_class is not None or isinstance(self.strategy, Stratified)
        if needs_labels and pool.targets is None:
            what = "max_per_class" if self.max_per_class is not None else "strategy 'stratified'"
            raise InputError(f"{what} needs targets in the pool; they are missing")
        codes = label_codes(pool.targets)[0] if needs_labels and pool.targets is not None else None
        k = self._k_for(codes)
        self._check_supply(k, len(pool), codes)
        self._fitted = _Fitted(pool=pool, codes=codes, k=k, ranker=self._ranker(pool))
        return self

    def select(self, queries: Examples) -> DemoSet:
        """Choose the demonstrations.

        Args:
            queries: What to choose for; the pool object itself for leave-one-out. Their targets
                are never looked at.

        Returns:
            The demonstrations of each query.

        Raises:
            InputTypeError: If queries is no `Examples`.
            InputError: If `leaks="error"` found copies. Queries without what the strategy needs
                are refused too, and so is a guard that leaves one of them fewer than k rows.
        """
        state = self._state
        if not isinstance(queries, Examples):
            raise InputTypeError(f"queries is {type(queries).__name__}; an Examples is needed")
        self._check_parts(queries, "the queries")
        if state.ranker is not None and (
            not isinstance(self.strategy, Random) or queries.features is not None
        ):
            state.ranker.check(queries)
        copies = self.leaks.copies(state.pool, queries)
        if copies and self.leaks.action == "error":
            raise InputError(
                f"{len(copies)} of {len(queries)} queries are in the pool, query rows "
                f"{first_of(copies)}; pass leaks='drop' to leave them out"
            )
        excluded = copies if self.leaks.action == "drop" else {}
        self._check_left(excluded)
        exclude = {query: np.array(rows, dtype=np.int64) for query, rows in excluded.items()}
        indices, scores, is_scored = self._select(queries, exclude)
        keys = [queries.key(row) for row in range(len(queries))] if self.order == "shuffled" else []
        positions = ranks_in_order(
            self.order, state.k, self.n_shared, self.seed, keys or [b""] * len(queries)
        )
        kind = "none" if not is_scored or state.ranker is None else state.ranker.kind
        return DemoSet(
            indices=indices,
            scores=scores.astype(np.float32),
            positions=positions,
            order=self.order,
            pool=state.pool,
            excluded=excluded,
            copies=copies,
            score_kind=kind,
        )

    def describe(self) -> dict[str, object]:
        """Return what a run folder records about the selection."""
        return {
            "strategy": name_of(self.strategy),
            "options": _plain(self.strategy),
            "k": self.k if self._fitted is None else self._fitted.k,
            "max_per_class": self.max_per_class,
            "order": self.order,
            "leaks": _plain(self.leaks),
            "n_shared": self.n_shared,
            "seed": self.seed,
            "fingerprint": None if self._fitted is None else self._fitted.pool.fingerprint,
        }

    @property
    def _state(self) -> _Fitted:
        if self._fitted is None:
            raise NotFittedError("the selector has no pool; call fit(pool) first")
        return self._fitted

    def _select(self, queries: Examples, exclude: Mapping[int, Rows]) -> tuple[Rows, Scores, bool]:
        """Return rows and scores: the chosen ones, then the shared ones, drawn first.

        Raises:
            DemoConfigError: If the cap leaves a query too few rows.
        """
        state = self._state
        rows = np.arange(len(queries))
        nothing = np.empty((len(queries), 0), np.int64)
        asked = Asked(queries, rows, exclude)
        shared = nothing
        if self.n_shared:
            quota = Quota(k=self.n_shared, codes=state.codes, cap=self.max_per_class, held=nothing)
            shared = draw(asked, quota, len(state.pool), self.seed, shared=True)
            exclude = {
                int(row): np.union1d(exclude.get(int(row), nothing[0]), shared[row]) for row in rows
            }
            asked = Asked(queries, rows, exclude)
        quota = Quota(
            k=state.k - self.n_shared,
            codes=state.codes,
            cap=self.max_per_class,
            held=shared,
            in_rounds=isinstance(self.strategy, Stratified),
        )
        indices, scores, is_scored = self._chosen(asked, quota)
        short = np.flatnonzero((indices < 0).any(axis=1))
        if len(short):
            raise DemoConfigError(
                f"fewer than k={state.k} rows are left for query rows {first_of(short)} under "
                f"max_per_class={self.max_per_class}"
            )
        if not self.n_shared:
            return indices, scores, is_scored
        values = np.full(shared.shape, np.nan)
        if is_scored and state.ranker is not None:
            values = state.ranker.pairs(asked, shared)
        return np.hstack([indices, shared]), np.hstack([scores, values]), is_scored

    def _chosen(self, asked: Asked, quota: Quota) -> tuple[Rows, Scores, bool]:
        state = self._state
        if isinstance(self.strategy, Random):
            return self._drawn(asked, quota, shared=self.strategy.shared)
        if state.ranker is None:
            raise NotFittedError("the selector has no ranking; call fit(pool) first")
        if isinstance(self.strategy, (MMR, DPP)) and isinstance(state.ranker, DenseRanking):
            picker = DiversePicker(pool=state.pool, ranker=state.ranker, options=self.strategy)
            return *_filled(picker.pick(asked, quota), state.ranker, asked, quota), True
        return *pick(state.ranker, asked, quota, len(state.pool)), True

    def _drawn(self, asked: Asked, quota: Quota, *, shared: bool) -> tuple[Rows, Scores, bool]:
        """Return drawn rows; with features on both sides they are ranked by similarity."""
        state = self._state
        rows = draw(asked, quota, len(state.pool), self.seed, shared=shared)
        if state.ranker is None or asked.examples.features is None or (rows < 0).any():
            return rows, np.full(rows.shape, np.nan), False
        scores = state.ranker.pairs(asked, rows)
        by_row = np.argsort(rows, axis=1, kind="stable")
        rows = np.take_along_axis(rows, by_row, axis=1)
        scores = np.take_along_axis(scores, by_row, axis=1)
        ranks = np.argsort(-np.round(scores, 9), axis=1, kind="stable")
        return np.take_along_axis(rows, ranks, 1), np.take_along_axis(scores, ranks, 1), True

    def _ranker(self, pool: Examples) -> Ranker | None:
        if isinstance(self.strategy, Random):
            return None if pool.features is None else DenseRanking(pool, "cosine")
        if isinstance(self.strategy, (MMR, DPP)):
            return DenseRanking(pool, "cosine")
        if isinstance(self.strategy, Stratified):
            return ranker_for(self.strategy.ranker, pool)
        return ranker_for(self.strategy, pool)

    def _check_parts(self, examples: Examples, whose: str) -> None:
        """Refuse examples without what the strategy ranks by.

        Raises:
            InputError: If features or texts are missing.
        """
        for ranking in rankings_of(self.strategy):
            if isinstance(ranking, KNN) and examples.features is None:
                raise InputError(
                    f"strategy {name_of(self.strategy)!r} needs features; {whose} have none"
                )
            if isinstance(ranking, BM25) and examples.texts is None:
                raise InputError(
                    f"strategy {name_of(self.strategy)!r} needs texts; {whose} have none"
                )

    def _k_for(self, codes: Rows | None) -> int:
        per_label = self.strategy.per_label if isinstance(self.strategy, Stratified) else None
        if per_label is None or codes is None:
            return int(self.k or 0)
        n_labels = int(codes.max()) + 1
        if self.k not in (None, per_label * n_labels):
            raise DemoConfigError(
                f"k is {self.k}, but per_label={per_label} of {n_labels} labels makes "
                f"{per_label * n_labels}; leave k out"
            )
        return per_label * n_labels

    def _check_supply(self, k: int, n_pool: int, codes: Rows | None) -> None:
        """Refuse a k that the pool can never fill.

        Raises:
            DemoConfigError: If k exceeds what the pool has under the cap.
        """
        if k > n_pool:
            raise DemoConfigError(f"k is {k}, the pool has {n_pool} rows; k must not exceed them")
        if codes is None or self.max_per_class is None:
            return
        supply = int(np.minimum(np.bincount(codes), self.max_per_class).sum())
        if k > supply:
            raise DemoConfigError(
                f"k is {k}, but max_per_class={self.max_per_class} leaves {supply} rows of the "
                f"pool's {int(codes.max()) + 1} labels; lower k or raise max_per_class"
            )

    def _check_left(self, excluded: Mapping[int, tuple[int, ...]]) -> None:
        """Refuse queries for which the guard leaves too few rows.

        Raises:
            DemoConfigError: If a query keeps fewer than k rows.
        """
        state = self._state
        cap, codes = self.max_per_class, state.codes
        totals = None if codes is None else np.bincount(codes)
        for query, rows in excluded.items():
            left = len(state.pool) - len(rows)
            if cap is not None and codes is not None and totals is not None:
                removed = np.bincount(codes[list(rows)], minlength=len(totals))
                left = int(np.minimum(totals - removed, cap).sum())
            if left < state.k:
                under = "" if cap is None else f" and max_per_class={cap}"
                raise DemoConfigError(
                    f"k is {state.k}, but the leak guard{under} leaves query row {query} only "
                    f"{left} of {len(state.pool)} rows; lower k"
                )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Fitted:
    """What `fit` found out about the pool."""

    pool: Examples
    codes: Rows | None
    k: int
    ranker: Ranker | None


def _filled(
    picked: tuple[Rows, Scores], ranker: Ranker, asked: Asked, quota: Quota
) -> tuple[Rows, Scores]:
    """Return the picks, completed from further down the ranking where the cap left gaps."""
    rows, scores = picked
    n_pool = int(quota.codes.size) if quota.codes is not None else 0
    for query in np.flatnonzero((rows < 0).any(axis=1)):
        own = rows[query][rows[query] >= 0]
        row = int(asked.rows[query])
        before = asked.exclude.get(row, own[:0])
        one = Asked(asked.examples, asked.rows[[query]], {row: np.union1d(before, own)})
        held = np.concatenate([quota.held[query], own])[None]
        rest = dataclasses.replace(quota, k=quota.k - len(own), held=held)
        found, values = pick(ranker, one, rest, n_pool)
        rows[query, len(own) :], scores[query, len(own) :] = found[0], values[0]
    return rows, scores


def _plain(record: object) -> object:
    """Return a record as JSON values; functions by their name."""
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        fields = {f.name: _plain(getattr(record, f.name)) for f in dataclasses.fields(record)}
        return {"name": type(record).__name__, **fields}
    if isinstance(record, tuple):
        return [_plain(item) for item in record]
    if callable(record):
        name = getattr(record, "__qualname__", type(record).__qualname__)
        return f"{record.__module__}.{name}"
    return record.item() if isinstance(record, np.generic) else record
