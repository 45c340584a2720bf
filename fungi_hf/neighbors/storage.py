"""A saved index: `index.json`, the vectors as `vectors.npy`, and what the kind of index adds.

Vectors that are in files already stay there: `index.json` names these, from its own folder on.

Files take their place when all are written, so that an index may be saved over the very files that
it has memory-mapped. Digests of all files are checked on reading.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np

from fungi_hf.errors import StateError, StorageError
from fungi_hf.neighbors.base import METRICS
from fungi_hf.neighbors.sharded import ShardedVectors
from fungi_hf.neighbors.vectors import check_fingerprint
from fungi_hf.storage.files import replace_file, replacing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fungi_hf.neighbors.base import Metric
    from fungi_hf.neighbors.vectors import RealArray, Rows

FORMAT, VERSION = "fungi-hf-index", 1
DESCRIPTION, VECTORS = "index.json", "vectors.npy"
_KEYS = ("kind", "metric", "n_rows", "width", "dtype", "fingerprint", "options", "files")

Options: TypeAlias = Mapping[str, int | str | None]


def write(
    folder: str | Path,
    kind: str,
    metric: Metric,
    rows: Rows,
    options: Options = MappingProxyType({}),
    files: Mapping[str, Callable[[Path], None]] = MappingProxyType({}),
) -> None:
    """Write an index with further options, and files: name -> function that writes it to a path.

    Raises:
        StorageError: If the folder cannot be written, or files of vectors cannot be read.
    """
    target, digests = Path(folder), {}
    outside: dict[str, list[tuple[str, str]]] = {}
    writers = dict(files)
    try:
        target.mkdir(parents=True, exist_ok=True)
        if isinstance(rows.array, ShardedVectors):
            here = target.resolve()
            outside["vectors"] = [
                (os.path.relpath(path.resolve(), here), _digest(path)) for path in rows.array.paths
            ]
        else:
            writers[VECTORS] = lambda path: np.save(path, rows.array, allow_pickle=False)
        with contextlib.ExitStack() as parts:
            for name, write_file in writers.items():
                part = parts.enter_context(replacing(target / name))
                write_file(part)
                digests[name] = _digest(part)
            (target / DESCRIPTION).unlink(missing_ok=True)
        description = {
            "format": FORMAT,
            "version": VERSION,
            "kind": kind,
            "metric": metric,
            "n_rows": len(rows),
            "width": rows.width,
            "dtype": rows.array.dtype.name,
            "fingerprint": rows.fingerprint,
            "options": dict(options),
            "files": digests,
            **outside,
        }
        replace_file(target / DESCRIPTION, (json.dumps(description, indent=2) + "\n").encode())
    except OSError as error:
        raise StorageError(f"the index cannot be written to {target}: {error}") from error


def read(
    folder: str | Path, kind: str, *, mmap: bool = False, fingerprint: str | None = None
) -> tuple[RealArray, dict[str, Any]]:
    """Read the vectors of an index, left on disk for `mmap`, and its description; check both.

    Vectors in files of their own are left there.

    Raises:
        StorageError: If files are missing or cannot be read.
        StateError: If they are not an index of this kind, or were altered.
    """
    source = Path(folder)
    description = _read_description(source)
    if description["kind"] != kind:
        raise StateError(
            f"{source} holds an index of kind {description['kind']!r}, not {kind!r}; "
            "load it with the class that saved it"
        )
    outside = description.get("vectors", [])
    for name, wanted in [*sorted(description["files"].items()), *outside]:
        path = source.resolve() / name
        if not path.is_file():
            raise StorageError(f"{source} lacks {name}, which its {DESCRIPTION} lists")
        found = _digest(path)
        if found != wanted:
            raise StateError(
                f"{path} was altered: its sha256 is {found[:12]}..., "
                f"{DESCRIPTION} says {str(wanted)[:12]}..."
            )
    array = _vectors(source, [name for name, _ in outside], description, mmap=mmap)
    shape, dtype = (description["n_rows"], description["width"]), description["dtype"]
    if (array.shape, array.dtype.name) != (shape, dtype):
        raise StateError(
            f"{source / VECTORS} has shape {array.shape}, {array.dtype.name}; "
            f"{DESCRIPTION} says {shape}, {dtype}"
        )
    check_fingerprint(description["fingerprint"], fingerprint, "the expected vectors")
    return array, description


def _vectors(
    source: Path, outside: Sequence[str], description: Mapping[str, Any], *, mmap: bool
) -> RealArray:
    if outside:
        paths = [source.resolve() / name for name in outside]
        return cast("RealArray", ShardedVectors(paths, fingerprint=description["fingerprint"]))
    try:
        return np.load(source / VECTORS, mmap_mode="r" if mmap else None, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise StorageError(f"{source / VECTORS} cannot be read: {error}") from error


def _read_description(source: Path) -> dict[str, Any]:
    path = source / DESCRIPTION
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        words = f"{source} is not a saved index: {path} cannot be read: {error}"
        raise StorageError(words) from error
    except json.JSONDecodeError as error:
        raise StateError(f"{path} is not JSON: {error}") from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise StateError(f"{path} does not describe an index: its format is not {FORMAT!r}")
    version, metric = description.get("version"), description.get("metric")
    if version != VERSION:
        raise StateError(f"{path} has version {version!r}; this package reads {VERSION}")
    missing = [key for key in _KEYS if key not in description]
    if missing or metric not in METRICS:
        raise StateError(f"{path} is incomplete: missing {missing}, metric {metric!r}")
    files, outside = description["files"], description.get("vectors", [])
    is_listed = isinstance(files, dict) and not any("/" in name for name in files)
    is_paired = isinstance(outside, list) and all(
        isinstance(pair, list) and len(pair) == 2 for pair in outside
    )
    if not is_listed or not is_paired or (VECTORS not in files) is not bool(outside):
        raise StateError(f"{path} does not list {VECTORS} with its digest")
    return description


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
