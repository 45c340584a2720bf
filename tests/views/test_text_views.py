"""Word deletion: exact probabilities, verbatim remains, every script; nlpaug and its rules."""

from __future__ import annotations

import collections
import itertools
import math
import random
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fungi_hf.errors import ConfigError, ViewError
from fungi_hf.testing import TEXT_FAMILIES, check_views
from fungi_hf.views.base import REGISTERED_VIEWS, BatchViews, register_views
from fungi_hf.views.text import PublishedDeletion, WordDeletion, whitespace_spans, word_spans
from tests.extraction.problems import encoder_of
from tests.tiny import TEXTS, TRAIN, extractor_of, model_of

AWKWARD = [
    "",
    " ",
    "one",
    "  two words  ",
    "don't touch the user's card, it’s mine!",
    "我的卡丢了，请帮助我。",
    "私のカードはどこですか",
    "👩‍👩‍👧 family 👍🏽 thumbs",
    "🙂🙃",
    "tab\tand\nnewline  double",
    "e-mail: a.b@c.de (now)",
    "naïve café Straße",
    "a\x00b c",
    "...",
    "مرحبا بالعالم هذا نص",
]


def is_subsequence(part: str, whole: str) -> bool:
    characters = iter(whole)
    return all(c in characters for c in part)


@pytest.mark.parametrize(
    ("n_words", "probability"), [(2, 0.1), (5, 0.1), (10, 0.1), (13, 0.1), (25, 0.1), (4, 0.6)]
)
def test_each_word_is_deleted_with_exactly_the_documented_probability(
    n_words: int, probability: float
) -> None:
    text = " ".join(f"w{i}" for i in range(n_words))
    n_draws = 4000
    views = WordDeletion(n_views=n_draws, probability=probability)(text, random.Random(0))
    kept = collections.Counter(word for view in views for word in view.split())
    p = max(probability, 1 / n_words)
    for i in range(n_words):
        deleted = n_draws - kept[f"w{i}"]
        assert abs(deleted - n_draws * p) < 5 * math.sqrt(n_draws * p * (1 - p))
    counts = {n_words - len(view.split()) for view in views}
    assert counts <= {math.floor(p * n_words + 1e-9), math.ceil(p * n_words - 1e-9)}


def test_at_least_one_word_stays() -> None:
    views = WordDeletion(n_views=200, probability=0.99)("a b c", random.Random(0))
    assert {len(view.split()) for view in views} == {1}


def test_short_texts_are_their_own_views() -> None:
    for text in ("", " ", "one", "  one  ", "🙂"):
        assert WordDeletion(n_views=3)(text, random.Random(0)) == [text] * 3


@pytest.mark.parametrize("text", AWKWARD)
@pytest.mark.parametrize("family", ["bert", "roberta", "t5", "modernbert"])
def test_views_are_the_inputs_own_characters(text: str, family: str) -> None:
    encoder = encoder_of(family)
    generator = encoder.views("auto", 20, {"probability": 0.3})
    spans = word_spans(text, encoder.tokenizer)
    words = [text[start:end] for start, end in spans]
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
    for view in generator(text, random.Random(1)):
        assert is_subsequence(view, text)
        assert view == text or len(spans) > 1
        assert not re.search(r"\s\s", view) or re.search(r"\s\s", text)
        # Every run of the view is a run of the text: words are whole or gone.
        remains = view
        for word in sorted(set(words), key=len, reverse=True):
            remains = remains.replace(word, " ")
        outside = text
        for word in sorted(set(words), key=len, reverse=True):
            outside = outside.replace(word, " ")
        assert set(remains) <= set(outside) | {" "}


@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=60), seed=st.integers(0, 50))
def test_any_text_gives_valid_views(text: str, seed: int) -> None:
    generator = WordDeletion(n_views=3, spans=lambda t: word_spans(t, model_of("bert")[1]))
    views = generator(text, random.Random(seed))
    assert len(views) == 3
    assert all(is_subsequence(view, text) for view in views)


def test_words_are_the_tokenizers() -> None:
    bert = model_of("bert")[1]

    def words(text: str) -> list[str]:
        return [text[start:end] for start, end in word_spans(text, bert)]

    assert words("don't touch the user's card, it’s mine!") == [
        "don't", "touch", "the", "user's", "card", "it’s", "mine",
    ]  # fmt: skip
    assert words("我的卡") == ["我", "的", "卡"]
    assert words("naïve café") == ["naïve", "café"]
    assert words("(a) - 'b' ...") == ["a", "b"]
    assert words("'quoted' words'") == ["quoted", "words"]
    assert words("🙂 👍🏽") == []


def test_a_slow_tokenizer_gives_blank_separated_words() -> None:
    class Slow:
        is_fast = False

    assert word_spans("a b, c", Slow()) == whitespace_spans("a b, c") == [(0, 1), (2, 4), (5, 6)]


@pytest.mark.parametrize(
    "generator", [WordDeletion(4), PublishedDeletion(4)], ids=["word_deletion", "nlpaug_deletion"]
)
def test_contract(generator) -> None:
    check_views(generator, [*AWKWARD, *TRAIN], encoder=encoder_of("bert"))


def test_many_texts_at_once_get_the_views_of_each() -> None:
    texts, views = [*AWKWARD, *TRAIN], WordDeletion(4)
    singly = [views(text, random.Random(place)) for place, text in enumerate(texts)]
    assert isinstance(views, BatchViews)
    assert views.many(texts, [random.Random(place) for place in range(len(texts))]) == singly


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_contract_of_every_tokenizers_words(family: str) -> None:
    encoder = encoder_of(family)
    check_views(encoder.views("auto", 5, {}), [*AWKWARD, *TEXTS], encoder=encoder)


def test_errors() -> None:
    for bad in (0, -1, 2.0, True, "3"):
        with pytest.raises(ConfigError, match="n_views must be an integer >= 1"):
            WordDeletion(n_views=bad)
    for bad in (0, 1, -0.1, "x", float("nan"), True):
        with pytest.raises(ConfigError, match="probability must be a number > 0 and < 1"):
            PublishedDeletion(probability=bad)
    encoder = encoder_of("bert")
    with pytest.raises(ConfigError, match="'word_delection'; choose one of 'word_deletion'"):
        encoder.views("word_delection", 2, {})
    with pytest.raises(
        ConfigError, match=r"'word_deletion' refused its options.*colour.*takes probability"
    ):
        encoder.views("auto", 2, {"colour": 1})


class TestChecks:
    """`check_views` catches a generator that breaks its contract."""

    class Base:
        n_views = 2

        def __call__(self, raw: str, generator: random.Random) -> list[str]:
            return [raw, raw[: generator.randrange(len(raw) + 1)]]

    class GlobalRandom(Base):
        def __call__(self, raw, generator):
            return [raw, raw[: random.randrange(len(raw) + 1)]]

    class Fresh(Base):
        def __call__(self, raw, generator):
            return [raw, raw + str(random.Random().random())]

    class Wrong(Base):
        n_views = 3

    class Restless(Base):
        def __init__(self) -> None:
            self.calls = 0

        def __call__(self, raw, generator):
            self.calls += 1
            return [raw, raw + "x" * self.calls]

    class Unusable(Base):
        def __call__(self, raw, generator):
            return [raw, 3]

    @pytest.mark.parametrize(
        ("flawed", "message"),
        [
            (GlobalRandom, "moved a global random generator"),
            (Fresh, "other views for an equal generator"),
            (Wrong, "has 2 views; n_views says 3"),
            (Restless, "other views for an equal generator"),
            (Unusable, "is no usable input itself"),
        ],
    )
    def test_catches(self, flawed: type, message: str) -> None:
        check_views(self.Base(), TRAIN)
        with pytest.raises(ViewError, match=message):
            check_views(flawed(), TRAIN, encoder=encoder_of("bert"))

    def test_catches_a_changed_input(self) -> None:
        class InPlace:
            n_views = 1

            def __call__(self, raw, generator):
                raw += 1
                return [raw.copy()]

        with pytest.raises(ViewError, match="changed input 0 in place"):
            check_views(InPlace(), [np.zeros(3)])


SENTENCES = [
    *TRAIN,
    *AWKWARD,
    "What are my card's delivery dates?",
    "I don't know ... (really) [why] {this} <fails>, do you; or: not!?",
    "Prices: 50% off, 3.5 EUR, $12",
    "'Quoted', \"doubly\" `so`",
    "The quick brown fox jumps over the lazy dog and runs away from the big bad wolf today.",
    " ".join(f"word{i}" for i in range(150)),
    "snake_case and kebab-case",
    "A b",
    "Hello, World",
]


@pytest.fixture(scope="module")
def augmenter():
    word = pytest.importorskip("nlpaug.augmenter.word", reason="nlpaug is not installed")
    return word.RandomWordAug(action="delete", aug_p=0.1)


def test_published_deletion_equals_nlpaug_under_equal_seeds(augmenter) -> None:
    ours = PublishedDeletion()
    compared = 0
    for text in SENTENCES:
        if not text.strip():
            continue
        for seed in range(25):
            state = random.getstate()
            random.seed(seed)
            expected = augmenter.augment(text)[0]
            random.setstate(state)
            assert ours.delete(text, random.Random(seed)) == expected, (text, seed)
            compared += 1
    assert compared > 600


def test_published_deletion_has_nlpaugs_distribution(augmenter) -> None:
    text = "The quick brown fox, jumps over one lazy dog"
    n_draws = 1500
    state = random.getstate()
    random.seed(3)
    theirs = collections.Counter(augmenter.augment(text)[0] for _ in range(n_draws))
    random.setstate(state)
    generator = random.Random(4)
    ours = collections.Counter(PublishedDeletion().delete(text, generator) for _ in range(n_draws))
    assert set(ours) == set(theirs)
    chi2 = sum((ours[v] - theirs[v]) ** 2 / (ours[v] + theirs[v]) for v in ours)
    degrees = len(ours) - 1
    assert chi2 < degrees + 5 * math.sqrt(2 * degrees)


def test_registered_views_are_used_by_name_end_to_end() -> None:
    import dataclasses

    from tests.tiny import SIMCLR

    def factory(n_views: int, probability: float = 0.5) -> PublishedDeletion:
        return PublishedDeletion(n_views, probability)

    register_views("halved", factory)
    try:
        register_views("halved", factory)
        with pytest.raises(ConfigError, match="'halved' is taken"):
            register_views("halved", lambda n_views: None)
        spec = dataclasses.replace(SIMCLR, views="halved")
        one = extractor_of(objectives=(spec,)).fit(TRAIN)(TEXTS)
        two = extractor_of(objectives=(spec,)).fit(TRAIN)(TEXTS[::-1])
        np.testing.assert_allclose(one.array, two.array[::-1], atol=1e-6)
    finally:
        REGISTERED_VIEWS.pop("halved")
    with pytest.raises(ConfigError, match="must be an identifier; got 'auto'"):
        register_views("auto", factory)
