"""Configs and fitted state on the Hub: pushed, read back, refused; a model's files stay."""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import pipeline

from fungi_hf import KL, FungiConfig, FungiExtractor, SimCLR
from fungi_hf.cli import main
from fungi_hf.encoders.loading import Source
from fungi_hf.errors import ConfigError, StateError, StorageError
from fungi_hf.testing import tiny_text_model
from tests.fake_hub import TOKEN

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fake_hub import FakeHub

CONFIG = FungiConfig(objectives=(KL(latent_dim=32),))
FITTED = FungiConfig(
    objectives=(KL(latent_dim=32), SimCLR(n_views=3, latent_dim=16, n_negatives=4)), center=True
)
TEXTS = ["my card was lost", "how do you pay", "what is the new account", "please help me"]


@pytest.fixture(scope="module")
def encoder_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("model")
    model, tokenizer = tiny_text_model("bert", dtype=torch.float32)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def saved_files(
    encoder_files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """What saving a fitted extractor of user/encoder writes."""
    folder, target = tmp_path_factory.mktemp("model"), tmp_path_factory.mktemp("saved")
    for name, content in encoder_files.items():
        (folder / name).write_bytes(content)
    extractor = FungiExtractor.from_pretrained(folder, FITTED).fit(TEXTS)
    extractor.source = Source(name="user/encoder")
    extractor.save_pretrained(target)
    return {path.name: path.read_bytes() for path in target.iterdir()}


@pytest.fixture
def encoder(hub: FakeHub, encoder_files: dict[str, bytes]) -> str:
    """A repository that holds a plain model."""
    hub.put("user/encoder", encoder_files)
    return "user/encoder"


@pytest.fixture
def extractor(encoder: str) -> FungiExtractor:
    return FungiExtractor.from_pretrained(encoder, FITTED).fit(TEXTS)


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


def test_missing_private_and_misspelt_repositories(hub: FakeHub, encoder: str) -> None:
    CONFIG.push_to_hub("owner/secret", token=TOKEN, private=True)
    for place in ("owner/secret", "owner/nothing", "not a repository/at/all", "owner/../x"):
        with pytest.raises(StorageError, match="neither a folder nor a repository"):
            FungiConfig.from_pretrained(place)
        with pytest.raises(StorageError, match="neither a folder nor a repository"):
            FungiExtractor.from_pretrained(place)
    assert FungiConfig.from_pretrained("owner/secret", token=TOKEN) == CONFIG
    with pytest.raises(StorageError, match=r"no fungi_config\.json in 'user/encoder'"):
        FungiConfig.from_pretrained(encoder)
    with pytest.raises(StorageError, match=r"cannot push to 'owner/config': .*401"):
        CONFIG.push_to_hub("owner/config", token="hf_of_somebody")
    with pytest.raises(StorageError, match="cannot push to 'bad name'"):
        CONFIG.push_to_hub("bad name", token=TOKEN)


@pytest.mark.parametrize("faults", [[429], [500, 503], ["cut"]], ids=str)
def test_a_busy_or_broken_download_is_tried_again(hub: FakeHub, faults: list[Any]) -> None:
    CONFIG.push_to_hub("owner/config", token=TOKEN)
    method = "GET" if faults == ["cut"] else "HEAD"
    hub.faults[method, "fungi_config.json"] = list(faults)

    assert FungiConfig.from_pretrained("owner/config") == CONFIG
    assert hub.seen[f"{method} /owner/config/resolve/main/fungi_config.json"] >= 1 + len(faults)


def test_a_server_that_stays_busy_is_reported(hub: FakeHub) -> None:
    CONFIG.push_to_hub("owner/config", token=TOKEN)
    hub.faults["HEAD", "fungi_config.json"] = [503] * 100
    with pytest.raises(StorageError, match="503"):
        FungiConfig.from_pretrained("owner/config")


@pytest.mark.parametrize("faults", [[429], [500, 502]], ids=str)
def test_a_busy_upload_is_tried_again(hub: FakeHub, faults: list[Any]) -> None:
    hub.faults["POST", "/commit/main"] = list(faults)
    CONFIG.push_to_hub("owner/config", token=TOKEN)
    assert FungiConfig.from_pretrained("owner/config") == CONFIG
    hub.faults["POST", "/commit/main"] = [500] * 100
    with pytest.raises(StorageError, match="cannot push to 'owner/config'"):
        CONFIG.replace(seed=1).push_to_hub("owner/config", token=TOKEN)


def test_offline_reads_what_was_read_before(
    hub: FakeHub, extractor: FungiExtractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    extractor.push_to_hub("owner/features", token=TOKEN)
    FungiExtractor.from_pretrained("owner/features")
    hub.seen.clear()

    local = FungiExtractor.from_pretrained("owner/features", local_files_only=True)
    assert local.fingerprint == extractor.fingerprint
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert FungiExtractor.from_pretrained("owner/features").fingerprint == extractor.fingerprint
    assert FungiExtractor.from_pretrained("user/encoder", CONFIG).config == CONFIG
    with pytest.raises(StorageError, match="neither a folder nor a repository"):
        FungiExtractor.from_pretrained("owner/other")
    with pytest.raises(StorageError, match="cannot push to 'owner/features'"):
        CONFIG.push_to_hub("owner/features", token=TOKEN)
    assert not hub.seen


def test_a_cache_that_cannot_be_written(hub: FakeHub, tmp_path: Path) -> None:
    CONFIG.push_to_hub("owner/config", token=TOKEN)
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(StorageError, match="owner/config"):
        FungiConfig.from_pretrained("owner/config", cache_dir=blocked / "cache")
    writable = tmp_path / "cache2"
    FungiConfig.from_pretrained("owner/config", cache_dir=writable)
    assert FungiConfig.from_pretrained("owner/config", cache_dir=writable) == CONFIG


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


def _edited(document: dict[str, Any], **changes: Any) -> bytes:
    return json.dumps({**document, **changes}).encode()


HOSTILE: dict[str, Any] = {
    "truncated_json": ("fungi_config.json", lambda d, s: json.dumps(d).encode()[:50], "not JSON"),
    "huge_json": ("fungi_config.json", lambda d, s: b" " * (2 << 20), "larger than 1048576 bytes"),
    "deep_json": ("fungi_config.json", lambda d, s: b"[" * 100_000, "is not JSON"),
    "list_json": ("fungi_config.json", lambda d, s: b"[]", "must hold a JSON object"),
    "newer_layout": (
        "fungi_config.json",
        lambda d, s: _edited(d, format=2),
        "layout version 2, this package reads 1: upgrade",
    ),
    "unknown_key": (
        "fungi_config.json",
        lambda d, s: _edited(d, config={**d["config"], "sed": 1}),
        "no field 'sed'; choose one of 'seed'",
    ),
    "wrong_digest": (
        "fungi_config.json",
        lambda d, s: _edited(d, digests={**d["digests"], "state": "0" * 16}),
        "digest of 'state'",
    ),
    "digests_not_an_object": (
        "fungi_config.json",
        lambda d, s: _edited(d, digests=[1]),
        "'digests' must be an object",
    ),
    "no_state_digest": ("fungi_config.json", lambda d, s: _edited(d, digests={}), "without its di"),
    "unknown_resolved": (
        "fungi_config.json",
        lambda d, s: _edited(d, resolved={"seed": 1}),
        "'resolved' has an unknown field 'seed'",
    ),
    "traversing_encoder": (
        "fungi_config.json",
        lambda d, s: _edited(d, encoder={"name": "../../etc", "revision": None}),
        "names an encoder outside of the Hub",
    ),
    "absolute_encoder": (
        "fungi_config.json",
        lambda d, s: _edited(d, encoder={"name": "/etc", "revision": None}),
        "names an encoder outside of the Hub",
    ),
    "encoder_not_a_text": (
        "fungi_config.json",
        lambda d, s: _edited(d, encoder={"name": ["a"], "revision": None}),
        "name must be a text",
    ),
    "truncated_state": ("fungi_state.safetensors", lambda d, s: s[:-7], "damaged"),
    "pickled_state": ("fungi_state.safetensors", lambda d, s: b"\x80\x04K\x01.", "damaged"),
    "huge_header": (
        "fungi_state.safetensors",
        lambda d, s: (1 << 62).to_bytes(8, "little") + s[8:],
        "damaged",
    ),
    "changed_state": (
        "fungi_state.safetensors",
        lambda d, s: s[:-1] + bytes([s[-1] ^ 1]),
        "digest of 'state'",
    ),
    "foreign_tensor": (
        "fungi_state.safetensors",
        lambda d, s: _tensors({"../../evil": torch.zeros(1)}),
        "unknown tensor '../../evil'",
    ),
}


def _tensors(tensors: dict[str, torch.Tensor]) -> bytes:
    from safetensors.torch import save

    return save(tensors)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_repositories_are_refused_and_change_nothing(
    hub: FakeHub, encoder: str, saved_files: dict[str, bytes], tmp_path: Path, name: str
) -> None:
    file, edit, match = HOSTILE[name]
    files = dict(saved_files)
    document = json.loads(files["fungi_config.json"])
    files[file] = edit(document, files["fungi_state.safetensors"])
    hub.put("owner/bad", files)
    local = tmp_path / "bad"
    local.mkdir()
    for path, content in files.items():
        (local / path).write_bytes(content)

    with pytest.raises((StateError, StorageError, ConfigError), match=match):
        FungiExtractor.from_pretrained("owner/bad")
    if "encoder" not in name or "text" in name:
        with pytest.raises((StateError, StorageError, ConfigError), match=match):
            FungiExtractor.from_pretrained(local)

    assert {path.name: path.read_bytes() for path in local.iterdir()} == files


def test_a_folder_that_names_a_file_outside_of_itself(
    hub: FakeHub, encoder_files: dict[str, bytes], tmp_path: Path
) -> None:
    modules = [{"path": "../../secret", "type": "sentence_transformers.models.Pooling"}]
    for name, content in encoder_files.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(StateError, match=r"names a file outside of itself: '../../secret"):
        FungiExtractor.from_pretrained(tmp_path, CONFIG)


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
