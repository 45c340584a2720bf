"""Time of the log-mel front-ends on one core, in milliseconds per 10 s of sound.

    python -m benchmarks.frontend [--out FILE]

Bar: at most 5 ms for ours. transformers' numpy path is what `ASTFeatureExtractor` runs without
torchaudio; torchaudio is measured when it can be loaded.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import torch
from transformers import ASTFeatureExtractor, WhisperFeatureExtractor
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from fungi_hf.encoders.audio import mel
from fungi_hf.errors import OptionalDependencyError

REPEATS = 41


def _extractor_numpy(wave):
    return spectrogram(
        wave, _WINDOW, frame_length=400, hop_length=160, fft_length=512, power=2.0, center=False,
        preemphasis=0.97, mel_filters=_BANK, log_mel="log", mel_floor=2.0**-23,
        remove_dc_offset=True,
    ).T  # fmt: skip


_WINDOW = window_function(400, "hann", periodic=False)
_BANK = mel_filter_bank(
    num_frequency_bins=257, num_mel_filters=128, min_frequency=20, max_frequency=8000,
    sampling_rate=16000, norm=None, mel_scale="kaldi", triangularize_in_mel_space=True,
)  # fmt: skip


def _contenders(wave: torch.Tensor) -> dict[str, object]:
    array, batch = wave.numpy(), wave.repeat(8, 1)
    found: dict[str, object] = {
        "fungi_hf kaldi_fbank": (1, lambda: mel.kaldi_fbank(wave)),
        "fungi_hf kaldi_fbank, batch of 8": (8, lambda: mel.kaldi_fbank(batch)),
        "transformers AST, numpy": (1, lambda: _extractor_numpy(array)),
        "transformers AST extractor as installed": (1, _ast(array)),
        "fungi_hf whisper_log_mel": (1, lambda: mel.whisper_log_mel(wave)),
        "transformers Whisper, torch": (1, _whisper(array)),
    }
    try:
        reference = mel.fbank("torchaudio")
    except OptionalDependencyError:
        return found
    return found | {"torchaudio compliance.kaldi.fbank": (1, lambda: reference(wave, 128))}


def _ast(array):
    extractor = ASTFeatureExtractor(max_length=998, do_normalize=False)
    return lambda: extractor(array, sampling_rate=16000)


def _whisper(array):
    extractor = WhisperFeatureExtractor()
    return lambda: extractor(array, sampling_rate=16000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/frontend.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    wave = torch.randn(160_000, generator=torch.Generator().manual_seed(0)) * 0.1
    contenders = _contenders(wave)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(REPEATS + 3):  # in turns, so that a busy moment hits all alike
        for name, (clips, run) in contenders.items():
            start = time.perf_counter()
            run()
            if turn >= 3:
                times[name].append(1e3 * (time.perf_counter() - start) / clips)
    ours = mel.kaldi_fbank(wave)
    numpy_path = torch.from_numpy(_extractor_numpy(wave.numpy()))
    difference = {"transformers AST, numpy": float((numpy_path - ours).abs().max())}
    if "torchaudio compliance.kaldi.fbank" in contenders:
        theirs = mel.fbank("torchaudio")(wave, 128)
        difference["torchaudio"] = float((theirs - ours).abs().max())
    result = {
        "unit": "ms per 10 s of 16 kHz sound, one thread, median and best of "
        f"{REPEATS} alternated runs",
        "median": {name: round(statistics.median(values), 3) for name, values in times.items()},
        "best": {name: round(min(values), 3) for name, values in times.items()},
        "max_difference_from_ours": difference,
        "bar_ms": 5.0,
        "torch": torch.__version__,
        "machine": platform.machine(),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
