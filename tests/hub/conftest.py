"""A fake Hub on a loopback port, with a cache of its own, for one test."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from fungi_hf.hub import store
from tests.fake_hub import FakeHub

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


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
    monkeypatch.setattr(store, "_PAUSES_S", (0.0, 0.0, 0.0, 0.0))
    calm = SimpleNamespace(sleep=_no_sleep, time=time.time, perf_counter=time.perf_counter)
    for module in ("huggingface_hub.utils._http", "huggingface_hub.file_download"):
        monkeypatch.setattr(f"{module}.time", calm)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return memory
