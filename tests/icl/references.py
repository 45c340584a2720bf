"""Slow twins of the selection strategies: one query at a time, whole matrices, plain loops."""

from __future__ import annotations

import math
import re

import numpy as np


def similarities(queries, pool, metric="cosine"):
    queries, pool = np.asarray(queries, np.float64), np.asarray(pool, np.float64)
    if metric == "dot":
        return queries @ pool.T
    if metric == "euclidean":
        return -((queries[:, None, :] - pool[None, :, :]) ** 2).sum(axis=2)

    def unit(rows):
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        return rows / np.where(norms == 0, 1, norms)

    return unit(queries) @ unit(pool).T


def bm25(queries, pool, k1=1.5, b=0.75):
    def tokens(text):
        return re.findall("[a-z0-9]+", text.lower())

    documents = [tokens(text) for text in pool]
    average = sum(map(len, documents)) / len(documents)
    scores = np.zeros((len(queries), len(pool)))
    for i, query in enumerate(queries):
        for word in set(tokens(query)):
            held = sum(word in document for document in documents)
            idf = math.log(1 + (len(pool) - held + 0.5) / (held + 0.5))
            for j, document in enumerate(documents):
                tf = document.count(word)
                norm = k1 * (1 - b + b * len(document) / average)
                scores[i, j] += idf * tf * (k1 + 1) / (tf + norm)
    return scores


def ranking(scores, excluded=()):
    rows = [row for row in range(len(scores)) if row not in excluded]
    return sorted(rows, key=lambda row: (-round(float(scores[row]), 9), row))


def first(order, k, labels=None, cap=None):
    chosen = []
    for row in order:
        if cap is None or sum(labels[other] == labels[row] for other in chosen) < cap:
            chosen.append(row)
        if len(chosen) == k:
            break
    return chosen


def mmr(near, alike, order, k, *, lam, candidates, labels=None, cap=None):
    def gain(row, chosen):
        if not chosen:
            return -order.index(row)
        return round(lam * near[row] - (1 - lam) * max(alike[row, j] for j in chosen), 9)

    return _greedy(order, k, candidates, gain, labels, cap)


def dpp(near, alike, order, k, *, scale, candidates, labels=None, cap=None):
    held = order[:candidates]
    top = max((1 + near[row]) / 2 for row in held)
    relevance = np.exp(((1 + near) / 2 - top) / (2 * scale))
    kernel = relevance[:, None] * (1 + alike) / 2 * relevance[None]

    def log_det(rows):
        return np.linalg.slogdet(kernel[np.ix_(rows, rows)])[1] if rows else 0.0

    def gain(row, chosen):
        with np.errstate(divide="ignore"):
            return round(float(log_det([*chosen, row]) - log_det(chosen)), 9)

    return _greedy(order, k, candidates, gain, labels, cap, least=math.log(1e-10))


def _greedy(order, k, candidates, gain, labels, cap, least=-math.inf):
    chosen, exhausted = [], False
    while len(chosen) < k:

        def is_open(row):
            full = cap is not None and sum(labels[o] == labels[row] for o in chosen) >= cap
            return row not in chosen and not full

        held = [row for row in order[:candidates] if is_open(row)]
        if held and not exhausted:
            gains = {row: gain(row, chosen) for row in held}
            best = max(gains.values())
            exhausted = not best >= least
        if not held or exhausted:
            chosen.append(next(row for row in [*held, *order] if is_open(row)))
            continue
        chosen.append(min(row for row in held if gains[row] == best))
    return sorted(chosen, key=order.index)


def stratified(order, k, labels, cap=None):
    rounds = {}
    keyed = []
    for rank, row in enumerate(order):
        nth = rounds[labels[row]] = rounds.get(labels[row], -1) + 1
        if cap is None or nth < cap:
            keyed.append((nth, rank, row))
    return sorted((row for _, _, row in sorted(keyed)[:k]), key=order.index)


def rrf(orders, n, depth, weights):
    fused = np.zeros(n)
    for order, weight in zip(orders, weights, strict=True):
        for rank, row in enumerate(order[:depth], start=1):
            fused[row] += weight / (60 + rank)
    return fused


def convex(scores, orders, n, depth, alpha):
    union = sorted({row for order in orders for row in order[:depth]})
    fused = np.zeros(n)
    for share, values in zip((alpha, 1 - alpha), scores, strict=True):
        low, high = min(values[row] for row in union), max(values[row] for row in union)
        for row in union:
            fused[row] += share * (values[row] - low) / (high - low) if high > low else 0.0
    return fused


def majority(labels):
    counts = {label: labels.count(label) for label in labels}
    return next(label for label in labels if counts[label] == max(counts.values()))
