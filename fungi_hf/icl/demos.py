"""The demonstrations of many queries: what was chosen, in which order it is shown, what it says.

Rows of `indices` and `scores` are always in rank order, the nearest first; `positions` alone
knows the prompt order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from fungi_hf.checks import check_choice
from fungi_hf.errors import DemoConfigError, InputError
from fungi_hf.icl.examples import checked_targets, label_codes
from fungi_hf.neighbors.classifier import decide
from fungi_hf.seeding import numpy_generator

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from fungi_hf.icl.examples import Content, Examples, Target
    from fungi_hf.icl.task import Task
    from fungi_hf.types import Float64Array, Int64Array

Order = Literal["nearest_last", "nearest_first", "alternate", "shuffled"]
ORDERS: tuple[str, ...] = get_args(Order)
ScoreKind = Literal["similarity", "distance", "none"]
_ROWS = 512  # queries per block, so that a block of [rows, L] votes stays small


@dataclass(frozen=True, slots=True, kw_only=True)
class Demonstration:
    """One demonstration of one query."""

    row: int  # its row in the pool
    rank: int  # 0 for the nearest
    score: float  # its relevance to the query; NaN for random demonstrations without features
    content: Content | None  # its text or clip, None if the pool has no contents
    target: Target | None  # its label or answer, None if the pool has no targets


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DemoSet:
    """The demonstrations of n queries, k each."""

    indices: Int64Array  # [n, k] pool rows, nearest first; of `n_shared=m` in the last m columns
    scores: npt.NDArray[np.float32]  # [n, k] float32, relevance to the query
    positions: Int64Array  # [n, k] int64: the ranks in prompt order
    order: str  # name of the prompt order
    pool: Examples  # the labelled examples that rows point into
    # query row -> pool rows that are copies of the query: in leave-one-out itself, too
    copies: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    # those of them that the leak guard removed: all or none
    excluded: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    # "similarity", "distance" (scores are negative squared distances), or "none"
    score_kind: ScoreKind = "similarity"

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        n, k = self.indices.shape
        return f"DemoSet({n} queries, k={k}, order={self.order!r}, n_leaks={self.n_leaks})"

    @property
    def n_leaks(self) -> int:
        """Queries that have at least one copy of themselves in the pool."""
        return len(self.copies)

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
        ranks = self.positions[query]
        rows, scores = self.indices[query, ranks].tolist(), self.scores[query, ranks].tolist()
        return tuple(
            Demonstration(
                row=row,
                rank=rank,
                score=score,
                content=None if contents is None else contents[row],
                target=None if targets is None else targets[row],
            )
            for row, rank, score in zip(rows, ranks.tolist(), scores, strict=True)
        )

    def covered(self, gold: object, task: Task | None = None) -> npt.NDArray[np.bool_]:
        """Say for each query whether its gold label, of n, is among its demonstrations, [n].

        `FreeAnswers` as the task count an answer as shown if one of its texts is, normalised.

        Raises:
            InputError: If there is not one gold label per query, or the pool has no targets.
        """
        codes, values = label_codes(self.targets)
        wanted = checked_targets(gold, "gold")
        if len(wanted) != len(self):
            raise InputError(f"{len(wanted)} gold labels for {len(self)} queries")
        if task is not None:
            shown = [task.shown(one) for one in task.golds(self.targets)]
            keys = [task.wanted(one) for one in task.golds(wanted)]
            rows = zip(keys, self.indices.tolist(), strict=True)
            return np.array([any(shown[i] in key for i in row) for key, row in rows])
        index = {value: code for code, value in enumerate(values)}
        gold_codes = np.array([index.get(label, -1) for label in wanted], dtype=np.int64)
        return (codes[self.indices] == gold_codes[:, None]).any(axis=1)

    def coverage(self, gold: object, task: Task | None = None) -> float:
        """Return the share of queries whose gold label is among their demonstrations."""
        return float(self.covered(gold, task).mean())

    def vote(self, kind: str = "majority") -> npt.NDArray[np.generic]:
        """Give the label that each query's demonstrations elect, [n]: k-NN without an LLM.

        Kinds are "majority" (ties to the tied label whose nearest row ranks first), "weighted"
        (largest sum of scores, ties to the lowest label) and "reciprocal_rank" (the same with
        weight 1/rank). Sums are rounded to 9 decimals. Labels are int64 if the pool's targets are
        ints, else objects.

        Raises:
            DemoConfigError: If the kind is unknown, or scores cannot serve as weights.
        """
        kinds = ("majority", "weighted", "reciprocal_rank")
        check_choice("vote", kind, kinds, error=DemoConfigError)
        codes, values = label_codes(self.targets)
        if kind == "weighted" and self.score_kind != "similarity":
            raise DemoConfigError(
                f"vote 'weighted' needs similarities, the scores are {self.score_kind!r}; "
                "use 'majority' or 'reciprocal_rank'"
            )
        weights = self.scores.astype(np.float64)
        if kind != "weighted":
            ranks = np.arange(1, weights.shape[1] + 1)
            weights[:] = 1 if kind == "majority" else 1 / ranks
        elected, winners = codes[self.indices], np.empty(len(self), np.int64)
        for start in range(0, len(self), _ROWS):
            rows = slice(start, start + _ROWS)
            votes = _votes(elected[rows], weights[rows], len(values))
            tie = "nearest" if kind == "majority" else "smallest"
            winners[rows] = decide(votes, elected[rows], tie)  # type: ignore[arg-type]
        plain = all(isinstance(value, int) and not isinstance(value, bool) for value in values)
        if plain:
            return np.array(values, dtype=np.int64)[winners]
        return np.fromiter(values, dtype=object, count=len(values))[winners]

    @property
    def targets(self) -> tuple[Target, ...]:
        """The labels of the pool.

        Raises:
            InputError: If the pool has none.
        """
        if self.pool.targets is None:
            raise InputError("the pool has no targets; fit the selector on Examples with targets")
        return self.pool.targets


def _votes(codes: Int64Array, weights: Float64Array, n_labels: int) -> Float64Array:
    """Return the sum of weights of each label, [n, L]; -inf for a label without a row."""
    cells = (np.arange(len(codes))[:, None] * n_labels + codes).ravel()
    sums = np.bincount(cells, weights.ravel(), len(codes) * n_labels)
    present = np.bincount(cells, minlength=len(codes) * n_labels) > 0
    return np.where(present, sums, -np.inf).reshape(len(codes), n_labels)


def ranks_in_order(order: str, k: int, n_shared: int, seed: int, keys: list[bytes]) -> Int64Array:
    """Give the ranks in prompt order for each query, [n, k]: permutations of 0..k-1.

    The last `n_shared` ranks are the shared ones, which open every prompt in their own fixed order.
    `keys` say what each query holds; equal queries get equal shuffles.
    """
    nearest_first = np.arange(k - n_shared)
    own: list[Int64Array]
    if order == "shuffled":
        streams = (numpy_generator(seed, "demonstration order", key) for key in keys)
        own = [stream.permutation(nearest_first) for stream in streams]
    else:
        # "alternate" has strong ones at both ends: 0 last, 1 first, 2 last but one, ...
        alternate = np.concatenate([nearest_first[1::2], nearest_first[::2][::-1]])
        orders = {"nearest_last": nearest_first[::-1], "nearest_first": nearest_first}
        own = [orders.get(order, alternate)] * len(keys)
    shared = np.tile(np.arange(k - n_shared, k), (len(keys), 1))
    return np.hstack([shared, np.reshape(own, (len(keys), -1))]).astype(np.int64)
