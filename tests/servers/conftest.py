"""Every test of this folder needs the programs of `make test-servers`."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark them before the marker expression deselects."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.servers)
