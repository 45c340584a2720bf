"""Every kind of input, good and bad, has a defined result; warnings come once, with a count."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

from fungi_hf import FungiConfig, FungiExtractor
from fungi_hf.errors import (
    ConfigError,
    EncoderError,
    FeatureError,
    InputError,
    InputTypeError,
    NotFittedError,
)
from fungi_hf.extraction.draws import TrainingDraw
from fungi_hf.extraction.group import compute
from fungi_hf.extraction.inputs import InputReader
from fungi_hf.testing import tiny_text_model
from tests.tiny import TEXTS, TRAIN, extractor_of, fitted, model_of


@pytest.fixture(scope="module")
def extractor():
    return fitted()


@pytest.fixture(scope="module")
def expected(extractor) -> np.ndarray:
    return extractor(TEXTS).array


class Indexed:
    """A data set as torch has them: a length and an index, no iterator."""

    def __len__(self) -> int:
        return len(TEXTS)

    def __getitem__(self, i: int) -> str:
        return TEXTS[i]


def datasets_column():
    datasets = pytest.importorskip("datasets")
    return datasets.Dataset.from_dict({"text": TEXTS})["text"]


def series():
    return pytest.importorskip("pandas").Series(TEXTS, index=range(10, 10 + len(TEXTS)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: list(TEXTS),
        lambda: tuple(TEXTS),
        lambda: iter(TEXTS),
        lambda: (text for text in TEXTS),
        lambda: np.array(TEXTS),
        lambda: np.array(TEXTS, dtype=object),
        lambda: dict.fromkeys(TEXTS).keys(),
        Indexed,
        datasets_column,
        series,
    ],
    ids=["list", "tuple", "iterator", "generator", "array", "objects", "keys", "indexed",
         "datasets column", "pandas series"],
)  # fmt: skip
def test_every_iterable_of_texts(extractor, expected, make) -> None:
    np.testing.assert_array_equal(extractor(make()).array, expected)


def test_no_inputs_give_no_rows(extractor, expected) -> None:
    for empty in ([], (), iter(()), np.array([], dtype=str)):
        features = extractor(empty)
        assert features.shape == (0, expected.shape[1])
        assert features.array.dtype == np.float32
        assert list(features.layout) == ["embedding", "kl", "simclr", "activation"]


def table():
    return pytest.importorskip("pandas").DataFrame({"text": TEXTS})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: "one text", "got one str: pass a list"),
        (lambda: b"bytes", "got one bytes: pass a list"),
        (lambda: None, "got one NoneType"),
        (lambda: 3, "got one int"),
        (lambda: {"text": TEXTS}, "got one dict"),
        (lambda: np.array("text"), "got one ndarray"),
        (table, "got a table"),
    ],
)
def test_what_is_no_iterable_of_inputs_is_refused(extractor, make, message: str) -> None:
    for call in (extractor, extractor.fit, extractor.fit_transform):
        with pytest.raises(InputTypeError, match=message):
            call(make())


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (None, InputTypeError, "input 1 must be a text .*got NoneType: None"),
        (3, InputTypeError, "got int: 3"),
        (3.5, InputTypeError, "got float: 3.5"),
        (float("nan"), InputTypeError, "got float: nan"),
        (b"bytes", InputTypeError, "got bytes: b'bytes'"),
        (["nested"], InputTypeError, "got list"),
        ({"text": "x"}, InputTypeError, "got dict"),
        (torch.ones(2), InputTypeError, "got Tensor"),
        (True, InputTypeError, "got bool: True"),
        ("lone \ud800 surrogate", InputError, "input 1 has a lone surrogate at character 5"),
    ],
)
def test_an_unusable_input_is_named_by_its_position(extractor, bad, error, message: str) -> None:
    for call in (extractor, extractor.fit):
        with pytest.raises(error, match=message):
            call([TEXTS[0], bad, TEXTS[1]])


def test_skipping_unusable_inputs(extractor, expected, monkeypatch) -> None:
    mixed = [None, TEXTS[0], "\ud800", TEXTS[1], 7, TEXTS[2]]
    features = extractor(mixed, on_error="skip")
    np.testing.assert_allclose(features.array, expected[:3], atol=1e-6)
    assert [failure.index for failure in features.failures] == [0, 2, 4]
    assert features.failures[2].source == "7"
    assert "lone surrogate" in features.failures[1].error
    monkeypatch.setattr(type(extractor.encoder), "chunk_size", 2)
    again = extractor(iter(mixed), on_error="skip")
    np.testing.assert_allclose(again.array, expected[:3], atol=1e-6)
    assert [failure.index for failure in again.failures] == [0, 2, 4]
    nothing = extractor([None, 3], on_error="skip")
    assert nothing.shape == (0, expected.shape[1])
    assert len(nothing.failures) == 2


@pytest.mark.parametrize("family", ["bert", "roberta", "t5", "deberta-v2", "modernbert"])
def test_blank_texts_share_the_empty_sequence_and_warn_once(family: str) -> None:
    extractor = fitted(family)
    with pytest.warns(UserWarning, match="1 of the texts are empty") as caught:
        alone = extractor([""])
    assert len(caught) == 1
    assert np.isfinite(alone.array).all()
    assert (alone.block("embedding") != 0).any()
    with pytest.warns(UserWarning, match="3 of the texts are empty") as caught:
        features = extractor(["", TEXTS[0], " ", "\t\n"])
    assert len(caught) == 1
    np.testing.assert_allclose(features.array[0], alone.array[0], atol=1e-6)
    np.testing.assert_allclose(features.array[1], extractor([TEXTS[0]]).array[0], atol=1e-6)


def test_a_text_of_which_nothing_is_kept_is_noted(extractor) -> None:
    with pytest.warns(UserWarning, match="1 of the texts are empty, blank or nothing"):
        features = extractor(["\u200b\ufeff"])
    assert np.isfinite(features.array).all()


@pytest.mark.parametrize(
    "text", ["a card\x00", "\x07pay", "\x9bnew", "old\x7f", "ca\u200brd", "\ufeffcard", "my\ufffd"]
)
def test_dropped_characters_are_noted(extractor, text: str) -> None:
    with pytest.warns(UserWarning, match="1 of the texts hold NUL, other control or invisible"):
        row = extractor([text]).select(["embedding", "kl"]).array
    kept = "".join(c for c in text if c.isascii() and c.isprintable())
    wanted = extractor([kept]).select(["embedding", "kl"]).array
    np.testing.assert_allclose(row, wanted, rtol=0, atol=1e-6)


def test_emoji_and_foreign_scripts_are_noted_where_they_are_unknown(extractor) -> None:
    with pytest.warns(UserWarning, match="3 of the texts hold tokens that the tokenizer does not"):
        features = extractor(["🙂", "我的卡", "card 🙂", "card"])
    assert np.isfinite(features.array).all()
    byte_level = fitted("roberta")  # knows every byte: nothing to note, and no two alike
    rows = byte_level(["🙂", "我的卡", "🙃", "a\x00", "a"]).array
    assert len(np.unique(rows.round(4), axis=0)) == 5


def test_a_hundred_thousand_words_are_truncated_and_counted_once(extractor) -> None:
    long = "card " * 100_000
    with pytest.warns(UserWarning, match="1 of the texts are longer than 128 tokens"):
        assert np.isfinite(extractor([long]).array).all()
    extractor = extractor_of(objectives=("kl",))
    with pytest.warns(UserWarning, match="2 of the texts are longer than 128 tokens") as caught:
        features = extractor([long, TEXTS[0], long])
    assert len(caught) == 1
    assert np.array_equal(features.array[0], features.array[2])
    np.testing.assert_allclose(features.array[1], extractor([TEXTS[0]]).array[0], atol=1e-6)


def test_truncation_begins_exactly_above_the_limit() -> None:
    extractor = extractor_of(objectives=("kl",), max_length=6)
    extractor(["pay my old card"])  # 4 words and 2 special tokens: no warning
    with pytest.warns(UserWarning, match="1 of the texts are longer than 6 tokens"):
        features = extractor(["pay my old card please", "pay my old card"])
    np.testing.assert_allclose(features.array[0], features.array[1], atol=1e-6)


def test_warnings_point_at_the_caller(extractor) -> None:
    with pytest.warns(UserWarning, match="empty") as caught:
        extractor([""])
    assert caught[0].filename == __file__


def test_wrong_options(extractor) -> None:
    for bad in (0, -1, 2.5, "3", True):
        with pytest.raises(ConfigError, match="batch_size must be None or an integer >= 1"):
            extractor(TEXTS, batch_size=bad)
    with pytest.raises(ConfigError, match="on_error is 'ignore'; choose one of 'raise', 'skip'"):
        extractor(TEXTS, on_error="ignore")


def test_a_config_that_needs_fit_says_so() -> None:
    for changes, missing in (
        ({}, "simclr"),
        ({"center": True, "objectives": ("kl",)}, "center"),
        ({"reduction": 3, "objectives": ("kl",)}, "reduction"),
    ):
        extractor = extractor_of(**changes)
        assert not extractor.is_fitted
        with pytest.raises(NotFittedError, match=f"inputs for {missing}; call extractor.fit"):
            extractor(TEXTS)
        assert extractor.fit(TRAIN) is extractor
        assert extractor.is_fitted


def test_fit_needs_inputs() -> None:
    with pytest.raises(InputError, match="fit needs at least one input; got none"):
        extractor_of().fit([])


def test_fit_with_fewer_inputs_than_negatives_warns_with_the_numbers() -> None:
    extractor = extractor_of()
    with pytest.warns(UserWarning, match="wants 6 distinct training inputs; all 2 are used"):
        extractor.fit([TRAIN[0], TRAIN[1], TRAIN[0]])
    assert extractor.state.objectives["simclr"]["negatives"].shape == (4, 8)
    assert np.isfinite(extractor(TEXTS).array).all()


def test_fit_does_not_depend_on_the_order_of_its_inputs() -> None:
    order = np.random.default_rng(0).permutation(len(TRAIN))
    for changes in ({}, {"center": True}, {"center": True, "reduction": 5}):
        one = extractor_of(**changes).fit(TRAIN)
        two = extractor_of(**changes).fit([TRAIN[i] for i in order])
        np.testing.assert_allclose(one(TEXTS).array, two(TEXTS).array, atol=2e-5)


def test_what_fit_draws_does_not_depend_on_how_much_it_reads_at_a_time() -> None:
    extractor, inputs, drawn = extractor_of(), [*TRAIN, TRAIN[0]], []
    for size in (32, 160, 4096):  # a 32nd of it is read at a time
        extractor.encoder.chunk_size = size
        draw = TrainingDraw(InputReader(extractor.encoder, extractor.config), inputs)
        assert list(draw) == inputs
        drawn.append(draw.draws["simclr"].inputs())
    assert len(drawn[0]) == 6
    assert drawn[0] == drawn[1] == drawn[2]


@pytest.mark.parametrize("changes", [{}, {"center": True}, {"reduction": 4}, {"reduction": 400},
                                     {"objectives": ("kl",)}])  # fmt: skip
@pytest.mark.parametrize("generator", [False, True])
def test_fit_transform_equals_fit_then_call(changes: dict, generator: bool) -> None:
    inputs = (text for text in TRAIN) if generator else TRAIN
    one = extractor_of(**changes).fit_transform(inputs)
    two = extractor_of(**changes).fit(TRAIN)(TRAIN)
    np.testing.assert_allclose(one.array, two.array, atol=1e-6)
    assert len(one) == len(TRAIN)
    assert (one.layout, one.notes) == (two.layout, two.notes)


def test_fit_transform_warns_as_a_call_does() -> None:
    for changes in ({"objectives": ("kl",)}, {"objectives": ("kl",), "center": True}):
        with pytest.warns(UserWarning, match="1 of the texts are empty"):
            extractor_of(**changes).fit_transform([*TRAIN, ""])


def test_refitting_replaces_the_state() -> None:
    extractor = extractor_of(center=True)
    first = extractor.fit(TRAIN)(TEXTS)
    second = extractor.fit([*TRAIN[:5], *TEXTS, "you help the bank"])(TEXTS)
    assert first.fingerprint != second.fingerprint
    third = extractor.fit(TRAIN)(TEXTS)
    assert third.fingerprint == first.fingerprint
    assert np.array_equal(third.array, first.array)


def test_only_the_embedding_needs_no_gradient() -> None:
    features = extractor_of(objectives=())(TEXTS)
    assert list(features.layout) == ["embedding"]
    alone = extractor_of(objectives=("kl",))(TEXTS)
    np.testing.assert_allclose(features.array, alone.block("embedding"), atol=1e-6)
    without = extractor_of(objectives=("kl",), embedding_weight=0)(TEXTS)
    np.testing.assert_array_equal(without.array, alone.block("kl"))


def test_progress_bars_are_shown_on_request(capfd) -> None:
    extractor_of(objectives=("kl",))(TEXTS, progress=True)
    assert "6/6" in capfd.readouterr().err


def test_a_model_object_needs_its_tokenizer_and_its_own_dtype() -> None:
    model, tokenizer = model_of("bert")
    assert FungiExtractor.from_pretrained(model, processor=tokenizer).config.dtype == "float64"
    with pytest.raises(ConfigError, match="the model is float64, the config says dtype='float32'"):
        FungiExtractor.from_pretrained(model, FungiConfig(), tokenizer)
    with pytest.raises(EncoderError, match="BertModel needs its tokenizer"):
        FungiExtractor.from_pretrained(model)
    with pytest.raises(EncoderError, match="needs its tokenizer"):
        FungiExtractor.from_pretrained(model, processor=3)
    with pytest.raises(ConfigError, match="device is only for models loaded by name"):
        FungiExtractor.from_pretrained(model, processor=tokenizer, device="cpu")
    with pytest.raises(ConfigError, match="config must be a FungiConfig or None; got dict"):
        FungiExtractor.from_pretrained(model, {}, tokenizer)


def test_impossible_poolings_and_lengths() -> None:
    for family, pooling, message in (
        ("t5", "cls", "needs a class token at position 0"),
        ("t5", "model", "needs a pooler"),
        ("distilbert", "model", "needs a pooler"),
    ):
        with pytest.raises(ConfigError, match=message):
            extractor_of(family, pooling=pooling)
    with pytest.raises(ConfigError, match="max_length=999 is more than the encoder's limit of 128"):
        extractor_of(max_length=999)
    with pytest.raises(ConfigError, match="max_length=2 leaves no room beside 2 special tokens"):
        extractor_of(max_length=2)


def test_task_and_encoder_decoder_models_are_reduced_to_their_encoder() -> None:
    from transformers import BertForSequenceClassification, T5ForConditionalGeneration

    model, tokenizer = tiny_text_model("bert")
    whole = BertForSequenceClassification(model.config).double()
    whole.bert.load_state_dict(model.state_dict(), strict=False)
    one = FungiExtractor.from_pretrained(whole, extractor_of().config, tokenizer).fit(TRAIN)
    np.testing.assert_array_equal(one(TEXTS).array, fitted()(TEXTS).array)
    model, tokenizer = tiny_text_model("t5")
    config = type(model.config)(**{**model.config.to_dict(), "is_encoder_decoder": True})
    whole = T5ForConditionalGeneration(config).double()
    whole.encoder.load_state_dict(model.encoder.state_dict())
    two = FungiExtractor.from_pretrained(whole, extractor_of("t5").config, tokenizer).fit(TRAIN)
    np.testing.assert_array_equal(two(TEXTS).array, fitted("t5")(TEXTS).array)


@pytest.mark.parametrize("bad", [None, 3, b"folder", ["a"]])
def test_what_is_no_model_is_named(bad) -> None:
    with pytest.raises(EncoderError, match=f"or a loaded torch module; got {type(bad).__name__}"):
        FungiExtractor.from_pretrained(bad)
    with pytest.raises(EncoderError, match=f"takes an encoder; got {type(bad).__name__}"):
        FungiExtractor(bad)


def test_the_constructor_wants_an_encoder_and_a_config() -> None:
    model, _ = model_of()
    with pytest.raises(EncoderError, match="got BertModel: use FungiExtractor"):
        FungiExtractor(model)
    with pytest.raises(ConfigError, match="config must be a FungiConfig or None; got dict"):
        FungiExtractor(extractor_of().encoder, {})


@pytest.mark.parametrize("pooling", ["first", "mean"])
@pytest.mark.parametrize("family", ["bert", "t5", "modernbert"])
def test_copies_and_pickles_work_apart_from_the_original(family: str, pooling: str) -> None:
    original = extractor_of(family, fresh=True, pooling=pooling).fit(TRAIN)
    expected = original(TEXTS)
    for twin in (copy.deepcopy(original), pickle.loads(pickle.dumps(original))):  # noqa: S301
        assert np.array_equal(twin(TEXTS).array, expected.array)
        with torch.no_grad():
            for parameter in original.encoder.model.parameters():
                parameter.add_(0.1)
        assert np.array_equal(twin(TEXTS).array, expected.array)
        with torch.no_grad():
            for parameter in original.encoder.model.parameters():
                parameter.add_(-0.1)


def test_a_nan_is_reported_by_its_row_also_in_a_later_chunk(monkeypatch) -> None:
    extractor = extractor_of(objectives=("kl",))
    monkeypatch.setattr(type(extractor.encoder), "chunk_size", 4)

    def broken(*args, **options):
        for place, blocks in enumerate(compute(*args, **options)):
            if place == 1:
                blocks["kl"][1, 3] = torch.nan
            yield blocks

    monkeypatch.setattr("fungi_hf.extraction.finish.compute", broken)
    with pytest.raises(FeatureError, match=r"'kl' has NaN or Inf for 1 inputs, first at \[5\]"):
        extractor(TRAIN)
