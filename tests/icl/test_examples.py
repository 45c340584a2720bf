"""Inputs are checked in one place: what is wrong, what came, what is allowed."""

from __future__ import annotations

import numpy as np
import pytest

from fungi_hf.errors import FeatureError, InputError, InputTypeError, LabelError
from fungi_hf.icl import Examples
from fungi_hf.icl.audio import AudioClip
from fungi_hf.icl.examples import label_codes

X = np.ones((3, 2), np.float32)


class Stamped:
    fingerprint = "abc"
    array = X


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({}, InputError, "needs features or contents"),
        ({"targets": [1, 2]}, InputError, "needs features or contents"),
        ({"features": np.ones(3)}, FeatureError, r"shape \(3,\); a matrix"),
        ({"features": np.ones((3, 2, 1))}, FeatureError, r"shape \(3, 2, 1\)"),
        ({"features": np.ones((0, 2))}, FeatureError, r"shape \(0, 2\); at least 1 x 1"),
        ({"features": np.ones((3, 0))}, FeatureError, r"shape \(3, 0\)"),
        ({"features": [["a", "b"]]}, FeatureError, "real numbers are needed"),
        ({"features": [[1j]]}, FeatureError, "complex128"),
        ({"features": [[True]]}, FeatureError, "bool"),
        ({"features": [[1.0], [1.0, 2.0]]}, FeatureError, "rows of different widths"),
        ({"features": [[1.0, None]]}, FeatureError, "object"),
        (
            {"features": [[np.nan, 1], [1, 1], [np.inf, 0]]},
            FeatureError,
            r"2 of 3 rows with NaN or Inf, rows 0, 2",
        ),
        ({"features": X, "contents": ["a"]}, InputError, "lengths differ: features 3, contents 1"),
        (
            {"features": X, "targets": [1, 2], "ids": [1]},
            InputError,
            "features 3, targets 2, ids 1",
        ),
        ({"contents": []}, InputError, "0 rows"),
        ({"contents": "one text"}, InputTypeError, "contents is one string, pass a list"),
        ({"contents": b"bytes"}, InputTypeError, "contents is one bytes, pass a list"),
        ({"contents": ["a", None]}, InputTypeError, r"contents\[1\] is NoneType"),
        ({"contents": ["a", float("nan")]}, InputTypeError, r"contents\[1\] is float"),
        ({"contents": ["a", b"b"]}, InputTypeError, r"contents\[1\] is bytes"),
        ({"contents": 3}, InputTypeError, "contents is int, pass a list"),
        ({"contents": {"a": 1}}, InputTypeError, "contents is a dict"),
        (
            {"contents": ["a", " \n", ""]},
            InputError,
            "2 empty texts, rows 1, 2; pass allow_empty=True",
        ),
        (
            {"features": X, "targets": [0, None, float("nan")]},
            LabelError,
            "2 missing labels, rows 1, 2",
        ),
        (
            {"features": X, "targets": np.array([0, np.nan, 1])},
            LabelError,
            "1 missing labels, rows 1",
        ),
        ({"features": X, "targets": [0, [1], 2]}, InputTypeError, r"targets\[1\] is list"),
        ({"features": X, "targets": "abc"}, InputTypeError, "targets is one string"),
        (
            {"features": X, "ids": ["a", "b", "a"]},
            InputError,
            "ids have 1 repeats: 'a' in rows 0 and 2",
        ),
        ({"features": X, "ids": [1.0, 2, 3]}, InputTypeError, r"ids\[0\] is float"),
        ({"features": X, "ids": [1, None, 3]}, InputTypeError, r"ids\[1\] is NoneType"),
        ({"features": X, "ids": [True, 2, 3]}, InputTypeError, r"ids\[0\] is bool"),
    ],
)
def test_bad_inputs(fields, error, message):
    with pytest.raises(error, match=message):
        Examples(**fields)


def test_falsy_labels_are_labels():
    examples = Examples(features=X, targets=[0, False, ""])
    assert examples.targets == (0, False, "")
    codes, values = label_codes(Examples(features=X, targets=["b", 7, "a"]).targets)
    assert values == [7, "a", "b"]
    assert codes.tolist() == [2, 0, 1]


def test_tables_and_arrays_are_read():
    pa = pytest.importorskip("pyarrow")
    pd = pytest.importorskip("pandas")
    expected = ("a", "b")
    for contents in (
        ["a", "b"],
        ("a", "b"),
        np.array(["a", "b"]),
        pa.array(["a", "b"]),
        pa.chunked_array([["a"], ["b"]]),
        pd.Series(["a", "b"]),
        iter(["a", "b"]),
    ):
        examples = Examples(contents=contents, targets=np.array([3, 4], np.int32))
        assert examples.contents == expected
        assert examples.targets == (3, 4)
        assert all(type(target) is int for target in examples.targets)


def test_features_carry_their_fingerprint():
    examples = Examples(features=Stamped())
    assert examples.fingerprint == "abc"
    assert examples.take([2, 0]).fingerprint == "abc"
    assert Examples(features=X).fingerprint is None


def test_taking_rows():
    examples = Examples(
        features=np.arange(6).reshape(3, 2),
        contents=["a", "b", "c"],
        targets=[1, 2, 3],
        ids=["x", "y", "z"],
    )
    taken = examples.take([2, 0])
    assert (taken.contents, taken.targets, taken.ids) == (("c", "a"), (3, 1), ("z", "x"))
    np.testing.assert_array_equal(taken.features, [[4, 5], [0, 1]])
    with pytest.raises(InputError, match=r"rows 3 are outside 0\.\.2"):
        examples.take([3])


def test_contents_stay_verbatim_and_empty_ones_are_an_option():
    texts = ["  {x} \x00 \ud800 ", "🙂\n"]
    assert Examples(contents=texts).contents == tuple(texts)
    assert Examples(contents=["", "a"], allow_empty=True).contents == ("", "a")


def test_clips_are_contents():
    clip = AudioClip(np.zeros(4), 8000)
    examples = Examples(contents=[clip, "text"])
    assert examples.texts is None
    assert len({examples.key(0), examples.key(1)}) == 2
    assert "2 rows" in repr(examples)
