"""A special token that a text spells is read as the token, and is one word for a view."""

from __future__ import annotations

import random
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fungi_hf import FungiConfig, FungiExtractor, SimCLR
from fungi_hf.testing import tiny_text_model
from fungi_hf.views.text import WordDeletion, word_spans

FAMILIES = ["bert", "roberta", "t5", "mpnet", "modernbert", "deberta-v2"]


def special_of(tokenizer) -> str:
    return tokenizer.sep_token or tokenizer.eos_token


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_read_as_transformers_reads_it(family):
    model, tokenizer = tiny_text_model(family)
    extractor = FungiExtractor.from_pretrained(model, FungiConfig(dtype="float64"), tokenizer)
    token = special_of(tokenizer)
    text = f"my card {token} was lost"
    (item,) = extractor.encoder.prepare([text])
    assert item.data.tolist() == tokenizer(text)["input_ids"]
    assert tokenizer.convert_tokens_to_ids(token) in item.data.tolist()[1:-1]
    with pytest.warns(UserWarning, match="1 of the texts spell a special token"):
        extractor([text, "my card was lost", "lost"])


@pytest.mark.parametrize("family", FAMILIES)
def test_plain_texts_and_unknown_words_are_not_counted(family):
    model, tokenizer = tiny_text_model(family)
    extractor = FungiExtractor.from_pretrained(model, FungiConfig(dtype="float64"), tokenizer)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*special token")
        warnings.filterwarnings("ignore", message=".*does not know")
        extractor(["my card was lost", "[SE P] < s >", "(sep)", "漢字", ""][:4])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_view_deletes_it_whole_or_not_at_all(family):
    _, tokenizer = tiny_text_model(family)
    token = special_of(tokenizer)
    text = f"my card {token} was lost{token}now please"
    spans = word_spans(text, tokenizer)
    assert [text[start:end] for start, end in spans].count(token) == 2
    deletion = WordDeletion(400, 0.3, spans=lambda raw: word_spans(raw, tokenizer))
    counts = {view.count(token) for view in deletion(text, random.Random(0))}
    assert counts == {0, 1, 2}
    for view in deletion(text, random.Random(1)):
        assert not set(view.replace(token, "")) & set("[]<>/")


@pytest.mark.parametrize("family", ["bert", "roberta", "t5"])
@settings(max_examples=30, deadline=None)
@given(
    words=st.lists(
        st.sampled_from(["my", "card", "lost", "TOKEN", "paid?"]), min_size=2, max_size=9
    )
)
def test_late_views_drop_the_words_that_whole_views_drop(family, words):
    """With every block late, a late view is the view of the text without these words."""
    model, tokenizer = tiny_text_model(family)
    text = " ".join(words).replace("TOKEN", special_of(tokenizer))
    rows = []
    n_blocks = 3
    for late in (None, n_blocks):
        simclr = SimCLR(n_views=3, latent_dim=8, n_negatives=2, late_views=late)
        config = FungiConfig(objectives=(simclr,), dtype="float64", pooling="mean")
        extractor = FungiExtractor.from_pretrained(model, config, tokenizer)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            extractor.fit(["my card", "lost card", "was it paid"])
            rows.append(extractor([text]).array)
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-9)
