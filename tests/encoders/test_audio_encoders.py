import copy
import warnings

import numpy as np
import pytest
import torch
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTForAudioClassification,
    ASTModel,
    HubertConfig,
    HubertModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)

from fungi_hf.batching import Budget, Sample
from fungi_hf.config import KL, Activation, FungiConfig, SimCLR
from fungi_hf.encoders.audio import AudioEncoder
from fungi_hf.encoders.loading import unwrap
from fungi_hf.encoders.positions import restride
from fungi_hf.engine import Group, Plan
from fungi_hf.errors import AudioError, ConfigError, EncoderError, InputError, InputTypeError
from fungi_hf.extractor import FungiExtractor
from fungi_hf.gradients import reference_gradient, untouched
from fungi_hf.objectives.base import make_objective
from fungi_hf.seeding import sample_generator

SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SHAPE["intermediate_size"] = 64
WAVE = SHAPE | {
    "conv_dim": (16, 16, 16),
    "conv_stride": (5, 4, 4),
    "conv_kernel": (10, 4, 4),
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
    "hidden_dropout": 0.0,
}


def ast_extractor(**settings):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*all zero values.*")
        return ASTFeatureExtractor(**settings)


def build(name: str) -> tuple[torch.nn.Module, object]:
    torch.manual_seed(0)
    if name == "ast":
        model = ASTModel(ASTConfig(**SHAPE, max_length=64, num_mel_bins=128))
        torch.nn.init.normal_(model.embeddings.position_embeddings, std=0.5)
        torch.nn.init.normal_(model.embeddings.cls_token, std=0.5)
        return model, ast_extractor(max_length=64)
    if name == "whisper":
        settings = WhisperConfig(
            d_model=32,
            encoder_layers=2,
            encoder_attention_heads=4,
            encoder_ffn_dim=64,
            decoder_layers=1,
            decoder_attention_heads=4,
            decoder_ffn_dim=32,
            vocab_size=16,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
            max_source_positions=150,
        )
        return unwrap(WhisperModel(settings)), WhisperFeatureExtractor(chunk_length=3)
    family, settings = {
        "wav2vec2": (Wav2Vec2Model, Wav2Vec2Config(**WAVE)),
        "wav2vec2-layer-norm": (
            Wav2Vec2Model,
            Wav2Vec2Config(**WAVE, feat_extract_norm="layer", do_stable_layer_norm=True),
        ),
        "hubert": (HubertModel, HubertConfig(**WAVE)),
        "wavlm": (WavLMModel, WavLMConfig(**WAVE)),
        "wavlm-stable": (WavLMModel, WavLMConfig(**WAVE, do_stable_layer_norm=True)),
    }[name]
    return family(settings), Wav2Vec2FeatureExtractor()


FAMILIES = [
    "ast",
    "whisper",
    "wav2vec2",
    "wav2vec2-layer-norm",
    "hubert",
    "wavlm",
    "wavlm-stable",
]


@pytest.fixture(scope="module")
def originals():
    return {name: build(name) for name in FAMILIES}


@pytest.fixture
def make(originals):
    def give(name, config=None, dtype=None):
        model, processor = originals[name]
        model = copy.deepcopy(model).eval()
        if dtype is not None:
            model = model.to(dtype)
        return AudioEncoder(model, processor, config or FungiConfig())

    return give


def clips(*lengths, seed=0):
    generator = np.random.default_rng(seed)
    return [
        {"array": generator.normal(0, 0.1, n).astype(np.float32), "sampling_rate": 16000}
        for n in lengths
    ]


def embed(encoder, items):
    checked = [encoder.check(item, i) for i, item in enumerate(items)]
    with torch.no_grad(), untouched(encoder.model):
        return encoder.embed(encoder.collate(encoder.prepare(checked)))


def plain_tokens(encoder, clip):
    """The model's own forward pass on its own feature extractor's output."""
    wave, processor = clip["array"], encoder.processor
    inputs = processor(wave, sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        return encoder.model(**inputs).last_hidden_state[0]


@pytest.mark.parametrize("name", [n for n in FAMILIES if n not in ("ast", "whisper")])
def test_waveform_embeddings_equal_the_models_own_forward(make, name):
    encoder = make(name)
    items = clips(3000, 8000, 5000)
    expected = torch.stack([plain_tokens(encoder, item).mean(0) for item in items])
    assert torch.allclose(embed(encoder, items), expected, atol=2e-6)


@pytest.mark.parametrize("pooling", ["cls", "model", "first", "mean"])
def test_ast_embeddings_equal_the_models_own_forward(make, pooling):
    encoder = make("ast", FungiConfig(pooling=pooling))
    items = clips(3000, 16000, 6000)
    pools = {
        "cls": lambda h: (h[0] + h[1]) / 2,
        "model": lambda h: (h[0] + h[1]) / 2,
        "first": lambda h: h[0],
        "mean": lambda h: h[2:].mean(0),
    }
    expected = torch.stack([pools[pooling](plain_tokens(encoder, item)) for item in items])
    assert torch.allclose(embed(encoder, items), expected, atol=1e-4)


def test_ast_default_pooling_is_what_was_trained(originals):
    model, processor = originals["ast"]
    assert AudioEncoder(model, processor, FungiConfig()).pooling == "mean"
    tuned = unwrap(ASTForAudioClassification(model.config))
    tuned.config.architectures = ["ASTForAudioClassification"]
    assert AudioEncoder(tuned, processor, FungiConfig()).pooling == "cls"
    tuned.config.architectures = None


@pytest.mark.parametrize("frames", [16, 40, 64, 130])
def test_ast_takes_any_length_by_fitting_positions(make, frames):
    encoder = make("ast", FungiConfig(max_length=frames, pooling="mean"))
    other = restride(encoder.model, stride=10, frames=frames)
    items = clips(3000, 40_000)
    with torch.no_grad():
        mel = encoder.collate(encoder.prepare([encoder.check(c, 0) for c in items]))
        expected = other(**mel).last_hidden_state[:, 2:].mean(1)
    assert mel["input_values"].shape == (2, frames, 128)
    assert torch.allclose(embed(encoder, items), expected, atol=1e-6)


def test_whisper_pools_the_covering_frames_of_the_window(make):
    # Up to 2 s of silence are kept, so here a clip of 1 s or more has the whole window of 3 s.
    encoder = make("whisper")
    items = clips(16_000, 33_333, 48_000)
    for item, found in zip(items, embed(encoder, items), strict=True):
        covering = -(-len(item["array"]) // 320)
        expected = plain_tokens(encoder, item)[:covering].mean(0)
        assert torch.allclose(found, expected, atol=1e-5)


def test_whisper_does_not_pay_for_silence(make):
    encoder = make("whisper")
    assert encoder._body.cost(3200) == 10 + 100
    short, long = clips(3200, 48_000)
    alone = embed(encoder, [short])
    # The window of 2.2 s by hand: the same weights, positions cut after 110.
    model = encoder.model
    wave = np.concatenate([short["array"], np.zeros(48_000, np.float32)])
    mel = encoder.processor(wave[:48_000], sampling_rate=16000, return_tensors="pt").input_features
    with torch.no_grad():
        x = torch.nn.functional.gelu(model.conv1(mel))
        x = torch.nn.functional.gelu(model.conv2(x)).transpose(1, 2)[:, :110]
        x = x + model.embed_positions.weight[:110]
        for layer in model.layers:
            x = layer(x, None)
        expected = model.layer_norm(x)[:, :10].mean(1)
    assert torch.allclose(alone, expected, atol=1e-5)
    assert torch.allclose(embed(encoder, [short, long])[:1], expected, atol=1e-5)


def with_option(name, value):
    config = FungiConfig()
    object.__setattr__(config, name, value)
    return config


def test_whisper_on_its_whole_window_equals_the_models_own_forward(make):
    encoder = make("whisper", with_option("audio_context", "full"))
    items = clips(3200, 700, 48_000)
    assert encoder._body.cost(3200) == 150
    for item, found in zip(items, embed(encoder, items), strict=True):
        covering = -(-len(item["array"]) // 320)
        expected = plain_tokens(encoder, item)[:covering].mean(0)
        assert torch.allclose(found, expected, atol=1e-5)


def test_unknown_context_and_front_end_list_the_choices(make):
    with pytest.raises(ConfigError, match=r"audio_context is 'all'; choose one of"):
        make("whisper", with_option("audio_context", "all"))
    with pytest.raises(ConfigError, match=r"unknown front-end 'kaldi'; choose one of"):
        make("ast", with_option("audio_frontend", "kaldi"))


def test_whisper_inside_a_full_model_and_alone_are_one(originals):
    model, processor = originals["whisper"]
    assert type(model).__name__ == "WhisperEncoder"
    encoder = AudioEncoder(model, processor, FungiConfig())
    assert encoder.layer_path == "layers.1.self_attn.out_proj"
    assert encoder.width == 32


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
    plan = Plan(encoder=encoder, objectives={spec.name: objective}, sketch=None)
    with untouched(encoder.model):
        group = Group(samples, plan, Budget(batch_tokens=400))
        found = group.factors(spec.name, objective).materialise()
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
    with pytest.raises(ConfigError, match=r"unknown audio views 'mixup'"):
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
