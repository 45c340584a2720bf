"""What each odd or bad clip gives, alone and in a batch, by the extractor and by the pipeline."""

import resource
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import pipeline

import fungi_hf  # noqa: F401 - registers the task
from fungi_hf.errors import AudioError, ConfigError, InputTypeError

from .audio_models import build
from .test_decoding import encoded, sine

RATE = 16000


@pytest.fixture(scope="module")
def pipe():
    model, processor = build("ast")
    return pipeline("fungi-feature-extraction", model=model, feature_extractor=processor)


def with_value(value):
    wave = sine()
    wave[100] = value
    return wave


GOOD = {
    "silent": lambda: (np.zeros(8000, np.float32), RATE),
    "constant": lambda: (np.full(8000, 0.25, np.float32), RATE),
    "clipped": lambda: (np.sign(sine()), RATE),
    "loud": lambda: (sine() * 1e9, RATE),
    "8-bit": lambda: encoded(sine(), RATE, "WAV", "PCM_U8"),
    "24-bit": lambda: encoded(sine(), RATE, "WAV", "PCM_24"),
    "7 channels": lambda: encoded(np.stack([sine()] * 7, 1), RATE, "WAV", "PCM_16"),
    "4 kHz": lambda: encoded(sine(0.5, 4000), 4000, "WAV", "PCM_16"),
    "192 kHz": lambda: encoded(sine(0.5, 192_000), 192_000, "WAV", "PCM_16"),
}


@pytest.mark.filterwarnings("ignore:1 of the clips are digital silence")
def test_odd_sounds_are_sounds(pipe):
    for name, make in GOOD.items():
        found = pipe(make(), return_tensors=True)
        direct = pipe.extractor([make()]).array
        assert found.isfinite().all(), name
        assert found.norm() == pytest.approx(2**0.5, abs=1e-4), name
        assert np.allclose(found, direct, atol=1e-6), name


@pytest.fixture
def bad(tmp_path, monkeypatch):
    """Name -> (clip, error, words)."""
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "text.wav").write_text("this is no sound\n" * 50)
    whole = encoded(sine(), RATE)
    (tmp_path / "half.wav").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "locked.wav").write_bytes(whole)
    opened = Path.open

    def refuse(self, *arguments, **named):
        if self.name == "locked.wav":
            raise PermissionError(13, "Permission denied")
        return opened(self, *arguments, **named)

    monkeypatch.setattr(Path, "open", refuse)  # root may read what is locked
    return {
        "no samples": ((np.zeros(0), RATE), AudioError, "has no samples"),
        "one sample": ((np.ones(1), RATE), AudioError, "1 samples at 16000 Hz are too few"),
        "NaN": ((with_value(np.nan), RATE), AudioError, "NaN or infinite.*sample 100"),
        "infinite": ((with_value(-np.inf), RATE), AudioError, "NaN or infinite.*sample 100"),
        "overflowing": ((with_value(1e20), RATE), AudioError, "up to 1e.20, which overflow"),
        "truncated": (tmp_path / "half.wav", AudioError, "half.wav' is truncated"),
        "zero bytes": (str(tmp_path / "empty.wav"), AudioError, "empty file .0 bytes"),
        "text": (tmp_path / "text.wav", AudioError, "text.wav' is not a sound file"),
        "missing": ("gone.wav", AudioError, "'gone.wav' does not exist"),
        "unreadable": (tmp_path / "locked.wav", AudioError, "cannot be opened: Permission"),
        "wrong keys": ({"sound": sine()}, AudioError, r"keys \['sound'\]"),
        "no rate": ({"array": sine()}, AudioError, "no sampling rate"),
        "bare array": (sine(), AudioError, "no sampling rate"),
        "rate 0": ((sine(), 0), AudioError, "sampling rate is 0"),
        "number": (3.5, InputTypeError, "type float"),
    }


def test_each_bad_clip_is_named_by_extractor_and_pipeline(pipe, bad):
    good = (sine(), RATE)
    for clip, error, words in bad.values():
        with pytest.raises(error, match=rf"^input 0 \(.*\): .*{words}"):
            pipe(clip)
        with pytest.raises(error, match=rf"^input 1 \(.*\): .*{words}"):
            pipe([good, clip])
        with pytest.raises(error, match=rf"^input 2 \(.*\): .*{words}"):
            list(pipe(iter([good, good, clip]), batch_size=2))
        with pytest.raises(error, match=rf"^input 1 \(.*\): .*{words}"):
            pipe.extractor([good, clip])


@pytest.mark.parametrize("batch_size", [None, 1, 4])
def test_skipping_gives_the_rest_and_says_what_failed(pipe, bad, batch_size):
    good = [(sine(0.2 + 0.1 * i), RATE) for i in range(3)]
    inputs = [good[0], *(clip for clip, _, _ in bad.values()), *good[1:]]
    expected = pipe.extractor(good).array
    features = pipe.extractor(inputs, batch_size, on_error="skip")
    outputs = pipe(inputs, batch_size=batch_size, on_error="skip", return_tensors=True)
    lazy = pipe(iter(inputs), batch_size=batch_size, on_error="skip", return_tensors=True)
    rows = list(lazy)
    assert np.allclose(features.array, expected, atol=1e-5)
    assert np.allclose(torch.cat(outputs), expected, atol=1e-5)
    assert np.allclose(torch.cat(rows), expected, atol=1e-5)
    for failures in (features.failures, outputs.failures, lazy.failures):
        assert [failure.index for failure in failures] == list(range(1, len(bad) + 1))
        assert "gone.wav" in failures[8].source
        assert "does not exist" in failures[8].error
        assert all(len(failure.source) < 200 for failure in failures)


def test_skipping_all_one_and_none(pipe):
    good = {"raw": sine(), "sampling_rate": RATE}
    nothing = pipe(["gone.wav", "lost.wav"], on_error="skip")
    assert nothing == []
    assert len(nothing.failures) == 2
    assert list(pipe(iter(["gone.wav"] * 3), batch_size=2, on_error="skip")) == []
    assert pipe([good], on_error="skip").failures == ()
    with pytest.raises(AudioError, match="does not exist"):
        pipe("gone.wav", on_error="skip")
    with pytest.raises(ConfigError, match="on_error is 'ignore'; choose one of 'raise', 'skip'"):
        pipe([good], on_error="ignore")
    by_default = pipeline(
        "fungi-feature-extraction",
        model=pipe.model,
        feature_extractor=pipe.feature_extractor,
        on_error="skip",
    )
    assert len(by_default(["gone.wav", good])) == 1


def test_features_that_overflow_in_the_model_are_skipped_alone(pipe, monkeypatch):
    embed, first = pipe.extractor.encoder.embed, []

    def broken(batch):
        found = embed(batch)
        mask = batch["input_values"].abs().amax((1, 2)) > 1e3
        first.append(int(mask.sum()))
        return found + torch.where(mask[:, None], torch.inf, 0.0)

    body = pipe.extractor.encoder._body
    collate = body.collate

    def marked(items):
        batch = collate(items)
        for row, item in enumerate(items):
            if len(item.wave) == 4000:
                batch["input_values"][row] = 1e4
        return batch

    monkeypatch.setattr(body, "collate", marked)
    monkeypatch.setattr(pipe.extractor.encoder, "embed", broken)
    inputs = [(sine(0.3), RATE), "gone.wav", (sine(0.25), RATE), (sine(0.4), RATE)]
    outputs = pipe(inputs, on_error="skip")
    assert sum(first) == 1
    assert len(outputs) == 2
    assert [failure.index for failure in outputs.failures] == [1, 2]
    assert "the features hold NaN or Inf" in outputs.failures[1].error


def test_a_pair_is_one_clip_and_a_list_of_pairs_many(pipe):
    wave = sine()
    expected = pipe({"raw": wave, "sampling_rate": RATE})
    for pair in (
        (wave, RATE),
        (wave, float(RATE)),
        (torch.from_numpy(wave), np.int64(RATE)),
        (wave.tolist(), RATE),
        (np.stack([wave, wave]), np.float32(RATE)),
    ):
        assert np.allclose(pipe(pair), expected, atol=1e-6)
    many = pipe(((wave, RATE), (wave, RATE)))
    assert len(many) == 2
    assert np.allclose(many[0], expected, atol=1e-6)
    with pytest.raises(InputTypeError, match=r"one clip \(samples, Hz\); pass a list"):
        pipe.extractor((wave, RATE))


@pytest.mark.slow
def test_two_hours_through_the_pipeline_take_little_memory(pipe, tmp_path):
    path = tmp_path / "two_hours.wav"
    block = (np.random.default_rng(0).normal(0, 0.01, (44100 * 60, 2)) * 32767).astype(np.int16)
    with soundfile.SoundFile(path, "w", 44100, 2, "PCM_16", format="WAV") as file:
        for _ in range(120):
            file.write(block)
    pipe((sine(), RATE))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.warns(UserWarning, match="1 of the clips are longer than 64 frames"):
        found = pipe([path, "gone.wav"], on_error="skip", return_tensors=True)
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert found[0].isfinite().all()
    assert len(found.failures) == 1
    assert grown_mb < 50  # the file has 1.2 GB
