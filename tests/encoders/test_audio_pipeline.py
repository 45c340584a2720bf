"""Sound through transformers' pipeline task, by the same way as text."""

import numpy as np
import pytest
import soundfile
import torch
from transformers import pipeline

import fungi_hf  # noqa: F401 - registers the task
from fungi_hf.errors import AudioError

from .audio_models import build
from .test_decoding import encoded, sine


@pytest.fixture(scope="module", params=["ast", "whisper", "hubert"])
def pipe(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    model, processor = build(request.param)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return pipeline("fungi-feature-extraction", model=str(folder))


def test_every_kind_of_clip_goes_in(pipe, tmp_path):
    wave = sine()
    path = tmp_path / "clip.wav"
    soundfile.write(path, wave, 16000, subtype="FLOAT")
    expected = pipe(str(path), return_tensors=True)
    assert expected.shape == (1, 64)
    data = encoded(wave, 16000, "WAV", "FLOAT")
    one_by_one = [
        path,
        data,
        {"raw": wave, "sampling_rate": 16000},
        {"array": torch.from_numpy(np.stack([wave, wave])), "sampling_rate": 16000},
        {"bytes": data, "path": None},
    ]
    for clip in one_by_one:
        assert torch.allclose(pipe(clip, return_tensors=True), expected, atol=1e-5)
    for batch in (pipe(one_by_one, return_tensors=True, batch_size=2), pipe(iter(one_by_one))):
        found = [torch.as_tensor(row) for row in batch]
        assert len(found) == 5
        assert all(torch.allclose(row, expected, atol=1e-5) for row in found)


def test_failures_are_named(pipe):
    with pytest.raises(AudioError, match=r"input 1 \('gone\.wav'\): 'gone\.wav' does not exist"):
        pipe([{"raw": sine(), "sampling_rate": 16000}, "gone.wav"])
    with pytest.raises(AudioError, match=r"shape \(8000,\) has no sampling rate; pass \{'array'"):
        pipe(sine())
