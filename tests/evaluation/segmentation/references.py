"""Slow and obvious forms of what segmentation computes, with the same signatures."""

from __future__ import annotations

import hashlib
import itertools
import math

import numpy as np

from fungi_hf.seeding import derive, numpy_generator


def patch_histograms(labels, grid, n_classes):
    height, width = labels.shape
    high, wide = math.ceil(height / grid[0]), math.ceil(width / grid[1])
    table = np.zeros((grid[0] * grid[1], n_classes))
    for i in range(high * grid[0]):
        for j in range(wide * grid[1]):
            row = math.floor((i + 0.5) * height / (high * grid[0]))
            column = math.floor((j + 0.5) * width / (wide * grid[1]))
            label = labels[row, column]
            if label >= 0:
                table[(i // high) * grid[1] + j // wide, label] += 1
    return np.array([row / row.sum() if row.any() else row for row in table])


def rare_first(histograms, seed, content):
    draws = numpy_generator(seed, "segmentation", "bank", content).random(len(histograms))
    scored = []
    for patch, shares in enumerate(histograms):
        classes = np.flatnonzero(shares)
        patches = sum(sum(other[c] > 0 for other in histograms) for c in classes)
        if len(classes):
            scored.append((draws[patch] * patches, patch))
    return [patch for _, patch in sorted(scored)]


def bank(examples, rule, n_images=None):
    """Keys and values, each image in turn in the order of the seeded digests of its labels."""
    labelled = [one for one in examples if one.histograms.any()]

    def order(one):  # equal masks by their features
        drawn = derive(rule.seed, "segmentation", "images", one.content)
        return drawn, hashlib.sha256(one.features.array.tobytes()).digest()

    labelled.sort(key=order)
    labelled = labelled[:n_images]
    if rule.bank_rows is not None:
        labelled = labelled[: rule.bank_rows]
    chosen = [rare_first(one.histograms, rule.seed, one.content) for one in labelled]
    if rule.bank_rows is not None:
        share = math.ceil(rule.bank_rows / len(labelled))
        chosen = [rows[:share] for rows in chosen]
        last = len(chosen) - 1
        while sum(map(len, chosen)) > rule.bank_rows:
            if len(chosen[last]) == share:
                chosen[last] = chosen[last][:-1]
            last -= 1
    pairs = [(one, row) for one, rows in zip(labelled, chosen, strict=True) for row in rows]
    keys = np.array([one.features.array[row] for one, row in pairs], rule.key_dtype)
    return keys, np.array([one.histograms[row] for one, row in pairs])


def votes(bank, features, names):
    """[rows, columns, C] by a full sort of the cosines of some blocks."""
    columns = np.concatenate([np.arange(bank.keys.shape[1])[bank.layout[name]] for name in names])
    keys, queries = bank.keys[:, columns].astype(float), features.array[:, columns].astype(float)
    found = []
    for query in queries:
        cosines = [
            round(float(query @ key / np.linalg.norm(query) / np.linalg.norm(key)), 9)
            for key in keys
        ]
        nearest = sorted(range(len(keys)), key=lambda row: (-cosines[row], row))
        nearest = nearest[: bank.protocol.n_neighbors]
        weights = [
            math.exp((cosines[r] - cosines[nearest[0]]) / bank.protocol.temperature)
            for r in nearest
        ]
        total = sum(w * bank.values[r].astype(float) for w, r in zip(weights, nearest, strict=True))
        found.append(total / sum(weights))
    return np.array(found).reshape(*features.grid, -1)


def upsample(shares, size, kind):
    height, width, n_classes = shares.shape
    out = np.zeros((*size, n_classes))
    for i, j in itertools.product(range(size[0]), range(size[1])):
        y, x = (i + 0.5) * height / size[0], (j + 0.5) * width / size[1]
        if kind == "nearest":
            out[i, j] = shares[math.floor(y), math.floor(x)]
            continue
        y, x = min(max(y - 0.5, 0), height - 1), min(max(x - 0.5, 0), width - 1)
        for row, column in itertools.product(range(height), range(width)):
            near = max(0, 1 - abs(row - y)) * max(0, 1 - abs(column - x))
            out[i, j] += near * shares[row, column]
    return out


def confusion(truth, predicted, n_classes):
    table = np.zeros((n_classes, n_classes), int)
    for true, guess in zip(truth.ravel(), predicted.ravel(), strict=True):
        if true >= 0:
            table[true, guess] += 1
    return table


def miou(matrix):
    """The mean over classes that are true somewhere, from sets of pixels."""
    found = []
    for one in range(len(matrix)):
        if matrix[one].sum():
            union = matrix[one].sum() + matrix[:, one].sum() - matrix[one, one]
            found.append(matrix[one, one] / union)
    return float(np.mean(found))


def matched_miou(matrix):
    """The best of all renamings of the predicted classes."""
    true = [one for one in range(len(matrix)) if matrix[one].sum()]
    best = 0.0
    for names in itertools.permutations(range(len(matrix)), len(true)):
        each = []
        for one, other in zip(true, names, strict=True):
            union = matrix[one].sum() + matrix[:, other].sum() - matrix[one, other]
            each.append(matrix[one, other] / max(union, 1))
        best = max(best, float(np.mean(each)))
    return best


def resampled(tables, n_samples=2000):
    """mIoU of each bootstrap sample, [samples], of confusion matrices [draws][images]."""
    n = len(tables[0])
    times = numpy_generator(42, "segmentation", "bootstrap").multinomial(
        n, np.full(n, 1 / n), n_samples
    )
    found = []
    for counts in times:
        sums = [sum(c * one for c, one in zip(counts, draw, strict=True)) for draw in tables]
        found.append(np.mean([miou(one) for one in sums]))
    return np.array(found)


def interval(tables, n_samples=2000):
    low, high = np.quantile(resampled(tables, n_samples), (0.025, 0.975))
    return low, high


def difference(first, second, n_samples, n_exchanges):
    def score(tables):
        return np.mean([miou(sum(draw)) for draw in tables])

    apart = resampled(second, n_samples) - resampled(first, n_samples)
    found = score(second) - score(first)
    n = len(first[0])
    swaps = numpy_generator(42, "segmentation", "exchanges").integers(0, 2, (n_exchanges, n))
    reached = 1
    for row in swaps:
        one = [
            [b if s else a for s, a, b in zip(row, *pair, strict=True)]
            for pair in zip(first, second, strict=True)
        ]
        two = [
            [a if s else b for s, a, b in zip(row, *pair, strict=True)]
            for pair in zip(first, second, strict=True)
        ]
        reached += abs(score(two) - score(one)) >= abs(found) - 1e-12
    low, high = np.quantile(apart, (0.025, 0.975))
    return {"difference": found, "low": low, "high": high, "p": reached / (n_exchanges + 1)}
