"""Small features with blocks, as an extraction gives them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np


def features(array, widths, fingerprint="one"):
    ends = np.cumsum(list(widths.values()))
    layout = {
        name: slice(int(end - width), int(end))
        for (name, width), end in zip(widths.items(), ends, strict=True)
    }
    return SimpleNamespace(
        array=np.ascontiguousarray(array, np.float32), layout=layout, fingerprint=fingerprint
    )


def labelled(n, widths, n_classes=4, seed=0, noise=2.0, classes_seed=7):
    """Unit blocks around class centres; the first block knows the class best."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % n_classes
    parts = []
    for place, width in enumerate(widths.values()):
        centres = np.random.default_rng([classes_seed, place]).standard_normal((n_classes, width))
        rows = centres[labels] + noise * (1 + place / 2) * rng.standard_normal((n, width))
        parts.append(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    return features(np.concatenate(parts, axis=1), widths), labels
