"""Words, labels and denials in scripts and languages other than English."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fungi_hf.icl import DemoSelector, Examples
from fungi_hf.icl.labels import LabelSpace
from fungi_hf.icl.rankings import words

POOLS = {
    "russian": (["моя карта потеряна", "как оплатить счёт", "курс валюты"], "Где моя КАРТА?"),
    "accented": (["carte perdue à l'étranger", "payer la facture", "taux d'échange"],
                 "perdue à l’ÉTRANGER"),
    "chinese": (["我的卡丢了", "怎么付款", "汇率是多少"], "卡丢了怎么办"),
    "japanese": (["カードを失くしました", "支払い方法", "為替レート"], "カードがない"),
    "thai": (["บัตรของฉันหาย", "ชำระเงินอย่างไร", "อัตราแลกเปลี่ยน"], "บัตรหาย"),
    "hindi": (["मेरा कार्ड खो गया", "भुगतान कैसे करें", "विनिमय दर"], "कार्ड कहाँ है"),
    "arabic": (["ضاعت بطاقتي", "كيف أدفع", "سعر الصرف"], "أين بطاقتي"),
    "korean": (["카드를 잃어버렸어요", "결제 방법", "환율"], "카드를 찾아요"),
}  # fmt: skip


@pytest.mark.parametrize("script", POOLS)
def test_the_text_with_the_query_s_words_ranks_first(script):
    texts, query = POOLS[script]
    selector = DemoSelector("bm25", 3, order="nearest_first").fit(Examples(contents=texts))
    for form in ("NFC", "NFD"):
        found = selector.select(Examples(contents=[unicodedata.normalize(form, query)]))
        assert found.indices[0, 0] == 0
        assert found.scores[0, 0] > 0


def test_words_are_the_old_ones_in_ascii_and_whole_ones_elsewhere():
    assert words("My card's LOST, ok_2!") == ["my", "card", "s", "lost", "ok", "2"]
    assert words("Straße naïve ÉTÉ") == ["strasse", "naïve", "été"]
    assert words("卡丢了 ok") == ["卡丢", "丢了", "ok"]
    assert words("卡") == ["卡"]
    assert words("कार्ड") == ["कार्ड"]


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_any_text_has_words_and_forms_do_not_matter(text):
    found = words(text)
    assert all(found)
    assert words(unicodedata.normalize("NFD", text)) == words(unicodedata.normalize("NFC", text))


DENIED = [
    ("positiv", "negativ", "nicht positiv"),
    ("positiv", "negativ", "Das ist keinesfalls nicht positiv"),
    ("positif", "négatif", "ce n'est pas positif"),
    ("positivo", "negativo", "no es positivo"),
    ("positivo", "negativo", "nunca positivo"),
    ("positivo", "negativo", "non è positivo"),
    ("positivo", "negativo", "não é positivo"),
    ("positief", "negatief", "niet positief"),
    ("положительный", "отрицательный", "не положительный"),
    ("pozytywny", "negatywny", "nie pozytywny"),
    ("olumlu", "olumsuz", "olumlu değil"),
    ("正面", "负面", "不是正面"),
    ("正面", "负面", "这条评论没有正面的意思"),
    ("肯定的", "否定的", "肯定的ではない"),
    ("긍정", "부정", "긍정이 아니다"),
    ("เชิงบวก", "เชิงลบ", "ไม่ใช่เชิงบวก"),
    ("إيجابي", "سلبي", "ليس إيجابي"),
    ("सकारात्मक", "नकारात्मक", "सकारात्मक नहीं"),
]


@pytest.mark.parametrize(("yes", "no", "answer"), DENIED, ids=[row[2] for row in DENIED])
def test_a_denied_label_is_no_answer(yes, no, answer):
    parsed = LabelSpace([yes, no]).parse(answer)
    assert (parsed.status, parsed.label) == ("invalid", None)


SAID = [
    ("正面", "负面", "这条评论是正面的。"),
    ("正面", "负面", "答案：正面"),
    ("正面", "负面", "非常正面"),
    ("positive", "negative", "答案是positive。"),
    ("肯定的", "否定的", "これは肯定的です"),
    ("เชิงบวก", "เชิงลบ", "ข้อความนี้เป็นเชิงบวก"),
    ("긍정", "부정", "긍정입니다"),
    ("positiv", "negativ", "Das ist positiv."),
    ("положительный", "отрицательный", "Ответ: положительный"),
]


@pytest.mark.parametrize(("yes", "no", "answer"), SAID, ids=[row[2] for row in SAID])
def test_a_label_within_a_sentence_is_found(yes, no, answer):
    parsed = LabelSpace([yes, no]).parse(answer)
    assert (parsed.status, parsed.label) == ("ok", 0)


def test_words_of_spaced_scripts_keep_their_borders():
    space = LabelSpace(["art", "party"])
    assert space.parse("startle").status == "invalid"
    assert space.parse("une partie d'artiste").status == "invalid"
    both = LabelSpace(["正面", "负面"]).parse("正面还是负面")
    assert both.status == "ambiguous"
    assert both.label is None
