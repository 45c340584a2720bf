"""A Hub that is busy, breaks off, refuses, or is not there; a cache that cannot be written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fungi_hf import FungiConfig, FungiExtractor
from fungi_hf.errors import StorageError
from tests.fake_hub import TOKEN
from tests.hub.conftest import CONFIG

if TYPE_CHECKING:
    from tests.fake_hub import FakeHub


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


def test_what_a_refusal_says_to_do(hub: FakeHub, tmp_path: Path) -> None:
    CONFIG.push_to_hub("owner/secret", token=TOKEN, private=True)
    with pytest.raises(StorageError, match=r"401.*; a private repository needs token="):
        FungiConfig.from_pretrained("owner/secret")
    with pytest.raises(StorageError, match=r"401.*; a private repository needs token="):
        CONFIG.push_to_hub("owner/secret", token="hf_of_somebody")
    with pytest.raises(StorageError, match=r"404.*; check the name and the revision"):
        FungiConfig.from_pretrained("owner/secret", token=TOKEN, revision="nowhere")
    hub.faults["GET", "fungi_config.json"] = [403]
    with pytest.raises(StorageError, match=r"403.*; the token may not do this"):
        FungiConfig.from_pretrained("owner/secret", token=TOKEN, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("method", ["HEAD", "GET"])
@pytest.mark.parametrize("faults", [[429], [500, 503], ["cut"]], ids=str)
def test_a_busy_or_broken_download_is_tried_again(
    hub: FakeHub, method: str, faults: list[Any]
) -> None:
    if (method, faults) == ("HEAD", ["cut"]):
        pytest.skip("the answer to HEAD has no body that could break off")
    CONFIG.push_to_hub("owner/config", token=TOKEN)
    hub.faults[method, "fungi_config.json"] = list(faults)

    assert FungiConfig.from_pretrained("owner/config") == CONFIG
    assert hub.seen[f"{method} /owner/config/resolve/main/fungi_config.json"] >= 1 + len(faults)


@pytest.mark.slow
@pytest.mark.parametrize(
    "file",
    [
        "fungi_state.safetensors",
        "model.safetensors",
        "user/encoder/resolve/{}/config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ],
)
@pytest.mark.parametrize("fault", [500, "cut"])
def test_every_file_is_tried_again(
    hub: FakeHub, extractor: FungiExtractor, tmp_path: Path, file: str, fault: Any
) -> None:
    extractor.push_to_hub("owner/features", token=TOKEN)
    file = file.format(hub.repos["user/encoder"].branches["main"])
    hub.faults["GET", file] = [fault]

    again = FungiExtractor.from_pretrained("owner/features", cache_dir=tmp_path / "cache")

    assert again.fingerprint == extractor.fingerprint
    assert not hub.faults["GET", file]


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_a_server_that_stays_busy_is_reported(hub: FakeHub, method: str) -> None:
    CONFIG.push_to_hub("owner/config", token=TOKEN)
    hub.faults[method, "fungi_config.json"] = [503] * 100
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


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes to read-only folders")
def test_a_read_only_cache(hub: FakeHub, extractor: FungiExtractor, tmp_path: Path) -> None:
    extractor.push_to_hub("owner/features", token=TOKEN)
    cache = tmp_path / "cache"
    FungiExtractor.from_pretrained("owner/features", cache_dir=cache)
    for folder, _, _ in os.walk(cache):
        Path(folder).chmod(0o555)

    again = FungiExtractor.from_pretrained("owner/features", cache_dir=cache)
    assert again.fingerprint == extractor.fingerprint
    CONFIG.push_to_hub("owner/config", token=TOKEN)
    with pytest.raises(StorageError, match="the Hub's cache cannot be written: pass cache_dir="):
        FungiConfig.from_pretrained("owner/config", cache_dir=cache)
