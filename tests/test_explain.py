"""Each block's share of a similarity: parts sum to it, shares to one, and a loop agrees."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fungi_hf import KL
from fungi_hf.errors import FingerprintMismatchError, InputError
from fungi_hf.features import FungiFeatures, make_layout
from tests.tiny import TEXTS, TRAIN, extractor_of


def features(widths: list[int], n: int, seed: int, fingerprint: str = "f") -> FungiFeatures:
    layout = make_layout({f"b{place}": width for place, width in enumerate(widths)})
    rows = np.random.default_rng(seed).standard_normal((n, sum(widths)))
    return FungiFeatures(rows.astype(np.float32), fingerprint, layout)


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(1, 6), st.integers(0, 99),
    st.data(),
)  # fmt: skip
def test_parts_are_the_products_of_the_blocks(widths, n, seed, data):
    one, other = features(widths, n, seed), features(widths, n + 2, seed + 1)
    i, j = data.draw(st.integers(0, n - 1)), data.draw(st.integers(0, n + 1))
    found = one.explain(i, j, other)
    start = 0
    for name, width in zip(found.parts, widths, strict=True):
        pairs = zip(
            one.array[i, start : start + width], other.array[j, start : start + width], strict=True
        )
        assert found.parts[name] == pytest.approx(
            sum(float(a) * float(b) for a, b in pairs), abs=1e-4
        )
        start += width
    assert found.similarity == pytest.approx(float(one.similarity(other)[i, j]), abs=1e-4)
    assert sum(map(abs, found.shares.values())) == pytest.approx(1)
    back = other.explain(j, i, one)
    assert back.parts == pytest.approx(found.parts, abs=1e-5)
    for name, share in found.shares.items():
        assert np.sign(share) == np.sign(found.parts[name])


def test_a_line_says_it():
    layout = make_layout({"embedding": 1, "kl": 1, "activation_4": 1})
    rows = np.array([[1.0, 0.5, 1.0], [0.61, 0.48, -0.15]], np.float32)
    found = FungiFeatures(rows, "f", layout).explain(0, 1)
    assert str(found) == "embedding .61, kl .24, activation_4 -.15"
    odd = make_layout({"kl_t0.5": 1, "kl": 1})
    tiny = FungiFeatures(np.array([[1, 1], [1, -1e-6]], np.float32), "f", odd).explain(0, 1)
    assert str(tiny) == "kl_t0.5 1.00, kl .00"
    nothing = FungiFeatures(np.zeros((2, 3), np.float32), "f", layout).explain(0, 1)
    assert set(nothing.shares.values()) == {0.0}


@pytest.mark.parametrize("sketch", ["khatri_rao", "none"])
def test_features_of_an_extractor(sketch):
    layers = ("auto", "encoder.layer.1.output.dense")
    extractor = extractor_of(objectives=(KL(layer=layers),), sketch=sketch)
    gallery, asked = extractor(TRAIN), extractor(TEXTS)
    found = asked.explain(2, 5, gallery)
    assert list(found.parts) == ["embedding", "kl", "kl_1_output"]
    assert found.similarity == pytest.approx(float(asked.similarity(gallery)[2, 5]), abs=1e-5)
    own = asked.explain(3, 3)
    assert list(own.parts.values()) == pytest.approx([1, 1, 1], abs=1e-4)
    reduced = extractor_of(objectives=("kl",), reduction=4).fit(TRAIN)(TEXTS)
    assert list(reduced.explain(0, 1).parts) == ["reduced"]


def test_wrong_rows_are_refused():
    one, other = features([2, 3], 4, 0), features([2, 3], 4, 0, "g")
    for i in (-1, 4, 1.0, True, None, "0"):
        with pytest.raises(InputError, match="i must be a row, 0 to 3; got"):
            one.explain(i, 0)
    with pytest.raises(InputError, match="j must be a row"):
        one.explain(np.int64(0), 9)
    with pytest.raises(FingerprintMismatchError, match="extract both with one extractor"):
        one.explain(0, 0, other)
