"""Saved folders give the same features back, and say so when they cannot."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fungi_hf import PCA, FungiConfig, FungiExtractor
from fungi_hf.errors import ConfigError, EncoderError, StateError, StorageError
from fungi_hf.testing import tiny_text_model
from tests.tiny import OBJECTIVES, TEXTS, TRAIN, extractor_of, fitted, model_of, saved_model


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    return saved_model(folder)


def config(**changes) -> FungiConfig:
    return FungiConfig(**{"objectives": OBJECTIVES, **changes})


@pytest.fixture
def saved(model_folder, tmp_path) -> Path:
    extractor = FungiExtractor.from_pretrained(model_folder, config(center=True)).fit(TRAIN)
    extractor.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


VARIANTS = [
    {},
    {"objectives": ("kl",)},
    {"objectives": ()},
    {"center": True, "reduction": 5, "pooling": "cls"},
    {"whitening": 0.5},
    {"reduction": PCA(n_components=400)},
    {"sketch": "gaussian", "sketch_dim": 10},
    {"sketch": "rademacher", "published_signs": True, "round_sketch": True},
    {"sketch": "none", "sketch_rank": 3},
    {"sketch": "sparse", "target_layer": "encoder.layer.0.output.dense", "max_length": 40},
]


@pytest.mark.parametrize("changes", VARIANTS, ids=lambda c: "-".join(c) or "default")
def test_the_same_features_bit_for_bit(changes: dict, model_folder, tmp_path) -> None:
    extractor = FungiExtractor.from_pretrained(model_folder, config(**changes)).fit(TRAIN)
    features = extractor(TEXTS)
    extractor.save_pretrained(tmp_path)
    loaded = FungiExtractor.from_pretrained(tmp_path)
    assert loaded.is_fitted
    again = loaded(TEXTS)
    assert np.array_equal(again.array, features.array)
    assert again.layout == features.layout
    assert again.notes == features.notes
    assert again.fingerprint == features.fingerprint == loaded.fingerprint
    assert loaded.config == extractor.config
    second = tmp_path / "second"
    loaded.save_pretrained(second)
    for name in ("fungi_config.json", "fungi_state.safetensors"):
        if (tmp_path / name).exists():
            assert (second / name).read_bytes() == (tmp_path / name).read_bytes()


@pytest.mark.slow
def test_another_process_loads_it(saved) -> None:
    program = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from fungi_hf import FungiExtractor
from tests.tiny import TEXTS
import json
features = FungiExtractor.from_pretrained({str(saved)!r})(TEXTS)
print(json.dumps([features.fingerprint, features.array.tolist()]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    fingerprint, rows = json.loads(done.stdout)
    here = FungiExtractor.from_pretrained(saved)(TEXTS)
    assert fingerprint == here.fingerprint
    np.testing.assert_allclose(np.array(rows), here.array, atol=1e-5)


def test_the_folder_names_encoder_and_digests(saved, model_folder) -> None:
    document = json.loads((saved / "fungi_config.json").read_text())
    assert document["encoder"]["name"] == str(model_folder)
    assert document["resolved"]["target_layer"] == "encoder.layer.2.attention.output.dense"
    assert set(document["digests"]) == {
        "config", "encoder", "objective/kl", "objective/simclr", "sketch", "state",
    }  # fmt: skip
    assert document["config"] == config(center=True).to_dict()


def test_altered_state_is_refused(saved) -> None:
    from safetensors.torch import load_file, save_file

    path = saved / "fungi_state.safetensors"
    tensors = load_file(path)
    tensors["objective/simclr/negatives"][0, 0] += 1e-6
    save_file(tensors, path)
    with pytest.raises(StateError, match="digest of 'state'"):
        FungiExtractor.from_pretrained(saved)
    path.write_bytes(b"no safetensors")
    with pytest.raises(StateError, match="damaged or not a safetensors file"):
        FungiExtractor.from_pretrained(saved)
    path.unlink()
    with pytest.raises(StateError, match="digest of 'state'"):
        FungiExtractor.from_pretrained(saved)


def test_altered_weights_are_refused(saved, model_folder, tmp_path) -> None:
    from safetensors.torch import load_file, save_file

    other = tmp_path / "other"
    shutil.copytree(model_folder, other)
    tensors = load_file(other / "model.safetensors")
    name = next(n for n in tensors if n.endswith("layer.0.output.dense.weight"))
    tensors[name][0, 0] += 1e-4
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(StateError, match="digest of 'encoder'"):
        FungiExtractor.from_pretrained(saved, model=other)
    assert FungiExtractor.from_pretrained(saved, model=model_folder).is_fitted


def test_an_altered_config_is_refused(saved) -> None:
    path = saved / "fungi_config.json"
    for change in ({"embedding_weight": 2.0}, {"seed": 43}):
        document = json.loads(path.read_text())
        document["config"] |= change
        path.write_text(json.dumps(document))
        with pytest.raises(StateError, match="digest of '"):
            FungiExtractor.from_pretrained(saved)
    document["config"]["sede"] = 3
    path.write_text(json.dumps(document))
    with pytest.raises(ConfigError, match="no field 'sede'; choose one of 'seed'"):
        FungiExtractor.from_pretrained(saved)
    for broken in ("{", "[]", "{}", '{"config": 3}'):
        path.write_text(broken)
        with pytest.raises(StorageError, match=r"not JSON|must hold a JSON object"):
            FungiExtractor.from_pretrained(saved)


def test_another_tokenizer_is_refused(saved, model_folder) -> None:
    model, _ = tiny_text_model("bert", dtype=torch.float32)
    _, other = tiny_text_model("mpnet", dtype=torch.float32)
    with pytest.raises(StateError, match="digest of 'encoder'"):
        FungiExtractor.from_pretrained(saved, processor=other, model=model)


def test_a_model_object_is_asked_for_again(tmp_path) -> None:
    extractor = fitted()
    features = extractor(TEXTS)
    extractor.save_pretrained(tmp_path)
    with pytest.raises(StateError, match=r"does not name its encoder.*pass model="):
        FungiExtractor.from_pretrained(tmp_path)
    model, tokenizer = model_of()
    loaded = FungiExtractor.from_pretrained(tmp_path, processor=tokenizer, model=model)
    assert np.array_equal(loaded(TEXTS).array, features.array)
    with pytest.raises(ConfigError, match="brings its own config"):
        FungiExtractor.from_pretrained(tmp_path, FungiConfig(), tokenizer, model=model)


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_saving_beside_a_model_touches_none_of_its_files(model_folder, tmp_path) -> None:
    folder = tmp_path / "both"
    shutil.copytree(model_folder, folder)
    before = digests(folder)
    extractor = FungiExtractor.from_pretrained(folder, config()).fit(TRAIN)
    extractor.save_pretrained(folder)
    after = digests(folder)
    assert {name: after[name] for name in before} == before
    moved = tmp_path / "moved"
    folder.rename(moved)
    again = FungiExtractor.from_pretrained(moved)  # needs nothing but the folder
    assert np.array_equal(again(TEXTS).array, extractor(TEXTS).array)


def test_a_folder_without_state_loses_the_old_state(saved, model_folder) -> None:
    FungiExtractor.from_pretrained(model_folder).save_pretrained(saved)
    assert not (saved / "fungi_state.safetensors").exists()
    assert FungiExtractor.from_pretrained(saved).config == FungiConfig()


def test_an_unfitted_extractor_can_be_saved_and_fitted_later(model_folder, tmp_path) -> None:
    FungiExtractor.from_pretrained(model_folder, config()).save_pretrained(tmp_path)
    loaded = FungiExtractor.from_pretrained(tmp_path)
    assert not loaded.is_fitted
    expected = FungiExtractor.from_pretrained(model_folder, config()).fit(TRAIN)(TEXTS)
    assert np.array_equal(loaded.fit(TRAIN)(TEXTS).array, expected.array)


def test_what_is_not_there_is_named(saved, model_folder, tmp_path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(EncoderError, match="cannot load an encoder from"):
        FungiExtractor.from_pretrained(empty)
    with pytest.raises((EncoderError, StorageError), match="no/such-repository"):
        FungiExtractor.from_pretrained("no/such-repository")
    document = json.loads((saved / "fungi_config.json").read_text())
    document["encoder"]["name"] = str(tmp_path / "gone")
    (saved / "fungi_config.json").write_text(json.dumps(document))
    with pytest.raises((EncoderError, StorageError), match="gone"):
        FungiExtractor.from_pretrained(saved)
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(StorageError, match="cannot write to"):
        FungiExtractor.from_pretrained(model_folder).save_pretrained(file)


def test_a_model_without_its_weights_is_refused(model_folder, tmp_path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(model_folder, tmp_path / "half")
    path = tmp_path / "half" / "model.safetensors"
    tensors = load_file(path)
    tensors.pop(next(n for n in tensors if "layer.1.output.dense.weight" in n))
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(EncoderError, match="lacks 1 of the model's weights"):
        FungiExtractor.from_pretrained(tmp_path / "half")


def test_changing_the_model_changes_the_fingerprint() -> None:
    extractor = extractor_of(fresh=True, objectives=("kl",))
    before = extractor.fingerprint
    assert extractor.fingerprint == before
    with torch.no_grad():
        next(extractor.encoder.model.parameters()).add_(1e-3)
    assert extractor.fingerprint != before
    assert extractor_of(objectives=("kl",)).fingerprint == before


@pytest.mark.parametrize(
    ("modules", "pooling", "expected"),
    [
        (True, {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        (True, {"pooling_mode": "mean"}, "mean"),
        (True, {"pooling_mode": "lasttoken"}, "last"),
        (False, {}, "mean"),
    ],
)
def test_auto_pooling_is_what_the_folder_was_trained_with(
    modules: bool, pooling: dict, expected: str, model_folder, tmp_path
) -> None:
    folder = tmp_path / "st"
    shutil.copytree(model_folder, folder)
    if modules:
        (folder / "modules.json").write_text(
            json.dumps([{"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}])
        )
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
        (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 20}')
    encoder = FungiExtractor.from_pretrained(folder).encoder
    assert encoder.pooling == expected
    assert encoder.max_length == (20 if modules else 128)


def test_a_pooling_that_is_not_offered_is_named(model_folder, tmp_path) -> None:
    folder = tmp_path / "st"
    shutil.copytree(model_folder, folder)
    (folder / "modules.json").write_text(
        json.dumps([{"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}])
    )
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_max_tokens": true}')
    with pytest.raises(ConfigError, match="says pooling 'max_tokens', which is not offered"):
        FungiExtractor.from_pretrained(folder)
    explicit = FungiExtractor.from_pretrained(folder, FungiConfig(pooling="cls"))
    assert explicit.encoder.pooling == "cls"
