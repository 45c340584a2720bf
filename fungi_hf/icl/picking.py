"""Choosing from a ranking with regard to labels, and drawing without one.

A ranking is walked as far as it takes, so a list is never short while rows are left. A draw is a
function of the seed, what the query holds, and the pool's size; batch, order and process change
nothing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fungi_hf.seeding import numpy_generator

if TYPE_CHECKING:
    import numpy.typing as npt

    from fungi_hf.icl.rankings import QueryRows, Ranker, Rows, Scores

_CELLS = 1 << 21  # ranked rows held at once: 16 MB an array
_QUERIES = 2048


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Quota:
    """What is chosen for each query."""

    k: int  # rows per query
    codes: Rows | None  # [N] label of each pool row, None where labels do not matter
    cap: int | None  # most rows of one label, None for no cap
    held: Rows  # [n, m] pool rows that every query has already (they count for the cap)
    in_rounds: bool = False  # take labels in rounds instead of in rank order


def pick(ranker: Ranker, asked: QueryRows, quota: Quota) -> tuple[Rows, Scores]:
    """Give k rows of a ranking for each query, [n, k], in rank order, and their scores.

    Rows are -1 where the ranking ran out.
    """
    if quota.codes is None:
        return ranker.search(asked, quota.k)
    rows = np.full((len(asked.rows), quota.k), -1, np.int64)
    scores = np.full((len(asked.rows), quota.k), -np.inf)
    pending, n_pool = np.arange(len(asked.rows)), len(quota.codes)
    depth = min(n_pool, max(4 * quota.k, 64))
    while len(pending):
        left = []
        step = max(1, min(_QUERIES, _CELLS // depth))
        for start in range(0, len(pending), step):
            some = pending[start : start + step]
            found, values = ranker.search(asked.only(some), depth)
            places, done = _choose(found, quota.codes, quota, quota.held[some])
            done |= depth == n_pool
            rows[some[done]] = taken(found, places, -1)[done]
            scores[some[done]] = taken(values, places, -np.inf)[done]
            left.append(some[~done])
        pending = np.concatenate(left)
        depth = min(n_pool, depth * 4)
    return rows, scores


def taken(values: npt.NDArray[Any], places: Rows, filler: float) -> npt.NDArray[Any]:
    """Return the values at some places of each row, [b, k]; the filler at a negative place."""
    found = np.take_along_axis(values, np.maximum(places, 0), axis=1)
    return np.where(places >= 0, found, filler)


def draw(asked: QueryRows, quota: Quota, n_pool: int, seed: int, *, shared: bool) -> Rows:
    """Draw k of n_pool rows for each query, [n, k], without replacement; -1 where rows ran out.

    With `shared`, one permutation serves all queries; only exclusions make their draws differ.
    """
    rows = np.full((len(asked.rows), quota.k), -1, np.int64)
    order = np.empty(0, np.int64)
    for position, query in enumerate(asked.rows.tolist()):
        if position == 0 or not shared:
            key = b"all queries" if shared else asked.examples.key(query)
            order = numpy_generator(seed, "random demonstrations", key).permutation(n_pool)
        skipped = asked.exclude.get(query)
        left = order if skipped is None else order[~np.isin(order, skipped)]
        chosen = _first(left, quota, quota.held[position])
        rows[position, : len(chosen)] = chosen
    return rows


def ranked(drawn: Rows, ranker: Ranker | None, asked: QueryRows) -> tuple[Rows, Scores]:
    """Return drawn rows nearest first with their scores; without a ranker as drawn, with NaN."""
    if ranker is None or (drawn < 0).any():
        return drawn, np.full(drawn.shape, np.nan)
    rows = np.sort(drawn, axis=1)
    scores = ranker.pairs(asked, rows)
    ranks = np.argsort(-np.round(scores, 9), axis=1, kind="stable")
    return np.take_along_axis(rows, ranks, 1), np.take_along_axis(scores, ranks, 1)


def occurrences(codes: Rows) -> Rows:
    """Return how many earlier places of its row share the code of each place, [b, m]."""
    order = np.argsort(codes, axis=1, kind="stable")
    grouped = np.take_along_axis(codes, order, axis=1)
    places = np.broadcast_to(np.arange(codes.shape[1]), codes.shape)
    is_first = np.ones(codes.shape, dtype=bool)
    is_first[:, 1:] = grouped[:, 1:] != grouped[:, :-1]
    starts = np.maximum.accumulate(np.where(is_first, places, 0), axis=1)
    counts = np.empty_like(codes)
    np.put_along_axis(counts, order, places - starts, axis=1)
    return counts


def already_held(codes: Rows, ranked_codes: Rows, held: Rows) -> Rows:
    """Return how many held rows share the label of each ranked row, [b, m]."""
    counts = np.zeros(ranked_codes.shape, np.int64)
    for column in codes[held].T:  # one held row of every query at a time
        counts += ranked_codes == column[:, None]
    return counts


def _choose(
    ranked: Rows, codes_of: Rows, quota: Quota, held: Rows
) -> tuple[Rows, npt.NDArray[np.bool_]]:
    """Return the chosen places in rank order, [b, k], and which queries are settled by them."""
    codes, depth = codes_of[ranked], ranked.shape[1]
    nth = occurrences(np.where(ranked >= 0, codes, -1))
    eligible = ranked >= 0
    if quota.cap is not None:
        eligible &= nth + already_held(codes_of, codes, held) < quota.cap
    last = np.iinfo(np.int64).max
    turns = nth * depth if quota.in_rounds else 0
    keys = np.where(eligible, turns + np.arange(depth), last)
    best = np.argsort(keys, axis=1, kind="stable")[:, : quota.k]
    best = np.sort(np.where(np.take_along_axis(eligible, best, axis=1), best, last), axis=1)
    places = np.where(best == last, -1, best)
    done = (places >= 0).sum(axis=1) == quota.k
    if quota.in_rounds:
        # Final once every label has shown all the rows that an earlier round could take.
        rounds = taken(nth, places, 0).max(axis=1, initial=0)
        wanted = np.minimum(rounds[:, None], np.bincount(codes_of))  # [b, L]
        owners = np.arange(len(ranked))[:, None] * wanted.shape[1] + codes
        seen = np.bincount(owners[ranked >= 0], minlength=wanted.size).reshape(wanted.shape)
        done &= (seen >= wanted).all(axis=1)
    return places, done


def _first(order: Rows, quota: Quota, held: Rows) -> Rows:
    """Return the first k rows whose label is not full."""
    if quota.codes is None or quota.cap is None:
        return order[: quota.k]
    counts = Counter(quota.codes[held].tolist())
    kept: list[int] = []
    for row in order.tolist():
        label = int(quota.codes[row])
        if counts[label] < quota.cap:
            counts[label] += 1
            kept.append(row)
        if len(kept) == quota.k:
            break
    return np.array(kept, dtype=np.int64)
