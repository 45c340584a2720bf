"""Demonstrations for queries: rows of a labelled pool, in a guaranteed order, without leaks."""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeAlias, get_args

import numpy as np

from fungi_hf.checks import check_fields, check_integer
from fungi_hf.errors import DemoConfigError, InputError, InputTypeError, NotFittedError, choices
from fungi_hf.icl.demos import ORDERS, DemoSet, ranks_in_order
from fungi_hf.icl.diversity import pick_diverse
from fungi_hf.icl.examples import Examples, first_of, label_codes
from fungi_hf.icl.leaks import GUARDS, LeakGuard
from fungi_hf.icl.picking import Quota, draw, pick, ranked
from fungi_hf.icl.rankings import DenseRanking, QueryRows, ranker_for
from fungi_hf.icl.strategies import DPP, MMR, STRATEGIES, Random, Strategy, Stratified

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fungi_hf.icl.demos import Order
    from fungi_hf.icl.rankings import Ranker, Rows, Scores

Repeats: TypeAlias = Literal["drop", "keep"]


class Tunable(Protocol):
    """What `DemoSelector.tuned` asks of an extractor; a `FungiExtractor` has it."""

    def tune(self, inputs: list[str], labels: list[Any], *, search: Any, progress: bool) -> Self:
        """Give an extractor of features chosen on labelled texts."""

    def __call__(self, inputs: list[str]) -> Any:
        """Give the features of texts."""


class DemoSelector:
    """Chooses k demonstrations for each query.

    Example:
        >>> pool = Examples(features=[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], targets=["a", "b", "c"])
        >>> demos = DemoSelector("knn", k=2).fit(pool).select(Examples(features=[[1.0, 0.1]]))
        >>> demos.indices, [shown.target for shown in demos[0]]
        (array([[0, 2]]), ['c', 'a'])
    """

    def __init__(  # noqa: PLR0913  (each is a setting of its own)
        self,
        strategy: str | Strategy,
        k: int | None = None,
        *,
        max_per_class: int | None = None,
        order: Order = "nearest_last",
        leaks: str | LeakGuard = "drop",
        repeats: Repeats = "drop",
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
            repeats: "drop" shows, of pool rows with equal texts (as the guard compares them) or
                clips, the first alone, whatever their targets; "keep" shows every row.
            n_shared: Demonstrations, of the k, that are drawn once and open every prompt.
            seed: For random rows and shuffled orders.

        Raises:
            DemoConfigError: If a setting is unknown or out of range.
        """
        self.strategy = _as_strategy(strategy)
        self.k, self.max_per_class, self.n_shared, self.seed = k, max_per_class, n_shared, seed
        per_label = self._per_label
        wanted = [name for name in ("k", "max_per_class") if getattr(self, name) is not None]
        wanted += ["k"] if k is None and per_label is None else []
        check_fields(self, wanted, check_integer, error=DemoConfigError)
        check_fields(self, ("n_shared", "seed"), check_integer, 0, error=DemoConfigError)
        texts = (("order", order, ORDERS), ("repeats", repeats, get_args(Repeats)))
        for name, value, allowed in texts:
            if value not in allowed:
                raise DemoConfigError(f"{name} is {choices(value, allowed)}")
        self.repeats: Repeats = repeats
        if k is not None and n_shared >= k:
            raise DemoConfigError(f"n_shared is {n_shared}, k is {k}; n_shared must be below k")
        if per_label is not None:
            if n_shared or max_per_class not in (None, per_label):
                raise DemoConfigError(
                    f"per_label={per_label} fixes the rows of each label; leave out n_shared and "
                    "max_per_class"
                )
            self.max_per_class = per_label
        if isinstance(self.strategy, (MMR, DPP)) and self.strategy.candidates <= (k or 0):
            raise DemoConfigError(
                f"candidates is {self.strategy.candidates}, k is {k}; candidates must exceed k"
            )
        self.leaks = _as_guard(leaks)
        self.order: Order = order
        self._fitted: _Fitted | None = None
        self.extractor: Any = None  # of queries that bring no features
        self._bare: Examples | None = None

    @classmethod
    def tuned(
        cls,
        extractor: Tunable,
        pool: Examples,
        k: int | None = None,
        *,
        strategy: str | Strategy = "knn",
        search: Any = None,
        progress: bool = False,
        **options: Any,
    ) -> Self:
        """Choose features for a labelled pool by its own labels, and fit a selector on them.

        `select` extracts the features of queries that bring texts alone; `.extractor` is the tuned
        extractor, with its evidence in `.extractor.tuning`.

        Args:
            extractor: Where tuning starts from; it is not changed.
            pool: Texts and targets.
            k: As for the class.
            strategy: As for the class.
            search: What may be chosen, a `TuningSearch`.
            progress: Show bars.
            **options: As for the class.

        Raises:
            InputTypeError: If the pool is no Examples, or the extractor cannot be tuned.
            InputError: If the pool lacks texts or targets, or cannot be tuned on.
            DemoConfigError: If a setting is unknown or out of range.
        """
        selector = cls(strategy, k, **options)
        if not isinstance(pool, Examples):
            raise InputTypeError(f"pool is {type(pool).__name__}; an Examples is needed")
        if not callable(getattr(extractor, "tune", None)):
            raise InputTypeError(
                f"extractor is {type(extractor).__name__}; one with tune(...) is needed, such as a "
                "FungiExtractor"
            )
        if pool.texts is None or pool.targets is None:
            raise InputError("tuned needs a pool with texts and targets; give both to Examples")
        labels = list(pool.targets)
        selector.extractor = extractor.tune(
            list(pool.texts), labels, search=search, progress=progress
        )
        selector._bare = pool
        return selector.fit(selector._featured(pool))

    def _featured(self, examples: Examples) -> Examples:
        # With features of the tuned extractor, where there is one and they bring none.
        if self.extractor is None or not isinstance(examples, Examples):
            return examples
        if examples is self._bare and self._fitted is not None:
            return self._fitted.pool  # asks for leave-one-out
        if examples.features is not None or examples.texts is None:
            return examples
        features = self.extractor(list(examples.texts))
        return dataclasses.replace(examples, features=features)

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
        """Index the pool, which is kept and not copied, and return the selector.

        Raises:
            InputError: If the pool lacks what the strategy needs.
            DemoConfigError: If it can never fill k.
        """
        self._checked(pool, "pool", "the pool")
        cap, k, codes, n_labels = self.max_per_class, self.k or 0, None, 0
        rows = self.leaks.distinct(pool) if self.repeats == "drop" else None
        shown = pool if rows is None else pool.take(rows)
        if cap is not None or isinstance(self.strategy, Stratified):
            if shown.targets is None:
                what = "max_per_class" if cap else "strategy 'stratified'"
                raise InputError(f"{what} needs targets in the pool; they are missing")
            codes, labels = label_codes(shown.targets)
            n_labels = len(labels)
        if self._per_label is not None:
            k = self._per_label * n_labels
            if self.k not in (None, k):
                raise DemoConfigError(
                    f"k is {self.k}, but per_label={cap} of {n_labels} labels makes {k}; "
                    "leave k out"
                )
        if k > shown.n_rows:
            without = "" if rows is None else f" without the {len(pool) - len(rows)} repeats"
            raise DemoConfigError(
                f"k is {k}, the pool has {shown.n_rows} rows{without}; k must not exceed them"
            )
        fitted = _Fitted(pool=pool, shown=shown, rows=rows, codes=codes, k=k, cap=cap)
        if k > fitted.n_left(()):
            raise DemoConfigError(
                f"k is {k}, but max_per_class={cap} leaves {fitted.n_left(())} rows of the "
                f"pool's {n_labels} labels; lower k or raise max_per_class"
            )
        fitted.ranker = ranker_for(self.strategy, shown)
        self._fitted = fitted
        return self

    def select(self, queries: Examples) -> DemoSet:
        """Choose the demonstrations of queries; the pool object itself asks for leave-one-out.

        Targets of the queries are never looked at.

        Raises:
            InputError: If `leaks="error"` found copies, or queries lack what the strategy needs.
            DemoConfigError: If the guard leaves a query fewer than k rows.
        """
        state, ranker = self._state, self._state.ranker
        queries = self._featured(queries)
        n_queries = self._checked(queries, "queries", "the queries")
        if isinstance(self.strategy, Random) and queries.features is None:
            ranker = None
        if ranker is not None:
            ranker.check(queries)
        copies = self.leaks.copies(state.pool, queries)
        if copies and self.leaks.action == "error":
            raise InputError(
                f"{len(copies)} of {n_queries} queries are in the pool, query rows "
                f"{first_of(copies)}; pass leaks='drop' to leave them out"
            )
        excluded = copies if self.leaks.action == "drop" else {}
        hidden = {query: state.places(rows) for query, rows in excluded.items()}
        for query, rows in hidden.items():
            left = state.n_left(rows)
            if left < state.k:
                under = "" if state.cap is None else f" and max_per_class={state.cap}"
                raise DemoConfigError(
                    f"k is {state.k}, but the leak guard{under} leaves query row {query} only "
                    f"{left} of {len(state.shown)} rows; lower k"
                )
        exclude = {query: np.array(rows, dtype=np.int64) for query, rows in hidden.items()}
        asked = QueryRows(queries, np.arange(n_queries), exclude)
        indices, scores = self._select(asked, ranker)
        if state.rows is not None:
            indices = np.array(state.rows, dtype=np.int64)[indices]
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
            "repeats": self.repeats,
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

    def _checked(self, examples: object, name: str, whose: str) -> int:
        # The number of rows of examples that hold what the strategy ranks by.
        if not isinstance(examples, Examples):
            raise InputTypeError(f"{name} is {type(examples).__name__}; an Examples is needed")
        given = {"features": examples.features, "texts": examples.texts}
        for part in self.strategy.parts:
            if given[part] is None:
                raise InputError(f"strategy {self.strategy.name!r} needs {part}; {whose} have none")
        return examples.n_rows

    def _select(self, asked: QueryRows, ranker: Ranker | None) -> tuple[Rows, Scores]:
        # Rows and scores: the chosen ones, then the shared ones, which are drawn first.
        state, shared = self._state, np.empty((len(asked.rows), 0), np.int64)
        quota = Quota(k=self.n_shared, codes=state.codes, cap=state.cap, held=shared)
        if self.n_shared:
            shared = draw(asked, quota, len(state.shown), self.seed, shared=True)
            asked = asked.without(shared)
        in_rounds, k = isinstance(self.strategy, Stratified), state.k - self.n_shared
        quota = dataclasses.replace(quota, k=k, held=shared, in_rounds=in_rounds)
        indices, scores = self._chosen(asked, quota, ranker)
        short = np.flatnonzero((indices < 0).any(axis=1))
        if len(short):
            raise DemoConfigError(
                f"fewer than k={state.k} rows are left for query rows {first_of(short)} under "
                f"max_per_class={state.cap}"
            )
        if not self.n_shared:
            return indices, scores
        values = np.full(shared.shape, np.nan) if ranker is None else ranker.pairs(asked, shared)
        return np.hstack([indices, shared]), np.hstack([scores, values])

    def _chosen(self, asked: QueryRows, quota: Quota, ranker: Ranker | None) -> tuple[Rows, Scores]:
        if isinstance(self.strategy, Random):
            n_pool, shared = len(self._state.shown), self.strategy.shared
            return ranked(draw(asked, quota, n_pool, self.seed, shared=shared), ranker, asked)
        if ranker is None:
            raise NotFittedError("the selector has no ranking; call fit(pool) first")
        if isinstance(self.strategy, (MMR, DPP)) and isinstance(ranker, DenseRanking):
            return pick_diverse(ranker, self.strategy, asked, quota)
        if quota.codes is None:  # labels do not matter
            return ranker.search(asked, quota.k)
        return pick(ranker, asked, quota)


@dataclasses.dataclass(slots=True, kw_only=True, eq=False)
class _Fitted:
    """What `fit` found out about the pool."""

    pool: Examples
    shown: Examples  # the pool without repeats; it is ranked
    rows: list[int] | None  # row of the pool of each row that is shown, None for all
    codes: Rows | None
    k: int
    cap: int | None
    ranker: Ranker | None = None

    def places(self, rows: Sequence[int]) -> Sequence[int]:
        """Give where rows of the pool are among those shown; repeats are nowhere."""
        if self.rows is None:
            return rows
        found = np.searchsorted(self.rows, rows)
        return [int(at) for at, row in zip(found, rows, strict=True) if self._holds(at, row)]

    def _holds(self, place: int, row: int) -> bool:
        return self.rows is not None and place < len(self.rows) and self.rows[place] == row

    def n_left(self, removed: Sequence[int]) -> int:
        """Return how many rows the cap allows a query that may not get the removed ones."""
        if self.codes is None or self.cap is None:
            return self.shown.n_rows - len(removed)
        totals = np.bincount(self.codes)
        totals -= np.bincount(self.codes[list(removed)], minlength=len(totals))
        return int(np.minimum(totals, self.cap).sum())


def _as_strategy(strategy: object) -> Strategy:
    if isinstance(strategy, Strategy):
        return strategy
    if isinstance(strategy, str) and strategy in STRATEGIES:
        return STRATEGIES[strategy]
    hint = " (pass an instance)" if isinstance(strategy, type) else ""
    raise DemoConfigError(f"strategy is {choices(strategy, STRATEGIES)}, or a record{hint}")


def _as_guard(leaks: object) -> LeakGuard:
    if isinstance(leaks, LeakGuard):
        return leaks
    if not isinstance(leaks, str):
        raise InputTypeError(f"leaks is {type(leaks).__name__}; an action's name or a LeakGuard")
    return GUARDS.get(leaks) or LeakGuard(leaks)  # type: ignore[arg-type]


def _plain(value: object) -> object:
    """Return a setting as JSON values: records by their fields, functions by their names."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"name": type(value).__name__, **fields}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if callable(value):
        return f"{value.__module__}.{getattr(value, '__qualname__', type(value).__qualname__)}"
    return value
