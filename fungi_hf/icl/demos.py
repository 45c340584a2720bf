"""The demonstrations of many queries: what was chosen, in which order it is shown, what it says.

Rows of `indices` and `scores` are always in rank order, the nearest first; `positions` alone
knows the prompt order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from fungi_hf.errors import DemoConfigError, InputError, choices
from fungi_hf.icl.examples import checked_targets, label_codes
from fungi_hf.icl.voting import VOTES, majority, weighted

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from fungi_hf.icl.examples import Content, Examples, Target

ScoreKind = Literal["similarity", "distance", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Demonstration:
    """One demonstration of one query.

    Attributes:
        row: Its row in the pool.
        rank: 0 for the nearest.
        score: Its relevance to the query; NaN for random demonstrations without features.
        content: Its text or clip, None if the pool has no contents.
        target: Its label or answer, None if the pool has no targets.
    """

    row: int
    rank: int
    score: float
    content: Content | None
    target: Target | None

    @property
    def item(self) -> Content:
        """The content, known to be there.

        Raises:
            InputError: If there is none.
        """
        if self.content is None:
            raise InputError(f"pool row {self.row} has no content")
        return self.content

    @property
    def label(self) -> Target:
        """The target, known to be there.

        Raises:
            InputError: If there is none.
        """
        if self.target is None:
            raise InputError(f"pool row {self.row} has no target")
        return self.target


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DemoSet:
    """The demonstrations of n queries, k each.

    Attributes:
        indices: [n, k] int64 pool rows, nearest first; with `n_shared=m` the last m columns are
            the shared rows.
        scores: [n, k] float32, relevance to the query.
        positions: [n, k] int64: the ranks in prompt order.
        order: Name of the prompt order.
        excluded: Query row -> pool rows that the leak guard removed.
        n_leaks: Queries for which the guard found at least one row. In leave-one-out that is
            every query, since each would see itself.
        pool: The labelled examples that rows point into.
        score_kind: "similarity", "distance" (scores are negative squared distances), or "none".
    """

    indices: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]
    positions: npt.NDArray[np.int64]
    order: str
    pool: Examples
    excluded: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    n_leaks: int = 0
    score_kind: ScoreKind = "similarity"

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        n, k = self.indices.shape
        return f"DemoSet({n} queries, k={k}, order={self.order!r}, n_leaks={self.n_leaks})"

    def __getitem__(self, query: int) -> tuple[Demonstration, ...]:
        """Return the demonstrations of one query, in prompt order.

        Raises:
            TypeError: If the query row is not an int.
            IndexError: If there is no such query.
        """
        if isinstance(query, bool) or not isinstance(query, (int, np.integer)):
            raise TypeError(f"a query row is an int, not {type(query).__name__}")
        if not -len(self) <= query < len(self):
            raise IndexError(f"query row {query} is outside the {len(self)} queries")
        contents, targets = self.pool.contents, self.pool.targets
        shown = []
        for rank in self.positions[query]:
            row = int(self.indices[query, rank])
            shown.append(
                Demonstration(
                    row=row,
                    rank=int(rank),
                    score=float(self.scores[query, rank]),
                    content=None if contents is None else contents[row],
                    target=None if targets is None else targets[row],
                )
            )
        return tuple(shown)

    def covered(self, gold: object) -> npt.NDArray[np.bool_]:
        """Say for each query whether its gold label is among its demonstrations.

        Args:
            gold: n labels, as the pool's targets are.

        Returns:
            [n] booleans.

        Raises:
            InputError: If there is not one gold label per query, or the pool has no targets.
        """
        codes, values = label_codes(self._targets())
        wanted = checked_targets(gold, "gold")
        if len(wanted) != len(self):
            raise InputError(f"{len(wanted)} gold labels for {len(self)} queries")
        index = {value: code for code, value in enumerate(values)}
        gold_codes = np.array([index.get(label, -1) for label in wanted], dtype=np.int64)
        return (codes[self.indices] == gold_codes[:, None]).any(axis=1)

    def coverage(self, gold: object) -> float:
        """Return the share of queries whose gold label is among their demonstrations."""
        return float(self.covered(gold).mean())

    def vote(self, kind: str = "majority") -> npt.NDArray[np.generic]:
        """Give the label that each query's demonstrations elect: k-NN without an LLM.

        Args:
            kind: "majority" (ties to the tied label whose nearest row ranks first), "weighted"
                (largest sum of scores, ties to the lowest label) or "reciprocal_rank" (the same
                with weight 1/rank).

        Returns:
            [n] labels: int64 if the pool's targets are ints, else objects.

        Raises:
            DemoConfigError: If the kind is unknown, or scores cannot serve as weights. A pool
                without targets is an `InputError`.
        """
        if kind not in VOTES:
            raise DemoConfigError(f"vote is {choices(kind, VOTES)}")
        codes, values = label_codes(self._targets())
        elected = codes[self.indices]  # [n, k]
        if kind == "majority":
            winners = majority(elected, len(values))
        elif kind == "reciprocal_rank":
            ranks = 1.0 / np.arange(1, elected.shape[1] + 1)
            winners = weighted(elected, np.broadcast_to(ranks, elected.shape), len(values))
        else:
            if self.score_kind != "similarity":
                raise DemoConfigError(
                    f"vote 'weighted' needs similarities, the scores are {self.score_kind!r}; "
                    "use 'majority' or 'reciprocal_rank'"
                )
            winners = weighted(elected, self.scores, len(values))
        plain = all(isinstance(value, int) and not isinstance(value, bool) for value in values)
        return np.array(values, dtype=np.int64 if plain else object)[winners]

    def _targets(self) -> tuple[Target, ...]:
        if self.pool.targets is None:
            raise InputError("the pool has no targets; fit the selector on Examples with targets")
        return self.pool.targets
