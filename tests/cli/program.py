"""One run of the command line inside the test's process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fungi_hf.cli import main

if TYPE_CHECKING:
    import pytest


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    status = main(arguments)
    out, err = capsys.readouterr()
    return status, out, err
