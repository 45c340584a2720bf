"""Demonstrations for queries: rows of a labelled pool, in a guaranteed order, without leaks."""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING, Self

import numpy as np

from fungi_hf.checks import check_choice, check_fields, check_integer
from fungi_hf.errors import DemoConfigError, InputError, InputTypeError, NotFittedError, choices
from fungi_hf.icl.demos import ORDERS, DemoSet, ranks_in_order
from fungi_hf.icl.diversity import pick_diverse
from fungi_hf.icl.examples import Examples, first_of, label_codes
from fungi_hf.icl.leaks import as_guard
from fungi_hf.icl.picking import Quota, draw, pick, ranked
from fungi_hf.icl.rankings import DenseRanking, QueryRows, ranker_for
from fungi_hf.icl.strategies import DPP, MMR, STRATEGIES, Random, Strategy, Stratified

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fungi_hf.icl.demos import Order
    from fungi_hf.icl.leaks import LeakGuard
    from fungi_hf.icl.rankings import Ranker, Rows, Scores


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
        self.strategy = _as_strategy(strategy)
        check_choice("order", order, ORDERS, error=DemoConfigError)
        self.k, self.max_per_class, self.n_shared, self.seed = k, max_per_class, n_shared, seed
        per_label = self._per_label
        check_fields(self, ("n_shared", "seed"), check_integer, 0, error=DemoConfigError)
        given = [name for name in ("k", "max_per_class") if getattr(self, name) is not None]
        if k is None and per_label is None:
            given = ["k"]
        check_fields(self, given, check_integer, error=DemoConfigError)
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
        if per_label is not None:
            self.max_per_class = per_label
        self.order: Order = order
        self.leaks = as_guard(leaks)
        self._fitted: _Fitted | None = None

    @property
    def pool(self) -> Examples:
        """The examples that `fit` took; there are none before."""
        return self._state.pool

    def reseeded(self, seed: int) -> DemoSelector:
        """Return a selector that draws by another seed and shares what `fit` found out."""
        other = copy.copy(self)
        other.seed = seed
        return other

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
        codes = None
        if self.max_per_class is not None or isinstance(self.strategy, Stratified):
            if pool.targets is None:
                what = "max_per_class" if self.max_per_class else "strategy 'stratified'"
                raise InputError(f"{what} needs targets in the pool; they are missing")
            codes = label_codes(pool.targets)[0]
        k = self._k_for(codes)
        n_pool = len(pool)
        self._check_supply(k, n_pool, codes)
        ranker = ranker_for(self.strategy, pool)
        self._fitted = _Fitted(pool=pool, n_pool=n_pool, codes=codes, k=k, ranker=ranker)
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
        state, ranker = self._state, self._state.ranker
        if not isinstance(queries, Examples):
            raise InputTypeError(f"queries is {type(queries).__name__}; an Examples is needed")
        self._check_parts(queries, "the queries")
        if isinstance(self.strategy, Random) and queries.features is None:
            ranker = None
        if ranker is not None:
            ranker.check(queries)
        copies, n_queries = self.leaks.copies(state.pool, queries), len(queries)
        if copies and self.leaks.action == "error":
            raise InputError(
                f"{len(copies)} of {n_queries} queries are in the pool, query rows "
                f"{first_of(copies)}; pass leaks='drop' to leave them out"
            )
        excluded = copies if self.leaks.action == "drop" else {}
        self._check_left(excluded)
        rows = np.arange(n_queries)
        exclude = {query: np.array(found, dtype=np.int64) for query, found in excluded.items()}
        indices, scores = self._select(QueryRows(queries, rows, exclude), ranker)
        keys = [queries.key(row) if self.order == "shuffled" else b"" for row in range(n_queries)]
        return DemoSet(
            indices=indices,
            scores=scores.astype(np.float32),
            positions=ranks_in_order(self.order, state.k, self.n_shared, self.seed, keys),
            order=self.order,
            pool=state.pool,
            copies=copies,
            excluded=excluded,
            score_kind="none" if ranker is None else ranker.kind,
        )

    def describe(self) -> dict[str, object]:
        """Return what a run folder records about the selection."""
        return {
            "strategy": self.strategy.name,
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
    def _per_label(self) -> int | None:
        return self.strategy.per_label if isinstance(self.strategy, Stratified) else None

    @property
    def _state(self) -> _Fitted:
        if self._fitted is None:
            raise NotFittedError("the selector has no pool; call fit(pool) first")
        return self._fitted

    def _select(self, asked: QueryRows, ranker: Ranker | None) -> tuple[Rows, Scores]:
        """Return rows and scores: the chosen ones, then the shared ones, drawn first.

        Raises:
            DemoConfigError: If the cap leaves a query too few rows.
        """
        state, nothing = self._state, np.empty((len(asked.rows), 0), np.int64)
        quota = Quota(
            k=state.k - self.n_shared,
            codes=state.codes,
            cap=self.max_per_class,
            held=nothing,
            in_rounds=isinstance(self.strategy, Stratified),
        )
        if self.n_shared:
            own = dataclasses.replace(quota, k=self.n_shared)
            shared = draw(asked, own, state.n_pool, self.seed, shared=True)
            exclude = {
                row: np.union1d(asked.exclude.get(row, nothing[0]), drawn)
                for row, drawn in enumerate(shared)
            }
            asked = dataclasses.replace(asked, exclude=exclude)
            quota = dataclasses.replace(quota, held=shared)
        indices, scores = self._chosen(asked, quota, ranker)
        short = np.flatnonzero((indices < 0).any(axis=1))
        if len(short):
            raise DemoConfigError(
                f"fewer than k={state.k} rows are left for query rows {first_of(short)} under "
                f"max_per_class={self.max_per_class}"
            )
        if not self.n_shared:
            return indices, scores
        values = np.full(shared.shape, np.nan) if ranker is None else ranker.pairs(asked, shared)
        return np.hstack([indices, shared]), np.hstack([scores, values])

    def _chosen(self, asked: QueryRows, quota: Quota, ranker: Ranker | None) -> tuple[Rows, Scores]:
        if isinstance(self.strategy, Random):
            n_pool, shared = self._state.n_pool, self.strategy.shared
            return ranked(draw(asked, quota, n_pool, self.seed, shared=shared), ranker, asked)
        if ranker is None:
            raise NotFittedError("the selector has no ranking; call fit(pool) first")
        if isinstance(self.strategy, (MMR, DPP)) and isinstance(ranker, DenseRanking):
            return pick_diverse(ranker, self.strategy, asked, quota)
        if quota.codes is None:  # labels do not matter
            return ranker.search(asked, quota.k)
        return pick(ranker, asked, quota)

    def _check_parts(self, examples: Examples, whose: str) -> None:
        """Refuse examples without what the strategy ranks by.

        Raises:
            InputError: If features or texts are missing.
        """
        given = {"features": examples.features, "texts": examples.texts}
        for part in self.strategy.parts:
            if given[part] is None:
                raise InputError(f"strategy {self.strategy.name!r} needs {part}; {whose} have none")

    def _k_for(self, codes: Rows | None) -> int:
        per_label = self._per_label
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
            left = state.n_pool - len(rows)
            if cap is not None and codes is not None and totals is not None:
                removed = np.bincount(codes[list(rows)], minlength=len(totals))
                left = int(np.minimum(totals - removed, cap).sum())
            if left < state.k:
                under = "" if cap is None else f" and max_per_class={cap}"
                raise DemoConfigError(
                    f"k is {state.k}, but the leak guard{under} leaves query row {query} only "
                    f"{left} of {state.n_pool} rows; lower k"
                )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Fitted:
    """What `fit` found out about the pool."""

    pool: Examples
    n_pool: int
    codes: Rows | None
    k: int
    ranker: Ranker | None


def _as_strategy(strategy: object) -> Strategy:
    """Return the record of a strategy that is given by name or as a record.

    Raises:
        DemoConfigError: If it is neither.
    """
    if isinstance(strategy, Strategy):
        return strategy
    if isinstance(strategy, str) and strategy in STRATEGIES:
        return STRATEGIES[strategy]
    hint = " (pass an instance)" if isinstance(strategy, type) else ""
    raise DemoConfigError(f"strategy is {choices(strategy, STRATEGIES)}, or a record{hint}")


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
    return record
