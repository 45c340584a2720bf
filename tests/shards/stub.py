"""An extractor whose vector of a text is its hash: wrong rows show at once, and nothing is slow."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections import Counter
from pathlib import Path

import numpy as np

from fungi_hf.errors import InputError
from fungi_hf.features import Failure, FungiFeatures

WIDTH = 6
LAYOUT = {"embedding": slice(0, 4), "kl": slice(4, 6)}


def vector(text):
    digest = hashlib.sha256(text.encode()).digest()
    return np.frombuffer(digest[:WIDTH], np.uint8).astype(np.float32) / 255


def vectors(texts):
    return np.stack([vector(text) for text in texts]) if texts else np.empty((0, WIDTH), np.float32)


class Encoder:
    def describe(self, raw):
        return f"<{raw!r:.20}>"

    def check(self, raw, index):
        return raw

    def content(self, raw):
        return repr(raw).encode()


class Stub:
    """Refuses the text "bad", notes "odd", and does with each shard what it was told to."""

    encoder = Encoder()

    def __init__(self, fingerprint="stub", before=None):
        self.fingerprint, self.before, self.calls = fingerprint, before, 0

    def collect(self, inputs, batch_size=None, *, progress=False, on_error="raise", first=0,
                prompt_name=None, prompt=None):  # fmt: skip
        inputs = list(inputs)
        if inputs and self.before is not None:
            self.before(first)
        self.calls += bool(inputs)
        kept, failures, notes = [], [], Counter()
        for index, text in enumerate(inputs, first):
            if not isinstance(text, str) or text == "bad":
                error = f"input {index} is bad"
                if on_error == "raise":
                    raise InputError(error)
                failures.append(Failure(index=index, source=repr(text), error=error))
                continue
            notes["odd"] += text.startswith("odd")
            kept.append(text)
        mark = f"{self.fingerprint}{prompt or ''}"
        features = FungiFeatures(vectors(kept), mark, LAYOUT, failures=tuple(failures))
        return features, +notes


def make(device):
    """For workers: what it should do stands in the environment, since it is another process."""
    return Stub(before=_before if os.environ.get("STUB_DOES") else None)


def _before(first):
    what, place, rest = os.environ["STUB_DOES"].split(":", 2)
    if what == "sleep":
        time.sleep(float(rest))
    elif what in ("die", "die-once") and first == int(place):
        mark = Path(rest)
        if what == "die" or not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def texts(n, seed=0):
    return [f"text {seed} {i}" for i in range(n)]
