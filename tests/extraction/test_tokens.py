"""Objectives of tokens: what is masked, and gradients against masked inputs made by hand."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from fungi_hf import DINO, IBOT, KL, FungiConfig, FungiExtractor, SimCLR
from fungi_hf.encoders.audio.encoder import AudioEncoder
from fungi_hf.encoders.base import Encoder
from fungi_hf.errors import ConfigError
from fungi_hf.extraction.batches import Budget, Sample
from fungi_hf.extraction.group import Group
from fungi_hf.extraction.plan import Plan
from fungi_hf.gradients.tape import reference_gradient, untouched
from fungi_hf.objectives import make_objective
from fungi_hf.testing import model_state
from tests.encoders.audio_models import build, clips
from tests.encoders.vision.kit import encoder_of as vision_encoder
from tests.encoders.vision.kit import pictures
from tests.tiny import TEXTS, extractor_of

SPEC = IBOT(slots=5, mask_ratio=0.4, latent_dim=9)
SOUNDS = ("ast", "whisper", "wav2vec2")
CASES = [
    *(("bert", pooling) for pooling in ("cls", "mean", "last")),
    *(("vit", "cls"), ("vit", "mean"), ("dinov2_with_registers", "cls"), ("ijepa", "mean")),
    *(("siglip", "model"), ("clip", "cls")),
    *((name, "mean") for name in SOUNDS),
    ("ast", "cls"),
]


def encoder_and_inputs(family, pooling):
    if family == "bert":
        encoder = extractor_of("bert", pooling=pooling, objectives=("kl",)).encoder
        return encoder, [text for text in TEXTS if text.strip()][:3]
    if family in SOUNDS:
        model, processor = build(family)
        config = FungiConfig(pooling=pooling)
        return AudioEncoder(model.double().eval(), processor, config), clips(9000, 5000, 16_000)
    return vision_encoder(family, pooling=pooling), pictures(3)


def drawn(encoder, inputs, spec=SPEC):
    raws = [encoder.check(item, i) for i, item in enumerate(inputs)]
    originals = encoder.prepare(raws)
    views = encoder.masked_views(spec.n_views, spec.view_generator[1])
    found = views(raws, originals, [random.Random(i) for i in range(len(raws))])
    return [
        Sample(i, original, {"ibot": of_input})
        for i, (original, of_input) in enumerate(zip(originals, found, strict=True))
    ]


def by_hand(encoder, family, item):
    """The embedding and every token of one input, from the model's own output: [1 + T, D]."""
    batch = encoder.collate([item])
    if family == "bert":
        states = encoder.model(**batch).last_hidden_state[0]
        pooled = {"cls": states[0], "mean": states.mean(0), "last": states[-1]}[encoder.pooling]
        return torch.cat([pooled[None], states])
    if family in SOUNDS:
        states = encoder._body.tokens(batch)
        pooled = encoder._body.pool(states, batch, encoder.pooling)
        return torch.cat([pooled, states[0, 2 if family == "ast" else 0 :]])
    out = encoder.model(**batch)
    states = out.last_hidden_state[0]
    if family == "clip":
        states = encoder.model.post_layernorm(states)
    prefix = {"vit": 1, "clip": 1, "dinov2_with_registers": 4, "ijepa": 0, "siglip": 0}[family]
    patches = states[prefix:]
    pooled = {"cls": states[0], "mean": patches.mean(0)}.get(encoder.pooling)
    pooled = out.pooler_output[0] if pooled is None else pooled
    return torch.cat([pooled[None], patches])


@pytest.mark.parametrize(("family", "pooling"), CASES)
def test_gradients_equal_masked_inputs_run_alone(family, pooling) -> None:
    encoder, inputs = encoder_and_inputs(family, pooling)
    samples = drawn(encoder, inputs)
    objective = make_objective(SPEC, width=encoder.width, seed=3)
    config = FungiConfig(objectives=(SPEC,), dtype="float64")
    plan = Plan.of(encoder, config)
    assert plan.reads_tokens
    assert not plan.encoder.uses_short_last_block
    plan.objectives["ibot"] = objective
    before = model_state(encoder.model)
    with untouched(encoder.model):
        group = Group(samples, plan, Budget(batch_tokens=90))
        found = group.factors("ibot")[encoder.layer_path]
    after = model_state(encoder.model)
    assert before == after
    for n, sample in enumerate(samples):

        def loss(sample=sample):
            views = sample.views["ibot"]
            rows = [by_hand(encoder, family, view)[view.slot] for view in views]
            return objective.loss(torch.stack(rows)[None])[0]

        expected, _ = reference_gradient(encoder.model, encoder.layer, loss)
        assert expected.norm() > 0
        assert (found.materialise()[n] - expected).norm() <= 1e-10 * expected.norm()


def test_the_gradient_reaches_the_class_token_and_the_slots_alone() -> None:
    """Rank 1 + S (four distinct slots here): method 3.5."""
    encoder, inputs = encoder_and_inputs("vit", "cls")
    spec = IBOT(slots=4, mask_ratio=0.25, latent_dim=9)
    (sample, *_) = drawn(encoder, inputs, spec)
    plan = Plan.of(encoder, FungiConfig(objectives=(spec,), dtype="float64"))
    with untouched(encoder.model):
        factors = Group([sample], plan, Budget()).factors("ibot")[encoder.layer_path]
    assert len(factors.owner) == 5
    assert torch.linalg.matrix_rank(factors.materialise()[0]) == 5


def test_a_dino_gradient_has_at_most_one_rank_a_view() -> None:
    encoder, inputs = encoder_and_inputs("vit", "cls")
    extractor = FungiExtractor(
        encoder, FungiConfig(objectives=(DINO(n_views=5, latent_dim=9),), dtype="float64")
    )
    (samples,) = list(extractor._reader.read(inputs))
    with untouched(encoder.model):
        factors = Group(samples, extractor._plan, Budget()).factors("dino")[encoder.layer_path]
    ranks = [int(torch.linalg.matrix_rank(G)) for G in factors.materialise()]
    assert ranks == [5, 5, 5]  # the global views are students, too


def test_what_is_masked_and_read() -> None:
    encoder, inputs = encoder_and_inputs("vit", "mean")
    for sample in drawn(encoder, inputs):
        views = sample.views["ibot"]
        masked, plain = views[0], views[6]
        assert [view.slot for view in views[:6]] == [view.slot for view in views[6:]]
        assert {view.key for view in views[:6]} == {masked.key}
        assert plain.key == sample.original.key  # the pass that other blocks run anyway
        patches = [view.slot - 1 for view in views[1:6]]
        assert len(set(patches)) == 5
        assert set(patches) <= set(masked.data.masked)
        assert len(masked.data.masked) == 6  # round(.4 * 16)
        both = encoder.collate([masked, plain])["pixel_values"].unfold(2, 8, 8).unfold(3, 8, 8)
        both = both.flatten(2, 3).transpose(1, 2)  # [2, 16 patches, 3, 8, 8]
        for patch in range(16):
            if patch in masked.data.masked:
                assert not both[0, patch].any()
            else:
                assert torch.equal(both[0, patch], both[1, patch])


def test_texts_lose_word_pieces_to_the_mask_token() -> None:
    encoder, inputs = encoder_and_inputs("bert", "mean")
    mask = encoder.tokenizer.mask_token_id
    for sample in drawn(encoder, inputs):
        views, plain = sample.views["ibot"], sample.original.data
        hidden = views[0].data != plain
        assert (views[0].data[hidden] == mask).all()
        assert not hidden[[0, -1]].any()  # special tokens stay
        assert hidden.sum() == max(1, round(0.4 * (len(plain) - 2)))
        read = {view.slot - 1 for view in views[1:6]}
        assert read <= set(hidden.nonzero()[0].tolist())


@pytest.mark.parametrize("family", SOUNDS)
def test_sounds_are_zero_where_they_are_masked(family) -> None:
    encoder, inputs = encoder_and_inputs(family, "mean")
    sample = drawn(encoder, inputs)[1]
    masked, plain = sample.views["ibot"][0], sample.original
    batch, whole = encoder.collate([masked]), encoder.collate([plain])
    frames = masked.data.masked
    if family == "wav2vec2":
        one, two = batch["waves"][0], whole["waves"][0]
        inside = torch.tensor([i // 80 in frames for i in range(len(one))])
        assert not one[inside].any()
        assert torch.equal(one[~inside], two[~inside])
    elif family == "whisper":
        one, two = batch["input_features"][0].T, whole["input_features"][0].T
        inside = torch.tensor([i // 2 in frames for i in range(len(one))])
        assert not one[inside].any()
        assert torch.equal(one[~inside], two[~inside])
    else:  # 12 x 5 patches of 16, 10 apart, over 64 frames x 128 bins; time runs fastest
        one, two = batch["input_values"][0], whole["input_values"][0]
        hidden = torch.zeros(64, 128, dtype=torch.bool)
        for patch in frames:
            low, start = 10 * (patch // 5), 10 * (patch % 5)
            hidden[start : start + 16, low : low + 16] = True
        assert not one[hidden].any()
        assert torch.equal(one[~hidden], two[~hidden])


@pytest.mark.parametrize("modality", ["text", "vision", "audio"])
def test_features_do_not_depend_on_batch_order_or_neighbours(modality) -> None:
    config = FungiConfig(
        objectives=(KL(latent_dim=8), IBOT(slots=3, latent_dim=8), DINO(n_views=3, latent_dim=8)),
        dtype="float64",
        pooling="mean",
    )
    if modality == "text":
        extractor, items = extractor_of("bert", objectives=config.objectives), [*TEXTS, ""]
    elif modality == "vision":
        encoder, items = vision_encoder("vit", pooling="mean"), pictures(5)
        extractor = FungiExtractor(encoder, config)
    else:
        encoder, items = encoder_and_inputs("whisper", "mean")
        extractor = FungiExtractor(encoder, config)
    with pytest.warns(UserWarning, match="empty") if modality == "text" else _nothing():
        together = extractor(items).array
        back = extractor(items[::-1]).array[::-1]
        alone = np.concatenate([extractor([item]).array for item in items])
    assert np.abs(together - alone).max() < 1e-5
    assert np.abs(together - back).max() < 1e-5


def _nothing():
    import contextlib

    return contextlib.nullcontext()


def test_what_is_refused() -> None:
    class Bare(Encoder):
        """An encoder without tokens."""

        def __init__(self, inner):
            self.__dict__.update(inner.__dict__)

        check = content = prepare = collate = embed = pool_activation = None

    encoder, _ = encoder_and_inputs("bert", "mean")
    with pytest.raises(ConfigError, match=r"Bare gives no tokens, which an objective of tokens"):
        FungiExtractor(Bare(encoder), FungiConfig(objectives=("ibot",), dtype="float64"))
    with pytest.raises(ConfigError, match="has no mask token"):
        extractor_of("t5", objectives=("ibot",))
    with pytest.raises(ConfigError, match=r"has no mask token '\[HIDE\]'"):
        extractor_of("bert", objectives=(IBOT(view_options={"mask_token": "[HIDE]"}),))
    extractor = extractor_of("t5", objectives=(IBOT(slots=2, view_options={"mask_token": "▁the"}),))
    assert np.isfinite(extractor(TEXTS[:2]).array).all()
    with pytest.raises(ConfigError, match="'masked_tokens' has no option 'ratio'"):
        extractor_of("bert", objectives=(IBOT(view_options={"ratio": 1}),))
    encoder = vision_encoder("clip_projected", pooling="projection")
    with pytest.raises(ConfigError, match="as wide as tokens"):
        FungiExtractor(encoder, FungiConfig(objectives=("ibot",), dtype="float64"))


def test_other_blocks_are_the_same_beside_tokens() -> None:
    """KL and SimCLR beside iBOT equal those of an extractor without it."""
    simclr = SimCLR(n_views=3, n_negatives=3, latent_dim=6)
    plain = extractor_of("bert", objectives=("kl", "activation", simclr)).fit(TEXTS)
    beside = extractor_of("bert", objectives=("kl", "activation", "ibot", simclr)).fit(TEXTS)
    items = [text for text in TEXTS if text.strip()]
    one, two = plain(items), beside(items)
    for name in ("embedding", "activation", "kl", "simclr"):
        assert np.abs(one.block(name) - two.block(name)).max() < 1e-6
