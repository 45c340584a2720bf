"""A fake Hub on a loopback port, with a cache of its own, and what the tests put on it."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from fungi_hf import KL, FungiConfig, FungiExtractor, SimCLR
from fungi_hf.encoders.source import Source
from fungi_hf.storage import files
from fungi_hf.testing import tiny_text_model
from tests.fake_hub import FakeHub

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONFIG = FungiConfig(objectives=(KL(latent_dim=32),))
FITTED = FungiConfig(
    objectives=(KL(latent_dim=32), SimCLR(n_views=3, latent_dim=16, n_negatives=4)), center=True
)
TEXTS = ["my card was lost", "how do you pay", "what is the new account", "please help me"]


def _no_sleep(seconds: float) -> None:
    """Do not wait for a server that will not change by itself."""


@pytest.fixture(scope="session")
def server() -> Iterator[FakeHub]:
    """One port for the session: transformers keeps a client of the first endpoint that it saw."""
    memory = FakeHub()
    running = memory.start()
    yield memory
    running.shutdown()
    running.server_close()


@pytest.fixture
def hub(server: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """The client reads its endpoint at import: its constants are set by hand."""
    memory = server
    for record in (memory.repos, memory.faults, memory.seen):
        record.clear()
    settings: dict[str, Any] = {
        "ENDPOINT": memory.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": memory.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_CACHE": str(tmp_path / "hub-cache"),
        "HF_TOKEN_PATH": str(tmp_path / "token"),
    }
    for name, value in settings.items():
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    # Copies that other modules took at import.
    monkeypatch.setattr("transformers.utils.hub._is_offline_mode", False, raising=False)
    monkeypatch.setattr(files, "_PAUSES_S", (0.0, 0.0, 0.0, 0.0))
    calm = SimpleNamespace(sleep=_no_sleep, time=time.time, perf_counter=time.perf_counter)
    for module in ("huggingface_hub.utils._http", "huggingface_hub.file_download"):
        monkeypatch.setattr(f"{module}.time", calm)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return memory


@pytest.fixture(scope="session")
def encoder_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("model")
    model, tokenizer = tiny_text_model("bert", dtype=torch.float32)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="session")
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
