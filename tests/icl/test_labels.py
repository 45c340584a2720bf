"""A label space refuses what a parser could confuse, and knows its ids."""

from __future__ import annotations

import numpy as np
import pytest

from fungi_hf.errors import InputTypeError, LabelError
from fungi_hf.icl import LabelSpace


def test_ids_names_and_surfaces():
    space = LabelSpace(
        ["card_arrival", "exchange_rate"], verbalizers=lambda name: name.replace("_", " ")
    )
    assert space.surfaces == ("card arrival", "exchange rate")
    assert space.id_of("exchange_rate") == space.id_of(1) == 1
    assert space.surfaces_of([0, "exchange_rate"]) == ["card arrival", "exchange rate"]
    assert space.ids_of([1, "card_arrival", np.int64(0), True]).tolist() == [1, 0, 0, 1]
    assert len(space) == 2
    assert "2 labels" in repr(space)


def test_verbalizers_may_be_a_mapping_or_a_list():
    assert LabelSpace(["pos", "neg"], {"pos": "great"}).surfaces == ("great", "neg")
    assert LabelSpace(["pos", "neg"], ["great", "awful"]).parse("Great!").label == 0
    with pytest.raises(LabelError, match="unknown labels: 'posi'"):
        LabelSpace(["pos", "neg"], {"posi": "great"})
    with pytest.raises(LabelError, match="1 verbalizers for 2 names"):
        LabelSpace(["pos", "neg"], ["great"])
    with pytest.raises(InputTypeError, match="verbalizers is one string"):
        LabelSpace(["pos", "neg"], "great")
    with pytest.raises(InputTypeError, match="verbalizer of 'neg' is int"):
        LabelSpace(["pos", "neg"], {"neg": 3})


def test_digest_tells_names_and_surfaces_apart():
    digests = {
        LabelSpace(["a", "b"]).digest,
        LabelSpace(["b", "a"]).digest,
        LabelSpace(["a", "b"], {"a": "c"}).digest,
        LabelSpace(["a", "b", "c"]).digest,
    }
    assert len(digests) == 4
    assert LabelSpace(["a", "b"]).digest == LabelSpace(("a", "b")).digest


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["card_arrival", "Card Arrival"], "'card_arrival' and 'Card Arrival'"),
        (["yes", "yes!"], "'yes' and 'yes!'"),
        (
            ["top-up", "top up", "TOP_UP"],
            "'top-up' and 'top up'; 'top-up' and 'TOP_UP'; 'top up' and",
        ),
        (["straße", "STRASSE"], "'straße' and 'STRASSE'"),
        (["a", "a"], "names repeat: 'a'"),
        (["a"], "at least 2 labels, got 1"),
        ([], "at least 2 labels, got 0"),
        (["a", ""], "the surface of '' is ''"),
        (["a", "  "], "empty but for punctuation"),
        (["a", "?!"], "empty but for punctuation"),
        (["a", "b\nc"], "spans several lines"),
    ],
)
def test_confusable_labels_are_refused(names, message):
    with pytest.raises(LabelError, match=message.replace("?", r"\?")):
        LabelSpace(names)


def test_labels_are_texts_in_a_list():
    with pytest.raises(InputTypeError, match="names is one string, pass a list"):
        LabelSpace("positive")
    with pytest.raises(InputTypeError, match=r"names\[1\] is int"):
        LabelSpace(["a", 1])
    with pytest.raises(InputTypeError, match="names is int"):
        LabelSpace(3)


def test_labels_outside_the_space_are_named_with_the_range():
    space = LabelSpace(["a", "b", "c"])
    with pytest.raises(LabelError, match=r"label id 3 is outside 0\.\.2"):
        space.id_of(3)
    with pytest.raises(LabelError, match=r"label id -1 is outside 0\.\.2 \(row 1\)"):
        space.ids_of([0, -1])
    with pytest.raises(LabelError, match=r"label 'd' is not among the 3 names \(row 0\)"):
        space.ids_of(["d"])
    with pytest.raises(LabelError, match=r"label id 0\.5 is outside"):
        space.id_of(0.5)


def test_an_empty_name_is_legal_with_a_surface():
    space = LabelSpace(["", "x"], {"": "nothing"})
    assert space.id_of("") == 0
    assert space.parse("nothing").label == 0
