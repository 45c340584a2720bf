import io
import tracemalloc
import types
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch

from fungi_hf.encoders.audio.decoding import decode, describe
from fungi_hf.errors import AudioError, InputTypeError


def sine(seconds: float = 0.5, rate: int = 16000, hertz: float = 440.0) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


def encoded(wave: np.ndarray, rate: int, kind: str = "WAV", subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def test_every_way_to_hand_over_one_clip_gives_the_same_samples(tmp_path):
    wave = sine()
    data = encoded(wave, 16000, "WAV", "FLOAT")
    path = tmp_path / "clip.wav"
    path.write_bytes(data)
    ways = {
        "path": path,
        "string": str(path),
        "bytes": data,
        "bytearray": bytearray(data),
        "memoryview": memoryview(data),
        "pair": (wave, 16000),
        "torch pair": (torch.from_numpy(wave), 16000),
        "list in dict": {"array": wave.tolist(), "sampling_rate": 16000},
        "array dict": {"array": wave, "sampling_rate": 16000, "path": None},
        "raw dict": {"raw": torch.from_numpy(wave), "sampling_rate": np.int64(16000)},
        "row with bytes": {"bytes": data, "path": "gone.wav"},
        "row with path": {"bytes": None, "path": str(path)},
        "float rate": {"array": wave, "sampling_rate": 16000.0},
    }
    clips = {name: decode(raw, 16000) for name, raw in ways.items()}
    for name, clip in clips.items():
        assert np.array_equal(clip.samples, wave), name
        assert clip.content == clips["path"].content, name
        assert clip == clips["path"], name
        assert clip.seconds == pytest.approx(0.5), name
        assert not clip.cut, name
    assert np.array_equal(decode(wave, 16000, sampling_rate=16000).samples, wave)


def test_content_depends_on_samples_and_rate():
    wave = sine()
    other = wave.copy()
    other[100] += 1e-4
    contents = {decode((w, r), r).content for w in (wave, other) for r in (8000, 16000)}
    assert len(contents) == 4


def test_a_decoded_clip_passes_through():
    clip = decode((sine(), 16000), 16000)
    assert decode(clip, 16000) is clip


@pytest.mark.parametrize(
    ("kind", "subtype", "tolerance"),
    [
        ("WAV", "PCM_U8", 1e-2),
        ("WAV", "PCM_16", 1e-4),
        ("WAV", "PCM_24", 1e-6),
        ("WAV", "PCM_32", 1e-6),
        ("WAV", "DOUBLE", 1e-7),
        ("FLAC", "PCM_16", 1e-4),
        ("FLAC", "PCM_24", 1e-6),
        ("OGG", "VORBIS", 5e-2),
        ("MP3", "MPEG_LAYER_III", 5e-2),
        ("AIFF", "PCM_16", 1e-4),
    ],
)
def test_formats_and_sample_widths(kind, subtype, tolerance):
    wave = sine(1.0)
    clip = decode(encoded(wave, 16000, kind, subtype), 16000)
    n = min(len(wave), len(clip.samples))
    assert n >= 15500
    assert clip.samples.dtype == np.float32
    middle = slice(2000, n - 2000)
    lags = [np.abs(clip.samples[middle] - np.roll(wave, k)[middle]).max() for k in range(-1, 2)]
    assert min(lags) <= tolerance


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.int32, np.uint16])
def test_integer_arrays_are_scaled_by_their_type(dtype):
    info = np.iinfo(dtype)
    middle = 0 if info.min < 0 else (info.max + 1) // 2
    array = np.array([info.min, middle, info.max] * 200).astype(dtype)
    samples = decode({"array": array, "sampling_rate": 16000}, 16000).samples
    assert samples[0] == -1.0
    assert samples[1] == 0.0
    assert samples[2] == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("channels", [1, 2, 7])
def test_channels_are_averaged_whichever_axis_they_are_on(channels):
    waves = np.stack([sine(hertz=200 * (k + 1)) for k in range(channels)])
    mean = waves.mean(0)
    for array in (waves, waves.T):
        assert np.allclose(decode((array, 16000), 16000).samples, mean, atol=1e-6)
    from_file = decode(encoded(waves.T, 16000, "WAV", "FLOAT"), 16000).samples
    assert np.allclose(from_file, mean, atol=1e-6)


@pytest.mark.parametrize("rate", [4000, 8000, 11025, 22050, 44100, 48000, 192_000])
def test_resampling_equals_soxr_on_the_whole_clip(rate):
    wave = sine(1.0, rate)
    ours = decode((wave, rate), 16000)
    assert len(ours.samples) == pytest.approx(16000, abs=1)
    whole = soxr.resample(wave, rate, 16000, quality="HQ")
    n = min(len(whole), len(ours.samples))
    assert np.abs(whole[:n] - ours.samples[:n]).max() < 1e-5
    assert ours.seconds == pytest.approx(1.0)


def test_the_limit_cuts_at_the_end_and_says_so(tmp_path):
    wave = np.random.default_rng(0).normal(0, 0.1, 44100 * 6).astype(np.float32)
    path = tmp_path / "long.wav"
    soundfile.write(path, wave, 44100, subtype="FLOAT")
    for raw in (path, (wave, 44100)):
        whole = decode(raw, 16000)
        cut = decode(raw, 16000, limit_s=2.5)
        assert len(cut.samples) == 40000
        assert cut.cut
        assert cut.seconds == pytest.approx(6.0)
        assert not whole.cut
        assert np.array_equal(cut.samples, whole.samples[:40000])
        assert not decode(raw, 16000, limit_s=6.0).cut
        assert not decode(raw, 16000, limit_s=60.0).cut
    assert decode((wave, 44100), 44100, limit_s=(1 << 16) / 44100).cut  # whole blocks


def test_two_hours_stay_within_bounded_memory(tmp_path):
    path = tmp_path / "two_hours.flac"
    block = (np.random.default_rng(0).normal(0, 0.01, 8000 * 60) * 32767).astype(np.int16)
    with soundfile.SoundFile(path, "w", 8000, 1, "PCM_16", format="FLAC") as file:
        for _ in range(120):
            file.write(block)
    tracemalloc.start()
    clip = decode(path, 16000, limit_s=30.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert clip.cut
    assert clip.seconds == 7200.0
    assert clip.samples.shape == (480_000,)
    assert peak < 20e6  # two hours would be 460 MB at 16 kHz


def test_sounds_that_look_odd_are_sounds():
    for wave in (
        np.zeros(800, np.float32),
        np.full(800, 0.25, np.float32),
        np.sign(sine()),
        np.array([0.5], np.float32),
    ):
        assert np.array_equal(decode((wave, 16000), 16000).samples, wave)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_are_named_with_their_place(value):
    wave = sine(6.0)
    wave[70_000] = value
    with pytest.raises(AudioError, match=r"NaN or infinite samples.*first at sample 70000"):
        decode((wave, 16000), 16000)
    with pytest.raises(AudioError, match=r"first at sample 70000"):
        decode(encoded(wave, 16000, "WAV", "FLOAT"), 16000)


def test_files_that_are_no_sound(tmp_path):
    folder = tmp_path / "folder.wav"
    folder.mkdir()
    empty = tmp_path / "empty.wav"
    empty.write_bytes(b"")
    text = tmp_path / "text.wav"
    text.write_text("this is no sound\n" * 50)
    silent = tmp_path / "header_only.wav"
    silent.write_bytes(encoded(np.zeros(0, np.float32), 16000))
    for raw, words in (
        (tmp_path / "missing.wav", r"missing\.wav' does not exist"),
        (folder, r"is a folder; expected a sound file"),
        (empty, r"empty file \(0 bytes\)"),
        (b"", r"bytes are empty \(0 bytes\)"),
        ({"bytes": b"", "path": None}, r"bytes are empty \(0 bytes\)"),
        (text, r"text\.wav' is not a sound file that can be decoded \(.*expected WAV, FLAC"),
        (b"no sound at all" * 20, r"<300 bytes> is not a sound file"),
        (silent, r"header_only\.wav' has no samples"),
        ((np.zeros(0), 16000), r"has no samples"),
        ((np.zeros((2, 0)), 16000), r"has no samples"),
        ("https://example.org/a.wav", r"is a URL and nothing is fetched"),
        ("", r"path of a clip is empty"),
        ("bad\0name.wav", r"cannot be opened"),
    ):
        with pytest.raises(AudioError, match=words):
            decode(raw, 16000)


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = tmp_path / "locked.wav"
    path.write_bytes(encoded(sine(), 16000))
    opened = Path.open

    def refuse(self, *args, **kwargs):
        if self == path:
            raise PermissionError(13, "Permission denied")
        return opened(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(AudioError, match=r"locked\.wav' cannot be opened: Permission denied"):
        decode(path, 16000)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "MP3"])
def test_truncated_files_are_refused(tmp_path, kind):
    noise = np.random.default_rng(0).normal(0, 0.1, 32000).astype(np.float32)
    data = encoded(noise, 16000, kind)
    path = tmp_path / f"half.{kind.lower()}"
    path.write_bytes(data[: len(data) // 2])
    for raw in (path, data[: len(data) // 2]):
        with pytest.raises(AudioError, match=r"truncated|damaged after"):
            decode(raw, 16000)


def test_a_streamed_wav_without_sizes_is_whole():
    data = bytearray(encoded(sine(), 16000))
    at = data.index(b"data") + 4
    data[at : at + 4] = b"\xff\xff\xff\xff"
    assert len(decode(bytes(data), 16000).samples) == 8000


@pytest.mark.parametrize(
    ("raw", "error", "words"),
    [
        ({"array": np.zeros(5)}, AudioError, r"\{'array': ...\} has no sampling rate"),
        ({"raw": np.zeros(5), "rate": 16000}, AudioError, r"has no sampling rate"),
        ({"sound": np.zeros(5)}, AudioError, r"keys \['sound'\]; expected 'array' or 'raw'"),
        ({"audio": np.zeros(5), "label": 1}, AudioError, r"shape \(5,\) has no sampling rate"),
        ({}, AudioError, r"keys \[\]"),
        ({"bytes": None, "path": None}, AudioError, r"not None"),
        (np.zeros(5), AudioError, r"shape \(5,\) has no sampling rate"),
        (torch.zeros(5), AudioError, r"has no sampling rate"),
        ((np.zeros(5), 0), AudioError, r"sampling rate is 0; expected a whole number of Hz"),
        ((np.zeros(5), -16000), AudioError, r"sampling rate is -16000"),
        ((np.zeros(5), 16000.5), AudioError, r"sampling rate is 16000\.5"),
        ((np.zeros(5), "16k"), AudioError, r"sampling rate is '16k'"),
        ((np.zeros(5), float("nan")), AudioError, r"sampling rate is nan"),
        ((np.zeros((3, 3)), 16000), AudioError, r"channels and samples cannot be told apart"),
        ((np.zeros((128, 1024)), 16000), AudioError, r"128 channels .*spectrograms are not taken"),
        ((np.zeros((2, 3, 4)), 16000), AudioError, r"shape \(2, 3, 4\); expected"),
        ((np.zeros(5, complex), 16000), InputTypeError, r"dtype complex128"),
        ((np.zeros(5, bool), 16000), InputTypeError, r"dtype bool"),
        ((np.array(["a"]), 16000), InputTypeError, r"expected real numbers"),
        (([[1.0], [1.0, 2.0]], 16000), InputTypeError, r"not a regular array"),
        (None, InputTypeError, r"type NoneType; give a path"),
        (17, InputTypeError, r"type int"),
        ([0.1, 0.2], InputTypeError, r"type list"),
    ],
    ids=lambda value: None if isinstance(value, type) else str(value)[:30],
)
def test_wrong_inputs_are_explained(raw, error, words):
    with pytest.raises(error, match=words):
        decode(raw, 16000)


class FakeDecoder:
    """Duck type of torchcodec's AudioDecoder; datasets' subclass has __getitem__ as well."""

    def __init__(self, wave, rate, ranged):
        self.wave, self.rate, self.asked = wave, rate, []
        self.metadata = types.SimpleNamespace(duration_seconds=wave.shape[1] / rate)
        if ranged:
            self.get_samples_played_in_range = self._range

    def __getitem__(self, key):
        raise AssertionError

    def keys(self):
        raise AssertionError

    def get_all_samples(self):
        return self._range(0, 1e9)

    def _range(self, start, stop):
        self.asked.append((start, stop))
        part = self.wave[:, round(start * self.rate) : round(stop * self.rate)]
        return types.SimpleNamespace(data=torch.from_numpy(part), sample_rate=self.rate)


@pytest.mark.parametrize("ranged", [True, False])
def test_torchcodec_like_objects(ranged):
    wave = np.random.default_rng(0).normal(0, 0.1, (2, 16000 * 70)).astype(np.float32)
    decoder = FakeDecoder(wave, 16000, ranged)
    clip = decode(decoder, 16000)
    assert np.allclose(clip.samples, wave.mean(0), atol=1e-7)
    assert clip.seconds == pytest.approx(70)
    decoder.asked.clear()
    cut = decode(decoder, 16000, limit_s=15)
    assert np.array_equal(cut.samples, clip.samples[: 15 * 16000])
    assert cut.cut
    assert max(stop for _, stop in decoder.asked) == (20.0 if ranged else 1e9)
    samples = decoder.get_all_samples()
    assert np.array_equal(decode(samples, 16000).samples, clip.samples)


def test_datasets_rows_with_bytes_and_path(tmp_path):
    datasets = pytest.importorskip("datasets")
    wave = sine()
    path = tmp_path / "a.flac"
    path.write_bytes(encoded(wave, 16000, "FLAC"))
    rows = datasets.Dataset.from_dict({"audio": [str(path)]})
    rows = rows.cast_column("audio", datasets.Audio(decode=False))
    inline = datasets.Dataset.from_dict({"audio": [{"bytes": path.read_bytes(), "path": None}]})
    inline = inline.cast_column("audio", datasets.Audio(decode=False))
    for source in (rows, inline):
        for row in (source[0]["audio"], source[0]):
            assert np.allclose(decode(row, 16000).samples, wave, atol=1e-4)


def test_clips_are_described_in_a_few_words():
    clip = decode((sine(), 16000), 16000)
    assert describe(clip) == clip.source == "array of shape (8000,)"
    assert describe("a/b.wav") == "'a/b.wav'"
    assert describe(b"1234") == "<4 bytes>"
    assert describe(17) == "int 17"
    assert describe({"x": "y" * 200}) == "dict {'x': '" + "y" * 53 + "..."


def test_missing_packages_are_named(monkeypatch):
    import sys

    data = encoded(sine(), 16000)
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(ImportError, match=r"soundfile is not installed.*fungi-hf\[audio\]"):
        decode(data, 16000)
    monkeypatch.setitem(sys.modules, "soxr", None)
    with pytest.raises(ImportError, match="soxr is not installed"):
        decode((sine(), 8000), 16000)
    assert decode((sine(), 16000), 16000).rate == 16000


def test_no_file_stays_open(tmp_path):
    path = tmp_path / "clip.wav"
    path.write_bytes(encoded(sine(4.0), 16000))
    table = Path("/proc/self/fd")
    if not table.exists():
        pytest.skip("no /proc on this system")
    before = len(list(table.iterdir()))
    decode(path, 16000)
    decode(path, 16000, limit_s=0.5)
    assert len(list(table.iterdir())) == before
