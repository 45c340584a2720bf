"""Features of every audio family: independence, gradients, views, statistics, odd and bad clips."""

import weakref

import numpy as np
import pytest
import torch
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

from fungi_hf.config import KL, Activation, FungiConfig, SimCLR
from fungi_hf.encoders.audio.encoder import AudioEncoder
from fungi_hf.errors import AudioError, ConfigError, EncoderError, InputError, InputTypeError
from fungi_hf.extraction.batches import Budget, Sample
from fungi_hf.extraction.group import Group
from fungi_hf.extraction.plan import Plan
from fungi_hf.extractor import FungiExtractor
from fungi_hf.gradients.tape import reference_gradient, untouched
from fungi_hf.objectives.base import make_objective
from fungi_hf.seeding import sample_generator

from .audio_models import FAMILIES, WAVE, ast_extractor, clips, embed

CONFIG = FungiConfig(
    objectives=(
        KL(latent_dim=16),
        SimCLR(latent_dim=16, n_views=3, n_negatives=2),
        Activation(),
    ),
    max_length=200,
)


@pytest.mark.parametrize("name", FAMILIES)
def test_features_do_not_depend_on_batch_order_or_padding(make, name):
    extractor = FungiExtractor(make(name, CONFIG), CONFIG)
    items = clips(3000, 20_000, 5000, 9000, 3001)
    extractor.fit(items[:3])
    together = extractor(items)
    assert together.array.shape == (5, 32 * 4)
    assert np.allclose(np.linalg.norm(together.array, axis=1), 2, atol=1e-4)
    alone = np.concatenate([extractor([item]).array for item in items])
    backwards = extractor(items[::-1], batch_size=2).array[::-1]
    assert np.abs(together.array - alone).max() < 1e-5
    assert np.abs(together.array - backwards).max() < 1e-5
    assert np.abs(together.array[0] - together.array[1]).max() > 1e-3


def forward_alone(encoder, name, item):
    """One input through the model's own forward pass, pooled by hand."""
    batch = encoder.collate([item])
    model = encoder.model
    if name == "ast":
        return model(**batch).last_hidden_state[:, 2:].mean(1)
    if name == "whisper":
        features = batch["input_features"]
        padded = torch.nn.functional.pad(features, (0, 300 - features.shape[2]))
        assert features.shape[2] == 300
        return model(padded).last_hidden_state[:, : int(batch["lengths"])].mean(1)
    return model(batch["waves"][0][None]).last_hidden_state.mean(1)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("spec", [KL(latent_dim=12), SimCLR(latent_dim=12, n_views=4)])
def test_gradients_equal_the_loop_reference(make, name, spec):
    encoder = make(name, dtype=torch.float64)
    objective = make_objective(spec, width=32, seed=3)
    checked = [
        encoder.check(item, i) for i, item in enumerate(clips(17_000, 30_000, 21_000, 17_000))
    ]
    generator = encoder.views("auto", spec.n_views, {}) if spec.n_views > 1 else None
    samples = []
    for i, (clip, original) in enumerate(zip(checked, encoder.prepare(checked), strict=True)):
        views = {}
        if generator:
            made = generator(clip, sample_generator(0, "views", clip.content))
            made[-1] = made[0]  # a repeated view is encoded once and counts twice
            views = {spec.name: encoder.prepare(made)}
        samples.append(Sample(i, original, views))
    if isinstance(spec, SimCLR):
        bank = torch.randn(6, 2, 32, generator=torch.Generator().manual_seed(0)).double()
        objective.fit(bank)
    plan = Plan(encoder=encoder, objectives={spec.name: objective})
    with untouched(encoder.model):
        group = Group(samples, plan, Budget(batch_tokens=400))
        found = group.factors(spec.name)[encoder.layer_path].materialise()
    for sample, G in zip(samples, found, strict=True):
        items = sample.views.get(spec.name, [sample.original])

        def loss(items=items):
            e = torch.cat([forward_alone(encoder, name, item) for item in items])
            return objective.loss(e[None])[0]

        expected, _ = reference_gradient(encoder.model, encoder.layer, loss)
        assert (G - expected).norm() <= 1e-9 * expected.norm()


@pytest.mark.parametrize("name", FAMILIES)
def test_the_model_is_left_as_it_was(make, name):
    encoder = make(name, CONFIG)
    encoder.model.train()
    before = {key: value.clone() for key, value in encoder.model.state_dict().items()}
    attributes = {key: set(vars(module)) for key, module in encoder.model.named_modules()}
    state = torch.random.get_rng_state()
    extractor = FungiExtractor(encoder, CONFIG)
    with torch.inference_mode():
        extractor.fit(clips(4000, 5000, 6000))
        extractor(clips(4000, 5000))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(module.training for module in encoder.model.modules())
    after = encoder.model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(p.grad is None for p in encoder.model.parameters())
    for key, module in encoder.model.named_modules():
        assert set(vars(module)) == attributes[key]
        assert not module._forward_hooks


def test_a_clip_is_decoded_and_transformed_once(make, monkeypatch):
    config = FungiConfig(
        objectives=(
            KL(),
            SimCLR(n_views=5, n_negatives=1),
            SimCLR(n_views=4, n_negatives=1, name="masks", views="spec_augment"),
        )
    )
    encoder = make("ast", config)
    extractor = FungiExtractor(encoder, config)
    extractor.fit(clips(5000, 6000, seed=9))
    decoded, transformed = [], []
    decode, log_mel = encoder._decode, encoder._body.log_mel
    monkeypatch.setattr(encoder, "_decode", lambda raw: decoded.append(1) or decode(raw))
    monkeypatch.setattr(
        encoder._body, "log_mel", lambda wave: transformed.append(1) or log_mel(wave)
    )
    extractor(clips(5000, 6000, 7000))
    assert len(decoded) == 3
    assert len(transformed) == 3


@pytest.mark.parametrize("views", ["crop", "spec_augment", "noise_roll", "gain_shift"])
@pytest.mark.parametrize("name", ["ast", "whisper"])
def test_every_view_family_changes_the_spectrogram_and_the_features(make, name, views):
    spec = SimCLR(latent_dim=16, n_views=3, n_negatives=2, views=views)
    config = FungiConfig(objectives=(spec,))
    encoder = make(name, config)
    clip = encoder.check(clips(6000)[0], 0)
    made = encoder.views(views, 3, {})(clip, sample_generator(0, "x", clip.content))
    batch = encoder.collate(encoder.prepare([clip, *made]))
    values = batch["input_values" if name == "ast" else "input_features"]
    assert values.isfinite().all()
    for i in range(1, 4):
        assert (values[i] - values[0]).abs().max() > 1e-4
    extractor = FungiExtractor(encoder, config)
    found = extractor.fit(clips(4000, 6000, 5000))(clips(6000))
    assert np.isfinite(found.array).all()


@pytest.mark.parametrize("name", FAMILIES)
def test_odd_but_valid_sounds_give_finite_features(make, name):
    config = FungiConfig(objectives=(KL(latent_dim=8),))
    extractor = FungiExtractor(make(name, config), config)
    loud = np.sign(np.sin(np.arange(4000) / 7)).astype(np.float32)
    odd = [np.zeros(4000), np.full(4000, 0.5), loud, np.random.default_rng(0).normal(0, 1e-9, 4000)]
    with pytest.warns(UserWarning, match="1 of the clips are digital silence"):
        found = extractor([(wave.astype(np.float32), 16000) for wave in odd])
    assert np.isfinite(found.array).all()


@pytest.mark.parametrize(
    ("name", "shortest"), [("ast", 400), ("whisper", 1), ("wav2vec2", 85), ("wavlm", 85)]
)
def test_the_shortest_clip_of_each_family(make, name, shortest):
    encoder = make(name)
    assert embed(encoder, clips(shortest)).isfinite().all()
    if shortest > 1:
        with pytest.raises(AudioError, match=rf"input 3 \(.*{shortest - 1} samples at 16000 Hz"):
            encoder.check(clips(shortest - 1)[0], 3)


def test_long_clips_are_cut_and_reported(make):
    config = FungiConfig(objectives=(), max_length=100)
    for name in ("ast", "whisper", "wav2vec2"):
        extractor = FungiExtractor(make(name, config), config)
        items = clips(16_000 * 3, 4000)
        with pytest.warns(UserWarning, match="1 of the clips are longer than 100 frames of 10 ms"):
            found = extractor(items)
        kept = items[0]["array"][: round(extractor.encoder._body.limit_s * 16000)]
        assert np.allclose(found.array[:1], extractor([(kept, 16000)]).array, atol=1e-6)


def test_failures_name_index_and_source_or_are_listed(make, tmp_path):
    config = FungiConfig(objectives=(KL(latent_dim=8),))
    extractor = FungiExtractor(make("ast", config), config)
    text = tmp_path / "text.wav"
    text.write_text("no sound")
    good = clips(4000, 5000)
    items = [good[0], text, np.zeros(4000), good[1], 3.5]
    with pytest.raises(AudioError, match=r"input 1 \('.*text\.wav'\): .*not a sound file"):
        extractor(items)
    with pytest.raises(AudioError, match=r"input 0 \(.*no sampling rate"):
        extractor(items[2:])
    with pytest.raises(InputTypeError, match=r"input 0 \(float 3\.5\): .*type float"):
        extractor(items[4:])
    found = extractor(items, on_error="skip")
    assert [failure.index for failure in found.failures] == [1, 2, 4]
    assert "not a sound file" in found.failures[0].error
    assert np.allclose(found.array, extractor(good).array, atol=1e-6)


def test_statistics_presets_and_estimates(make):
    items = clips(4000, 8000, seed=5)
    plain = make("ast")
    stats = plain._body.statistics
    assert (stats.mean, stats.std) == (-4.2677393, 4.5689974)
    esc = make("ast", FungiConfig(audio_statistics="esc50"))
    assert esc._body.statistics.mean == -6.6268077
    config = FungiConfig(objectives=(), audio_statistics="fit")
    extractor = FungiExtractor(make("ast", config), config)
    extractor.fit(items)
    encoder = extractor.encoder
    mels = [encoder._body.log_mel(torch.from_numpy(item["array"])) for item in items]
    values = torch.cat(mels).double()
    mean, std = encoder.state()["statistics"].tolist()
    assert mean == pytest.approx(float(values.mean()))
    assert std == pytest.approx(float(values.std(correction=0)))
    batch = encoder.collate(encoder.prepare([encoder.check(items[0], 0)]))
    assert torch.allclose(batch["input_values"][0, :23], ((mels[0] - mean) / (2 * std)).float())
    other = make("ast", config)
    other.load_state(encoder.state())
    assert other._body.statistics == encoder._body.statistics
    with pytest.raises(InputError, match="holds 'statistics'"):
        other.load_state({"mean": torch.ones(1)})
    assert make("ast").state() == {}


def test_wrong_combinations_are_explained(make, originals):
    model, processor = originals["ast"]
    for config, name, words in (
        (FungiConfig(pooling="last"), "ast", r"pooling of ASTModel is 'last'; choose one of"),
        (FungiConfig(pooling="cls"), "whisper", r"pooling of WhisperEncoder is 'cls'"),
        (FungiConfig(pooling="cls"), "hubert", r"pooling of HubertModel is 'cls'"),
        (FungiConfig(max_length=301), "whisper", r"max_length=301 frames of 10 ms; .* 2 to 300"),
        (
            FungiConfig(max_length=15),
            "ast",
            r"max_length=15 frames of 10 ms; this encoder takes 16",
        ),
        (FungiConfig(audio_statistics="esc50"), "wavlm", r"is for AST and SSAST; WavLMModel"),
        (FungiConfig(audio_statistics="fit"), "whisper", r"normalises each clip by itself"),
    ):
        with pytest.raises(ConfigError, match=words):
            make(name, config)
    with pytest.raises(ConfigError, match=r"unknown views 'mixup'"):
        make("ast").views("mixup", 2, {})
    with pytest.raises(ConfigError, match=r"reads the waveform; choose 'gain_shift'"):
        make("wav2vec2").views("crop", 2, {})
    with pytest.raises(EncoderError, match=r"needs its feature extractor; got None"):
        AudioEncoder(model, None, FungiConfig())
    with pytest.raises(EncoderError, match=r"Linear is no audio encoder of a known family"):
        AudioEncoder(torch.nn.Linear(2, 2), processor, FungiConfig())
    with pytest.raises(EncoderError, match=r"works at 16000 Hz; its feature extractor says 8000"):
        AudioEncoder(model, ast_extractor(sampling_rate=8000), FungiConfig())
    adapted = Wav2Vec2Model(Wav2Vec2Config(**WAVE, add_adapter=True, output_hidden_size=32))
    with pytest.raises(EncoderError, match="with an adapter is not offered"):
        AudioEncoder(adapted, Wav2Vec2FeatureExtractor(), FungiConfig())


class Counted:
    """Training clips made on demand; knows how many decoded ones are alive at once."""

    def __init__(self, monkeypatch, encoder):
        self.alive = self.most = self.decoded = 0
        decode = encoder._decode

        def counting(raw):
            clip = decode(raw)
            if not isinstance(raw, type(clip)):
                self.decoded += 1
                self.alive += 1
                self.most = max(self.most, self.alive)
                weakref.finalize(clip.samples, self._gone)
            return clip

        monkeypatch.setattr(encoder, "_decode", counting)

    def _gone(self):
        self.alive -= 1


@pytest.mark.parametrize("statistics", ["processor", "fit"])
def test_fit_reads_clips_one_by_one_and_holds_the_drawn_ones(make, monkeypatch, statistics):
    spec = SimCLR(latent_dim=8, n_views=2, n_negatives=3, negative_views=2)
    config = FungiConfig(objectives=(spec,), audio_statistics=statistics)
    encoder = make("ast", config)
    extractor = FungiExtractor(encoder, config)
    items = clips(*range(4000, 4040))
    expected = FungiExtractor(make("ast", config), config).fit(items).state.digest()
    counted = Counted(monkeypatch, encoder)
    extractor.fit(item for item in items)
    assert counted.decoded == 40
    assert counted.most <= 3 + 2
    assert extractor.state.digest() == expected
    backwards = FungiExtractor(make("ast", config), config).fit(items[::-1]).state.to_tensors()
    for key, tensor in extractor.state.to_tensors().items():
        assert torch.allclose(tensor, backwards[key], atol=1e-6)


def test_fit_of_means_holds_no_decoded_training_set(make, monkeypatch):
    config = FungiConfig(objectives=(KL(latent_dim=8),), center=True)
    encoder = make("ast", config)
    encoder.chunk_size = 4
    counted = Counted(monkeypatch, encoder)
    items = clips(*range(4000, 4030))
    found = FungiExtractor(encoder, config).fit(item for item in items)
    assert counted.most <= 4 * 4  # one chunk is prepared beside another
    plain = make("ast", config)
    expected = FungiExtractor(plain, config).fit(items)
    for name, mean in expected.state.means.items():
        assert torch.allclose(mean, found.state.means[name], atol=1e-6)
    with pytest.raises(InputError, match="fit needs at least one input; got none"):
        FungiExtractor(plain, config).fit(iter([]))


def test_waveform_views_hold_no_waveforms(make):
    config = FungiConfig(objectives=(SimCLR(n_views=4, n_negatives=1, views="gain_shift"),))
    encoder = make("ast", config)
    clip = encoder.check(clips(6000)[0], 0)
    made = encoder.views("gain_shift", 4, {})(clip, sample_generator(0, "x", clip.content))
    prepared = encoder.prepare([clip, *made])
    assert len({item.data.wave.data_ptr() for item in prepared}) == 1
    values = encoder.collate(prepared)["input_values"]
    for view, found in zip(made, values[1:], strict=True):
        shifted = np.roll(clip.samples, round(view.draw.shift_s * 16000))
        changed = shifted * np.float32(10 ** (view.draw.gain_db / 20))
        alone = encoder.prepare([encoder.check((changed, 16000), 0)])
        assert torch.allclose(encoder.collate(alone)["input_values"][0], found, atol=1e-5)
