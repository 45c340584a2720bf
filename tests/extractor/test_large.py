"""`extractor.stream` and `extractor.extract_to` on a real (tiny) encoder."""

from __future__ import annotations

import numpy as np
import pytest

from fungi_hf.errors import ConfigError, InputTypeError
from fungi_hf.features import FungiFeatures
from tests.tiny import ROUNDING, TEXTS, TRAIN, fitted


def test_a_stream_is_read_as_it_is_asked_for() -> None:
    extractor = fitted(objectives=("kl",))
    taken = []

    def endless():
        for i in range(10**9):
            taken.append(i)
            yield TRAIN[i % 12]

    stream = extractor.stream(endless(), chunk=5)
    assert taken == []
    one, two = next(stream), next(stream)
    assert len(taken) == 10
    whole = extractor(TRAIN[:10])
    found = np.concatenate([one.array, two.array])
    assert np.abs(found - whole.array).max() < ROUNDING
    assert one.fingerprint == whole.fingerprint


def test_failures_of_a_stream_are_numbered_from_its_begin() -> None:
    extractor = fitted(objectives=("kl",))
    given = [*TEXTS[:3], 7, *TEXTS[3:]]
    parts = list(extractor.stream(given, chunk=2, on_error="skip"))
    assert [len(part) for part in parts] == [2, 1, 2, 1]
    assert [one.index for part in parts for one in part.failures] == [3]
    with pytest.raises(InputTypeError, match="input 3 must be a text"):
        list(extractor.stream(given, chunk=2))


def test_a_folder_of_shards(tmp_path) -> None:
    extractor = fitted(objectives=("kl",))
    manifest = extractor.extract_to(tmp_path / "f", TRAIN, shard_rows=5, dtype="float16")
    assert (manifest.rows, manifest.shards) == (12, 3)
    assert manifest.fingerprint == extractor.fingerprint
    features = FungiFeatures.load(tmp_path / "f")
    whole = extractor(TRAIN)
    assert features.layout == whole.layout
    assert np.abs(features.array - whole.array).max() < 2e-3
    (tmp_path / "in.txt").write_text("\n".join(TRAIN))
    again = extractor.extract_to(tmp_path / "g", tmp_path / "in.txt", shard_rows=5, dtype="float16")
    assert again.digest == manifest.digest


def test_wrong_use() -> None:
    extractor = fitted(objectives=("kl",))
    with pytest.raises(ConfigError, match="chunk"):
        extractor.stream(TRAIN, chunk=0)
    with pytest.raises(InputTypeError, match="got one str: pass a list"):
        extractor.stream("a text")
    with pytest.raises(ConfigError, match="shard_row"):
        extractor.extract_to("f", TRAIN, shard_row=5)
