"""Audio models by folder, saved extractors, and real weights where a path to them is given."""

import io
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import soundfile
import torch
from transformers import ASTForAudioClassification, WhisperModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from fungi_hf.config import KL, FungiConfig, SimCLR
from fungi_hf.errors import EncoderError, StateError
from fungi_hf.extractor import FungiExtractor

from .audio_models import FAMILIES, build, clips

ROOT = Path(__file__).parents[2]
CONFIG = FungiConfig(objectives=(KL(latent_dim=8), SimCLR(latent_dim=8, n_views=2, n_negatives=2)))


@pytest.mark.parametrize("name", FAMILIES)
def test_folder_and_object_give_the_same_features(name, tmp_path):
    model, processor = build(name)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    items = clips(4000, 6000, 5000)
    by_folder = FungiExtractor.from_pretrained(tmp_path, CONFIG).fit(items)
    by_object = FungiExtractor.from_pretrained(model.eval(), CONFIG, processor).fit(items)
    assert np.array_equal(by_folder(items).array, by_object(items).array)


def test_full_models_are_unwrapped(tmp_path):
    encoder, processor = build("whisper")
    whole = WhisperModel(encoder.config)
    whole.encoder.load_state_dict(encoder.state_dict())
    whole.save_pretrained(tmp_path / "whole")
    processor.save_pretrained(tmp_path / "whole")
    model, extractor = build("ast")
    tuned = ASTForAudioClassification(model.config)
    tuned.save_pretrained(tmp_path / "tuned")
    extractor.save_pretrained(tmp_path / "tuned")
    items = clips(4000, 6000)
    config = FungiConfig(objectives=(KL(latent_dim=8),))
    found = FungiExtractor.from_pretrained(tmp_path / "whole", config)
    alone = FungiExtractor.from_pretrained(encoder.eval(), config, processor)
    assert np.array_equal(found(items).array, alone(items).array)
    tuned_extractor = FungiExtractor.from_pretrained(tmp_path / "tuned", config)
    assert tuned_extractor.encoder.pooling == "cls"
    assert tuned_extractor(items).array.shape == (2, 64)


def test_saved_extractors_come_back_with_their_statistics(tmp_path):
    model, processor = build("ast")
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    config = CONFIG.replace(audio_statistics="fit", max_length=40, center=True)
    items = clips(4000, 6000, 5000)
    first = FungiExtractor.from_pretrained(tmp_path / "model", config).fit(items)
    first.save_pretrained(tmp_path / "fungi")
    again = FungiExtractor.from_pretrained(tmp_path / "fungi")
    assert again.encoder.state()["statistics"].tolist() == pytest.approx(
        first.encoder.state()["statistics"].tolist()
    )
    assert again.fingerprint == first.fingerprint
    assert np.array_equal(again(items).array, first(items).array)
    other, _ = build("ast")
    torch.nn.init.ones_(other.layers[0].mlp.fc1.bias)
    with pytest.raises(StateError, match="'encoder'"):
        FungiExtractor.from_pretrained(tmp_path / "fungi", processor=processor, model=other.eval())


def test_a_missing_feature_extractor_is_named(tmp_path):
    build("ast")[0].save_pretrained(tmp_path)
    with pytest.raises(EncoderError, match="ASTModel needs its feature extractor"):
        FungiExtractor.from_pretrained(tmp_path, CONFIG)


def rows(count=300):
    table = pyarrow.parquet.read_table(ROOT / "recipes/data/fsdd/fsdd.parquet")
    return table.slice(0, count).to_pylist()


def test_the_sample_of_spoken_digits_is_whole():
    found = rows()
    assert len(found) == 300
    assert {(r["speaker"], r["label"]) for r in found} == {
        (s, d) for s in {r["speaker"] for r in found} for d in range(10)
    }
    assert len({r["speaker"] for r in found}) == 6
    info = soundfile.info(io.BytesIO(found[0]["audio_bytes"]))
    assert (info.samplerate, info.channels) == (16000, 1)
    assert "CC BY-SA 4.0" in ATTRIBUTION or "Attribution-ShareAlike 4.0" in ATTRIBUTION


ATTRIBUTION = (ROOT / "recipes/data/fsdd/ATTRIBUTION.md").read_text("utf-8")


def test_rows_of_the_sample_go_straight_in():
    model, processor = build("wav2vec2")
    config = FungiConfig(objectives=(KL(latent_dim=8),))
    extractor = FungiExtractor.from_pretrained(model.eval(), config, processor)
    from_bytes = extractor(row["audio_bytes"] for row in rows(3))
    from_rows = extractor([{"bytes": row["audio_bytes"], "path": row["file"]} for row in rows(3)])
    assert np.array_equal(from_bytes.array, from_rows.array)


@pytest.fixture(scope="module")
def whisper_folder():
    folder = Path(os.environ.get("FUNGI_MODELS", ""), "whisper-tiny-en-encoder")
    if "FUNGI_MODELS" not in os.environ or not folder.is_dir():
        pytest.skip("set FUNGI_MODELS to a folder that holds whisper-tiny-en-encoder")
    return folder


@pytest.mark.slow
def test_real_whisper_hears_digits_of_an_unknown_speaker(whisper_folder):
    config = FungiConfig(objectives=(KL(latent_dim=384),))
    extractor = FungiExtractor.from_pretrained(whisper_folder, config)
    found = [row for row in rows() if row["index"] < 8]
    array = extractor([row["audio_bytes"] for row in found]).array
    labels = np.array([row["label"] for row in found])
    test = np.array([row["speaker"] == found[0]["speaker"] for row in found])
    nearest = (array[test] @ array[~test].T).argmax(1)
    assert (labels[~test][nearest] == labels[test]).mean() > 0.7  # chance is 0.1


@pytest.mark.slow
def test_real_whisper_window_equals_the_models_own_forward(whisper_folder):
    from transformers import WhisperFeatureExtractor

    from fungi_hf.encoders.audio.encoder import AudioEncoder

    processor = WhisperFeatureExtractor.from_pretrained(whisper_folder)
    model = WhisperEncoder.from_pretrained(whisper_folder, dtype=torch.float32).eval()
    encoder = AudioEncoder(model, processor, FungiConfig())
    encoder._body._context = "full"
    clip = clips(40_000)[0]
    with torch.no_grad():
        ours = encoder.embed(encoder.collate(encoder.prepare([encoder.check(clip, 0)])))
        inputs = processor(clip["array"], sampling_rate=16000, return_tensors="pt")
        theirs = model(**inputs).last_hidden_state[:, :125].mean(1)
    assert torch.allclose(ours, theirs, atol=1e-4)
