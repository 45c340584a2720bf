"""Small labelled texts whose classes a tiny random encoder can tell apart."""

from __future__ import annotations

import numpy as np

from fungi_hf.tuning import TuningSearch

WORDS = {"lost": ["card", "lost", "help", "old"], "pay": ["pay", "money", "bank", "new"],
         "how": ["how", "is", "do", "what"]}  # fmt: skip
QUICK = TuningSearch(objectives=(), whitenings=(1.0,), components=(), n_neighbors=3)


def sentences(n: int, seed: int = 0, classes: int = 2) -> tuple[list[str], list[str]]:
    """Give n texts of four words and their classes, in turn."""
    rng = np.random.default_rng(seed)
    labels = [list(WORDS)[i % classes] for i in range(n)]
    return [" ".join(rng.choice(WORDS[label], 4)) + " you" for label in labels], labels


X, Y = sentences(24)
NEW, TRUTH = sentences(10, seed=1)
