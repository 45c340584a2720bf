"""The obviously right search: the whole matrix in float64, and one stable sort."""

from __future__ import annotations

import numpy as np


def scores_of(queries, pool, metric):
    queries, pool = np.asarray(queries, np.float64), np.asarray(pool, np.float64)
    if metric == "cosine":
        queries, pool = _unit(queries), _unit(pool)
    if metric == "euclidean":
        return -((queries[:, None] - pool[None]) ** 2).sum(-1)
    return queries @ pool.T


def search(queries, pool, k, metric="cosine", exclude=None):
    scores = scores_of(queries, pool, metric)
    for query, rows in (exclude or {}).items():
        scores[query, list(rows)] = -np.inf
    order = np.argsort(-np.round(scores, 9), axis=1, kind="stable")[:, :k]
    best = np.take_along_axis(scores, order, axis=1)
    return np.where(best == -np.inf, -1, order), best


def _unit(rows):
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1)
