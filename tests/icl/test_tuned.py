"""A selector whose features are tuned on its own pool: one line, and nothing of the queries."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fungi_hf.errors import InputError, InputTypeError
from fungi_hf.icl import DemoSelector, Examples
from fungi_hf.tuning import TuningSearch
from tests.tiny import TRAIN, extractor_of

TEXTS = [f"{text} {word}" for word in ("old", "new", "bank") for text in TRAIN]
TARGETS = ["lost" if "lost" in text or "card" in text else "other" for text in TEXTS]
POOL = Examples(contents=TEXTS, targets=TARGETS)
SEARCH = TuningSearch(objectives=("kl",), n_neighbors=3, components=(), whitenings=(1.0,))


@pytest.fixture(scope="module")
def extractor():
    return extractor_of(objectives=())


def test_it_is_tune_extract_and_fit_in_one_line(extractor):
    before = extractor.fingerprint
    selector = DemoSelector.tuned(extractor, POOL, k=4, search=SEARCH, order="nearest_first")
    assert extractor.fingerprint == before
    assert extractor.tuning is None
    by_hand = extractor.tune(TEXTS, TARGETS, search=SEARCH)
    assert selector.extractor.fingerprint == by_hand.fingerprint == selector.pool.fingerprint
    asked = Examples(contents=["is my card lost", "pay the bank"])
    found = selector.select(asked)
    featured = dataclasses.replace(POOL, features=by_hand(TEXTS))
    queries = dataclasses.replace(asked, features=by_hand(list(asked.texts)))
    wanted = DemoSelector("knn", k=4, order="nearest_first").fit(featured).select(queries)
    np.testing.assert_array_equal(found.indices, wanted.indices)
    np.testing.assert_allclose(found.scores, wanted.scores, rtol=0, atol=1e-6)
    assert selector.reseeded(3).select(asked).indices.tolist() == wanted.indices.tolist()


def test_the_pool_itself_asks_for_leave_one_out(extractor):
    selector = DemoSelector.tuned(extractor, POOL, k=3, search=SEARCH)
    for queries in (POOL, selector.pool):
        indices = selector.select(queries).indices
        assert all(row not in some for row, some in enumerate(indices.tolist()))


def test_unusable_pools(extractor):
    with pytest.raises(InputTypeError, match="pool is list; an Examples is needed"):
        DemoSelector.tuned(extractor, TEXTS, k=3)
    with pytest.raises(InputTypeError, match="extractor is NoneType; one with tune"):
        DemoSelector.tuned(None, POOL, k=3)
    for pool in (Examples(contents=TEXTS), Examples(features=np.eye(3), targets=[0, 1, 1])):
        with pytest.raises(InputError, match="tuned needs a pool with texts and targets"):
            DemoSelector.tuned(extractor, pool, k=3)
