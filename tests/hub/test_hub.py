"""Configs and fitted state on the Hub: pushed, read back, refused; a model's files stay."""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING

import pytest
from transformers import pipeline

from fungi_hf import FungiConfig, FungiExtractor
from fungi_hf.cli import main
from fungi_hf.errors import StateError, StorageError
from tests.fake_hub import TOKEN
from tests.hub.conftest import CONFIG, FITTED, TEXTS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fake_hub import FakeHub


def test_an_extractor_comes_back_with_state_and_encoder(
    hub: FakeHub, extractor: FungiExtractor
) -> None:
    url = extractor.push_to_hub("owner/features", token=TOKEN, private=True, commit_message="Hi")

    again = FungiExtractor.from_pretrained("owner/features", token=TOKEN)

    assert url.startswith(f"{hub.url}/owner/features/commit/")
    assert hub.repos["owner/features"].private
    assert set(hub.files("owner/features")) == {
        "fungi_config.json",
        "fungi_state.safetensors",
        "config.json",
        "modules.json",
        "README.md",
    }
    assert again.fingerprint == extractor.fingerprint
    assert (again(TEXTS).array == extractor(TEXTS).array).all()
    assert again.source.name == "user/encoder"
    document = json.loads(hub.files("owner/features")["fungi_config.json"])
    assert document["encoder"]["revision"] == hub.repos["user/encoder"].branches["main"]


def test_the_pipeline_loads_a_pushed_extractor(hub: FakeHub, extractor: FungiExtractor) -> None:
    extractor.push_to_hub("owner/features", token=TOKEN)

    pipe = pipeline("fungi-feature-extraction", model="owner/features")

    assert pipe.extractor.fingerprint == extractor.fingerprint
    other = pipeline(
        "fungi-feature-extraction", model="user/encoder", fungi_config="owner/features"
    )
    assert other.extractor.fingerprint == extractor.fingerprint


def test_a_pushed_pipeline_loads_with_and_without_custom_code(
    hub: FakeHub, extractor: FungiExtractor
) -> None:
    pipe = pipeline("fungi-feature-extraction", model="user/encoder", fungi_config=CONFIG)
    pipe.push_to_hub("owner/pipe", token=TOKEN)
    pipe.push_to_hub("owner/code", token=TOKEN, custom_code=True)

    plain = pipeline("fungi-feature-extraction", model="owner/pipe")
    code = pipeline("fungi-feature-extraction", model="owner/code", trust_remote_code=True)

    assert plain(TEXTS[0]) == code(TEXTS[0]) == pipe(TEXTS[0])
    assert "fungi_pipeline.py" not in hub.files("owner/pipe")
    with pytest.raises(StorageError, match="holds a model, which pushing a pipeline would overwr"):
        pipe.push_to_hub("user/encoder", token=TOKEN)


def test_a_models_own_files_stay(
    hub: FakeHub, extractor: FungiExtractor, encoder_files: dict[str, bytes]
) -> None:
    hub.put("user/encoder", {**encoder_files, "README.md": b"mine", "modules.json": b"[]"})
    extractor.push_to_hub("user/encoder", token=TOKEN)

    after = hub.files("user/encoder")

    for name, content in {**encoder_files, "README.md": b"mine", "modules.json": b"[]"}.items():
        assert after[name] == content
    assert set(after) - set(encoder_files) == {
        "README.md",
        "modules.json",
        "fungi_config.json",
        "fungi_state.safetensors",
    }
    beside = FungiExtractor.from_pretrained("user/encoder")
    assert (beside(TEXTS).array == extractor(TEXTS).array).all()


def test_revisions_branches_and_pull_requests(hub: FakeHub, encoder: str) -> None:
    CONFIG.push_to_hub("owner/config", token=TOKEN)
    first = hub.repos["owner/config"].branches["main"]
    CONFIG.replace(seed=7).push_to_hub("owner/config", token=TOKEN)
    CONFIG.replace(seed=8).push_to_hub("owner/config", token=TOKEN, revision="side")
    pull = CONFIG.replace(seed=9).push_to_hub("owner/config", token=TOKEN, create_pr=True)

    assert FungiConfig.from_pretrained("owner/config", revision=first).seed == 42
    assert FungiConfig.from_pretrained("owner/config").seed == 7
    assert FungiConfig.from_pretrained("owner/config", revision="side").seed == 8
    assert pull == f"{hub.url}/owner/config/discussions/1"
    with pytest.raises(StorageError, match="owner/config"):
        FungiConfig.from_pretrained("owner/config", revision="nowhere")


def test_a_config_alone_is_used_by_the_pipeline(hub: FakeHub, encoder: str) -> None:
    CONFIG.replace(seed=7).push_to_hub("owner/config", token=TOKEN)
    pipe = pipeline("fungi-feature-extraction", model=encoder, fungi_config="owner/config")
    assert pipe.fungi_config == CONFIG.replace(seed=7)


def test_a_config_does_not_replace_a_saved_extractors(
    hub: FakeHub, extractor: FungiExtractor, tmp_path: Path
) -> None:
    extractor.push_to_hub("owner/features", token=TOKEN)
    extractor.save_pretrained(tmp_path / "features")
    before = dict(hub.files("owner/features"))
    with pytest.raises(StorageError, match="holds a saved extractor"):
        CONFIG.push_to_hub("owner/features", token=TOKEN)
    with pytest.raises(StorageError, match="holds a saved extractor"):
        CONFIG.save_pretrained(tmp_path / "features")
    assert hub.files("owner/features") == before


def test_pushing_a_local_encoder_says_that_it_is_not_named(
    hub: FakeHub, encoder_files: dict[str, bytes], tmp_path: Path
) -> None:
    for name, content in encoder_files.items():
        (tmp_path / name).write_bytes(content)
    local = FungiExtractor.from_pretrained(tmp_path, CONFIG)
    with pytest.warns(UserWarning, match="must pass model="):
        local.push_to_hub("owner/local", token=TOKEN)

    assert str(tmp_path).encode() not in b"".join(hub.files("owner/local").values())
    with pytest.raises(StateError, match=r"does not name its encoder.*pass model="):
        FungiExtractor.from_pretrained("owner/local")
    again = FungiExtractor.from_pretrained("owner/local", model=tmp_path)
    assert again.fingerprint == local.fingerprint


def test_a_newer_config_is_read_with_a_warning(hub: FakeHub) -> None:
    document = {"config": {**CONFIG.to_dict(), "version": 2}}
    hub.put("owner/newer", {"fungi_config.json": json.dumps(document).encode()})
    with pytest.warns(UserWarning, match="this config has version 2"):
        assert FungiConfig.from_pretrained("owner/newer") == CONFIG


def test_a_folder_that_cannot_be_written(tmp_path: Path, extractor: FungiExtractor) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    for save in (extractor.save_pretrained, CONFIG.save_pretrained):
        with pytest.raises(StorageError, match="cannot write to"):
            save(file)
    assert file.read_text() == "x"


def test_a_folder_round_trip_restores_perturbed_state(
    extractor: FungiExtractor, tmp_path: Path
) -> None:
    folder = tmp_path / "saved"
    extractor.save_pretrained(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = FungiExtractor.from_pretrained(str(folder))
    other = FungiExtractor.from_pretrained("user/encoder", FITTED).fit([*TEXTS[:3], "a new bank"])

    assert again.fingerprint == extractor.fingerprint != other.fingerprint
    assert (again(TEXTS).array == extractor(TEXTS).array).all()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert FungiConfig.from_pretrained(folder) == FITTED
    assert FungiConfig.from_pretrained(folder / "fungi_config.json") == FITTED


def test_the_program_pushes_and_tells(
    hub: FakeHub,
    extractor: FungiExtractor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    extractor.save_pretrained(tmp_path / "saved")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    capsys.readouterr()

    assert main(["push", str(tmp_path / "saved"), "owner/pushed", "--private"]) == 0
    assert capsys.readouterr().out.startswith(f"{hub.url}/owner/pushed/commit/")
    assert hub.repos["owner/pushed"].private
    assert main(["info", "owner/pushed"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["fingerprint"], facts["fitted"]) == (extractor.fingerprint, True)
    monkeypatch.setenv("HF_TOKEN", "hf_of_somebody")
    assert main(["push", str(tmp_path / "saved"), "owner/pushed"]) == 1
    assert "cannot push to 'owner/pushed'" in capsys.readouterr().err.splitlines()[-1]
