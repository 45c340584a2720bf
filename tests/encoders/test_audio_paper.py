"""The audio preset against the published algorithm, written out with plain loops."""

import math

import numpy as np
import pytest
import torch

from fungi_hf.config import FungiConfig
from fungi_hf.encoders.audio.mel import kaldi_fbank
from fungi_hf.encoders.audio.ssast import convert
from fungi_hf.extractor import FungiExtractor
from fungi_hf.objectives.base import Head
from fungi_hf.seeding import sample_generator

from .test_ssast import synthetic

MEAN, STD = -6.6268077, 5.358466  # the published statistics of ESC-50
WIDTH = 192


@pytest.fixture(scope="module")
def extractor(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ssast")
    torch.save(synthetic(WIDTH), folder / "ssast.pth")
    convert(folder / "ssast.pth", folder / "model", stride=10, frames=64)
    config = FungiConfig.paper("audio").replace(reduction=None, max_length=64)
    made = FungiExtractor.from_pretrained(folder / "model", config)
    return made.fit(sounds(64, seed=1))


def sounds(count, seed):
    generator = np.random.default_rng(seed)
    lengths = generator.integers(3000, 11_000, count)
    return [(generator.normal(0, 0.1, n).astype(np.float32), 16000) for n in lengths]


def spectrogram(wave):
    """[64, 128] log-mel, padded with zeros, before normalisation."""
    mel = kaldi_fbank(torch.from_numpy(wave))[:64]
    return torch.cat([mel, torch.zeros(64 - len(mel), 128)])


def published_views(extractor, wave):
    """Uniform noise times a uniform factor over ten, then a roll of -10 to 9 frames."""
    clip = extractor.encoder.check((wave, 16000), 0)
    family = extractor.encoder.views("noise_roll", 16, {})
    made = family(clip, sample_generator(42, "views/simclr", clip.content))
    views = []
    for view in made:
        stream = torch.Generator().manual_seed(view.draw.seed)
        noise = torch.rand(64, 128, generator=stream) * view.draw.amplitude
        assert 0 <= view.draw.amplitude < 0.1
        assert -10 <= view.draw.shift <= 9
        views.append(torch.roll(spectrogram(wave) + noise, view.draw.shift, 0))
    return torch.stack(views)


def forward(extractor, mels):
    """Mean of the two class tokens, with the last attention projection's input and output."""
    seen = {}

    def keep(_, args, out):
        out.retain_grad()
        seen["a"], seen["out"] = args[0].detach(), out

    model = extractor.encoder.model
    handle = dict(model.named_modules())["layers.1.attention.o_proj"].register_forward_hook(keep)
    hidden = model((mels - MEAN) / (2 * STD)).last_hidden_state
    handle.remove()
    return (hidden[:, 0] + hidden[:, 1]) / 2, seen


def head(name, e):
    drawn = Head(WIDTH, 768, seed=42, name=name)
    return e.double() @ drawn.weight.T + drawn.bias


def kl_loss(e):
    z = head("kl", e / e.norm(dim=1, keepdim=True))
    log_p = torch.log_softmax(z / 15, 1)
    uniform = torch.softmax(torch.ones_like(z) / 15, 1)
    return torch.nn.functional.kl_div(log_p, uniform, reduction="sum") / z.numel()


def simclr_loss(extractor, e):
    bank = extractor.state.objectives["simclr"]["negatives"]
    assert bank.shape == (128, 768)
    z = head("simclr", e)
    z = z / z.norm(dim=1, keepdim=True)
    total = 0.0
    for v in range(16):
        similar = torch.stack([z[v] @ z[u] for u in range(16) if u != v])
        scores = torch.cat([similar, bank @ z[v]])
        total = total - similar.mean() / 0.07 + torch.log(torch.exp(scores).sum())
    return total / 16


def gradient_of_token_zero(seen):
    G = torch.zeros(WIDTH, WIDTH + 1, dtype=torch.float64)
    for delta, a in zip(seen["out"].grad[:, 0].double(), seen["a"][:, 0].double(), strict=True):
        G += torch.outer(delta, torch.cat([a, torch.ones(1, dtype=torch.float64)]))
    return G


def cosine(x, y):
    x, y = np.asarray(x, float), np.asarray(y, float)
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


def test_preset_equals_the_published_algorithm(extractor):
    items = sounds(2, seed=2)
    found = extractor(items)
    assert list(found.layout) == ["embedding", "kl", "simclr"]
    signs = torch.rand(WIDTH, WIDTH * (WIDTH + 1), generator=torch.Generator().manual_seed(42))
    signs = (signs > 0.5).double() * 2 - 1
    for row, (wave, _) in zip(found.array, items, strict=True):
        e, seen = forward(extractor, spectrogram(wave)[None])
        kl_loss(e).backward()
        kl = signs @ gradient_of_token_zero(seen).flatten() / math.sqrt(WIDTH)
        views, seen_views = forward(extractor, published_views(extractor, wave))
        simclr_loss(extractor, views).backward()
        simclr = signs @ gradient_of_token_zero(seen_views).flatten() / math.sqrt(WIDTH)
        expected = {"embedding": e[0].detach(), "kl": kl, "simclr": simclr}
        for name, columns in found.layout.items():
            assert cosine(row[columns], expected[name]) >= 1 - 1e-6, name
            assert np.linalg.norm(row[columns]) == pytest.approx(1, abs=1e-5)


def test_preset_writes_out_the_published_numbers():
    config = FungiConfig.paper("audio")
    kl, simclr = config.objectives
    assert (kl.temperature, kl.latent_dim) == (15, 768)
    assert (simclr.views, simclr.n_views, simclr.latent_dim) == ("noise_roll", 16, 768)
    assert (simclr.n_negatives, simclr.negative_views) == (64, 2)
    assert (simclr.temperature, simclr.logsumexp_temperature) == (0.07, 1.0)
    assert (config.pooling, config.gradient_tokens) == ("cls", "first")
    assert (config.sketch, config.seed, config.audio_statistics) == ("rademacher", 42, "esc50")
    assert config.reduction.n_components == 512
