"""What segmentation says to input that it cannot use."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from fungi_hf.errors import (
    ConfigError,
    FeatureError,
    FingerprintMismatchError,
    FungiError,
    InputError,
    InputTypeError,
    ShapeError,
)
from fungi_hf.evaluation.segmentation import (
    MemoryBank,
    SegmentationProtocol,
    TrainingDraws,
    bank,
    evaluate_segmentation,
)
from tests.evaluation.segmentation import scenes

RNG = np.random.default_rng(0)
RULE = SegmentationProtocol(n_neighbors=3, ignore=(9,))
GRID = (2, 3)
MASK = np.arange(24).reshape(4, 6) % 3


def features(**options):
    return scenes.noise(RNG, GRID, **options)


def with_one_side():
    one = features()
    object.__setattr__(one, "grid", (6,))  # as features of a text or a sound have it
    return one


def with_a_hole():
    one = features()
    one.array[2, 3] = np.nan
    return one


def pair(mask=MASK, **options):
    return features(**options), mask


ODD = np.where(MASK == 2, 200, MASK)
ODD[0, 0] = -4
BAD_PAIRS = {
    "no pair": (5, InputTypeError, "an image came as a int; give .DenseFeatures, mask"),
    "one member": ((features(),), InputTypeError, "give .DenseFeatures, mask"),
    "no features": (
        (np.ones((6, 8)), MASK),
        InputTypeError,
        "features are a ndarray; give DenseFeatures",
    ),
    "rows of images": (
        (SimpleNamespace(array=np.ones((6, 8)), grid=GRID, fingerprint="a"), MASK),
        InputTypeError,
        "features are a SimpleNamespace",
    ),
    "one side": (
        (with_one_side(), MASK),
        ShapeError,
        r"a.png has a grid of \(6,\); masks have rows and columns, so give features of images",
    ),
    "NaN": ((with_a_hole(), MASK), FeatureError, "a.png: features hold NaN or infinity"),
    "three sides": (pair(MASK[None]), ShapeError, r"mask has shape \(1, 4, 6\); it must be"),
    "flat": (pair(MASK.ravel()), ShapeError, r"mask has shape \(24,\)"),
    "empty mask": (pair(MASK[:0]), ShapeError, r"mask has shape \(0, 6\)"),
    "floats": (pair(MASK / 1.0), InputTypeError, "mask holds float64; labels are integers"),
    "booleans": (pair(MASK > 1), InputTypeError, "mask holds bool"),
    "texts": (pair(MASK.astype(str)), InputTypeError, "mask holds <U"),
    "labels": (
        pair(ODD),
        InputError,
        r"labels that are no class: -4 \(1 pixels\), 200 \(8 pixels\); classes are 0 to 2, "
        r"ignored \[9\]; name others in",
    ),
    "many labels": (pair(MASK + np.arange(24).reshape(4, 6)), InputError, r"pixels\) \.\.\.; clas"),
    "flat pixels": ((*pair(), MASK), ShapeError, r"pixels have shape \(4, 6\); give \[H, W, 3\]"),
    "float pixels": (
        (*pair(), np.ones((4, 6, 3))),
        InputTypeError,
        "pixels hold float64; give uint8",
    ),
}


@pytest.mark.parametrize("case", BAD_PAIRS)
@pytest.mark.parametrize("entry", ["build", "train", "test"])
def test_unusable_images_are_refused(entry, case):
    given, error, words = BAD_PAIRS[case]
    good = [pair() for _ in range(2)]
    bad = [*good, given]
    calls = {
        "build": lambda: MemoryBank.build(bad, n_classes=3, protocol=RULE),
        "train": lambda: run(train=bad, test=good),
        "test": lambda: run(train=good, test=bad),
    }
    with pytest.raises(error, match=words):
        calls[entry]()


def test_features_with_nan_are_no_dense_features():
    with pytest.raises(FeatureError):
        scenes.dense(np.full((6, 8), np.nan), GRID)


WIDE = pair(width=9)
TWO = pair(fingerprint="two")
BLOCKS = pair(widths={"tokens": 4, "dense_infonce": 4})
IGNORED = pair(np.full((4, 6), 9))


@pytest.mark.parametrize(
    ("other", "error", "words"),
    [
        (WIDE, ShapeError, r"slice\(0, 9"),
        (BLOCKS, ShapeError, "dense_infonce"),
        (TWO, FingerprintMismatchError, "a.png come from 'two'.*from 'one'"),
    ],
)
@pytest.mark.parametrize("exact", [True, False])
def test_features_of_elsewhere_are_refused(monkeypatch, other, error, words, exact):
    monkeypatch.setattr(bank, "EXACT_ROWS", 10**6 if exact else 0)
    good = [pair() for _ in range(2)]
    with pytest.raises(error, match=words):
        MemoryBank.build([*good, other], n_classes=3, protocol=RULE)
    with pytest.raises(error, match=words):
        evaluate_segmentation(good, [other], n_classes=3, protocol=RULE, controls=False)
    known = MemoryBank.build(good, n_classes=3, protocol=RULE)
    with pytest.raises(error, match=words):
        known.label_map(other[0], size=(4, 6))


def run(**changes):
    call = {
        "train": [pair() for _ in range(4)],
        "test": [pair() for _ in range(2)],
        "n_classes": 3,
        "protocol": RULE,
    } | changes
    return evaluate_segmentation(call.pop("train"), call.pop("test"), **call)


def other_side(n, mask=MASK):
    return [pair(mask, fingerprint="two") for _ in range(n)]


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"train": []}, InputError, "train has 0 images; a memory bank needs at least 1"),
        ({"test": []}, InputError, "no pixel of 0 test images is scored"),
        ({"test": [IGNORED]}, InputError, "no pixel of 1 test images is scored"),
        ({"train": [IGNORED]}, InputError, "no training image has a labelled pixel"),
        ({"train": 5}, InputTypeError, "train is a int; give an iterable of"),
        ({"test": "masks"}, InputTypeError, "test is a str; give an iterable"),
        ({"train": features()}, InputTypeError, "train is a DenseFeatures; give an iterable"),
        ({"n_classes": 1}, InputError, "n_classes must be an integer from 2"),
        ({"n_classes": 3.0}, InputError, "n_classes must be an integer"),
        ({"protocol": "papr"}, ConfigError, "unknown segmentation protocol 'papr'; choose .*paper"),
        (
            {"protocol": replace(RULE, void_class=3)},
            ConfigError,
            "void_class must be an integer from 0 to 2; got 3",
        ),
        (
            {"protocol": replace(RULE, n_neighbors=25)},
            InputError,
            "n_neighbors is 25, but the bank has 24 rows; take more training images, or fewer",
        ),
        (
            {"protocol": replace(RULE, bank_rows=2)},
            InputError,
            "n_neighbors is 3, but the bank has 2",
        ),
        ({"combinations": [["x"]]}, FeatureError, "no block 'x'"),
        ({"draws": (1, 2)}, InputTypeError, "draws is a tuple; it must be a TrainingDraws"),
        (
            {"draws": TrainingDraws(amounts=(5,))},
            InputError,
            "5 training images were asked for; 4 have labels",
        ),
        (
            {"train": (pair() for _ in range(2)), "draws": TrainingDraws(amounts=(0.5,))},
            InputError,
            "the share 0.5 is of an unknown number of images; give a list",
        ),
        (
            {"draws": TrainingDraws(amounts=(3,), groups=("a", "a", "b", "b"))},
            InputError,
            "3 groups of training images were asked for; there are 2",
        ),
        (
            {"draws": TrainingDraws(groups=("a", "b"))},
            InputError,
            "there are 2 groups, but more training images",
        ),
        (
            {"draws": TrainingDraws(groups=(1, 2, 3, 4, 5))},
            InputError,
            "there are 5 groups for 4 training images",
        ),
        (
            {"train": [(*pair(), np.zeros((4, 6, 3), np.uint8)), pair()]},
            InputError,
            "give .features, mask, pixels. of all or of none",
        ),
        (
            {"train": [pair(), (*pair(), np.zeros((4, 6, 3), np.uint8))]},
            InputError,
            "give .features, mask, pixels. of all or of none",
        ),
        ({"others": [1]}, InputTypeError, "others is a list; give name -> .train, test"),
        ({"others": {"x": 5}}, InputTypeError, "others\\['x'\\] must be a pair"),
        (
            {"others": {"planted": ([], [])}},
            InputError,
            "'planted'\\] has the name of a control that is always there",
        ),
        (
            {"others": {"x": (other_side(3), other_side(2))}},
            InputError,
            "its train has other masks than train; give the same images in the same order",
        ),
        (
            {"others": {"x": (other_side(4), other_side(2, 2 - MASK))}},
            InputError,
            "its test has other masks than test",
        ),
    ],
)
def test_unusable_calls_say_what_is_wrong(changes, error, words):
    with pytest.raises(error, match=words):
        run(**changes)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda b: b.label_map(np.ones((6, 8)), size=(4, 6)), InputTypeError, "a ndarray"),
        (lambda b: b.label_map(with_one_side(), size=(4, 6)), ShapeError, r"grid of \(6,\)"),
        (lambda b: b.label_map(with_a_hole(), size=(4, 6)), FeatureError, "NaN"),
        (lambda b: b.label_map(features(), size=4), InputError, "size is 4; give .height, width"),
        (lambda b: b.label_map(features(), size=(4, 0)), InputError, r"size is \(4, 0\)"),
        (lambda b: b.label_map(features(), size=(4.0, 6)), InputError, "in pixels"),
        (lambda b: b.probabilities(features(), blocks=["x"]), FeatureError, "no block 'x'"),
        (lambda b: b.probabilities(features(), blocks=[]), FeatureError, "no combination"),
    ],
)
def test_unusable_queries_say_what_is_wrong(call, error, words):
    known = MemoryBank.build([pair()], n_classes=3, protocol=RULE)
    with pytest.raises(error, match=words):
        call(known)


def test_a_bank_of_nothing_is_refused():
    for train, words in (([], "train has 0 images"), ([IGNORED], "no training image has a label")):
        with pytest.raises(InputError, match=words):
            MemoryBank.build(train, n_classes=3, protocol=RULE)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n_neighbors": 0}, "n_neighbors must be an integer >= 1; got 0"),
        ({"n_neighbors": True}, "n_neighbors must be an integer"),
        ({"temperature": 0}, "temperature must be a number > 0; got 0"),
        ({"temperature": float("inf")}, "temperature must be a number"),
        ({"bank_rows": 0}, "bank_rows must be None or an integer >= 1; got 0"),
        ({"ignore": 255}, "ignore is a int; it must be a tuple"),
        ({"ignore": (0.5,)}, "ignore: each must be an integer"),
        ({"void_class": -1}, "void_class must be None or an integer >= 0"),
        ({"upsampling": "cubic"}, "upsampling is 'cubic'; choose one of"),
        ({"key_dtype": "float64"}, "key_dtype is 'float64'"),
        ({"seed": -1}, "seed must be an integer from 0"),
    ],
)
def test_protocols_refuse_what_is_not_allowed(changes, words):
    with pytest.raises(FungiError, match=words):
        SegmentationProtocol(**changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"amounts": ()}, "needs at least one amount, seed and group"),
        ({"amounts": 0.5}, "amounts is a float; it must be a tuple"),
        ({"amounts": (0,)}, "amounts: each must be a share or None or an integer >= 1; got 0"),
        ({"amounts": (1.5,)}, "amounts: each must be a number > 0 and <= 1; got 1.5"),
        ({"amounts": (float("nan"),)}, "got nan"),
        ({"amounts": (True,)}, "got True"),
        ({"seeds": ()}, "needs at least one amount, seed and group"),
        ({"seeds": (-1,)}, "seeds: each must be an integer from 0"),
        ({"seeds": 3}, "seeds is a int"),
        ({"groups": ()}, "needs at least one amount, seed and group"),
        ({"groups": ["a"]}, "groups must be None or a tuple of texts or of integers"),
        ({"groups": ("a", 1)}, "groups must be None or a tuple of texts or of integers"),
    ],
)
def test_draws_refuse_what_is_not_allowed(changes, words):
    with pytest.raises(FungiError, match=words):
        TrainingDraws(**changes)
