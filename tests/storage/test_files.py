"""A file appears whole or not at all; writing it needs the standard library alone."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from fungi_hf.storage.files import replace_file, replacing

if TYPE_CHECKING:
    from pathlib import Path


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    replace_file(path, b"one")
    replace_file(path, b"two")
    assert path.read_bytes() == b"two"
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_what_fails_half_way_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "vectors.npy"
    with replacing(path) as part:
        np.save(part, np.arange(3))  # keeps the name: numpy adds an ending where there is none

    def stop_half_way() -> None:
        with replacing(path) as part:
            part.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop_half_way()
    assert np.load(path).tolist() == [0, 1, 2]
    assert [file.name for file in tmp_path.iterdir()] == ["vectors.npy"]
    with pytest.raises(OSError, match="missing"):
        replace_file(tmp_path / "missing" / "file", b"")


def test_the_module_needs_no_torch() -> None:
    program = (
        "import sys; import fungi_hf.storage.files, fungi_hf.storage.sharing\n"
        "print(sorted({'torch', 'numpy', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.strip() == b"[]"
