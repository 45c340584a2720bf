"""One file out of shards, written shard after shard: the memory of one."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fungi_hf.errors import StorageError, choices
from fungi_hf.features import FungiFeatures

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fungi_hf.shards.store import ShardStore

SUFFIXES: Final = (".parquet", ".npy", ".safetensors")


def check_suffix(out: Path) -> None:
    """Refuse a file of an unknown kind.

    Raises:
        StorageError: Naming what is known.
    """
    if out.suffix not in SUFFIXES:
        raise StorageError(f"--out {out}: unknown kind of file {choices(out.suffix, SUFFIXES)}")


def join(store: ShardStore, out: Path) -> None:
    """Write a complete store to one file, which appears whole or not at all.

    Raises:
        ShardError: If a shard is missing or damaged.
        StorageError: If the kind is unknown, or the file cannot be written.
    """
    check_suffix(out)
    writers: dict[str, Callable[[ShardStore, Path], None]] = {
        ".npy": _npy,
        ".safetensors": _safetensors,
        ".parquet": _parquet,
    }
    size = store.plan.n_rows * store.plan.width * 4
    free = shutil.disk_usage(out.parent).free
    if free < size:
        raise StorageError(
            f"the disk is full: {out} needs {size:,} bytes and {free:,} are free; make room and "
            "give the same command again: nothing is computed twice"
        )
    part = out.with_name(f".{out.stem}.{os.getpid()}-{secrets.token_hex(4)}{out.suffix}")
    try:
        writers[out.suffix](store, part)
        part.replace(out)
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(f"{out} cannot be written: {error.strerror or error}") from None
    finally:
        part.unlink(missing_ok=True)


def _npy(store: ShardStore, path: Path) -> None:
    shape = store.plan.n_rows, store.plan.width
    header = {"descr": np.dtype(store.plan.dtype).str, "fortran_order": False, "shape": shape}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for shard in store.plan.shards():
            file.write(np.ascontiguousarray(store.read(shard).array).data)


def _safetensors(store: ShardStore, path: Path) -> None:
    # The format: 8 bytes of the header's length, the header as JSON, the numbers.
    plan = store.plan
    empty = np.empty((0, plan.width), np.float32)
    features = FungiFeatures(empty, plan.fingerprint, plan.layout, dict(plan.factors))
    size = plan.n_rows * plan.width * np.dtype(plan.dtype).itemsize
    kind = {"float32": "F32", "float16": "F16"}[plan.dtype]
    entry = {"dtype": kind, "shape": [plan.n_rows, plan.width], "data_offsets": [0, size]}
    text = json.dumps({"__metadata__": features.header(), "features": entry}).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shard in plan.shards():
            file.write(np.ascontiguousarray(store.read(shard).array).data)


def _parquet(store: ShardStore, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    plan = store.plan
    empty = np.empty((0, plan.width), np.float32)
    features = FungiFeatures(empty, plan.fingerprint, plan.layout, dict(plan.factors))
    number = pa.float32() if plan.dtype == "float32" else pa.float16()
    columns: list[Any] = [
        pa.field("input", pa.string()),
        pa.field("features", pa.list_(number, plan.width)),
    ]
    schema = pa.schema(columns, metadata=features.header("fungi_"))
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
        for shard in plan.shards():
            content = store.read(shard)
            failed = {one.index - shard.start for one in content.failures}
            mask = pa.array([row in failed for row in range(len(shard))]) if failed else None
            flat = pa.array(np.ascontiguousarray(content.array).reshape(-1))
            rows = pa.FixedSizeListArray.from_arrays(flat, plan.width, mask=mask)
            table = pa.Table.from_arrays([pa.array(content.inputs), rows], schema=schema)
            writer.write_table(table, row_group_size=len(shard))
