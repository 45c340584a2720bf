"""A saved memory bank: `bank.json`, and the arrays as `bank.safetensors`.

The JSON holds a digest of itself and of the arrays' file, which is checked on reading.
"""

from __future__ import annotations

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

    from fungi_hf.types import Layout

FORMAT: Final = "fungi-hf-memory-bank"
VERSION: Final = 1
DESCRIPTION: Final = "bank.json"
ARRAYS: Final = "bank.safetensors"
_KEYS: Final = ("shapes", "layout", "fingerprint", "protocol", "n_images", "sha256")
_TYPES: Final = {"F32": np.float32, "F16": np.float16}


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


def layout_of(description: Mapping[str, Any]) -> Layout:
    """Read the layout.

    Raises:
        StateError: If its blocks are not the columns of the keys, one after another.
    """
    stored, start = description["layout"], 0
    try:
        layout = {name: slice(first, stop) for name, (first, stop) in stored}
        for one in layout.values():
            start = one.stop if one.start == start < one.stop else -1
    except (TypeError, ValueError):
        start = -1
    if start != description["shapes"]["keys"][1]:
        raise StateError(f"the bank's layout is damaged: {stored}; build the bank again")
    return layout


def write(
    folder: str | Path,
    arrays: Mapping[str, np.ndarray],
    layout: Layout,
    protocol: SegmentationProtocol,
    *,
    fingerprint: str,
    n_images: int,
) -> None:
    """Write both files; a bank that is only half replaced is refused on reading.

    Raises:
        StorageError: If the folder cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    target = Path(folder)
    description = {
        "format": FORMAT,
        "version": VERSION,
        "shapes": {name: list(one.shape) for name, one in arrays.items()},
        "layout": [[name, [part.start, part.stop]] for name, part in layout.items()],
        "protocol": asdict(protocol),
        "fingerprint": fingerprint,
        "n_images": n_images,
    }
    try:
        target.mkdir(parents=True, exist_ok=True)
        with replacing(target / ARRAYS) as part:
            save_file({name: np.ascontiguousarray(one) for name, one in arrays.items()}, part)
            digest = _digest(part, description)
        document = {**description, "sha256": digest}
        replace_file(target / DESCRIPTION, (json.dumps(document, indent=2) + "\n").encode())
    except (SafetensorError, OSError) as error:
        raise StorageError(f"the bank cannot be written to {target}: {error}") from error


def read(
    folder: str | Path, *, mmap: bool, fingerprint: str | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a bank's description and arrays, left on disk for `mmap`; check both.

    The arrays' file is read once for its digest, piece by piece.

    Raises:
        StorageError: If files are missing or cannot be read.
        StateError: If they are no bank, or were altered.
        FingerprintMismatchError: If the bank's features come from elsewhere.
    """
    from safetensors import SafetensorError

    source = Path(folder)
    description = _read_description(source / DESCRIPTION)
    check_fingerprint(description["fingerprint"], fingerprint, "the expected features")
    path, digest = source / ARRAYS, description.pop("sha256")
    try:
        found = _digest(path, description)
    except OSError as error:
        raise StorageError(
            f"{path}, which {DESCRIPTION} describes, cannot be read: {error.strerror}"
        ) from None
    if found != digest:
        raise StateError(
            f"{source} was altered or cut short: its sha256 is not the one in {DESCRIPTION}; build "
            "the bank again"
        )
    try:
        arrays = _mapped(path)
        shapes = {name: list(one.shape) for name, one in arrays.items()}
    except (SafetensorError, KeyError) as error:
        raise StateError(f"{path} holds no arrays of a memory bank: {error!r}") from None
    if shapes != description["shapes"]:
        raise StateError(f"{path} holds {shapes}; {DESCRIPTION} says {description['shapes']}")
    return description, arrays if mmap else {name: np.array(one) for name, one in arrays.items()}


def _mapped(path: Path) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(path, framework="numpy"):
        pass  # checks the header, but cannot leave arrays on disk
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


def _digest(path: Path, description: Mapping[str, Any]) -> str:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update(json.dumps(description, sort_keys=True).encode())
    return digest.hexdigest()
