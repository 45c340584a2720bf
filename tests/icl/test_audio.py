"""Clips are checked when made, and render as the parts that servers expect."""

from __future__ import annotations

import base64
import io
import wave

import numpy as np
import pytest

from fungi_hf.errors import AudioError
from fungi_hf.icl.audio import AudioClip


def test_a_part_holds_a_16_bit_mono_file_clipped_to_full_scale():
    clip = AudioClip(np.array([0.0, 0.5, -1.0, 1.0, 2.0, -3.0]), 16_000)
    part = clip.part()
    assert set(part) == {"type", "input_audio"}
    assert part["type"] == "input_audio"
    assert set(part["input_audio"]) == {"data", "format"}
    assert part["input_audio"]["format"] == "wav"
    with wave.open(io.BytesIO(base64.b64decode(part["input_audio"]["data"]))) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 16_000)
        pcm = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    assert pcm.tolist() == [0, 16384, -32767, 32767, 32767, -32767]


def test_a_clip_keeps_its_own_copy():
    samples = np.zeros(8, np.float32)
    clip = AudioClip(samples, 8000)
    samples[0] = 1
    assert clip.samples[0] == 0
    with pytest.raises(ValueError, match="read-only"):
        clip.samples[0] = 1
    assert clip.seconds == 0.001
    assert str(clip) == "<audio 0.00 s at 8000 Hz>"


def test_identity_is_samples_and_rate():
    samples = np.linspace(-1, 1, 50)
    assert AudioClip(samples, 8000) == AudioClip(samples.astype(np.float32), 8000.0)
    assert AudioClip(samples, 8000).digest != AudioClip(samples, 16_000).digest
    assert AudioClip(samples, 8000).digest != AudioClip(samples[:-1], 8000).digest
    assert len({AudioClip(samples, 8000), AudioClip(samples, 8000)}) == 1
    assert AudioClip(samples, 8000) != "text"


def test_tensors_are_accepted():
    torch = pytest.importorskip("torch")
    assert AudioClip(torch.zeros(5, requires_grad=True), 100).samples.shape == (5,)


@pytest.mark.parametrize(
    ("samples", "rate", "message"),
    [
        (np.zeros((2, 5)), 8000, r"shape \(2, 5\); one channel"),
        (np.zeros(0), 8000, "samples are empty"),
        (np.array([0.0, np.nan, np.inf]), 8000, "2 of 3 values NaN or Inf"),
        (np.zeros(5, np.int16), 8000, "samples are int16; give floats"),
        ([0.0, "a"], 8000, "give floats"),
        (np.zeros(5), 0, "sampling_rate is 0"),
        (np.zeros(5), -8000, "sampling_rate is -8000"),
        (np.zeros(5), None, "sampling_rate is None"),
        (np.zeros(5), 8000.5, r"sampling_rate is 8000\.5"),
        (np.zeros(5), "8000", "sampling_rate is '8000'"),
        (np.zeros(5), True, "sampling_rate is True"),
        (np.zeros(5), float("nan"), "sampling_rate is nan"),
    ],
)
def test_bad_clips(samples, rate, message):
    with pytest.raises(AudioError, match=message):
        AudioClip(samples, rate)
