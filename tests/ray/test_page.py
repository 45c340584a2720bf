"""The page on several machines runs with Ray, Dask and Spark, and prints what it says."""

from __future__ import annotations

import os
import sys

import pytest

from tests import test_docs


def test_the_page_runs(cluster, tmp_path, monkeypatch) -> None:
    if not os.environ.get("JAVA_HOME") and not any(
        os.access(f"{place}/java", os.X_OK) for place in os.environ["PATH"].split(":")
    ):
        pytest.skip("Spark needs Java")
    page = test_docs.ROOT / "docs/clusters.md"
    assert page.name in test_docs.ELSEWHERE
    monkeypatch.setenv("PYTHONPATH", str(test_docs.ROOT))
    monkeypatch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    test_docs.test_the_page_runs_and_prints_what_it_says(page, tmp_path, monkeypatch)
