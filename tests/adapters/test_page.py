"""The page on adapters runs in their environment, and prints what it says."""

from __future__ import annotations

import pytest

from tests import test_docs

pytestmark = [pytest.mark.adapters, pytest.mark.filterwarnings("default")]


def test_the_page_runs(tmp_path, monkeypatch) -> None:
    page = test_docs.ROOT / "docs/adapters.md"
    assert page.name in test_docs.ELSEWHERE
    test_docs.test_the_page_runs_and_prints_what_it_says(page, tmp_path, monkeypatch)
