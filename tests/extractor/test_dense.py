"""`extractor.dense`: what it gives, what it refuses, what is saved and left out."""

from __future__ import annotations

import os
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from fungi_hf import KL, Activation, DenseInfoNCE, FungiConfig, FungiExtractor
from fungi_hf.dense import DenseFeatures
from fungi_hf.encoders.audio.encoder import AudioEncoder
from fungi_hf.encoders.base import Encoder
from fungi_hf.encoders.text import TextEncoder
from fungi_hf.encoders.vision.encoder import VisionEncoder
from fungi_hf.errors import (
    ConfigError,
    EncoderError,
    FeatureError,
    ImageError,
    InputError,
    NotFittedError,
    ShapeError,
)
from tests.encoders.audio_models import build, clips
from tests.encoders.vision.kit import SETTINGS, encoder_of, model_of, pictures
from tests.tiny import extractor_of
from tests.tiny import model_of as text_model

SPEC = DenseInfoNCE(n_support=8, latent_dim=6)
IMAGES = pictures(3)


def vision(**fields):
    fields = {"objectives": (SPEC,), "dtype": "float64", "pooling": "cls", **fields}
    config = FungiConfig(**fields)
    return FungiExtractor(VisionEncoder(model_of("vit"), SETTINGS, config), config)


def texts(**fields):
    fields = {"objectives": (), "dtype": "float64", "pooling": "mean", **fields}
    model, tokenizer = text_model()
    return FungiExtractor.from_pretrained(model, FungiConfig(**fields), tokenizer)


def test_one_feature_object_an_image() -> None:
    extractor = vision().fit(IMAGES)
    one, two, three = extractor.dense(iter(IMAGES))
    assert one.grid == two.grid == three.grid == (4, 4)
    assert list(one.layout) == ["tokens", "dense_infonce"]
    assert one.array.shape == (16, 32)
    assert one.array.dtype == np.float32
    assert np.allclose(np.linalg.norm(one.array, axis=1), 1, atol=1e-6)
    assert one.fingerprint == extractor.fingerprint
    assert one.spans is None
    assert "array of shape" in one.source


def test_grids_follow_the_image_size() -> None:
    extractor = vision(image_size=(24, 64), objectives=(), dense=True)
    (one,) = extractor.dense(IMAGES[:1])
    assert one.grid == (3, 8)
    large = vision(image_size=512, objectives=(), dense=True)
    (one,) = large.dense(IMAGES[:1])
    assert one.grid == (64, 64)


def test_patches_share_out_the_whole_picture() -> None:
    """A processor that crops the centre would leave the sides without patches."""
    settings = {**SETTINGS, "do_center_crop": True, "crop_size": {"height": 32, "width": 32},
                "size": {"shortest_edge": 40}}  # fmt: skip
    config = FungiConfig(objectives=(), dense=True, dtype="float64", pooling="cls")
    wide = pictures(1, sizes=((40, 120),))[0]
    encoder = VisionEncoder(model_of("vit"), settings, config)
    pixels = encoder.collate(encoder.prepare([encoder.check(wide, 0)]))["pixel_values"]
    other = VisionEncoder(model_of("vit"), SETTINGS, config)  # no crop, 32 x 32
    same = other.collate(other.prepare([other.check(wide, 0)]))["pixel_values"]
    assert torch.equal(pixels, same)
    cropped = VisionEncoder(model_of("vit"), settings, config.replace(dense=False))
    seen = cropped.collate(cropped.prepare([cropped.check(wide, 0)]))["pixel_values"]
    assert not torch.allclose(pixels, seen, atol=0.1)
    extractor = FungiExtractor(cropped, config.replace(dense=False))
    (one,) = extractor.dense([wide])
    (two,) = FungiExtractor(encoder, config).dense([wide])
    assert np.array_equal(one.array, two.array)


def test_nothing_runs_before_it_is_asked_for() -> None:
    taken = []

    def stream():
        for i, image in enumerate(IMAGES):
            taken.append(i)
            yield image

    features = vision(objectives=(), dense=True).dense(stream())
    assert taken == []
    next(features)
    assert taken


def test_inputs_are_let_go() -> None:
    extractor = vision(objectives=(), dense=True)
    extractor._plan.encoder.chunk_size = 2
    held = []

    def stream():
        for image in pictures(12):
            copy = image.copy()
            held.append(weakref.ref(copy))
            yield copy

    alive = [sum(one() is not None for one in held) for _ in extractor.dense(stream())]
    assert max(alive) <= 6  # of two chunks and the one that the generator makes


def test_plain_tokens_and_activations_need_no_flag() -> None:
    extractor = vision(objectives=())
    (one,) = extractor.dense(IMAGES[:1])
    (same,) = vision(objectives=(), dense=True).dense(IMAGES[:1])
    assert np.array_equal(one.array, same.array)
    assert one.fingerprint == same.fingerprint != extractor.fingerprint
    assert extractor(IMAGES[:1]).array.shape == (1, 16)  # still one vector an image
    (both,) = vision(objectives=(Activation(),)).dense(IMAGES[:1])
    assert list(both.layout) == ["tokens", "activation"]


def test_what_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"kl has one loss an input"):
        vision(objectives=(KL(latent_dim=4),)).dense(IMAGES)
    with pytest.raises(ConfigError, match=r"set dense=True and call fit again"):
        vision(objectives=(), whitening=1.0).fit(IMAGES).dense(IMAGES)
    with pytest.raises(NotFittedError, match=r"dense_infonce; call extractor.fit"):
        vision().dense(IMAGES)
    extractor = vision().fit(IMAGES)
    for call in (extractor, extractor.fit_transform):
        with pytest.raises(ConfigError, match=r"call extractor.dense\(inputs\)"):
            call(IMAGES)
    with pytest.raises(ConfigError, match=r"on_error is"):
        extractor.dense(IMAGES, on_error="ignore")
    with pytest.raises(InputError, match=r"at least one patch, word or frame; got none"):
        vision().fit([])
    with pytest.raises(InputError, match=r"at least one input; got none"):
        vision(objectives=(), dense=True).fit([])
    with pytest.raises(InputError, match=r"at least one patch, word or frame; got none"):
        texts(objectives=(SPEC,)).fit(["..."])
    projected = encoder_of("clip_projected", pooling="projection")
    config = FungiConfig(objectives=(), dense=True, pooling="projection", dtype="float64")
    with pytest.raises(ConfigError, match=r"pooling='projection' does not give"):
        next(FungiExtractor(projected, config).dense(IMAGES))


def test_an_encoder_without_tokens_is_refused() -> None:
    class Bare(TextEncoder):
        first_token = property()  # type: ignore[assignment]

    for name in ("embed_tokens", "masked_views", "regions"):
        setattr(Bare, name, None)
    model, tokenizer = text_model()
    config = FungiConfig(objectives=(), dense=True, dtype="float64")
    bare = Bare(model, tokenizer, config)
    assert isinstance(bare, Encoder)
    with pytest.raises(ConfigError, match=r"Bare does not say what its tokens are"):
        FungiExtractor(bare, config)


def test_a_bad_input_is_left_out_or_raised(tmp_path) -> None:
    extractor = vision().fit(IMAGES)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    mixed = [IMAGES[0], tmp_path / "broken.png", IMAGES[1]]
    with pytest.raises(ImageError, match=r"input 1 .*broken.png"):
        list(extractor.dense(mixed))
    stream = extractor.dense(mixed, on_error="skip")
    assert [one.index for one in stream] == [0, 2]
    (failure,) = stream.failures
    assert failure.index == 1
    assert failure.source.endswith("broken.png")


def test_numbers_that_overflow_are_named() -> None:
    model = text_model()[0]
    encoder = extractor_of("bert", fresh=True).encoder
    with torch.no_grad():
        encoder.model.embeddings.word_embeddings.weight[
            encoder.tokenizer.convert_tokens_to_ids("bank")
        ] = torch.nan
    extractor = FungiExtractor(
        encoder, FungiConfig(objectives=(), dense=True, dtype="float64", pooling="mean")
    )
    assert model is not encoder.model
    with pytest.raises(FeatureError, match=r"input 1: the dense features hold NaN"):
        list(extractor.dense(["pay my card", "the bank"]))
    stream = extractor.dense(["pay my card", "the bank", "lost"], on_error="skip")
    assert [one.index for one in stream] == [0, 2]
    assert stream.failures[0].source == "'the bank'"


def test_a_saved_folder_gives_the_same(tmp_path) -> None:
    extractor = vision(whitening=0.5).fit(IMAGES)
    extractor.save_pretrained(tmp_path)
    model_of("vit")
    again = FungiExtractor(
        VisionEncoder(model_of("vit"), SETTINGS, extractor.config), extractor.config
    )
    with pytest.raises(NotFittedError):
        again.dense(IMAGES)
    from fungi_hf.extraction.state import FittedState

    again.restore(FittedState.from_tensors(extractor.state.to_tensors()))
    for one, other in zip(extractor.dense(IMAGES), again.dense(IMAGES), strict=True):
        assert np.array_equal(one.array, other.array)
        assert one.fingerprint == other.fingerprint
    assert FungiConfig.from_pretrained(tmp_path) == extractor.config


def test_words_of_texts() -> None:
    extractor = texts(max_length=8)
    given = ["pay my card!", "", "...", "don't pay: the bank paid me twice and then again"]
    with pytest.warns(UserWarning, match="truncated|empty|not know") as caught:
        found = list(extractor.dense(given))
    assert any("truncated" in str(one.message) for one in caught)
    words = [
        [text[int(a) : int(b)] for a, b in one.spans]
        for text, one in zip(given, found, strict=True)
    ]
    assert words[0] == ["pay", "my", "card"]
    assert words[1] == words[2] == []
    assert found[1].array.shape == (0, 16)
    assert words[3][0] == "don't"
    assert 0 < len(words[3]) < 10
    assert [one.grid for one in found] == [(len(some),) for some in words]


def test_a_prompt_has_no_words() -> None:
    extractor = texts(prompts={"query": "the bank: "}, default_prompt_name="")
    (plain,) = extractor.dense(["pay my card"])
    (asked,) = extractor.dense(["pay my card"], prompt_name="query")
    assert np.array_equal(plain.spans, asked.spans)
    assert plain.array.shape == asked.array.shape
    assert np.abs(plain.array - asked.array).max() > 1e-3  # the prompt is seen
    (own,) = extractor.dense(["pay my card"], prompt="please ")
    assert own.fingerprint != plain.fingerprint
    assert np.array_equal(own.spans, plain.spans)


@pytest.mark.parametrize(("family", "hop", "n"), [("whisper", 0.02, 25), ("wav2vec2", 0.005, 99)])
def test_frames_of_sounds(family, hop, n) -> None:
    model, processor = build(family)
    config = FungiConfig(objectives=(), dense=True, dtype="float64", pooling="mean")
    extractor = FungiExtractor(AudioEncoder(model.double().eval(), processor, config), config)
    (one,) = extractor.dense(clips(8000))
    assert one.grid == (len(one.array),) == (n,)
    assert np.allclose(one.spans[:, 0], np.arange(n) * hop)
    assert one.spans.max() <= 0.5


def test_columns_of_patches_of_sounds() -> None:
    """64 frames x 128 bins, patches of 16 every 10: five columns, of which 0.5 s begins all."""
    model, processor = build("ast")
    config = FungiConfig(objectives=(), dense=True, dtype="float64", pooling="mean")
    extractor = FungiExtractor(AudioEncoder(model.double().eval(), processor, config), config)
    long, short = extractor.dense(clips(8000, 2000))
    assert long.grid == (5,)
    assert np.allclose(long.spans, [[0.1 * i, min(0.1 * i + 0.16, 0.5)] for i in range(5)])
    assert short.grid == (2,)  # 0.125 s
    assert np.allclose(short.spans, [[0, 0.125], [0.1, 0.125]])


def test_the_object_checks_itself() -> None:
    good = np.eye(4, dtype=np.float32)
    layout = {"a": slice(0, 1), "b": slice(1, 4)}
    made = DenseFeatures(good, (2, 2), layout, "f", "here")
    assert len(made) == 4
    part = made.take(["b"])
    assert np.array_equal(part.array, np.eye(4, dtype=np.float32)[:, 1:])  # a row of zeros stays
    assert part.layout == {"b": slice(0, 3)}
    assert made.rows().fingerprint == "f"
    with pytest.raises(ShapeError, match=r"here: .*\(4, 4\); a grid of 3 x 2 parts needs \[6, F\]"):
        DenseFeatures(good, (3, 2), layout, "f", "here")
    with pytest.raises(ShapeError, match=r"spans have shape \(3, 2\); give \[4, 2\]"):
        DenseFeatures(good, (2, 2), layout, "f", "here", spans=np.zeros((3, 2)))
    for wrong in (2 * good, np.full((4, 4), np.nan, np.float32)):
        with pytest.raises(FeatureError, match=r"here: rows must be finite and of length 1"):
            DenseFeatures(wrong, (2, 2), layout, "f", "here")
    with pytest.raises(FeatureError, match=r"block 'c'|'c'"):
        made.take(["c"])
    with pytest.raises(FeatureError, match=r"no block was named"):
        made.take([])


def test_a_slow_tokenizer_is_refused() -> None:
    class Slow:
        def __init__(self, inner):
            self._inner = inner

        def __getattr__(self, name):
            return False if name == "is_fast" else getattr(self._inner, name)

        def __call__(self, *args, **options):
            return self._inner(*args, **options)

        def __len__(self):
            return len(self._inner)

    model, tokenizer = text_model()
    config = FungiConfig(objectives=(), dense=True, dtype="float64", pooling="mean")
    extractor = FungiExtractor(TextEncoder(model, Slow(tokenizer), config), config)
    with pytest.raises(EncoderError, match=r"Slow is a slow one: load its fast form"):
        next(extractor.dense(["pay"]))


PROGRAM = """
import sys
sys.path.insert(0, {root!r})
from tests.tiny import TEXTS, fitted
fitted()(TEXTS)
names = ("fungi_hf.dense", "fungi_hf.extraction.parts", "fungi_hf.extraction.parts_fit",
         "fungi_hf.objectives.dense", "fungi_hf.evaluation", "fungi_hf.encoders.vision.encoder")
print([name for name in names if name in sys.modules])
"""


@pytest.mark.slow
def test_who_does_not_use_it_does_not_load_it() -> None:
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(root=root)], capture_output=True, text=True,
        check=True, timeout=120, env={**os.environ, "PYTHONWARNINGS": "error"},
    )  # fmt: skip
    assert done.stdout.strip() == "[]"
