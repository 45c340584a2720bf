"""Damaged, newer and malicious folders are refused with the reason, and change nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch

from fungi_hf import FungiExtractor
from fungi_hf.errors import ConfigError, StateError, StorageError
from tests.hub.conftest import CONFIG

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fake_hub import FakeHub


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
    "tuning_not_utf8": ("fungi_tuning.json", lambda d, s: b"\xff\xfe{}", "damaged: not UTF-8"),
    "truncated_tuning": (
        "fungi_tuning.json",
        lambda d, s: b'{"record": "fungi-hf-tun',
        r"fungi_tuning.json is damaged: the tuning report is not JSON.*remove it",
    ),
    "deep_tuning": ("fungi_tuning.json", lambda d, s: b"[" * 100_000, "is not JSON"),
    "tuning_without_fields": (
        "fungi_tuning.json",
        lambda d, s: b'{"record": "fungi-hf-tuning"}',
        "lacks or misnames a field",
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


@pytest.mark.slow
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
