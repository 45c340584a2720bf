"""What the tests of several commands share: one run of the program, a model, a labelled table."""

from __future__ import annotations

import csv

import pytest

from tests.tiny import TRAIN, saved_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tiny")
    return str(saved_model(folder))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("data") / "rows.csv"
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label"])
        writer.writerows([text, "pay" if "pa" in text else "card"] for text in TRAIN)
    return str(path)
