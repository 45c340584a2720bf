"""One shard as bytes: Parquet with all facts in its footer, or .npy with a note beside it."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fungi_hf.errors import OptionalDependencyError, StorageError
from fungi_hf.features import Failure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fungi_hf.shards.plan import Shard, ShardPlan

_PREFIX: Final = "fungi_"


@dataclass(frozen=True, eq=False)
class Content:
    """What one shard holds.

    Attributes:
        array: [n, F] of the plan's dtype; a row of NaN for an input that was left out.
        inputs: Each input in a short text, n.
        failures: Inputs that were left out, by their places in the whole input.
        notes: What was special -> number of inputs.
    """

    array: Any
    inputs: list[str]
    failures: tuple[Failure, ...] = ()
    notes: Mapping[str, int] = field(default_factory=dict)

    def header(self, plan: ShardPlan, shard: Shard) -> dict[str, str]:
        """Give the facts of the footer, the digest of everything among them."""
        failed = [[one.index, one.source, one.error] for one in self.failures]
        layout = {name: [part.start, part.stop] for name, part in plan.layout.items()}
        facts = {
            "shard": f"{shard.number}/{plan.n_shards}",
            "rows": f"{shard.start}-{shard.stop}",
            "inputs": plan.inputs,
            "fingerprint": plan.fingerprint,
            "layout": json.dumps(layout),
            "factors": json.dumps({name: list(shape) for name, shape in plan.factors.items()}),
            "dtype": plan.dtype,
            "failures": json.dumps(failed),
            "notes": json.dumps(dict(sorted(self.notes.items()))),
        }
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        digest.update(json.dumps(self.inputs).encode())
        digest.update(np.ascontiguousarray(self.array).tobytes())
        return facts | {"digest": digest.hexdigest()}


def encode(content: Content, plan: ShardPlan, shard: Shard) -> bytes:
    """Give a shard as the bytes of its file.

    Raises:
        OptionalDependencyError: If pyarrow is missing.
    """
    facts = content.header(plan, shard)
    if plan.kind == "npy":
        file = io.BytesIO()
        np.save(file, content.array)
        note = json.dumps({**facts, "texts": content.inputs}).encode()
        return file.getvalue() + note + len(note).to_bytes(8, "little")
    pa, pq = _arrow()
    failed = {one.index - shard.start for one in content.failures}
    keep = np.array([row not in failed for row in range(len(shard))])
    width = plan.width
    flat = pa.array(np.ascontiguousarray(content.array).reshape(-1))
    mask = None if keep.all() else pa.array(~keep)
    vectors = pa.FixedSizeListArray.from_arrays(flat, width, mask=mask)
    table = pa.table(
        {
            "row": pa.array(np.arange(shard.start, shard.stop)),
            "input": pa.array(content.inputs, pa.string()),
            "features": vectors,
        }
    )
    metadata = {f"{_PREFIX}{name}": value for name, value in facts.items()}
    sink = io.BytesIO()
    table = table.replace_schema_metadata(metadata)
    options: Any = {"compression": "none", "use_dictionary": False, "row_group_size": len(shard)}
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def decode(data: bytes, plan: ShardPlan, shard: Shard) -> tuple[Content, str]:
    """Read a shard and give it with its digest; everything is compared with the plan.

    Raises:
        OptionalDependencyError: If pyarrow is missing.
        StorageError: Saying what is wrong with it.
    """
    try:
        facts, array, inputs = _npy(data) if plan.kind == "npy" else _parquet(data)
        failures = tuple(
            Failure(index=index, source=source, error=error)
            for index, source, error in json.loads(facts["failures"])
        )
        content = Content(array, inputs, failures, json.loads(facts["notes"]))
        expected = content.header(plan, shard)
    except OptionalDependencyError:
        raise
    except Exception as error:  # whatever a damaged file makes the readers raise
        raise StorageError(f"it cannot be read: {error}") from None
    for name, value in expected.items():
        if facts.get(name) != value:
            what = "its digest does not fit" if name == "digest" else f"its {name} differs"
            raise StorageError(f"{what}: {str(facts.get(name))[:60]!r}, expected {value[:60]!r}")
    if array.shape != (len(shard), plan.width) or str(array.dtype) != plan.dtype:
        raise StorageError(
            f"it holds {array.dtype} {array.shape}, the plan says {plan.dtype} "
            f"{(len(shard), plan.width)}"
        )
    return content, expected["digest"]


def _npy(data: bytes) -> tuple[dict[str, str], Any, list[str]]:
    size = int.from_bytes(data[-8:], "little")
    note: dict[str, Any] = json.loads(data[len(data) - 8 - size : -8])
    array = np.load(io.BytesIO(data), allow_pickle=False)
    return note, array, note.pop("texts")


def _parquet(data: bytes) -> tuple[dict[str, str], Any, list[str]]:
    _, pq = _arrow()
    table = pq.read_table(io.BytesIO(data))
    notes = table.schema.metadata or {}
    facts = {key.decode().removeprefix(_PREFIX): value.decode() for key, value in notes.items()}
    first, last = map(int, facts["rows"].split("-"))
    if table["row"].to_pylist() != list(range(first, last)):
        raise StorageError("its rows are not those of its name")
    column = table["features"].combine_chunks()
    # Rows that are null keep their (NaN) numbers below, as they were written.
    width = column.type.list_size
    flat = column.values.to_numpy(zero_copy_only=False)
    array = flat[column.offset * width : (column.offset + len(column)) * width]
    array = array.reshape(len(column), width).copy()
    if column.null_count:
        array[np.asarray(column.is_null())] = np.nan
    return facts, array, table["input"].to_pylist()


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise OptionalDependencyError("pyarrow", "datasets") from error
    return pa, pq
