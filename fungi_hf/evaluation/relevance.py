"""What each query of a retrieval should find: same labels, or given judgements."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import TYPE_CHECKING, Final, Literal, get_args

import numpy as np

from fungi_hf.checks import check_choice, check_integer
from fungi_hf.errors import InputError, InputTypeError, ShapeError
from fungi_hf.evaluation.protocols import AS_INPUT
from fungi_hf.neighbors.labels import check_kinds, read_labels

if TYPE_CHECKING:
    from fungi_hf.neighbors.labels import Labels

Level = Literal["easy", "medium", "hard"]
LEVELS: Final[tuple[Level, ...]] = get_args(Level)
# What counts as found; the rest of easy, hard and junk rows is left out of the ranking.
_POSITIVE: Final[Mapping[str, tuple[str, ...]]] = {
    "easy": ("easy",),
    "medium": ("easy", "hard"),
    "hard": ("hard",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Relevance:
    """What each query should find.

    Attributes:
        gains: One mapping a query: pool row -> gain above 0; rows not named have gain 0.
        junk: One sequence a query: pool rows removed from its ranking, e.g. itself.
        level: Of `landmarks`; records name it.
    """

    gains: Sequence[Mapping[int, float]]
    junk: Sequence[Sequence[int]] = field(default=())
    level: Level | None = None

    def __post_init__(self) -> None:
        if self.level is not None:
            check_choice("level", self.level, LEVELS)

    @classmethod
    def same_label(
        cls, query_labels: Labels, pool_labels: Labels, *, same_rows: bool = False
    ) -> Relevance:
        """Call every pool row of the query's label relevant, with gain 1.

        With `same_rows` queries are the pool's rows, and each is junk for itself.

        Raises:
            ShapeError: If the queries cannot be the pool's rows.
        """
        queries = read_labels(query_labels, "query labels")
        pool = read_labels(pool_labels, "pool labels")
        check_kinds(pool, queries, ("pool", "query"))
        if same_rows and len(queries) != len(pool):
            raise ShapeError(
                f"same_rows is for queries that are the pool's rows; there are {len(queries)} "
                f"query labels and {len(pool)} pool labels"
            )
        rows = {label: np.flatnonzero(pool == label).tolist() for label in np.unique(queries)}
        gains = [
            {row: 1.0 for row in rows[label] if not (same_rows and row == query)}
            for query, label in enumerate(queries)
        ]
        return cls(gains=gains, junk=[[i] for i in range(len(queries))] if same_rows else ())

    @classmethod
    def landmarks(
        cls,
        easy: Sequence[Sequence[int]],
        hard: Sequence[Sequence[int]],
        junk: Sequence[Sequence[int]],
        *,
        level: Level = "medium",
    ) -> Relevance:
        """Give the published landmark judgements from each query's easy, hard and junk pool rows.

        What is neither positive nor junk is negative.

        | level | positive | junk |
        | --- | --- | --- |
        | `easy` | easy | junk, hard |
        | `medium` | easy, hard | junk |
        | `hard` | hard | junk, easy |

        Raises:
            ShapeError: If the three differ in length.

        Reference: Radenovic et al. 2018, Revisiting Oxford and Paris.
        """
        positive = _POSITIVE[check_choice("level", level, LEVELS)]
        if not len(easy) == len(hard) == len(junk):
            raise ShapeError(
                f"landmarks have {len(easy)} easy, {len(hard)} hard and {len(junk)} junk lists; "
                "each query needs one of each"
            )
        kinds = {"easy": easy, "hard": hard, "junk": junk}
        gains: list[dict[int, float]] = []
        ignored: list[list[int]] = []
        for rows in zip(*kinds.values(), strict=True):
            own = dict(zip(kinds, rows, strict=True))
            wanted = [row for kind in positive for row in own[kind]]
            for row in wanted:
                check_integer("a landmark row", row, 0, **AS_INPUT)
            gains.append(dict.fromkeys(map(int, wanted), 1.0))
            ignored.append([row for kind in kinds if kind not in positive for row in own[kind]])
        return cls(gains=gains, junk=ignored, level=level)


def check_relevance(relevance: Relevance, n_queries: int, n_pool: int) -> None:
    """Refuse what is not one judgement a query, of rows of the pool.

    Raises:
        InputTypeError: If gains or junk are no sequences.
        ShapeError: If there are not as many as queries.
    """
    for name, given in (("gains", relevance.gains), ("junk", relevance.junk)):
        if isinstance(given, str | Mapping) or not isinstance(given, Sequence | np.ndarray):
            raise InputTypeError(
                f"relevance {name} are a {type(given).__name__}; give a sequence, one a query"
            )
        if len(given) != n_queries and not (name == "junk" and not len(given)):
            raise ShapeError(f"relevance has {len(given)} {name} for {n_queries} queries")
        for query, rows in enumerate(given):
            _check_rows(rows, f"relevance {name} of query {query}", n_pool, gains=name == "gains")


def _check_rows(rows: object, what: str, n_pool: int, *, gains: bool) -> None:
    # Refuse what does not name rows of the pool, or (gains) give each a number above 0.
    is_text = isinstance(rows, str | bytes)
    if is_text or not isinstance(rows, Collection) or isinstance(rows, Mapping) is not gains:
        words = "a mapping of pool row to gain, as {3: 1.0}" if gains else "pool rows, as [3]"
        raise InputTypeError(f"{what} are a {type(rows).__name__}; give {words}")
    for row in rows:
        # Called for odd rows alone: there may be millions.
        if type(row) is not int or not 0 <= row < n_pool:
            check_integer(f"{what}: a pool row", row, 0, n_pool - 1, **AS_INPUT)
    for row, gain in rows.items() if isinstance(rows, Mapping) else ():
        is_number = isinstance(gain, Real)
        if not is_number or not 0 < gain < np.inf:
            raise (InputError if is_number else InputTypeError)(
                f"{what}: the gain of row {row} must be a number above 0; got {gain!r}"
            )
