"""Late views of sounds: frames or patches dropped before the last blocks, for every family."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest
import torch

from fungi_hf.config import KL, FungiConfig, SimCLR
from fungi_hf.encoders.audio.encoder import AudioEncoder
from fungi_hf.errors import ConfigError
from fungi_hf.extraction.batches import Budget, Sample
from fungi_hf.extraction.group import Group
from fungi_hf.extraction.plan import Plan
from fungi_hf.extractor import FungiExtractor
from fungi_hf.gradients.tape import reference_gradient, untouched
from fungi_hf.objectives.simclr import SimCLRObjective
from fungi_hf.testing import model_state
from tests.encoders.audio_models import FAMILIES, build, clips

N_BLOCKS = 2
EXACT = 1e-10
CLIPS = clips(9000, 5000, 16_000)
CASES = [
    *((name, "mean", k) for name in FAMILIES for k in (1, 2)),
    *(("ast", pooling, k) for pooling in ("cls", "first") for k in (1, 2)),
    ("whisper", "last", 1),
    ("wav2vec2", "first", 1),
]


def encoder_of(name: str, pooling: str = "mean") -> AudioEncoder:
    model, processor = build(name)
    if name == "wavlm" or name == "wavlm-stable":
        torch.nn.init.normal_(model.encoder.layers[0].attention.rel_attn_embed.weight)
    return AudioEncoder(model.double().eval(), processor, FungiConfig(pooling=pooling))


def drawn(encoder: AudioEncoder, k: int) -> list[Sample]:
    """Every clip with three late views."""
    raws = [encoder.check(clip, i) for i, clip in enumerate(CLIPS)]
    originals = encoder.prepare(raws)
    views = encoder.late_views("auto", 3, {"probability": 0.4, "span": 3}, k)
    found = views(raws, originals, [random.Random(i) for i in range(len(raws))])
    return [
        Sample(i, original, {"simclr": of_clip})
        for i, (original, of_clip) in enumerate(zip(originals, found, strict=True))
    ]


def by_hand(encoder: AudioEncoder, sample: Sample, k: int) -> torch.Tensor:
    """Blocks called one by one on what stays of one clip, one view at a time: [3, D]."""
    batch = encoder.collate([sample.original])
    model, first = encoder.model, N_BLOCKS - k
    layers = model.encoder.layers if hasattr(model, "encoder") else model.layers
    noted = []
    handle = layers[first].register_forward_pre_hook(lambda _, args: noted.append(args[0].detach()))
    encoder.embed(batch)
    handle.remove()
    rows = []
    for view in sample.views["simclr"]:
        hidden, bias = noted[0][:, view.data], None
        if "WavLM" in type(model).__name__:
            hidden_of_no_use = torch.zeros_like(hidden)
            _, bias = layers[0](hidden_of_no_use)
        for layer in layers[first:]:
            hidden = layer(hidden, position_bias=bias) if bias is not None else layer(hidden, None)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        if type(model).__name__ in ("ASTModel", "WhisperEncoder"):
            norm = model.layernorm if hasattr(model, "layernorm") else model.layer_norm
            hidden = norm(hidden)
        elif model.config.do_stable_layer_norm:
            hidden = model.encoder.layer_norm(hidden)
        states, inside = hidden[0], len(view.data)
        if "lengths" in batch:
            inside = int((view.data < int(batch["lengths"][0])).sum())
        rows.append(
            {
                "cls": lambda s=states: (s[0] + s[1]) / 2,
                "first": lambda s=states: s[0],
                "last": lambda s=states, n=inside: s[n - 1],
                "mean": lambda s=states, n=inside: (
                    s[2:n].mean(0) if type(model).__name__ == "ASTModel" else s[:n].mean(0)
                ),
            }[encoder.pooling]()
        )
    return torch.stack(rows)


@pytest.mark.parametrize(("name", "pooling", "k"), CASES)
def test_embeddings_equal_the_definition(name: str, pooling: str, k: int) -> None:
    encoder = encoder_of(name, pooling)
    before = model_state(encoder.model)
    samples = drawn(encoder, k)
    plan = Plan(encoder=encoder, objectives={})
    with untouched(encoder.model), torch.no_grad():
        got = Group(samples, plan, Budget()).view_embeddings("simclr")
        expected = torch.stack([by_hand(encoder, sample, k) for sample in samples])
        originals = torch.stack([encoder.embed(encoder.collate([s.original]))[0] for s in samples])
    assert (got - expected).norm() < EXACT * expected.norm()
    assert (got - originals[:, None]).norm(dim=-1).min() > 1e-6  # every view lost something
    assert model_state(encoder.model) == before


@pytest.mark.parametrize(("name", "pooling", "k"), CASES)
def test_gradients_equal_the_loop(name: str, pooling: str, k: int) -> None:
    encoder = encoder_of(name, pooling)
    samples = drawn(encoder, k)
    objective = SimCLRObjective(width=encoder.width, seed=1, n_views=3, latent_dim=12)
    generator = torch.Generator().manual_seed(3)
    objective.fit(torch.randn(5, 2, encoder.width, generator=generator, dtype=torch.float64))
    plan = Plan(encoder=encoder, objectives={"simclr": objective})
    with untouched(encoder.model):
        got = Group(samples, plan, Budget()).factors("simclr")[encoder.layer_path].materialise()
    for sample, found in zip(samples, got, strict=True):
        expected, _ = reference_gradient(
            encoder.model,
            encoder.layer,
            lambda s=sample: objective.loss(by_hand(encoder, s, k)[None])[0],
        )
        assert (found - expected).norm() < EXACT * expected.norm()


@pytest.mark.filterwarnings("ignore:.*longer than 64 frames:UserWarning")
@pytest.mark.parametrize("name", ["ast", "whisper", "wav2vec2"])
def test_features_do_not_depend_on_batch_or_order(name: str) -> None:
    config = FungiConfig(
        objectives=(KL(latent_dim=16), SimCLR(n_views=4, n_negatives=3, late_views=1)),
        dtype="float64",
    )
    model, processor = build(name)
    extractor = FungiExtractor.from_pretrained(model.double().eval(), config, processor)
    items = [*CLIPS, *clips(700, 3000)]
    extractor.fit(items)
    features = extractor(items)
    assert np.isfinite(features.array).all()
    assert not np.isclose(np.linalg.norm(features.block("simclr"), axis=1)[:3], 0).any()
    alone = np.concatenate([extractor([item]).array for item in items])
    assert np.abs(alone - features.array).max() < 1e-6
    backwards = extractor(items[::-1], batch_size=2).array[::-1]
    assert np.abs(backwards - features.array).max() < 1e-6


def test_what_is_dropped() -> None:
    """Pieces of `span` neighbours, as likely as documented; class tokens and silence stay."""
    for name in ("ast", "whisper", "wav2vec2"):
        encoder = encoder_of(name)
        (raw,) = [encoder.check(CLIPS[2], 0)]
        (original,) = encoder.prepare([raw])
        start, stop = encoder._body.region(original.data)
        views = encoder.late_views("token_drop", 500, {"probability": 0.3, "span": 4}, 1)
        ((*found,),) = views([raw], [original], [random.Random(0)])
        kept = np.zeros((500, original.cost), dtype=bool)
        for row, view in enumerate(found):
            kept[row, view.data] = True
        assert kept[:, :start].all()
        assert kept[:, stop:].all()
        pieces = [kept[:, i : min(i + 4, stop)] for i in range(start, stop, 4)]
        assert all((piece.all(1) | ~piece.any(1)).all() for piece in pieces)
        shares = np.array([1 - piece[:, 0].mean() for piece in pieces])
        assert abs(shares.mean() - 0.3) < 0.01
        assert np.abs(shares - 0.3).max() < 5 * np.sqrt(0.3 * 0.7 / 500)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"late_views": 3}, "late_views=3 is more than the 2 blocks of ASTModel"),
        ({"late_views": 1, "views": "crop"}, "views must be 'token_drop' or 'auto'; got 'crop'"),
        ({"late_views": 1, "view_options": {"time": 1}}, "'token_drop' has no option 'time'"),
        ({"late_views": 1, "view_options": {"span": 0}}, "span must be an integer >= 1; got 0"),
        ({"late_views": 1, "view_options": {"probability": 1}}, "a number > 0 and < 1; got 1"),
        ({"views": "token_drop"}, "unknown views 'token_drop'"),
    ],
)
def test_wrong_options_are_named(changes: dict, message: str) -> None:
    model, processor = build("ast")
    config = FungiConfig(objectives=(SimCLR(**changes),))
    with pytest.raises(ConfigError, match=re.escape(message)):
        FungiExtractor.from_pretrained(model, config, processor)
