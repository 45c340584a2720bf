"""An objective with options of its own, as the package's own are written: a spec and a class.

No other file of the package is told of it: configs, extractors, cards, `tune` and saved folders
know it by its kind.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pytest
import torch

import fungi_hf
from fungi_hf import FungiConfig, FungiExtractor
from fungi_hf.checks import check_fields, check_integer
from fungi_hf.errors import ConfigError, ObjectiveError
from fungi_hf.objectives import make_objective
from fungi_hf.objectives.base import Head, check_views
from fungi_hf.specs import OBJECTIVE_SPECS, ObjectiveSpec, ViewsSpec
from fungi_hf.testing import check_objective, tiny_text_model
from fungi_hf.tuning import TuningSearch
from tests.tiny import TEXTS, TRAIN

if TYPE_CHECKING:
    from torch import Tensor


# The spec: in the package it stands in fungi_hf/specs/objectives.py.
@dataclass(frozen=True, kw_only=True)
class Pull(ViewsSpec, kind="pull", home=f"{__name__}:PullObjective"):
    """How far views are from a centre of training inputs."""

    passed: ClassVar[tuple[str, ...]] = ("n_views", "latent_dim", "power")
    words: ClassVar[str] = "distance of {n_views} views from the centre of {n_centre} inputs"
    n_views: int = 3
    latent_dim: int = 6
    power: float = 2.0
    n_centre: int = 5

    def check(self) -> None:
        super().check()
        check_fields(self, ("latent_dim", "n_centre"), check_integer)

    @property
    def n_training(self) -> int:
        return self.n_centre

    @property
    def training_views(self) -> int:
        return 2


# The objective: in the package, a file of fungi_hf/objectives/.
class PullObjective:
    n_fitted = ()

    def __init__(
        self, *, width: int, seed: int, name: str, n_views: int, latent_dim: int, power: float
    ) -> None:
        self.n_views, self.name, self.power = n_views, name, power
        self.head = Head(width, latent_dim, seed=seed, name=name)
        self.centre: Tensor | None = None

    def fit(self, embeddings: Tensor) -> None:
        PullObjective.n_fitted = tuple(embeddings.shape[:2])
        self.centre = self.head(embeddings.double()).mean((0, 1))

    def loss(self, embeddings: Tensor) -> Tensor:
        check_views(embeddings, self.n_views, self.name)
        away = self.head(embeddings) - self.centre.to(embeddings)
        return (away.square().sum(-1) ** (self.power / 2)).mean(-1)

    def state(self) -> dict[str, Tensor]:
        return {} if self.centre is None else {"centre": self.centre}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.centre = state.get("centre")

    def digest(self) -> str:
        return self.head.digest()


del OBJECTIVE_SPECS["pull"]  # other tests list what there is


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OBJECTIVE_SPECS, "pull", Pull)


def test_it_is_a_config_by_name_by_object_and_in_json() -> None:
    config = FungiConfig(objectives=("pull",))
    assert config.objectives == (Pull(),)
    assert config.needs_fit
    changed = FungiConfig(objectives=("kl", Pull(power=1.5, views="word_deletion", weight=2)))
    assert FungiConfig.from_json(changed.to_json()) == changed
    assert json.loads(changed.to_json())["objectives"][1]["power"] == 1.5
    assert changed.fingerprint() != changed.replace(objectives=("kl", "pull")).fingerprint()
    for wrong, message in (
        (
            {"kind": "pull", "pwer": 2},
            "objective 'pull' has no field 'pwer'; choose one of 'power'",
        ),
        ({"kind": "pull", "n_centre": 0}, "Pull.n_centre must be an integer >= 1; got 0"),
        ("pul", "unknown objective 'pul'; choose one of 'pull'"),
        (3, "one of .*KL, SimCLR, Activation, Custom, Pull; got 3"),
    ):
        with pytest.raises(ConfigError, match=message):
            FungiConfig(objectives=(wrong,))


def test_extractor_card_save_and_load(tmp_path) -> None:
    model, tokenizer = tiny_text_model("bert", dtype=torch.float32)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    config = FungiConfig(objectives=("kl", Pull(power=1.5)), center=True)
    extractor = FungiExtractor.from_pretrained(tmp_path / "model", config)
    assert not extractor.is_fitted
    features = extractor.fit(TRAIN)(TEXTS)
    assert PullObjective.n_fitted == (5, 2)
    assert list(features.layout) == ["embedding", "kl", "pull"]
    assert "- **pull**: distance of 3 views from the centre of 5 inputs, weight 1" in (
        extractor.make_card()
    )
    extractor.save_pretrained(tmp_path / "saved")
    loaded = FungiExtractor.from_pretrained(tmp_path / "saved")
    assert loaded.config == config
    assert loaded.digests()["objective/pull"] == extractor.digests()["objective/pull"]
    assert np.array_equal(loaded(TEXTS).array, features.array)


def test_its_head_is_seeded_by_name_and_its_views_by_kind() -> None:
    one, two, other = (
        make_objective(Pull(name=name), width=8, seed=seed)
        for name, seed in (("pull", 0), ("pull", 0), ("other", 0))
    )
    assert one.digest() == two.digest() != other.digest()
    assert Pull(name="other").stream == Pull().stream == "pull"
    check_objective(lambda width, seed: make_objective(Pull(), width=width, seed=seed))


def test_tuning_tries_it() -> None:
    specs = TuningSearch().specs(FungiConfig(objectives=("pull",)), target="x")
    assert [spec.kind for spec in specs] == ["pull", "kl", "activation"]


def test_a_kind_is_taken_once() -> None:
    for kind in ("kl", "custom", "embedding"):
        with pytest.raises(ConfigError, match=f"the objective kind '{kind}' is taken"):
            type("Other", (ObjectiveSpec,), {}, kind=kind)
    with pytest.raises(ConfigError, match="the objective name 'pull' is taken"):
        fungi_hf.register_objective("pull", PullObjective)


def test_a_class_that_does_not_take_the_specs_options_is_named() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Wrong(Pull, kind="wrong_options", home=f"{__name__}:PullObjective"):
        passed: ClassVar[tuple[str, ...]] = ("n_views", "latent_dim")

    del OBJECTIVE_SPECS["wrong_options"]
    with pytest.raises(ObjectiveError, match="'wrong_options' refused width, seed, options"):
        make_objective(Wrong(), width=8, seed=0)
