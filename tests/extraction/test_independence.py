"""Batch, order, padding, chunk, thread and process change nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from fungi_hf import DenseInfoNCE
from fungi_hf.extraction.batches import Budget, cut_groups
from tests.tiny import TEXTS, TRAIN, extractor_of, fitted

TINY = 1e-6  # float32 output of float64 arithmetic


def difference(one: np.ndarray, two: np.ndarray) -> float:
    return float(np.abs(one - two).max())


@pytest.fixture(scope="module", params=["bert-mean", "bert-first", "t5-mean", "deberta-v2-mean"])
def extractor(request):
    family, pooling = request.param.rsplit("-", 1)
    return fitted(family, pooling=pooling)


@pytest.fixture(scope="module")
def expected(extractor) -> np.ndarray:
    return extractor(TEXTS).array


def test_alone_equals_in_a_batch(extractor, expected) -> None:
    alone = np.concatenate([extractor([text]).array for text in TEXTS])
    assert difference(alone, expected) < TINY


def test_order_does_not_matter(extractor, expected) -> None:
    order = np.random.default_rng(0).permutation(len(TEXTS))
    assert difference(extractor([TEXTS[i] for i in order]).array, expected[order]) < TINY


def test_a_long_neighbour_does_not_matter(extractor, expected) -> None:
    long = " ".join(["my card is lost and the bank paid the old account"] * 15)
    with pytest.warns(UserWarning, match="truncated"):
        got = extractor([long, *TEXTS, long], batch_size=len(TEXTS) + 2).array
    assert difference(got[1:-1], expected) < TINY


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_batch_size_does_not_matter(extractor, expected, batch_size: int) -> None:
    assert difference(extractor(TEXTS, batch_size=batch_size).array, expected) < TINY


def test_budgets_and_chunks_do_not_matter(expected, extractor, monkeypatch) -> None:
    monkeypatch.setattr(extractor, "budget", Budget(batch_tokens=16, group_tokens=40))
    assert difference(extractor(TEXTS).array, expected) < TINY
    monkeypatch.setattr(type(extractor.encoder), "chunk_size", 2)
    assert difference(extractor(iter(TEXTS)).array, expected) < TINY


def test_duplicates_have_equal_rows(extractor, expected) -> None:
    got = extractor([*TEXTS, *TEXTS, TEXTS[0]]).array
    assert difference(got[: len(TEXTS)], expected) < TINY
    assert difference(got[len(TEXTS) : -1], expected) < TINY
    assert difference(got[-1], expected[0]) < TINY


def test_merging_equal_views_changes_nothing(monkeypatch) -> None:
    """Keys made unique: every repeated view is encoded on its own."""
    import dataclasses

    from fungi_hf.encoders.text import TextEncoder
    from fungi_hf.extraction.inputs import InputReader

    extractor = fitted(sketch="gaussian")
    merged = extractor(TEXTS).array
    encoded: list[int] = []
    collate, samples = TextEncoder.collate, InputReader.samples

    def counted(self, items):
        encoded.append(len(items))
        return collate(self, items)

    def unmerged(self, *args):
        return [
            dataclasses.replace(
                sample,
                views={
                    name: [
                        dataclasses.replace(view, key=view.key + bytes([i]))
                        for i, view in enumerate(views)
                    ]
                    for name, views in sample.views.items()
                },
            )
            for sample in samples(self, *args)
        ]

    monkeypatch.setattr(TextEncoder, "collate", counted)
    extractor(TEXTS)
    n_merged, encoded[:] = sum(encoded), []
    monkeypatch.setattr(InputReader, "samples", unmerged)
    assert difference(extractor(TEXTS).array, merged) < TINY
    assert sum(encoded) == len(TEXTS) * (1 + 4) > n_merged


def test_two_threads_at_once_give_equal_features() -> None:
    one, two = fitted(), fitted(pooling="first")
    texts = [*TEXTS, " ".join(TRAIN * 3)] * 4  # one is truncated, so the tokenizer's limit matters
    with pytest.warns(UserWarning, match="truncated"):
        expected = [one(texts).array, two(texts).array]

    def both() -> list[np.ndarray]:
        with ThreadPoolExecutor(4) as pool:
            jobs = [pool.submit(extractor, texts) for _ in range(4) for extractor in (one, two)]
            return [job.result().array for job in jobs]

    with pytest.warns(UserWarning, match="truncated"):
        results = both()
    for i, got in enumerate(results):
        assert np.array_equal(got, expected[i % 2])


PROGRAM = """
import json, sys, warnings
warnings.simplefilter("error")
sys.path.insert(0, {root!r})
from tests.tiny import TEXTS, fitted
from tests.extraction.test_independence import DENSE
rows = [fitted(f, sketch=s)(list(reversed(TEXTS))).array[::-1].tolist() for f, s in {cases!r}]
parts = [one.array.tolist() for one in fitted(**DENSE).dense(list(reversed(TEXTS)))][::-1]
print(json.dumps([rows, parts]))
"""
DENSE = {"objectives": (DenseInfoNCE(n_support=30, latent_dim=8),), "dtype": "float32"}


def test_another_process_gives_the_same_features() -> None:
    cases = [("bert", "khatri_rao"), ("t5", "sparse"), ("roberta", "gaussian")]
    program = PROGRAM.format(root=str(Path(__file__).parents[2]), cases=cases)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    features, parts = json.loads(done.stdout)
    for (family, sketch), rows in zip(cases, features, strict=True):
        here = fitted(family, sketch=sketch)(TEXTS).array
        assert difference(np.array(rows, dtype=np.float32), here) < TINY
    for there, dense in zip(parts, fitted(**DENSE).dense(TEXTS), strict=True):
        assert np.abs(np.array(there, dtype=np.float32) - dense.array).max() < 1e-4


def test_views_are_keyed_by_content_not_by_position() -> None:
    extractor = extractor_of()
    reader = extractor._reader
    first = next(iter(reader.read([TRAIN[3], TRAIN[6]])))
    second = next(iter(reader.read([TRAIN[0], TRAIN[6], TRAIN[3]])))
    keys = [view.key for view in first[0].views["simclr"]]
    assert keys == [view.key for view in second[2].views["simclr"]]
    assert keys != [view.key for view in second[1].views["simclr"]]


def test_memory_holds_two_chunks_at_a_time(monkeypatch) -> None:
    """A generator is read one chunk ahead, never to its end first."""
    extractor = fitted(objectives=("kl",))
    monkeypatch.setattr(type(extractor.encoder), "chunk_size", 4)
    read, computed = [], []

    def watched(samples, budget):
        computed.append(len(read))
        return cut_groups(samples, budget)

    monkeypatch.setattr("fungi_hf.extraction.group.cut_groups", watched)
    features = extractor(read.append(i) or TRAIN[i % 12] for i in range(10))
    assert computed == [8, 10, 10]
    assert len(features) == 10


def test_every_call_of_the_tokenizer_holds_the_lock() -> None:
    """The race itself shows only now and then."""
    import copy

    from fungi_hf.views.text import TOKENIZING

    extractor = extractor_of()
    tokenizer = copy.deepcopy(extractor.encoder.tokenizer)
    calls = []

    class Watched(type(tokenizer)):
        def __call__(self, *args, **kwargs):
            calls.append(TOKENIZING._is_owned())
            return super().__call__(*args, **kwargs)

    tokenizer.__class__ = Watched
    other = type(extractor).from_pretrained(extractor.encoder.model, extractor.config, tokenizer)
    with pytest.warns(UserWarning, match="truncated"):
        other.fit(TRAIN)([*TEXTS, "card " * 300])
    assert len(calls) >= 10
    assert all(calls)
