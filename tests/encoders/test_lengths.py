"""The length in a sound file's header is a hint: every container, whole, cut, and with a lie."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fungi_hf.encoders.audio.decoding import decode
from fungi_hf.errors import AudioError

RATE, SAMPLES = 16000, 48_000
NOISE = np.random.default_rng(0).normal(0, 0.1, SAMPLES).astype(np.float32)
# Container -> where the size of the sound stands: bytes in front of it, its width, its order.
SIZED = {
    "WAV": (b"data", 4, "little"),
    "WAVEX": (b"data", 4, "little"),
    "RIFX": (b"data", 4, "big"),
    "RF64": (b"ds64", 8, "little"),
    "W64": (b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a", 8, "little"),
    "AIFF": (b"SSND", 4, "big"),
    "SVX": (b"BODY", 4, "big"),
    "CAF": (b"data", 8, "big"),
    "AU": (b".snd", 4, "big"),
}
# Their headers hold a number that libsndfile does not compare, or none.
LOGGED = ["AVR", "MPC2K", "MAT4", "MAT5", "VOC", "WVE", "NIST", "HTK", "SDS"]
SILENT = ["PAF", "PVF", "IRCAM", "XI"]
PACKETS = ["FLAC", "OGG", "MP3"]


def written(kind: str, samples: np.ndarray = NOISE, **options) -> bytes:
    stream, name = io.BytesIO(), "WAV" if kind == "RIFX" else kind
    rate = 8000 if kind == "WVE" else 44100 if kind == "XI" else RATE
    subtype = soundfile.default_subtype(name) or next(iter(soundfile.available_subtypes(name)))
    endian = "BIG" if kind == "RIFX" else None
    options = {"subtype": subtype, **options}
    soundfile.write(stream, samples, rate, format=name, endian=endian, **options)
    return stream.getvalue()


def place(data: bytes, kind: str) -> int:
    """Where the size of the sound stands."""
    before, _, _ = SIZED[kind]
    at = data.index(before) + len(before)
    return at + {"RF64": 12, "AU": 4}.get(kind, 0)


def resized(data: bytes, kind: str, change) -> bytes:
    _, width, order = SIZED[kind]
    at, made = place(data, kind), bytearray(data)
    size = change(int.from_bytes(data[at : at + width], order))
    made[at : at + width] = size.to_bytes(width, order)
    return bytes(made)


def n_samples(data: bytes, kind: str = "") -> int:
    rate = {"WVE": 8000, "XI": 44100}.get(kind, RATE)
    clip = decode(data, rate)
    assert round(clip.seconds * rate) == len(clip.samples)
    return len(clip.samples)


@pytest.mark.parametrize("kind", [*SIZED, *LOGGED, *SILENT, *PACKETS])
def test_whole_files_are_read_whole(kind):
    assert n_samples(written(kind), kind) == SAMPLES


def test_every_container_of_this_libsndfile_is_tried():
    headerless = {"RAW", "SD2"}  # they need another file, or a user's word
    assert set(soundfile.available_formats()) - headerless == (
        {*SIZED, *LOGGED, *SILENT, *PACKETS} - {"RIFX"}
    )


@pytest.mark.parametrize("share", [0.5, 0.9])
@pytest.mark.parametrize("kind", [*SIZED, *LOGGED, *PACKETS])
def test_files_that_are_cut_are_refused(kind, share):
    data = written(kind)
    with pytest.raises(AudioError, match=r"truncated|damaged after|can(not)? be decoded"):
        decode(data[: int(len(data) * share)], RATE)


@pytest.mark.parametrize("kind", SILENT)
def test_a_header_without_a_length_is_not_contradicted(kind):
    data = written(kind)
    assert SAMPLES * 0.4 < n_samples(data[: len(data) // 2], kind) < SAMPLES * 0.6


@pytest.mark.parametrize("kind", SIZED)
def test_a_header_that_promises_too_much_is_refused(kind):
    with pytest.raises(AudioError, match=r"is truncated: .* of its sound data are missing"):
        decode(resized(written(kind), kind, lambda size: size + 20_000), RATE)


@pytest.mark.parametrize("kind", SIZED)
def test_a_header_that_promises_too_little_is_refused(kind):
    with pytest.raises(AudioError, match=r"the header is too short"):
        decode(resized(written(kind), kind, lambda size: size - 40_000), RATE)


@pytest.mark.parametrize(
    ("kind", "size"),
    [("WAV", 0), ("WAV", 0xFFFFFFFF), ("WAV", 0x7FFFFFFF), ("RIFX", 0xFFFFFFFF), ("WAVEX", 0),
     ("AU", 0xFFFFFFFF)],
)  # fmt: skip
def test_a_size_that_was_never_filled_in_is_unknown(kind, size):
    assert n_samples(resized(written(kind), kind, lambda _: size)) == pytest.approx(SAMPLES, abs=2)


@pytest.mark.parametrize("kind", ["WAV", "RIFX", "AIFF", "CAF", "W64"])
@pytest.mark.parametrize("share", [1, 0.5])
def test_the_sound_may_stand_behind_long_chunks(kind, share):
    """Text of 100 kB in front of the sound, which a look at the first bytes would miss."""
    data = written(kind)
    name, width, order = SIZED[kind]
    at = data.index(name)
    length = 100_000 + (24 if kind == "W64" else 0)
    other = b"JUNK" + name[4:] if kind == "W64" else b"free" if kind == "CAF" else b"JUNK"
    junk = other + length.to_bytes(width, order) + bytes(100_000)
    long = data[:at] + junk + data[at:]
    if kind in ("WAV", "RIFX", "AIFF"):
        long = long[:4] + (len(long) - 8).to_bytes(4, order) + long[8:]
    if share == 1:
        assert n_samples(long) == SAMPLES
    else:
        with pytest.raises(AudioError, match=r"truncated|can(not)? be decoded"):
            decode(long[: at + 100_000 + len(data) // 2], RATE)


@pytest.mark.parametrize("behind", [
    b"LIST\x04\x00\x00\x00INFO", b"id3 \x02\x00\x00\x00ab", b"TAG" + bytes(125), b"\0" * 600,
    b"LIST" + (50_000).to_bytes(4, "little") + bytes(50_000),
])  # fmt: skip
def test_chunks_and_tags_behind_the_sound_are_no_sound(behind):
    assert n_samples(written("WAV") + behind) == SAMPLES


def measured(data: bytes, total: int) -> bytes:
    made = bytearray(data)
    made[21] = made[21] & 0xF0 | total >> 32
    made[22:26] = (total & 0xFFFFFFFF).to_bytes(4, "big")
    return bytes(made)


@pytest.mark.parametrize("tag", [b"", b"ID3\x04\x00\x00\x00\x00\x02\x0a" + bytes(266)])
def test_flac_is_decoded_to_its_end(tag):
    data = written("FLAC")
    for total in (0, SAMPLES, SAMPLES // 2):  # unknown (streamed), true, too short
        assert n_samples(tag + measured(data, total)) == SAMPLES
    clip = decode(measured(data, SAMPLES // 2), RATE)
    np.testing.assert_array_equal(clip.samples, decode(data, RATE).samples)
    with pytest.raises(AudioError, match="promises 60000 samples, 48000 could be decoded"):
        decode(tag + measured(data, 60_000), RATE)
    with pytest.raises(AudioError, match=r"truncated|damaged after"):
        decode(data + data, RATE)


def test_a_limit_on_a_stream_of_unknown_length():
    data = measured(written("FLAC", np.tile(NOISE, 10)), 0)
    clip = decode(data, RATE, limit_s=2)
    assert clip.cut
    assert len(clip.samples) == 32_000
    assert clip.seconds < 60


def bare_mp3(samples: np.ndarray, **options) -> bytes:
    """An MP3 file without the frame that counts the others (Xing, Info)."""
    data = written("MP3", samples, **options)
    header = max(data.find(b"Xing"), data.find(b"Info"))
    if header < 0:
        return data
    start = data.rfind(b"\xff", 0, header)
    following = data.find(data[start : start + 2], header)
    return data[following:]


def test_mp3_of_variable_bit_rate_without_a_count_is_read_whole():
    quiet = np.sin(np.arange(6 * RATE) / 30).astype(np.float32) * 0.3
    loud = np.random.default_rng(1).normal(0, 0.2, 6 * RATE).astype(np.float32)
    for samples in (np.concatenate([quiet, loud]), np.concatenate([loud, quiet])):
        data = bare_mp3(samples, bitrate_mode="VARIABLE", compression_level=0.5)
        assert soundfile.info(io.BytesIO(data)).frames != pytest.approx(12 * RATE, rel=0.02)
        assert n_samples(data) == pytest.approx(12 * RATE, abs=3 * 1152)


def test_mp3_in_front_of_more_mp3_is_refused():
    data = written("MP3", bitrate_mode="VARIABLE", compression_level=0.5)
    assert b"Xing" in data[:4096] or b"Info" in data[:4096]
    with pytest.raises(AudioError, match=r"the header is too short"):
        decode(data + data, RATE)
    assert n_samples(b"ID3\x04\x00\x00\x00\x00\x02\x0a" + bytes(266) + data) == SAMPLES
    assert n_samples(data + b"TAG" + bytes(125)) == SAMPLES


def test_chained_ogg_is_refused():
    first, second = written("OGG"), written("OGG", NOISE[::-1].copy())
    for data in (first + second, first + first):
        with pytest.raises(AudioError, match="holds several streams in a row"):
            decode(data, RATE)
    opus = written("OGG", subtype="OPUS")
    assert n_samples(opus) == SAMPLES
    with pytest.raises(AudioError, match="several streams"):
        decode(opus + first, RATE)


@pytest.mark.parametrize("kind", PACKETS)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(share=st.floats(0.05, 0.97))
def test_a_cut_is_never_silence(kind, share):
    """Wherever a file of packets ends too early, it is refused."""
    data = written(kind)
    with pytest.raises(AudioError):
        decode(data[: int(len(data) * share)], RATE)


@settings(max_examples=60, deadline=None)
@given(kind=st.sampled_from(sorted(SIZED)), share=st.floats(0.02, 0.98))
def test_a_cut_container_is_refused_wherever_it_ends(kind, share):
    data = written(kind)
    with pytest.raises(AudioError):
        decode(data[: int(len(data) * share)], RATE)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "MP3", "OGG"])
def test_a_path_and_its_bytes_are_one_clip(kind, tmp_path):
    path = tmp_path / f"clip.{kind.lower()}"
    path.write_bytes(written(kind))
    one, other = decode(path, RATE), decode(path.read_bytes(), RATE)
    assert one.content == other.content
