import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fungi_hf.encoders.audio import mel as fe
from fungi_hf.errors import AudioError, ConfigError, OptionalDependencyError

DATA = Path(__file__).parents[1] / "data"


def noise(samples: int, seed: int = 0, scale: float = 0.1) -> torch.Tensor:
    return torch.randn(samples, generator=torch.Generator().manual_seed(seed)) * scale


EPS = 2.0**-23


def exact_log_mel(samples: torch.Tensor, bins: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The definition in float64, and how many float32 roundings each value may be off by.

    An FFT in float32 is off by a few roundings of the frame's largest amplitude, in every bin: a
    bin of amplitude A beside a largest one of M is off by M / A relative to itself. So are sums of
    bins, weighted by their filter. The logarithm rounds by its own size.
    """
    frames = samples.double().unfold(-1, 400, 160)
    frames = frames - frames.mean(-1, keepdim=True)
    before = torch.cat([frames[:, :1], frames[:, :-1]], 1)
    window = torch.hann_window(400, periodic=False).double()
    amplitude = torch.fft.rfft((frames - 0.97 * before) * window, 512).abs()
    bank, top = fe.mel_bank(bins).T.double(), amplitude.amax(1, keepdim=True)
    power = (amplitude**2 @ bank).clamp_min(EPS)
    roundings = (2 * amplitude * top + EPS * top**2) @ bank / power
    return power.log(), roundings + power.log().abs()


@pytest.mark.parametrize("bins", [64, 128])
def test_filter_bank_equals_its_definition_in_float64(bins):
    samples = load_file(DATA / "kaldi_fbank.safetensors")["samples"].float() / 32768
    exact, roundings = exact_log_mel(samples, bins)
    # 0.8 roundings measured; a wrong window, offset or filter is off by thousands.
    assert ((fe.kaldi_fbank(samples, bins) - exact).abs() <= 4 * EPS * roundings).all()


@pytest.mark.parametrize("bins", [64, 128])
def test_filter_bank_equals_the_stored_reference(bins):
    golden = load_file(DATA / "kaldi_fbank.safetensors")
    samples = golden["samples"].float() / 32768
    ours, stored = fe.kaldi_fbank(samples, bins), golden[f"fbank_{bins}"]
    assert ours.shape == (118, bins)
    below = stored.amax(1, keepdim=True) - stored  # nats below the frame's loudest bin
    # 7e-5: float32 logarithms in the reference's steep filters, which differ by processor. The
    # rest: the FFT's rounding, relative to the loudest bin. A wrong filter is off by 1e-2.
    assert ((ours - stored).abs() <= 7e-5 + 4 * EPS * (below / 2).exp()).all()
    assert (below < 8).double().mean() > 0.5  # where that bound is below 1e-4


@pytest.mark.parametrize("seconds", [0.025, 0.1, 1.0, 5.0, 11.0])
def test_filter_bank_equals_the_transformers_extractor(seconds):
    from transformers import ASTFeatureExtractor

    wave = noise(int(seconds * 16000), seed=int(seconds * 40))
    ours = fe.fit_length(fe.kaldi_fbank(wave), 1024)
    ours = fe.normalise(ours, fe.statistics("audioset"))
    with pytest.warns(UserWarning, match="all zero"):  # filter 3 of 128, as ours
        extractor = ASTFeatureExtractor()
    theirs = extractor(wave.numpy(), sampling_rate=16000, return_tensors="pt").input_values[0]
    assert (ours - theirs).abs().max() <= 2e-3


@pytest.mark.parametrize(("samples", "frames"), [(400, 1), (559, 1), (560, 2), (16000, 98)])
def test_frame_counts(samples, frames):
    assert fe.kaldi_fbank(noise(samples)).shape == (frames, 128)
    assert fe.sample_count(frames) <= samples < fe.sample_count(frames + 1)
    assert len(fe.kaldi_fbank(noise(fe.sample_count(frames)))) == frames
    if frames > 1:
        assert len(fe.kaldi_fbank(noise(fe.sample_count(frames) - 1))) == frames - 1


def test_batched_rows_are_bit_identical_to_single_clips():
    waves = torch.stack([noise(8000, seed) for seed in range(5)])
    batched = fe.kaldi_fbank(waves)
    for wave, mel in zip(waves, batched, strict=True):
        assert torch.equal(fe.kaldi_fbank(wave), mel)


def test_silence_is_the_floor_and_one_filter_is_empty():
    mel = fe.kaldi_fbank(torch.zeros(1600))
    assert torch.allclose(mel, torch.tensor(-15.942385))
    empty = (fe.mel_bank(128).sum(1) == 0).nonzero().flatten()
    assert empty.tolist() == [3]


def test_too_short_clip_names_the_minimum():
    with pytest.raises(AudioError, match=r"399 samples is too short.*at least 400"):
        fe.kaldi_fbank(noise(399))


@pytest.mark.parametrize("bins", [80, 128])
@pytest.mark.parametrize("samples", [1, 150, 399, 16000, 479_900, 480_000, 500_000])
def test_whisper_log_mel_equals_the_transformers_extractor(samples, bins):
    from transformers import WhisperFeatureExtractor

    wave = noise(samples, seed=samples)
    theirs = WhisperFeatureExtractor(feature_size=bins)(
        wave.numpy(), sampling_rate=16000, return_tensors="pt"
    ).input_features[0]
    ours = fe.whisper_log_mel(wave, bins)
    assert ours.shape == (bins, 3000)
    assert (ours - theirs).abs().max() <= 1e-6


def test_whisper_log_mel_of_nothing_is_refused():
    with pytest.raises(AudioError, match="at least one sample"):
        fe.whisper_log_mel(torch.zeros(0))


def test_unit_variance_equals_the_transformers_extractor():
    from transformers import Wav2Vec2FeatureExtractor

    wave = noise(4000) + 0.3
    theirs = Wav2Vec2FeatureExtractor()(wave.numpy(), sampling_rate=16000, return_tensors="pt")
    assert (fe.unit_variance(wave) - theirs.input_values[0]).abs().max() <= 1e-5
    assert torch.equal(fe.unit_variance(torch.full((500,), 0.25)), torch.zeros(500))


def test_padding_comes_before_normalisation():
    stats = fe.statistics("esc50")
    mel = fe.normalise(fe.fit_length(torch.ones(3, 2), 5), stats)
    assert torch.allclose(mel[3:], torch.tensor(-stats.mean / (2 * stats.std)))
    assert fe.fit_length(torch.arange(8.0)[:, None], 3).flatten().tolist() == [0, 1, 2]


def test_estimated_statistics_equal_those_of_all_values_together():
    mels = [noise(n, seed=n, scale=3).reshape(-1, 4) - 5 for n in (8, 400, 1200)]
    values = torch.cat([mel.flatten() for mel in mels]).double()
    found = fe.estimate_statistics(fe.sum_up(mels))
    assert found.mean == pytest.approx(float(values.mean()), rel=1e-12)
    assert found.std == pytest.approx(float(values.std(correction=0)), rel=1e-12)


def test_statistics_that_cannot_normalise_are_refused():
    with pytest.raises(AudioError, match="values that differ, got 12 values"):
        fe.estimate_statistics(fe.sum_up([torch.zeros(3, 4)]))
    with pytest.raises(ConfigError, match=r"positive std, got mean 0\.0 and std 0\.0"):
        fe.Statistics(mean=0.0, std=0.0)
    with pytest.raises(ConfigError, match=r"'esc-50'; choose one of 'esc50'"):
        fe.statistics("esc-50")


def test_unknown_front_end_lists_the_choices():
    with pytest.raises(ConfigError, match=r"'kaldi'; choose one of .*'torch', 'torchaudio'"):
        fe.fbank("kaldi")
    assert fe.fbank("torch") is fe.kaldi_fbank


def test_missing_torchaudio_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchaudio", None)
    with pytest.raises(OptionalDependencyError, match=r"torchaudio is not installed.*frontend="):
        fe.fbank("torchaudio")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["OSError", "RuntimeError", "ImportError"])
def test_broken_torchaudio_leaves_the_front_end_alone_and_explains_itself(tmp_path, kind):
    package = tmp_path / "torchaudio"
    package.mkdir()
    (package / "__init__.py").write_text(f"raise {kind}('_torchaudio.abi3.so: libc10_cuda.so')")
    script = f"""
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        import torch
        from fungi_hf.encoders.audio import mel
        from fungi_hf.errors import OptionalDependencyError
        mel.kaldi_fbank(torch.zeros(400))
        try:
            mel.fbank("torchaudio")
        except OptionalDependencyError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True
    )
    assert "installed but cannot be loaded by torch" in done.stdout
    assert "libc10_cuda.so" in done.stdout
    assert "uninstall torchaudio" in done.stdout


def test_mel_bank_rows_are_triangles_between_their_neighbours():
    bank = fe.mel_bank(40).numpy()
    for row in bank:
        peak = int(row.argmax())
        assert np.all(np.diff(row[: peak + 1]) >= 0)
        assert np.all(np.diff(row[peak:]) <= 0)
    assert bank[:, -1].max() == 0
