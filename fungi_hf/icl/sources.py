"""Read labelled texts and their vectors from files, without pickle and without a model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fungi_hf.errors import FeatureError, InputError, OptionalDependencyError, StorageError, choices
from fungi_hf.icl.examples import Examples
from fungi_hf.icl.labels import LabelSpace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fungi_hf.types import Float32Array

_ARRAYS = ("features", "contents", "targets", "ids", "fingerprint")
_COLUMNS = {"text": "contents", "label": "targets", "id": "ids"}


@dataclass(frozen=True, slots=True)
class Vectors:
    """Feature vectors [N, F] and where they come from."""

    array: Float32Array
    fingerprint: str


def load_labels(path: str | Path) -> LabelSpace:
    """Read the label names from a JSON list; a label's id is its position.

    Args:
        path: The file.

    Returns:
        The label space.

    Raises:
        StorageError: If the file does not hold a JSON list.
    """
    names = _json(Path(path))
    if not isinstance(names, list):
        raise StorageError(f"{path} does not hold a JSON list of label names")
    return LabelSpace(names)


def load_examples(
    data: str | Path, features: str | Path | None = None, blocks: Sequence[str] | None = None
) -> Examples:
    """Read examples.

    Args:
        data: A .parquet or .jsonl file with columns text, label and optionally id; or an .npz
            file with arrays among contents, targets, ids, features, fingerprint.
        features: A file with the vectors, if they are not in data: .safetensors as written by
            `FungiFeatures.save`, .npz with an array "features", or .npy.
        blocks: Names of the feature blocks to keep, e.g. ["embedding"], in this order; only for
            .safetensors files, which know their layout.

    Returns:
        The examples.

    Raises:
        InputError: If the kind of a file is unknown.
        StorageError: If a file is missing or cannot be read.
    """
    path = Path(data)
    if not path.is_file():
        raise StorageError(f"there is no file {path}")
    readers = {".npz": _npz, ".parquet": _parquet, ".jsonl": _jsonl}
    if path.suffix not in readers:
        raise InputError(f"{path}: unknown kind of file {choices(path.suffix, readers)}")
    parts = readers[path.suffix](path)
    fingerprint = parts.pop("fingerprint", None)
    if features is not None:
        parts["features"] = load_vectors(features, blocks)
    elif fingerprint is not None and "features" in parts:
        parts["features"] = Vectors(parts["features"], str(fingerprint))
    return Examples(**parts)


def load_vectors(path: str | Path, blocks: Sequence[str] | None = None) -> Vectors | Any:
    """Read feature vectors.

    Args:
        path: .safetensors, .npz with an array "features", or .npy.
        blocks: Blocks to keep; see `load_examples`.

    Returns:
        Vectors with their fingerprint, or the bare array of a file that has none.

    Raises:
        FeatureError: If blocks are asked of a file without a layout.
        InputError: If the kind of file is unknown.
        StorageError: If the file is missing or damaged.
    """
    file = Path(path)
    if not file.is_file():
        raise StorageError(f"there is no feature file {file}")
    if file.suffix == ".safetensors":
        return _safetensors(file, blocks)
    if blocks is not None:
        raise FeatureError(f"{file} has no layout, so no blocks; only .safetensors files have one")
    if file.suffix == ".npy":
        return _loaded(file)
    if file.suffix == ".npz":
        parts = _npz(file)
        if "features" not in parts:
            raise StorageError(f"{file} has no array 'features'")
        if "fingerprint" in parts:
            return Vectors(parts["features"], str(parts["fingerprint"]))
        return parts["features"]
    kinds = [".npy", ".npz", ".safetensors"]
    raise InputError(f"{file}: unknown kind of file {choices(file.suffix, kinds)}")


def _safetensors(path: Path, blocks: Sequence[str] | None) -> Vectors:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy") as handle:
            header, array = handle.metadata() or {}, handle.get_tensor("features")
        layout = json.loads(header["layout"])
        fingerprint = header["fingerprint"]
    except (SafetensorError, KeyError, ValueError) as error:
        raise StorageError(f"{path} is not a feature file: {error}") from None
    if blocks is None:
        return Vectors(array, fingerprint)
    for name in blocks:
        if name not in layout:
            raise FeatureError(f"{path} has no block {choices(name, layout)}")
    kept = np.concatenate([array[:, slice(*layout[name])] for name in blocks], axis=1)
    return Vectors(kept, f"{fingerprint}:{'+'.join(blocks)}")


def _loaded(path: Path) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} cannot be read: {error}") from None


def _npz(path: Path) -> dict[str, Any]:
    with _loaded(path) as arrays:
        unknown = sorted(set(arrays.files) - set(_ARRAYS))
        if unknown:
            raise StorageError(f"{path} has unknown arrays: {', '.join(unknown)}; known are "
                               f"{', '.join(_ARRAYS)}")  # fmt: skip
        try:
            return {name: arrays[name] for name in arrays.files}
        except ValueError as error:
            raise StorageError(f"{path} cannot be read: {error}") from None


def _parquet(path: Path) -> dict[str, Any]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise OptionalDependencyError("pyarrow", "demo") from None
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"{path} cannot be read: {error}") from None
    return {part: table[name] for name, part in _COLUMNS.items() if name in table.column_names}


def _jsonl(path: Path) -> dict[str, Any]:
    rows = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise StorageError(f"{path} line {number} is not JSON: {error}") from None
        if not isinstance(row, dict) or "text" not in row:
            raise StorageError(f"{path} line {number} is not an object with a text")
        rows.append(row)
    return {
        part: [row.get(name) for row in rows]
        for name, part in _COLUMNS.items()
        if any(name in row for row in rows)
    }


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} cannot be read: {error}") from None
