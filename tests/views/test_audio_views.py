import dataclasses
import random

import numpy as np
import pytest
import torch

from fungi_hf.encoders.audio.decoding import decode
from fungi_hf.errors import ConfigError
from fungi_hf.seeding import sample_generator
from fungi_hf.views.audio import (
    AUDIO_VIEWS,
    GainShift,
    NoiseRoll,
    SpecAugment,
    SpectrogramCrop,
    audio_views,
)
from fungi_hf.views.audio_ops import apply_to_spectrograms, apply_to_wave
from fungi_hf.views.base import ViewGenerator

DRAWS = 4000


def clip(seed: int = 0, samples: int = 1600):
    wave = np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)
    return decode((wave, 16000), 16000)


def draws(family, count=DRAWS):
    generator = random.Random(0)
    return [family.draw(generator) for _ in range(count)]


def assert_uniform(values, low, high):
    """Kolmogorov-Smirnov at a level of about 1e-6, for continuous values."""
    values = np.sort(np.asarray(values, float))
    assert low <= values[0]
    assert values[-1] <= high
    expected = (values - low) / (high - low)
    steps = np.arange(1, len(values) + 1) / len(values)
    assert np.abs(steps - expected).max() < 2.7 / np.sqrt(len(values))


def assert_uniform_integers(values, low, high):
    """Every integer of low..high is drawn equally often, within 5 standard errors."""
    found, counts = np.unique(values, return_counts=True)
    assert found.tolist() == list(range(low, high + 1))
    p = 1 / len(found)
    assert np.abs(counts - len(values) * p).max() < 5 * np.sqrt(len(values) * p * (1 - p))


@pytest.mark.parametrize("name", sorted(AUDIO_VIEWS))
def test_views_are_a_function_of_seed_objective_and_content(name):
    one, other = clip(0), clip(1)
    views = audio_views(name, 5, {})
    assert isinstance(views, ViewGenerator)

    def contents(item, seed=42, objective="simclr"):
        made = views(item, sample_generator(seed, objective, item.content))
        return [view.content for view in made]

    base = contents(one)
    assert len(set(base)) == 5
    contents(other)
    assert contents(decode((one.samples.copy(), 16000), 16000)) == base
    assert not set(base) & set(contents(other))
    assert contents(one, seed=43) != base
    assert contents(one, objective="dino") != base


def test_noise_roll_draws():
    found = draws(NoiseRoll())
    assert_uniform_integers([d.shift for d in found], -10, 9)
    assert_uniform([d.amplitude for d in found], 0, 0.1)
    assert len({d.seed for d in found}) == DRAWS


def test_noise_roll_adds_uniform_noise_then_rolls():
    mel = torch.randn(1, 200, 16, generator=torch.Generator().manual_seed(0)) - 5
    for draw in draws(NoiseRoll(), 20):
        view = apply_to_spectrograms(mel, [draw], [200], [200])
        noise = torch.roll(view, -draw.shift, 1) - mel
        assert_uniform(noise.flatten().double().clamp(0, draw.amplitude), 0, draw.amplitude)
        assert noise.min() > -1e-5
        assert noise.max() < draw.amplitude + 1e-5


def test_noise_roll_stays_in_its_region():
    mel = torch.zeros(1, 30, 4)
    mel[0, 0] = 1.0
    draw = dataclasses.replace(NoiseRoll().draw(random.Random(0)), amplitude=0.0, shift=-1)
    for region, place in ((30, 29), (12, 11)):
        view = apply_to_spectrograms(mel, [draw], [12], [region])
        assert view[0, :, 0].nonzero().flatten().tolist() == [place]


def test_crop_draws():
    found = draws(SpectrogramCrop(time=(0.4, 0.9), frequency=(0.7, 1.0)))
    assert_uniform([d.time for d in found], 0.4, 0.9)
    assert_uniform([d.frequency for d in found], 0.7, 1.0)
    assert_uniform([d.time_offset for d in found], 0, 1)
    assert_uniform([d.frequency_offset for d in found], 0, 1)
    times, places = ([getattr(d, name) for d in found] for name in ("time", "time_offset"))
    assert abs(np.corrcoef(times, places)[0, 1]) < 5 / np.sqrt(DRAWS)


def test_crops_stretch_a_box_to_the_full_size():
    # On a plane, bilinear stretching is exact: the view must be the plane inside the box.
    frames, bins, length = 40, 16, 30
    plane = torch.arange(frames)[:, None] * 10.0 + torch.arange(bins)
    mel = plane.clone()
    mel[length:] = -1000.0  # padding, which must not leak in
    for draw in draws(SpectrogramCrop(time=(0.3, 1.0), frequency=(0.5, 1.0)), 50):
        view = apply_to_spectrograms(mel[None], [draw], [length], [frames])[0]
        start = draw.time_offset * (1 - draw.time) * length
        at = start + (np.arange(length) + 0.5) * draw.time - 0.5
        low = draw.frequency_offset * (1 - draw.frequency) * bins
        on = low + (np.arange(bins) + 0.5) * draw.frequency - 0.5
        expected = at.clip(0, length - 1)[:, None] * 10 + on.clip(0, bins - 1)
        assert np.abs(view[:length].numpy() - expected).max() < 1e-2
        assert (view[length:] <= -990).all()


def test_a_full_box_is_the_clip():
    mel = torch.randn(2, 20, 8, generator=torch.Generator().manual_seed(0))
    found = draws(SpectrogramCrop(time=(1, 1), frequency=(1, 1)), 2)
    view = apply_to_spectrograms(mel, found, [20, 13], [20, 20])
    assert torch.allclose(view, mel, atol=1e-5)


def widths(mask):
    edges = np.diff(np.concatenate([[0], mask.astype(int), [0]]))
    return np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)


def test_mask_widths_and_places_are_uniform():
    length, bins = 50, 40
    mel = torch.randn(1, 60, bins, generator=torch.Generator().manual_seed(0))
    time_widths, bin_widths, starts = [], [], []
    for draw in draws(SpecAugment(1, 1, 1, time_fraction=0.2, frequency_fraction=0.1)):
        changed = (apply_to_spectrograms(mel, [draw], [length], [60])[0] != mel[0]).numpy()
        assert not changed[length:].any()
        rows, columns = changed[:length].all(1), changed[:length].all(0)
        time_widths.append(int(rows.sum()))
        bin_widths.append(int(columns.sum()))
        if rows.any():
            first, _ = widths(rows)
            assert len(first) == 1
            starts.append(first[0] / (length - time_widths[-1]))
    assert_uniform_integers(time_widths, 0, 10)
    assert_uniform_integers(bin_widths, 0, 4)
    assert abs(np.mean(starts) - 0.5) < 5 * 0.3 / np.sqrt(len(starts))
    assert min(starts) == 0
    assert max(starts) == 1


def test_masks_become_the_mean_of_the_clip_and_keep_the_rest():
    mel = torch.randn(1, 30, 10, generator=torch.Generator().manual_seed(0)) - 4
    (draw,) = draws(SpecAugment(1, 2, 2, time_fraction=0.5, frequency_fraction=0.5), 1)
    view = apply_to_spectrograms(mel, [draw], [20], [30])
    changed = view != mel
    assert 0 < changed[0, :20].float().mean() < 1
    assert torch.allclose(view[changed], mel[0, :20].mean(), atol=1e-5)


def test_gain_shift_draws_and_application():
    found = draws(GainShift(gain_db=(-12, 3), shift_s=(0, 0.25)))
    assert_uniform([d.gain_db for d in found], -12, 3)
    assert_uniform([d.shift_s for d in found], 0, 0.25)
    wave = torch.randn(800, generator=torch.Generator().manual_seed(0))
    for draw in found[:20]:
        view = apply_to_wave(wave, draw, 1000)
        ratio = view.square().mean() / wave.square().mean()
        assert 10 * np.log10(float(ratio)) == pytest.approx(draw.gain_db, abs=1e-3)
        back = torch.roll(view, -round(draw.shift_s * 1000)) / 10 ** (draw.gain_db / 20)
        assert torch.allclose(back, wave, atol=1e-5)


def test_a_mixed_batch_equals_rows_alone_and_leaves_its_input():
    mels = torch.randn(9, 25, 12, generator=torch.Generator().manual_seed(0))
    before = mels.clone()
    generator = random.Random(1)
    families = [NoiseRoll(), SpectrogramCrop(), SpecAugment(), GainShift()]
    found = [families[i % 4].draw(generator) if i < 8 else None for i in range(9)]
    lengths = [25, 20, 7, 11, 3, 25, 18, 6, 9]
    batch = apply_to_spectrograms(mels, found, lengths, [25] * 9)
    assert torch.equal(mels, before)
    for i in range(9):
        alone = apply_to_spectrograms(mels[i : i + 1], [found[i]], [lengths[i]], [25])
        assert torch.allclose(batch[i], alone[0], atol=1e-6)
        assert torch.equal(batch[i], mels[i]) == (i in (3, 7, 8))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("mixup", {}, r"unknown views 'mixup'; choose one of 'crop', 'gain_shift'"),
        (
            "crop",
            {"times": 1},
            r"views 'crop' refused its options {'times': 1}: .*; it takes time, frequency",
        ),
        ("crop", {"time": 0.5}, r"time must be a pair \(lowest, highest\); got 0\.5"),
        ("crop", {"time": (0.9, 0.5)}, r"time must be \(lowest, highest\)"),
        ("crop", {"time": (0.0, 0.5)}, r"time\[0\] must be a number from 0\.01 to 1"),
        ("crop", {"frequency": (0.5, float("nan"))}, r"frequency\[1\] must be a number"),
        ("noise_roll", {"roll": -1}, r"roll must be an integer >= 0"),
        ("noise_roll", {"noise": "a"}, r"noise must be a number from 0 to 100"),
        ("spec_augment", {"time_masks": 0, "frequency_masks": 0}, r"both 0: every view"),
        ("spec_augment", {"time_fraction": 2}, r"time_fraction must be a number"),
        ("gain_shift", {"gain_db": (-90, 0)}, r"gain_db\[0\] must be a number from -60 to 60"),
    ],
)
def test_wrong_options_are_explained(name, options, words):
    with pytest.raises(ConfigError, match=words):
        audio_views(name, 3, options)


def test_families_and_encoders_that_do_not_fit():
    with pytest.raises(ConfigError, match=r"'crop' work on a spectrogram.*choose 'gain_shift'"):
        audio_views("crop", 3, {}, spectrogram=False)
    with pytest.raises(ConfigError, match=r"n_views must be an integer >= 1; got 0"):
        audio_views("crop", 0, {})
    assert isinstance(audio_views("auto", 2, {}), SpectrogramCrop)
    assert isinstance(audio_views("auto", 2, {}, spectrogram=False), GainShift)
    assert audio_views("crop", 2, {"time": [0.2, 0.4]}).time == (0.2, 0.4)  # lists come from JSON
