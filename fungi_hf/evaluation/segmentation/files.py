"""A saved memory bank: `bank.json`, and the arrays as `bank.safetensors`.

The JSON holds the digest of the arrays' file, which is checked on reading.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fungi_hf.errors import ConfigError, StateError, StorageError
from fungi_hf.evaluation.segmentation.protocol import SegmentationProtocol
from fungi_hf.neighbors.vectors import check_fingerprint
from fungi_hf.storage.files import replace_file, replacing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fungi_hf.evaluation.segmentation.bank import MemoryBank

FORMAT: Final = "fungi-hf-memory-bank"
VERSION: Final = 1
DESCRIPTION: Final = "bank.json"
ARRAYS: Final = "bank.safetensors"
_KEYS: Final = ("shapes", "layout", "fingerprint", "protocol", "n_images", "sha256")
_TYPES: Final = {"F32": np.float32, "F16": np.float16}


def description_of(bank: MemoryBank) -> dict[str, Any]:
    """Give what the JSON says of a bank, but for its digest."""
    return {
        "shapes": {"keys": list(bank.keys.shape), "values": list(bank.values.shape)},
        "layout": [[name, [part.start, part.stop]] for name, part in bank.layout.items()],
        "fingerprint": bank.fingerprint,
        "protocol": asdict(bank.protocol),
        "n_images": bank.n_images,
    }


def protocol_of(values: Mapping[str, Any]) -> SegmentationProtocol:
    """Read a protocol.

    Raises:
        StateError: If it has other fields, or values that are not allowed.
    """
    odd = {*values} ^ {one.name for one in fields(SegmentationProtocol)}
    if odd:
        raise StateError(f"the bank's protocol has odd fields: {', '.join(sorted(odd))}")
    try:
        return SegmentationProtocol(**{**values, "ignore": tuple(values["ignore"])})
    except (ConfigError, TypeError) as error:
        raise StateError(f"the bank's protocol is damaged: {error}") from None


def write(
    folder: str | Path, description: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> None:
    """Write both files; an older bank in the folder stays whole until the new one is.

    Raises:
        StorageError: If the folder cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    target = Path(folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as parts:
            part = parts.enter_context(replacing(target / ARRAYS))
            save_file({name: np.ascontiguousarray(one) for name, one in arrays.items()}, part)
            digest = _digest(part)
            (target / DESCRIPTION).unlink(missing_ok=True)
        document = {"format": FORMAT, "version": VERSION, **description, "sha256": digest}
        replace_file(target / DESCRIPTION, (json.dumps(document, indent=2) + "\n").encode())
    except (SafetensorError, OSError) as error:
        raise StorageError(f"the bank cannot be written to {target}: {error}") from error


def read(
    folder: str | Path, *, mmap: bool, fingerprint: str | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a bank's description and arrays, left on disk for `mmap`; check both.

    Raises:
        StorageError: If files are missing or cannot be read.
        StateError: If they are no bank, or were altered.
    """
    source = Path(folder)
    description = _read_description(source / DESCRIPTION)
    path = source / ARRAYS
    if not path.is_file():
        raise StorageError(f"{source} lacks {ARRAYS}, which its {DESCRIPTION} describes")
    if _digest(path) != description["sha256"]:
        raise StateError(f"{path} was altered: its sha256 is not the one in {DESCRIPTION}")
    check_fingerprint(description["fingerprint"], fingerprint, "the expected features")
    arrays = _mapped(path) if mmap else _loaded(path)
    shapes = {name: list(one.shape) for name, one in arrays.items()}
    if shapes != description["shapes"]:
        raise StateError(f"{path} holds {shapes}; {DESCRIPTION} says {description['shapes']}")
    return description, arrays


def _loaded(path: Path) -> dict[str, Any]:
    from safetensors.numpy import load_file

    return load_file(path)


def _mapped(path: Path) -> dict[str, Any]:
    # The format: 8 bytes of the header's length, the header as JSON, the arrays.
    with path.open("rb") as file:
        start = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(start))
    return {
        name: np.memmap(
            path,
            _TYPES[one["dtype"]],
            "r",
            offset=8 + start + one["data_offsets"][0],
            shape=tuple(one["shape"]),
        )
        for name, one in header.items()
        if name != "__metadata__"
    }


def _read_description(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        words = f"{path.parent} is no saved bank: {path} cannot be read: {error.strerror}"
        raise StorageError(words) from None
    except (ValueError, RecursionError) as error:
        raise StateError(f"{path} is not JSON: {error}") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise StateError(f"{path} does not describe a memory bank: its format is not {FORMAT!r}")
    if found.get("version") != VERSION:
        raise StateError(f"{path} has version {found.get('version')!r}; this package reads 1")
    if missing := [name for name in _KEYS if name not in found]:
        raise StateError(f"{path} lacks {', '.join(missing)}; build the bank again")
    return found


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
