"""Our filter bank against the reference itself; needs an environment where torchaudio works."""

import pytest
import torch

from fungi_hf.encoders.audio import mel as fe

pytestmark = pytest.mark.torchaudio


@pytest.fixture(scope="module")
def reference():
    return fe.fbank("torchaudio")


@pytest.mark.parametrize("bins", [23, 64, 80, 126, 127, 128])
def test_filter_banks_are_identical(reference, bins):
    from torchaudio.compliance.kaldi import get_mel_banks

    theirs, _ = get_mel_banks(bins, 512, 16000.0, 20.0, 0.0, 100.0, -500.0, 1.0)
    assert torch.equal(fe.mel_bank(bins)[:, :-1], theirs)


@pytest.mark.parametrize("bins", [64, 128])
@pytest.mark.parametrize("scale", [1e-4, 0.1, 1.0])
@pytest.mark.parametrize("samples", [400, 401, 5000, 16000, 160_000])
def test_log_mels_agree(reference, samples, scale, bins):
    generator = torch.Generator().manual_seed(samples)
    wave = torch.randn(samples, generator=generator) * scale
    difference = (fe.kaldi_fbank(wave, bins) - reference(wave, bins)).abs().max()
    assert difference <= 1e-5


def test_silence_constants_and_tones_agree(reference):
    time = torch.arange(16000) / 16000
    for wave in (
        torch.zeros(16000),
        torch.full((16000,), 0.5),
        torch.sin(2 * torch.pi * 1000 * time),
        torch.sin(2 * torch.pi * 7990 * time).sign(),
    ):
        assert (fe.kaldi_fbank(wave) - reference(wave, 128)).abs().max() <= 1e-5


def test_batches_agree(reference):
    waves = torch.randn(3, 4000, generator=torch.Generator().manual_seed(0))
    assert (fe.kaldi_fbank(waves) - reference(waves, 128)).abs().max() <= 1e-5
    with pytest.raises(fe.AudioError, match="too short"):
        reference(waves[:, :399], 128)
