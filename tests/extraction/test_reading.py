"""One chunk is prepared in another thread while one is computed."""

import itertools
import threading
import time

import numpy as np
import pytest

from fungi_hf.errors import InputError
from tests.tiny import TRAIN, fitted


@pytest.fixture
def extractor(monkeypatch):
    made = fitted(objectives=("kl",))
    monkeypatch.setattr(type(made._plan.encoder), "chunk_size", 3)
    return made


def test_reading_and_computing_overlap(extractor, monkeypatch):
    """Each waits for the other to begin its part: in turns, neither would ever end."""
    encoder = type(extractor._plan.encoder)
    prepare, collate = encoder.prepare, encoder.collate
    reading, computing = threading.Event(), threading.Event()
    seen = []

    def slow_prepare(self, raws):
        if raws and raws[0] == TRAIN[3]:  # the second chunk
            reading.set()
            assert computing.wait(30)
            seen.append("prepared beside the model")
        return prepare(self, raws)

    def slow_collate(self, items):
        if not computing.is_set():
            computing.set()
            assert reading.wait(30)
            seen.append("computed beside reading")
        return collate(self, items)

    monkeypatch.setattr(encoder, "prepare", slow_prepare)
    monkeypatch.setattr(encoder, "collate", slow_collate)
    assert len(extractor(TRAIN)) == 12
    assert sorted(seen) == ["computed beside reading", "prepared beside the model"]


def test_order_and_numbers_are_as_without(extractor):
    whole = extractor(TRAIN)
    apart = [extractor(TRAIN[start : start + 3]).array for start in range(0, 12, 3)]
    assert np.allclose(whole.array, np.concatenate(apart), rtol=0, atol=1e-6)


def test_a_source_is_read_in_the_callers_thread_and_one_chunk_ahead(extractor):
    threads, taken = set(), []

    def source():
        for i, text in enumerate(TRAIN):
            threads.add(threading.get_ident())
            taken.append(i)
            yield text

    reading = iter(extractor._reader.read(source()))
    next(reading)
    assert len(taken) == 6
    next(reading)
    assert len(taken) == 9
    reading.close()
    assert threads == {threading.get_ident()}


def test_what_breaks_comes_in_its_turn(extractor):
    def source():
        yield from TRAIN[:4]
        raise OSError("the disk went away")

    reading = iter(extractor._reader.read(source()))
    assert len(next(reading)) == 3
    with pytest.raises(OSError, match="the disk went away"):
        next(reading)

    reading = iter(extractor._reader.read([*TRAIN[:4], "\ud800", *TRAIN[:5]]))
    assert len(next(reading)) == 3
    with pytest.raises(InputError, match="input 4 has a lone surrogate"):
        next(reading)


def test_what_is_skipped_is_that_of_the_chunk_at_hand(extractor):
    inputs = [*TRAIN[:4], "\ud800", 7, *TRAIN[4:8], "\ud801"]
    features = extractor(inputs, on_error="skip")
    assert [failure.index for failure in features.failures] == [4, 5, 10]
    assert len(features) == 8
    reading = extractor._reader.read(inputs, skip=True)
    chunks = iter(reading)
    next(chunks)
    assert reading.failures == []
    assert reading.n_read == 3
    (sample,) = next(chunks)
    assert reading.number(sample) == 3
    assert [failure.index for failure in reading.failures] == [4, 5]


def test_a_chunk_of_nothing_but_failures_is_passed_over(extractor):
    features = extractor([*["\ud800"] * 6, *TRAIN[:2]], on_error="skip")
    assert len(features) == 2
    assert len(features.failures) == 6


def test_no_thread_for_one_chunk_and_none_is_left(extractor):
    before = threading.active_count()
    for _ in extractor._reader.read(TRAIN[:3]):
        assert threading.active_count() == before
    for _ in extractor._reader.read(TRAIN):
        pass
    assert threading.active_count() == before
    reading = iter(extractor._reader.read(itertools.cycle(TRAIN)))
    next(reading)
    reading.close()
    deadline = time.monotonic() + 30
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before
