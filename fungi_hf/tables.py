"""Rows of tables and vectors of feature files, read without torch, pickle or a model.

Rows come from JSONL, CSV and Parquet; vectors from what `FungiFeatures.save` and `fungi-hf extract`
write, from .npy and from .npz. An error names the file, the row and what is allowed.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from fungi_hf.checks import check_known
from fungi_hf.errors import FeatureError, InputError, OptionalDependencyError, StorageError, choices

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import TextIO

    from fungi_hf.types import Float32Array, Layout

_ARRAYS: Final = ("features", "contents", "targets", "ids", "fingerprint")
# Byte-order marks; the longer ones first.
_MARKS: Final = {
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
_PARQUET: Final = "fungi_"  # begins the names of the header in a Parquet schema


@dataclass(frozen=True, slots=True, eq=False)
class Vectors:
    """Feature vectors and where they come from.

    Attributes:
        array: [N, F] float32.
        fingerprint: Identity of config, encoder and fitted state, and of the blocks chosen.
        layout: Ordered block name -> slice of the columns; empty where blocks have no names.
        factors: For blocks kept as exact factors: name -> (m, n1).
    """

    array: Float32Array
    fingerprint: str
    layout: Layout = field(default_factory=dict)
    factors: dict[str, tuple[int, int]] = field(default_factory=dict)

    def block(self, name: str) -> Float32Array:
        """Give the columns of one block, [N, width]; an unknown one is a FeatureError."""
        check_known("the layout", [name], self.layout, noun="block", error=FeatureError)
        return self.array[:, self.layout[name]]

    def select(self, names: Sequence[str]) -> Self:
        """Give the features with some blocks only, each once, in the order asked.

        Nothing is extracted again; the new fingerprint names the blocks: "fingerprint:a+b".

        Raises:
            FeatureError: If a name is unknown, repeated, or none is given.
        """
        if isinstance(names, str) or not names or len(set(names)) != len(names):
            raise FeatureError(f"select needs a list of distinct block names; got {names!r}")
        parts = {name: self.block(name) for name in names}
        return dataclasses.replace(
            self,
            array=np.concatenate(list(parts.values()), axis=1),
            fingerprint=f"{self.fingerprint}:{'+'.join(names)}",
            layout=make_layout({name: part.shape[1] for name, part in parts.items()}),
            factors={name: shape for name, shape in self.factors.items() if name in parts},
        )

    def header(self, prefix: str = "") -> dict[str, str]:
        """Give all but the array as texts, for the header of a file."""
        layout = {name: [part.start, part.stop] for name, part in self.layout.items()}
        return {
            f"{prefix}layout": json.dumps(layout),
            f"{prefix}fingerprint": self.fingerprint,
            f"{prefix}factors": json.dumps(self.factors),
        }


def make_layout(widths: Mapping[str, int]) -> Layout:
    """Give consecutive slices for block widths."""
    layout, start = {}, 0
    for name, width in widths.items():
        layout[name] = slice(start, start + width)
        start += width
    return layout


def read_features(path: str | Path) -> Vectors:
    """Read what `FungiFeatures.save` (safetensors) or `fungi-hf extract` wrote, shards too.

    Raises:
        StorageError: If the file is missing, damaged or holds no features.
    """
    from safetensors import SafetensorError, safe_open

    file = Path(path)
    if file.is_dir():
        return _read_shards(file)
    if not file.is_file():
        raise StorageError(f"there is no feature file at {path}")
    try:
        if file.suffix.lower() == ".parquet":
            table = _parquet(file)
            notes = table.schema.metadata or {}
            header = {key.decode().removeprefix(_PARQUET): notes[key].decode() for key in notes}
            column = table["features"].combine_chunks()
            if column.null_count:
                lost = np.flatnonzero(np.asarray(column.is_null()))
                raise StorageError(
                    f"{path}: {len(lost)} rows have no features, since their inputs could not be "
                    f"used, first at {lost[:10].tolist()}; drop these rows and their inputs"
                )
            array = column.flatten().to_numpy().reshape(len(table), -1).astype(np.float32)
        else:
            with safe_open(str(file), framework="numpy") as handle:
                header = handle.metadata() or {}
                array = handle.get_tensor("features").astype(np.float32, copy=False)
        layout = {name: slice(*ends) for name, ends in json.loads(header["layout"]).items()}
        factors = {n: (m, n1) for n, (m, n1) in json.loads(header.get("factors", "{}")).items()}
        return Vectors(array, header["fingerprint"], layout, factors)
    except (SafetensorError, KeyError, ValueError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise StorageError(
            f"{path} is not a feature file: {reason}; `fungi-hf extract --out` writes one"
        ) from None


def _read_shards(folder: Path) -> Vectors:
    # A complete folder of Parquet shards, whose names are in their order.
    parts = sorted(folder.glob("part-*.parquet"))
    if not (folder / "manifest.json").is_file() or not parts:
        raise StorageError(
            f"{folder} holds no complete features: there is no manifest.json with .parquet shards "
            "beside it; give the command that makes it again"
        )
    found = [read_features(part) for part in parts]
    return dataclasses.replace(found[0], array=np.concatenate([one.array for one in found]))


def load_vectors(path: str | Path, blocks: Sequence[str] | None = None) -> Vectors | Any:
    """Read feature vectors with their fingerprint, or the bare array of a file that has none.

    A file is .safetensors or .parquet as this package writes them, .npz with an array "features",
    or .npy. The blocks to keep, in this order, can be named of a file that knows its layout.

    Raises:
        FeatureError: If blocks are asked of a file without a layout, or do not exist.
        InputError: If the kind of file is unknown.
        StorageError: If the file is missing or damaged.
    """
    file = Path(path)
    kinds: dict[str, Any] = dict.fromkeys((".safetensors", ".parquet"), read_features)
    kinds |= {".npz": read_arrays, ".npy": read_array}
    if not file.is_file():
        raise StorageError(f"there is no feature file at {path}")
    if file.suffix.lower() not in kinds:
        raise InputError(f"{path}: unknown kind of file {choices(file.suffix, kinds)}")
    found = kinds[file.suffix.lower()](file)
    if isinstance(found, dict):
        if "features" not in found:
            raise StorageError(f"{path} has no array 'features'")
        mark = found.get("fingerprint")
        found = found["features"] if mark is None else Vectors(found["features"], str(mark))
    if blocks is None:
        return found
    if not isinstance(found, Vectors) or not found.layout:
        raise FeatureError(
            f"{path} has no layout, so no blocks; only .safetensors and .parquet files have one"
        )
    try:
        return found.select(blocks)
    except FeatureError as error:
        raise FeatureError(f"{path}: {error}") from None


def read_array(path: Path, *, mapped: bool = False) -> Any:
    """Read a .npy file, or leave its numbers on disk until they are used; open a .npz file.

    Raises:
        StorageError: If the file cannot be read, or holds pickled objects.
    """
    try:
        return np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except FileNotFoundError:
        raise StorageError(f"there is no file {path}") from None
    except (OSError, ValueError, EOFError) as error:
        raise StorageError(f"{path} cannot be read as an array of numbers: {error}") from None


def read_arrays(path: Path) -> dict[str, Any]:
    """Read a .npz file of features, contents, targets, ids or a fingerprint.

    Raises:
        StorageError: If it cannot be read, or holds other arrays.
    """
    with read_array(path) as arrays:
        unknown = ", ".join(sorted(set(arrays.files) - set(_ARRAYS)))
        if unknown:
            raise StorageError(f"{path} has unknown arrays: {unknown}; known: {', '.join(_ARRAYS)}")
        try:
            return {name: arrays[name] for name in arrays.files}
        except ValueError as error:
            raise StorageError(f"{path} cannot be read: {error}") from None


def read_rows(place: str | Path, *, also: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Read the rows of a JSONL, CSV or Parquet file; the values of a CSV are texts.

    `also` are suffixes that the caller reads itself, to be named in the error.

    Raises:
        InputError: If the kind of the file is unknown, or it holds no rows.
        StorageError: If the file is missing or damaged.
    """
    path = Path(place)
    readers = {".jsonl": _jsonl, ".csv": _csv, ".parquet": lambda file: _parquet(file).to_pylist()}
    suffix = path.suffix.lower()
    if not path.is_file():
        raise StorageError(f"there is no file {place}")
    if suffix not in readers:
        raise InputError(f"{place}: unknown kind of file {choices(suffix, [*readers, *also])}")
    rows: list[dict[str, Any]] = readers[suffix](path)
    if not rows:
        raise InputError(f"{place} holds no rows")
    return rows


def column_of(rows: Sequence[Mapping[str, Any]], column: str, place: str | Path) -> list[Any]:
    """Give one column; a row without it is an InputError, which names the file, `place`."""
    for number, row in enumerate(rows):
        check_known(f"{place}: row {number}", [column], row, noun="column", error=InputError)
    return [row[column] for row in rows]


def parquet_columns(path: Path) -> list[str]:
    """Give the names of the columns of a Parquet file; any other file is a StorageError."""
    return list(_parquet(path, "read_schema").names)


def read_parquet_column(path: Path, name: str) -> list[Any]:
    """Read one column of a Parquet file alone; errors are those of `parquet_columns`."""
    column: list[Any] = _parquet(path, columns=[name])[name].to_pylist()
    return column


def read_lines(path: Path) -> list[str]:
    """Give the lines; str.splitlines would also split at characters that are part of a text."""
    with _text(path) as stream:
        return [line.rstrip("\n") for line in stream]


def read_text(path: Path) -> str:
    """Give a text file's content, UTF-8 or what its byte-order mark says.

    Raises:
        StorageError: If the file is missing or in another encoding.
    """
    with _text(path) as stream:
        return stream.read()


@contextlib.contextmanager
def _text(path: Path, newline: str | None = None) -> Iterator[TextIO]:
    try:
        with path.open("rb") as stream:
            head = stream.read(4)
        mark = next((name for start, name in _MARKS.items() if head.startswith(start)), "utf-8")
        with path.open(encoding=mark, newline=newline) as text:
            yield text
    except UnicodeError as error:
        why = str(error)
        if isinstance(error, UnicodeDecodeError):
            why = f"{error.reason} at byte {error.start}"
        raise StorageError(
            f"{path} is not UTF-8 ({why}); save it as UTF-8, or with a byte-order mark"
        ) from None
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error}") from None


def _jsonl(path: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise StorageError(f"{path}: line {number} is not JSON: {error}") from None
        if not isinstance(row, dict):
            raise StorageError(f"{path}: line {number} is not an object: {line[:40]!r}")
        rows.append(row)
    return rows


def _csv(path: Path) -> list[dict[str, Any]]:
    csv.field_size_limit(1 << 30)  # a text may be longer than the default of 131,072
    try:
        with _text(path, newline="") as stream:
            rows: list[dict[Any, Any]] = [dict(row) for row in csv.DictReader(stream)]
    except csv.Error as error:
        raise StorageError(f"{path} is not a CSV file: {error}") from None
    for number, row in enumerate(rows):
        if None in row:
            raise StorageError(
                f"{path}: row {number} has more fields than the header; quote commas"
            )
    return rows


def _parquet(path: Path, reader: str = "read_table", **options: Any) -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise OptionalDependencyError("pyarrow", "datasets") from error
    try:
        return getattr(pyarrow.parquet, reader)(path, **options)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise StorageError(f"{path} is not a Parquet file: {error}") from None
