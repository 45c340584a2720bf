"""FungiConfig: JSON and back for every field, names of what is wrong, a fingerprint that stays."""

from __future__ import annotations

import dataclasses
import json
import re
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fungi_hf import KL, PCA, Activation, FungiConfig, SimCLR
from fungi_hf.config import CONFIG_VERSION
from fungi_hf.errors import ConfigError, FungiError
from fungi_hf.specs import parse_objective

OTHER_VALUES = {
    "objectives": (KL(temperature=2, weight=0.5), SimCLR(view_options={"a": 0.2}),
                   Activation(weight=3, name="x")),
    "embedding_weight": 0.5,
    "target_layer": "encoder.layer.1.output.dense",
    "pooling": "cls",
    "gradient_tokens": "first",
    "sketch": "rademacher",
    "sketch_dim": 77,
    "sketch_rank": 3,
    "published_signs": True,
    "round_sketch": True,
    "center": True,
    "whitening": 0.5,
    "discriminant": 3.0,
    "reduction": PCA(n_components=9, normalize=False),
    "max_length": 33,
    "prompts": {"query": "query: ", "document": ""},
    "default_prompt_name": "query",
    "image_size": (384, 512),
    "modality": "vision",
    "audio_statistics": "fit",
    "audio_frontend": "torchaudio",
    "audio_context": "full",
    "dense": True,  # of objectives that give a vector for every part
    "dtype": "bfloat16",
    "seed": 7,
}  # fmt: skip


def test_every_field_is_listed_here() -> None:
    fields = {field.name for field in dataclasses.fields(FungiConfig)}
    assert fields == set(OTHER_VALUES) | {"version"}


@pytest.mark.parametrize("field", OTHER_VALUES)
def test_every_field_survives_json_and_changes_the_fingerprint(field: str) -> None:
    changes = {field: OTHER_VALUES[field]}
    if field == "dense":
        changes["objectives"] = ()
    if field == "published_signs":
        changes["sketch"] = "rademacher"
    if field == "discriminant":
        changes["whitening"] = 0.5
    if field == "default_prompt_name":
        changes["prompts"] = OTHER_VALUES["prompts"]
    config = FungiConfig(**changes)
    again = FungiConfig.from_json(config.to_json())
    assert again == config
    assert again.fingerprint() == config.fingerprint() != FungiConfig().fingerprint()
    assert hash(again) == hash(config)
    data = json.loads(config.to_json())
    assert set(data) == {f.name for f in dataclasses.fields(FungiConfig)}
    assert FungiConfig().replace(**changes) == config


def test_all_at_once() -> None:
    config = FungiConfig(**OTHER_VALUES | {"dense": False})
    assert FungiConfig.from_dict(json.loads(config.to_json())) == config


@settings(max_examples=60, deadline=None)
@given(
    temperature=st.floats(1e-3, 1e3), weight=st.floats(1e-6, 1e6), latent=st.integers(1, 10_000),
    t2=st.none() | st.floats(1e-3, 10), views=st.integers(2, 99), seed=st.integers(0, 2**40),
)  # fmt: skip
def test_numbers_survive_json_exactly(temperature, weight, latent, t2, views, seed) -> None:
    config = FungiConfig(
        objectives=(
            KL(temperature=temperature, latent_dim=latent),
            SimCLR(weight=weight, logsumexp_temperature=t2, n_views=views),
        ),
        seed=seed,
    )
    assert FungiConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("config", "fingerprint"),
    [
        (FungiConfig(), "d9249c6c826944a1"),
        (FungiConfig.paper("text"), "f66df10e0763eb68"),
        (FungiConfig.paper("audio"), "7687404619dbf490"),
        (FungiConfig(objectives=("kl", "simclr", "activation"), center=True), "1932e1befef3ea1e"),
    ],
)
def test_golden_fingerprints(config: FungiConfig, fingerprint: str) -> None:
    """These name features that users have stored: a change here invalidates them all.

    An extractor's is frozen in tests/extractor/test_saved_before.py.
    """
    assert config.fingerprint() == fingerprint


def test_shorthand_is_normalised() -> None:
    assert FungiConfig(objectives=("kl",)).objectives == (KL(),)
    assert FungiConfig(objectives=["kl", "simclr", "activation"]).objectives == (
        KL(), SimCLR(), Activation(),
    )  # fmt: skip
    assert FungiConfig(reduction=5).reduction == PCA(n_components=5)
    assert KL(temperature=15).temperature == 15.0
    assert isinstance(KL(temperature=15).temperature, float)
    assert parse_objective({"kind": "kl", "temperature": 3}) == KL(temperature=3.0)


def test_paper_text_has_the_published_numbers() -> None:
    config = FungiConfig.paper("text")
    kl, simclr = config.objectives
    assert (kl.temperature, kl.latent_dim, kl.n_views) == (15, 768, 1)
    assert (simclr.temperature, simclr.logsumexp_temperature) == (0.07, 1.0)
    assert (simclr.latent_dim, simclr.n_views) == (256, 12)
    assert (simclr.n_negatives, simclr.negative_views) == (256, 2)
    assert simclr.views == "nlpaug_deletion"
    assert (config.sketch, config.published_signs, config.seed) == ("rademacher", True, 42)
    assert (config.pooling, config.sketch_dim) == ("first", None)
    assert config.reduction == PCA(n_components=512, normalize=False)
    with pytest.raises(ConfigError, match="preset for 'txet'; choose one of 'text'"):
        FungiConfig.paper("txet")


def test_needs_fit() -> None:
    assert not FungiConfig().needs_fit
    assert FungiConfig(objectives=("simclr",)).needs_fit
    assert FungiConfig(center=True).needs_fit
    assert FungiConfig(whitening=0.5).needs_fit
    assert FungiConfig(reduction=3).needs_fit


def test_is_frozen() -> None:
    config = FungiConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.objectives[0].temperature = 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objectives": "kl"}, "objectives must be a tuple of names or specs; got 'kl'"),
        ({"objectives": None}, "objectives must be a tuple"),
        ({"objectives": ("lk",)}, "unknown objective 'lk'; choose one of"),
        ({"objectives": (3,)}, "KL, SimCLR, Activation, Custom; got 3"),
        ({"objectives": ("kl", "kl")}, "names must be unique and not 'embedding'"),
        ({"objectives": (KL(name="embedding"),)}, "not 'embedding'"),
        ({"objectives": (), "embedding_weight": 0}, "nothing to extract"),
        ({"embedding_weight": -1}, "embedding_weight must be a number from 0 to 1e+09; got -1"),
        ({"embedding_weight": float("nan")},
         "embedding_weight must be a number from 0 to 1e+09; got nan"),
        ({"embedding_weight": 1e300},
         "embedding_weight must be a number from 0 to 1e+09; got 1e+300"),
        ({"embedding_weight": True}, "embedding_weight must be a number from 0 to 1e+09; got True"),
        ({"target_layer": ""}, "target_layer must be 'auto' or a dotted path; got ''"),
        ({"target_layer": 3}, "target_layer must be 'auto' or a dotted path; got 3"),
        ({"pooling": "men"}, "pooling is 'men'; choose one of 'mean', 'auto', 'cls'"),
        ({"gradient_tokens": "some"}, "gradient_tokens is 'some'; choose one of"),
        ({"sketch": "khatri-rao"}, "sketch is 'khatri-rao'; choose one of 'khatri_rao'"),
        ({"sketch": ["x"]}, "sketch is ['x']; choose one of"),
        ({"sketch_dim": 0}, "sketch_dim must be None or an integer >= 1; got 0"),
        ({"sketch_dim": 3.0}, "sketch_dim must be None or an integer >= 1; got 3.0"),
        ({"sketch_rank": 0}, "sketch_rank must be None or an integer >= 1; got 0"),
        ({"published_signs": 1}, "published_signs must be True or False; got 1"),
        ({"published_signs": True}, "published_signs needs sketch='rademacher'"),
        ({"center": "yes"}, "center must be True or False; got 'yes'"),
        ({"reduction": "pca"}, "reduction must be None, an integer or PCA(...); got 'pca'"),
        ({"reduction": 0}, "PCA.n_components must be an integer >= 1; got 0"),
        ({"reduction": True}, "reduction must be None, an integer or PCA(...); got True"),
        ({"sketch": "none", "center": True}, "exact factors, which cannot be centred"),
        ({"sketch": "none", "whitening": 1}, "exact factors, which cannot be centred, whitened"),
        ({"whitening": 1.5}, "whitening must be a number from 0 to 1; got 1.5"),
        ({"whitening": True}, "whitening must be a number from 0 to 1; got True"),
        ({"sketch": "none", "reduction": 3}, "exact factors, which cannot be centred"),
        ({"max_length": -3}, "max_length must be None or an integer >= 1; got -3"),
        ({"dtype": "float16"}, "dtype is 'float16'; choose one of"),
        ({"seed": 1.5}, "seed must be an integer of 64 bits; got 1.5"),
        ({"seed": True}, "seed must be an integer"),
        ({"seed": 2**64}, "seed must be an integer"),
    ],
)  # fmt: skip
def test_wrong_values_are_named(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        FungiConfig(**changes)
    assert isinstance(caught.value, (FungiError, ValueError))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KL(temperature=0), "KL.temperature must be a number > 0 and < 1e+09; got 0"),
        (lambda: KL(temperature=float("nan")),
         "KL.temperature must be a number > 0 and < 1e+09; got nan"),
        (lambda: KL(temperature="hot"),
         "KL.temperature must be a number > 0 and < 1e+09; got 'hot'"),
        (lambda: KL(latent_dim=0), "KL.latent_dim must be an integer >= 1; got 0"),
        (lambda: KL(n_views=2), "n_views must be 1; got 2"),
        (lambda: KL(weight=0), "KL.weight must be a number > 0 and < 1e+09; got 0"),
        (lambda: KL(name="a b"), "must be letters, digits and underscores; got 'a b'"),
        (lambda: KL(name=3), "must be letters, digits and underscores; got 3"),
        (lambda: SimCLR(n_views=1), "n_views must be >= 2; got 1"),
        (lambda: SimCLR(logsumexp_temperature=0),
         "SimCLR.logsumexp_temperature must be None or a number > 0 and < 1e+09; got 0"),
        (lambda: SimCLR(n_negatives=0), "SimCLR.n_negatives must be an integer >= 1; got 0"),
        (lambda: SimCLR(negative_views=0), "SimCLR.negative_views must be an integer >= 1; got 0"),
        (lambda: SimCLR(views=3), "views must be the name of a view generator or 'auto'; got 3"),
        (lambda: SimCLR(view_options=3), "SimCLR.view_options must be a dict"),
        (lambda: SimCLR(view_options={"a": object}), "must be a dict of JSON values"),
        (lambda: SimCLR(view_options={3: 4}), "must be a dict of JSON values"),
        (lambda: Activation(n_views=3),
         "activation uses the untouched input: n_views must be 1; got 3"),
        (lambda: PCA(normalize=1), "PCA.normalize must be True or False; got 1"),
    ],
)  # fmt: skip
def test_wrong_values_of_specs_are_named(make, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        make()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "the config is not JSON"),
        ("[1]", "a config must be a JSON object; got list"),
        ('{"objetives": []}', "FungiConfig has no field 'objetives'; choose one of 'objectives'"),
        ('{"objectives": [{"kind": "kl", "temprature": 3}]}',
         "objective 'kl' has no field 'temprature'; choose one of 'temperature'"),
        ('{"objectives": [{"kind": "lk"}]}', "objective kind is 'lk'; choose one of"),
        ('{"objectives": [{"kind": []}]}', "objective kind is []; choose one of"),
        ('{"objectives": [{"temperature": 3}]}', "objective kind is None; choose one of"),
        ('{"objectives": [{"kind": "custom"}]}',
         "objective 'custom' needs the field 'objective'; got"),
        ('{"reduction": {"n": 3}}', "PCA has no field 'n'; choose one of 'n_components'"),
        ('{"version": 0}', "version must be an integer >= 1; got 0"),
        ('{"version": "1"}', "version must be an integer >= 1; got '1'"),
        ('{"seed": "7"}', "seed must be an integer of 64 bits; got '7'"),
    ],
)  # fmt: skip
def test_wrong_json_is_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        FungiConfig.from_json(text)


def test_unknown_fields_in_replace() -> None:
    with pytest.raises(ConfigError, match="FungiConfig has no field 'sed'; choose one of 'seed'"):
        FungiConfig().replace(sed=3)


def test_a_newer_version_warns_and_an_older_does_not() -> None:
    data = FungiConfig().to_dict()
    with pytest.warns(UserWarning, match=f"version {CONFIG_VERSION + 1}, the package knows"):
        FungiConfig.from_dict({**data, "version": CONFIG_VERSION + 1})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert FungiConfig.from_dict(data) == FungiConfig()


def test_missing_fields_take_their_defaults() -> None:
    assert FungiConfig.from_json("{}") == FungiConfig()
