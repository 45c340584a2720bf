"""A third party's objective: one class, registered by one call, end to end; and one that cheats."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

import fungi_hf
from fungi_hf import Custom, FungiConfig, FungiExtractor
from fungi_hf.errors import ConfigError, ObjectiveError
from fungi_hf.objectives.base import Head
from fungi_hf.specs import REGISTERED_OBJECTIVES
from fungi_hf.testing import check_objective, tiny_text_model
from tests.tiny import TEXTS, TRAIN, extractor_of

if TYPE_CHECKING:
    from torch import Tensor


class Spread:
    """Squared distance of the views' random latents from their mean and a learned centre."""

    def __init__(self, *, width: int, seed: int, n_views: int = 3, power: float = 2.0) -> None:
        self.n_views, self.power = n_views, power
        self.head = Head(width, 6, seed=seed, name="spread")
        self.centre: Tensor | None = None

    def fit(self, embeddings: Tensor) -> None:
        self.centre = self.head(embeddings.double()).mean((0, 1))

    def loss(self, embeddings: Tensor) -> Tensor:
        z = self.head(embeddings)
        centre = z.mean(1, keepdim=True) + self.centre.to(z)
        return ((z - centre).square().sum(-1) ** (self.power / 2)).mean(-1)

    def state(self) -> dict[str, Tensor]:
        return {} if self.centre is None else {"centre": self.centre}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.centre = state.get("centre")

    def digest(self) -> str:
        return self.head.digest()


@pytest.fixture
def registered():
    fungi_hf.register_objective("spread", Spread)
    yield
    REGISTERED_OBJECTIVES.pop("spread")


def spec(**changes) -> Custom:
    return Custom(**{"objective": "spread", "n_views": 3, "n_fit": 5, **changes})


def test_contract() -> None:
    check_objective(Spread)


@pytest.mark.usefixtures("registered")
def test_end_to_end_with_save_and_load(tmp_path) -> None:
    model, tokenizer = tiny_text_model("bert", dtype=torch.float32)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    config = FungiConfig(objectives=("kl", spec(options={"power": 1.5})), center=True)
    extractor = FungiExtractor.from_pretrained(tmp_path / "model", config).fit(TRAIN)
    features = extractor(TEXTS)
    assert list(features.layout) == ["embedding", "kl", "spread"]
    live = features.block("spread")[[0, 2, 3, 4, 5]]  # all views of one word are equal: no gradient
    assert np.linalg.norm(live, axis=1) == pytest.approx(np.ones(5), abs=1e-5)
    extractor.save_pretrained(tmp_path / "saved")
    loaded = FungiExtractor.from_pretrained(tmp_path / "saved")
    assert loaded.config == config
    assert np.array_equal(loaded(TEXTS).array, features.array)


@pytest.mark.usefixtures("registered")
def test_its_gradient_is_full_autograds() -> None:
    from fungi_hf.testing import check_encoder
    from tests.extraction.problems import TEXTS as LONG
    from tests.extraction.problems import by_loop, encoder_of, fast, samples_of, worst

    encoder = encoder_of("bert", "mean")
    check_encoder(encoder, TRAIN[:3])
    objective = Spread(width=16, seed=0)
    objective.fit(torch.randn(4, 3, 16, generator=torch.Generator().manual_seed(0)).double())
    texts = [LONG[0], LONG[2]]
    got = fast(encoder, objective, samples_of(encoder, texts)).materialise()
    assert worst(got, by_loop(encoder, objective, texts)) < 1e-10


@pytest.mark.usefixtures("registered")
def test_errors_of_the_registry() -> None:
    with pytest.raises(ConfigError, match="'spread' is taken"):
        fungi_hf.register_objective("spread", lambda: None)
    fungi_hf.register_objective("spread", Spread)  # the same one again is fine
    for name in ("kl", "simclr", "embedding", "custom"):
        with pytest.raises(ConfigError, match=f"'{name}' is taken"):
            fungi_hf.register_objective(name, Spread)
    with pytest.raises(ConfigError, match="must be an identifier; got 'two words'"):
        fungi_hf.register_objective("two words", Spread)
    with pytest.raises(ConfigError, match="must be callable; got 3"):
        fungi_hf.register_objective("three", 3)
    with pytest.raises(ConfigError, match="'spraed'; choose one of 'spread', 'activation'"):
        FungiConfig(objectives=("spraed",))
    with pytest.raises(ConfigError, match="no objective is registered as 'nope'"):
        Custom(objective="nope")
    with pytest.raises(ObjectiveError, match="'spread' refused "):
        extractor_of(objectives=(spec(options={"colour": 1}),))
    with pytest.raises(ObjectiveError, match="wants 3 views, its spec says 2"):
        extractor_of(objectives=(spec(n_views=2),))


class Flawed(Spread):
    """A base for one flaw at a time."""

    def __init__(self, *, width: int, seed: int) -> None:
        super().__init__(width=width, seed=seed)


class BatchMean(Flawed):
    def loss(self, embeddings: Tensor) -> Tensor:
        return super().loss(embeddings - embeddings.mean(0, keepdim=True))


class InBatchNegatives(Flawed):
    def loss(self, embeddings: Tensor) -> Tensor:
        z = embeddings[:, 0]
        return super().loss(embeddings) + (z @ z.T).logsumexp(-1)


class OrderDependent(Flawed):
    def loss(self, embeddings: Tensor) -> Tensor:
        return super().loss(embeddings) * torch.arange(1, len(embeddings) + 1)


class Reduced(Flawed):
    def loss(self, embeddings: Tensor) -> Tensor:
        return super().loss(embeddings).mean()


class Stateful(Flawed):
    calls = 0

    def loss(self, embeddings: Tensor) -> Tensor:
        self.calls += 1
        return super().loss(embeddings) * self.calls


class GlobalRandom(Flawed):
    def loss(self, embeddings: Tensor) -> Tensor:
        return super().loss(embeddings * torch.ones(1).bernoulli_(0.99999))


class GlobalHead(Flawed):
    def __init__(self, *, width: int, seed: int) -> None:
        super().__init__(width=width, seed=seed)
        with torch.random.fork_rng(devices=[]):  # hides its tracks, is caught by rebuilding
            self.head.weight = torch.randn(6, width, dtype=torch.float64)


class ChangesInput(Flawed):
    def loss(self, embeddings: Tensor) -> Tensor:
        return super().loss(embeddings.mul_(2))


class Detached(Flawed):
    def loss(self, embeddings: Tensor) -> Tensor:
        return super().loss(embeddings.detach())


class NotANumber(Flawed):
    def loss(self, embeddings: Tensor) -> Tensor:
        return super().loss(embeddings) * torch.nan


class ForgetsState(Flawed):
    def state(self) -> dict[str, Tensor]:
        return {"centre": torch.zeros(6, dtype=torch.float64)}


class NoViews(Flawed):
    def __init__(self, *, width: int, seed: int) -> None:
        super().__init__(width=width, seed=seed)
        self.n_views = 0


@pytest.mark.parametrize(
    ("flawed", "message"),
    [
        (BatchMean, "samples interact: row 0 alone"),
        (InBatchNegatives, "samples interact: row 0 alone"),
        (OrderDependent, "samples interact"),
        (Reduced, r"one number per sample, shape \[6\], never reduced; got \[\]"),
        (Stateful, "keeps state between calls"),
        (GlobalRandom, "global random generator"),
        (GlobalHead, "same seed and state gives other losses"),
        (ChangesInput, "must not modify the embeddings"),
        (Detached, "no gradient with respect to the embeddings"),
        (NotANumber, "NaN or infinite"),
        (ForgetsState, r"state\(\) must hold all that fit learned"),
        (NoViews, "n_views must be an integer >= 1; got 0"),
        (lambda width, seed: 3, "must give an object with a loss method; got 3"),
        (3, "an objective has a loss method; got 3"),
    ],
    ids=lambda item: getattr(item, "__name__", "")[:20],
)
def test_check_objective_catches(flawed, message: str) -> None:
    with pytest.raises(ObjectiveError, match=message):
        check_objective(flawed)


@pytest.mark.usefixtures("registered")
def test_a_loss_of_the_wrong_shape_is_an_error_in_an_extraction() -> None:
    extractor = extractor_of(objectives=(spec(),)).fit(TRAIN)
    objective = extractor._plan.objectives["spread"]
    objective.loss = lambda embeddings: embeddings.sum()
    with pytest.raises(ObjectiveError, match=r"must give one loss per sample, shape \(6,\)"):
        extractor(TEXTS)
