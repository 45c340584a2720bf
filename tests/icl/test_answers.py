"""Reading answers: all labels round-trip, and nothing doubtful is ever accepted."""

from __future__ import annotations

import itertools
import json

import pytest

from fungi_hf.errors import InputTypeError
from fungi_hf.icl import LabelSpace
from fungi_hf.icl.labels import bare, key

from .banking import names

SST = ["very negative", "negative", "neutral", "positive", "very positive"]

WRAPPINGS = [
    "{}",
    " {} ",
    "{}\n",
    "{}.",
    "{},",
    "{};",
    "{}!",
    '"{}"',
    "'{}'",
    "`{}`",
    "**{}**",
    "*{}*",
    "[{}]",
    "<{}>",
    "({})",
    "“{}”",
    "Label: {}",
    "label: {}",
    "Answer: {}",
    "ANSWER: {}.",
    "The intent is {}",
    "The label is: {}.",
    "**Label:** {}",
    "Label: **{}**",
    "```\n{}\n```",
    "```text\n{}\n```",
    '```json\n{{"label": "{}"}}\n```',
    '{{"label": "{}"}}',
    '{{"label":"{}","confidence":0.9}}',
    '  {{ "label" : "{}" }}  ',
    'Label: "{}".',
    "I would say {}",
    "This is about {}, clearly.",
    "Category: {}",
    "My answer is {}.",
    "- {}",
    "1. {}",
    "{}\n\nBecause the customer asks for it.",
    "Final answer: {}",
    "> {}",
    "{}<|im_end|>",
    'Sure! {{"label": "{}"}}',
    '{{"label": "{}"}} I hope this helps.',
    "→ {}",
]
SPELLINGS = [str, str.upper, lambda s: s.replace("_", " "), lambda s: s.replace("_", "-").title()]


@pytest.fixture(scope="module")
def banking() -> LabelSpace:
    return LabelSpace(names())


def test_every_name_in_every_spelling_and_wrapping_is_read(banking):
    for label, name in enumerate(names()):
        for spell, wrapping in itertools.product(SPELLINGS, WRAPPINGS):
            answer = banking.parse(wrapping.format(spell(name)))
            assert (answer.status, answer.label) == ("ok", label), wrapping.format(spell(name))


def test_every_name_survives_json(banking):
    for label, name in enumerate(names()):
        assert banking.parse(json.dumps({"label": name})).label == label
        assert banking.parse(json.dumps({"label": name}, indent=2)).label == label


REFUSED = [
    # empty
    (None, "empty"),
    ("", "empty"),
    ("   \n\t", "empty"),
    # off the list
    ("unknown", "invalid"),
    ("other", "invalid"),
    ("I cannot classify this.", "invalid"),
    ("I'm sorry, but I can't help with that.", "invalid"),
    ("N/A", "invalid"),
    ("12", "invalid"),
    ("card", "invalid"),
    ("card_arriva", "invalid"),
    ("card_arrivals", "invalid"),
    ("cardarrival", "invalid"),
    ("ard_arrival", "invalid"),
    ("my_card_arrival", "invalid"),
    ("card_arrival_time", "invalid"),
    ("card-arrival-time", "invalid"),
    ("card_arrival2", "invalid"),
    ("pre-card-arrival", "invalid"),
    ("physical_card_not_working", "invalid"),
    ("new_exchange_rate", "invalid"),
    ("card_", "invalid"),
    ("wrong_exchange_rate", "invalid"),
    ("kreditkarte", "invalid"),
    ("lost card", "invalid"),
    ("card_payment_fee_charge", "invalid"),
    ("activate_card", "invalid"),
    ("🤖", "invalid"),
    ("card arrive", "invalid"),
    ("label", "invalid"),
    ("Label:", "invalid"),
    ("The intent is", "invalid"),
    # denied
    ("not card_arrival", "invalid"),
    ("It is not card_arrival.", "invalid"),
    ("never card_arrival", "invalid"),
    ("This isn't card_arrival", "invalid"),
    ("This isn’t card_arrival", "invalid"),
    ("anything except card_arrival", "invalid"),
    ("cannot be card_arrival", "invalid"),
    ("neither this nor card_arrival", "invalid"),
    ("something else rather than card_arrival", "invalid"),
    ("a payment instead of card_arrival", "invalid"),
    ("card_arrival is wrong", "invalid"),
    ("non-card_arrival", "invalid"),
    ("anything but card_arrival", "invalid"),
    ("The intent is not card_arrival", "invalid"),
    ("Label: not card_arrival", "invalid"),
    ("it doesn't fit card_arrival", "invalid"),
    ("I can't say it is card_arrival", "invalid"),
    ("no, card_arrival does not fit", "invalid"),
    ("not virtual_card_not_working", "invalid"),
    ("unlikely to be card_arrival", "invalid"),
    ("**not** card_arrival", "invalid"),
    ("other than\ncard_arrival", "invalid"),
    ("NOT CARD_ARRIVAL", "invalid"),
    ("none, though card_arrival comes close", "invalid"),
    ("without card arrival", "invalid"),
    # several
    ("card_arrival or lost_or_stolen_card", "ambiguous"),
    ("card_arrival, card_linking", "ambiguous"),
    ("card_arrival\ncard_linking", "ambiguous"),
    ("not card_arrival but card_linking", "ambiguous"),
    ("exchange_rate / card_payment_wrong_exchange_rate", "ambiguous"),
    ('card_arrival\nText: "a"\nLabel: exchange_rate', "ambiguous"),
    ("\n".join(names()), "ambiguous"),
    (", ".join(names()[:2]), "ambiguous"),
    ('["card_arrival", "exchange_rate"]', "ambiguous"),
    # JSON that states its label badly
    ('{"label": null}', "invalid"),
    ('{"label": ["card_arrival"]}', "invalid"),
    ('{"label": 11}', "invalid"),
    ('{"label": ""}', "invalid"),
    ('{"label": "unknown", "reason": "not card_arrival"}', "invalid"),
    ('{"label": "unknown", "guess": "card_arrival"}', "invalid"),
    ('{"label": "card_arrival", "label": "exchange_rate"}', "invalid"),
    ('{"label": {"name": "card_arrival"}}', "invalid"),
    ('{"label": true}', "invalid"),
    ('{"label": "card_arrival or exchange_rate"}', "ambiguous"),
    ('```json\n{"label": null, "text": "card_arrival"}\n```', "invalid"),
    ('{"label": "not card_arrival"}', "invalid"),
    ("{}", "invalid"),
    ("[]", "invalid"),
    ('""', "invalid"),
    ('Here you are: {"label": "unknown", "reason": "close to card_arrival"}', "invalid"),
    ('{"label": "unknown"}\n{"label": "card_arrival"}', "invalid"),
    ('{"label": "card_arrival"}\n{"label": "exchange_rate"}', "ambiguous"),
    ('Not {"label": "card_arrival"}', "invalid"),
    ("rather\nthan card_arrival", "invalid"),
    ("card_arrival? I doubt it.", "invalid"),
    ("nothing to do with card_arrival", "invalid"),
    ("everything but card_arrival", "invalid"),
    ("I ruled out card_arrival", "invalid"),
    ("the opposite of card_arrival", "invalid"),
    ("card_arrival is incorrect", "invalid"),
    ("{" * 3000, "invalid"),
    ("[" * 200_000, "invalid"),
]


@pytest.mark.parametrize(("answer", "status"), REFUSED, ids=lambda value: repr(value)[:40])
def test_doubtful_answers_are_not_accepted(answer, status, banking):
    parsed = banking.parse(answer)
    assert (parsed.status, parsed.label) == (status, None)
    assert parsed.reason


def test_the_battery_is_large_enough():
    assert len({answer for answer, _ in REFUSED}) >= 60


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        ("card_payment_wrong_exchange_rate", "card_payment_wrong_exchange_rate"),
        ("I think card payment wrong exchange rate", "card_payment_wrong_exchange_rate"),
        ("it is virtual_card_not_working", "virtual_card_not_working"),
        ("the card not working one: card_not_working", "card_not_working"),
        ("so: wrong exchange rate for cash withdrawal.", "wrong_exchange_rate_for_cash_withdrawal"),
        ("refund not showing up", "Refund_not_showing_up"),
        ("reverted_card_payment", "reverted_card_payment?"),
        ("It may be reverted card payment", "reverted_card_payment?"),
        ("card_arrival card_arrival card_arrival", "card_arrival"),
        ("ｃａｒｄ＿ａｒｒｉｖａｌ", "card_arrival"),
        ("card_arrival (the card has yet to come)", "card_arrival"),
    ],
)
def test_traps_of_contained_and_odd_names(answer, name, banking):
    assert banking.parse(answer) == banking.parse(name)
    assert banking.names[banking.parse(answer).label] == name


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("very negative", 0),
        ("Negative.", 1),
        ("The sentiment: very positive!", 4),
        ("neutral", 2),
        ("not positive", None),
        ("non-negative", None),
        ("positively", None),
        ("positive or negative", None),
        ("very-positive", 4),
        ("VERY_NEGATIVE", 0),
        ("neither positive nor negative", None),
        ("rather positive than neutral", None),
        ("positive, very positive", None),
        ("It's positive", 3),
    ],
)
def test_sentiments(answer, label):
    assert LabelSpace(SST).parse(answer).label == label


def test_overlapping_labels_that_contain_neither_are_ambiguous():
    space = LabelSpace(["red car", "car wash", "bus"])
    assert space.parse("the red car wash").status == "ambiguous"
    assert space.parse("the red car").label == 0


def test_labels_of_symbols_and_digits_are_read():
    space = LabelSpace(["c++", "c#", "c", "1"])
    assert [space.parse(word).label for word in ("c++", "C#", "c", "1")] == [0, 1, 2, 3]
    assert space.parse("it is c++").label == 0
    assert space.parse("it is c#").label == 1
    assert space.parse("it is c").label == 2


def test_answers_of_other_types_are_refused(banking):
    with pytest.raises(InputTypeError, match="answer is int"):
        banking.parse(3)


def test_keys():
    assert key("  Card_-  Arrival\n") == "card arrival"
    assert bare("Reverted_card_payment?!") == "reverted card payment"
    assert bare("?!") == ""
