"""What is asked of an encoder: a third party's class has it, inherits it, or is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fungi_hf import FungiConfig, FungiExtractor
from fungi_hf.encoders.base import Encoder, LateEncoder, require_encoder
from fungi_hf.errors import ConfigError, EncoderError, StateError
from fungi_hf.specs import KL, Activation, SimCLR
from fungi_hf.testing import check_encoder
from fungi_hf.tuning import TuningSearch
from fungi_hf.views import register_views
from fungi_hf.views.base import REGISTERED_VIEWS
from tests.encoders.own import Numbers
from tests.tiny import extractor_of

ROWS = np.random.default_rng(0).normal(size=(12, 3)).tolist()
CONFIG = FungiConfig(dtype="float64", objectives=(KL(), Activation()))


def test_a_subclass_with_the_abstract_members_works():
    encoder = Numbers()
    assert isinstance(encoder, Encoder)
    assert not isinstance(encoder, LateEncoder)
    check_encoder(encoder, ROWS)
    features = FungiExtractor(encoder, CONFIG).fit(ROWS)(ROWS)
    assert features.array.shape == (12, 8 + 8 + 8)
    assert encoder.state() == {}


def test_a_subclass_can_be_tuned():
    search = TuningSearch(objectives=(KL(latent_dim=8),))
    tuned = FungiExtractor(Numbers(), FungiConfig(dtype="float64")).tune(
        ROWS, [int(row[0] > 0) for row in ROWS], search=search
    )
    assert isinstance(tuned.encoder, Numbers)


class Structural:
    """All members of `Encoder`, without its name among the bases."""

    def __init__(self, inner: Encoder) -> None:
        for name in (*Encoder.__annotations__, *vars(Encoder)):
            if not name.startswith("_"):
                setattr(self, name, getattr(inner, name))


@pytest.mark.parametrize("name", ["NOTES", "fit", "modality", "sampling_rate", "state", "views"])
def test_an_encoder_that_lacks_a_member_is_refused(name):
    encoder = Structural(Numbers())
    found, expected = (FungiExtractor(e, CONFIG)(ROWS).array for e in (encoder, Numbers()))
    assert np.array_equal(found, expected)
    delattr(encoder, name)
    message = rf"Structural lacks {name}; subclass fungi_hf\.encoders\.base\.Encoder, which has"
    for refuse in (FungiExtractor, require_encoder, lambda one: check_encoder(one, ROWS)):
        with pytest.raises(EncoderError, match=message):
            refuse(encoder)


def test_an_attribute_that_was_never_set_is_missing():
    class Half(Numbers):
        def __init__(self):
            super().__init__()
            del self.width

    with pytest.raises(EncoderError, match="Half lacks width; subclass"):
        FungiExtractor(Half())


def test_the_defaults_do_what_they_say():
    encoder = Numbers()
    assert encoder.with_full_last_block() is encoder
    assert (encoder.tokenizer, encoder.processor, encoder.sampling_rate) == (None, None, None)
    assert not encoder.reads_first_token
    assert not encoder.uses_short_last_block
    assert encoder.describe("x" * 200) == f"'{'x' * 76}..."
    encoder.load_state({})
    with pytest.raises(
        StateError, match=r"Numbers learns nothing, but .* holds 'mean': it belongs"
    ):
        encoder.load_state({"mean": torch.zeros(1)})
    with pytest.raises(EncoderError, match=r"Numbers cannot be rebuilt with pooling='cls'"):
        encoder.rebuilt(FungiConfig(pooling="cls"))


def test_views_are_the_registered_ones():
    config = FungiConfig(
        dtype="float64", objectives=(SimCLR(n_views=3, n_negatives=4, views="shaken"),)
    )
    with pytest.raises(ConfigError, match="'shaken' are not offered by this encoder; register"):
        FungiExtractor(Numbers(), config)

    class Shaken:
        def __init__(self, n_views):
            self.n_views = n_views

        def __call__(self, raw, generator):
            return [[x + generator.gauss() for x in raw] for _ in range(self.n_views)]

    register_views("shaken", Shaken)
    try:
        assert FungiExtractor(Numbers(), config).fit(ROWS)(ROWS).block("simclr").any()
        with pytest.raises(ConfigError, match="unknown views 'auto'; choose one of 'shaken'"):
            FungiExtractor(Numbers(), config.replace(objectives=(SimCLR(),)))
    finally:
        REGISTERED_VIEWS.pop("shaken")


def test_a_rebuilt_text_encoder_keeps_what_its_folder_said():
    encoder = extractor_of().encoder
    other = encoder.rebuilt(FungiConfig(dtype="float64", pooling="cls"))
    assert (encoder.pooling, other.pooling) == ("mean", "cls")
    assert other.model is encoder.model
    assert other.tokenizer is encoder.tokenizer
    assert other.uses_short_last_block
    assert not other.with_full_last_block().uses_short_last_block
    assert other.uses_short_last_block  # it is a copy that lost the shortcut
