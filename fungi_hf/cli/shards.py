"""Features in shards on disk, so that an interrupted run goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fungi_hf.errors import RunMismatchError, StorageError, choices
from fungi_hf.storage.files import replace_file
from fungi_hf.tables import write_parquet

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fungi_hf.features import FungiFeatures
    from fungi_hf.types import Float32Array

SUFFIXES: Final = (".parquet", ".npy", ".safetensors")


class Shards:
    """A folder `<out>.parts` with one array per block of rows and a note of what they belong to."""

    def __init__(self, out: Path, inputs: list[Any], fingerprint: str, size: int) -> None:
        """Open or make the folder of the file `out`, with `size` rows per shard.

        Raises:
            RunMismatchError: If the folder belongs to other inputs or another extractor.
            StorageError: If `out` is of an unknown kind.
        """
        if out.suffix not in SUFFIXES:
            raise StorageError(f"--out {out}: unknown kind of file {choices(out.suffix, SUFFIXES)}")
        self._out, self._inputs, self._size = out, inputs, size
        self._folder = out.with_name(f"{out.name}.parts")
        digest = hashlib.sha256(json.dumps([str(i) for i in inputs]).encode()).hexdigest()[:16]
        note = {"fingerprint": fingerprint, "inputs": digest, "size": size}
        path = self._folder / "run.json"
        if path.is_file():
            if json.loads(path.read_text(encoding="utf-8")) != note:
                raise RunMismatchError(
                    f"{self._folder} belongs to other inputs, another extractor or shard size; "
                    "remove it, or choose another --out"
                )
        else:
            self._folder.mkdir(parents=True, exist_ok=True)
            replace_file(path, json.dumps(note).encode())

    @property
    def n_done(self) -> int:
        """Rows that are on disk."""
        return len(self._inputs) - sum(len(part) for _, part in self.missing())

    def missing(self) -> Iterator[tuple[int, list[Any]]]:
        """Give the first row and the inputs of every shard that is not on disk."""
        for start in self._starts():
            if not self._path(start).is_file():
                yield start, self._inputs[start : start + self._size]

    def store(self, start: int, array: Float32Array) -> None:
        """Write a shard; it appears whole or not at all."""
        temporary = self._folder / "writing.npy"
        np.save(temporary, array)
        temporary.replace(self._path(start))

    def finish(self, features: FungiFeatures) -> None:
        """Join the shards into the output file, with the layout of these features; remove them."""
        arrays = [np.load(self._path(start)) for start in self._starts()]
        _write(self._out, replace(features, array=np.concatenate(arrays)), self._inputs)
        shutil.rmtree(self._folder)

    def _starts(self) -> range:
        return range(0, len(self._inputs), self._size)

    def _path(self, start: int) -> Path:
        return self._folder / f"{start:012d}.npy"


def _write(out: Path, features: FungiFeatures, inputs: list[Any]) -> None:
    temporary = out.with_name(f".writing{out.suffix}")
    if out.suffix == ".npy":
        np.save(temporary, features.array)
    elif out.suffix == ".safetensors":
        features.save(temporary)
    else:
        write_parquet(temporary, features, inputs)
    temporary.replace(out)
