"""Store the reference's log-mel of one clip; run where torchaudio works.

    python tests/data/make_kaldi_golden.py

The clip has a chirp, noise, digital silence and full-scale clipping; int16, as in a file.
"""

from pathlib import Path

import numpy as np
import torch
import torchaudio
from safetensors.torch import save_file
from torchaudio.compliance.kaldi import fbank

RATE = 16000


def clip() -> np.ndarray:
    """1.2 s in four parts of 0.3 s."""
    time = np.arange(int(0.3 * RATE)) / RATE
    chirp = 0.5 * np.sin(2 * np.pi * (100 + 12000 * time) * time)
    noise = np.random.default_rng(0).normal(0, 0.01, time.size)
    loud = np.clip(3 * np.sin(2 * np.pi * 440 * time), -1, 1)
    wave = np.concatenate([chirp, noise, np.zeros(time.size), loud])
    return np.round(wave * 32767).astype(np.int16)


if __name__ == "__main__":
    samples = torch.from_numpy(clip())
    wave = samples.float()[None] / 32768
    mels = {
        str(bins): fbank(
            wave, sample_frequency=RATE, window_type="hanning", num_mel_bins=bins
        ).contiguous()
        for bins in (64, 128)
    }
    save_file(
        {"samples": samples, "fbank_64": mels["64"], "fbank_128": mels["128"]},
        Path(__file__).with_name("kaldi_fbank.safetensors"),
        metadata={"torch": torch.__version__, "torchaudio": torchaudio.__version__},
    )
