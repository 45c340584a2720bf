"""Objectives that learn from every training input: one pass, any order, few numbers an input."""

from __future__ import annotations

import gc
import random
import weakref

import numpy as np
import pytest
import torch

from fungi_hf import DeepCluster, FungiConfig, FungiExtractor, SimCLR
from fungi_hf.encoders.audio.encoder import AudioEncoder
from fungi_hf.errors import InputError
from fungi_hf.extraction.group import Group
from fungi_hf.extraction.latents import AllTraining
from fungi_hf.extraction.plan import Plan
from fungi_hf.extraction.variants import VariantExtractor
from fungi_hf.gradients.tape import untouched
from fungi_hf.seeding import derive_each
from tests.encoders.audio_models import build, clips
from tests.encoders.vision.kit import encoder_of, pictures
from tests.tiny import TRAIN, extractor_of

SPEC = DeepCluster(n_views=4, prototypes=(5, 4), latent_dim=6)
SIMCLR = SimCLR(n_views=3, n_negatives=4, latent_dim=6)


def centroids(extractor) -> dict[str, torch.Tensor]:
    return extractor._plan.objectives["deepcluster"].state()


def by_definition(extractor, items):
    """Every distinct input's first two views, in the order of digests, fitted at once."""
    encoder, reader = extractor.encoder, extractor._reader
    raws = [encoder.check(item, i) for i, item in enumerate(items)]
    keys = derive_each(42, ("training", "deepcluster"), encoder.contents(raws))
    distinct = [raws[i] for _, i in sorted({key: i for i, key in enumerate(keys)}.items())]
    plan = Plan.of(encoder, extractor.config)
    rows = []
    with untouched(encoder.model):
        for raw in distinct:
            samples = reader.training_samples([raw], SPEC)
            rows.append(Group(samples, plan.bare(), plan.budget).view_embeddings("deepcluster"))
    objective = plan.objectives["deepcluster"]
    objective.fit(torch.cat(rows))
    return objective.state()


def test_it_is_the_fit_of_all_inputs_in_one_pass_and_in_any_order() -> None:
    config = FungiConfig(objectives=(SPEC, SIMCLR), dtype="float64")
    encoder = encoder_of("vit")
    encoder.chunk_size = 4  # several chunks
    items = pictures(11)
    shuffled = [*items, *items[:3]]
    random.Random(1).shuffle(shuffled)
    reads = iter(shuffled)  # can be read once
    found = [FungiExtractor(encoder, config).fit(given) for given in (items, items[::-1], reads)]
    expected = by_definition(found[0], items)
    for extractor in found:
        for name, of_it in centroids(extractor).items():
            assert torch.allclose(of_it, expected[name].double(), atol=1e-6)
    one, two = found[0](items[:4]).array, found[2](items[:4]).array
    assert np.abs(one - two).max() < 1e-5


def test_training_views_are_the_first_two_of_the_loss() -> None:
    extractor = extractor_of("bert", objectives=(SPEC,))
    reader = extractor._reader
    raws = TRAIN[:3]
    trained = reader.training_samples(raws, SPEC)
    for sample, first in zip(reader.samples(raws), trained, strict=True):
        seen = sample.views["deepcluster"]
        assert [view.key for view in seen[:2]] == [v.key for v in first.views["deepcluster"]]


def test_inputs_are_let_go() -> None:
    """What stays of a picture are two latents: not its pixels."""
    encoder = encoder_of("vit")
    encoder.chunk_size = 4
    config = FungiConfig(objectives=(SPEC,), dtype="float64")
    extractor = FungiExtractor(encoder, config)
    alive: list[weakref.ref] = []
    most = 0

    def stream():
        nonlocal most
        for i in range(40):
            (picture,) = pictures(1, seed=i)
            alive.append(weakref.ref(picture))
            yield picture
            del picture
            if i % 8 == 7:
                gc.collect()
                most = max(most, sum(one() is not None for one in alive))

    extractor.fit(stream())
    assert 0 < most <= 3 * encoder.chunk_size


def test_too_few_inputs_are_an_error_with_both_numbers() -> None:
    extractor = extractor_of("bert", objectives=(DeepCluster(prototypes=(50,)),))
    message = f"50 clusters among {len(set(TRAIN))} distinct training inputs"
    with pytest.raises(InputError, match=message):
        extractor.fit([*TRAIN, *TRAIN])


def test_a_drawn_number_is_clustered_where_one_is_said() -> None:
    spec = DeepCluster(n_views=4, prototypes=(3,), latent_dim=6, n_fit=4)
    assert spec.needs_fit
    assert not spec.learns_from_all
    extractor = extractor_of("bert", objectives=(spec,)).fit(TRAIN)
    assert centroids(extractor)["centroids0"].shape == (3, 6)


def test_an_encoder_that_learns_is_waited_for(tmp_path) -> None:
    """Statistics of spectrograms come first: the clusters are those of the finished encoder."""
    model, processor = build("ast")
    fields = {"objectives": (SPEC,), "dtype": "float64"}
    learning = FungiConfig(audio_statistics="fit", **fields)
    encoder = AudioEncoder(model.double().eval(), processor, learning)
    items = clips(*range(9000, 16_000, 1000))
    extractor = FungiExtractor(encoder, learning).fit(iter(items))
    expected = by_definition(extractor, items)
    for name, found in centroids(extractor).items():
        assert torch.allclose(found, expected[name].double(), atol=1e-6)


def test_variants_share_it() -> None:
    extractor = extractor_of("bert", objectives=(SPEC,)).fit(TRAIN)
    swept = VariantExtractor(extractor.encoder, extractor.config).fit(TRAIN)
    state = swept.objectives["deepcluster"].state()
    for name, found in centroids(extractor).items():
        assert torch.allclose(found, state[name], atol=1e-6)


def test_it_is_saved_and_loaded(tmp_path) -> None:
    extractor = extractor_of("bert", objectives=(SPEC,), dtype="float32").fit(TRAIN)
    extractor.save_pretrained(tmp_path)
    again = FungiExtractor.from_pretrained(
        tmp_path, model=extractor.encoder.model, processor=extractor.encoder.tokenizer
    )
    assert np.abs(extractor(TRAIN[:3]).array - again(TRAIN[:3]).array).max() < 1e-6


def test_nothing_is_read_where_nothing_learns_from_all() -> None:
    extractor = extractor_of("bert", objectives=("kl",))
    every = AllTraining(extractor._plan, extractor._reader, extractor._plan.budget)
    every.add(["a text"])
    assert every.found() == {}
    assert not every.specs
