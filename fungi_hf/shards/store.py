"""A folder of shards: what is there and valid, what is missing, and when it is complete."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections import Counter
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fungi_hf.errors import RunMismatchError, ShardError, StorageError
from fungi_hf.features import Failure
from fungi_hf.shards.codec import Content, decode, encode
from fungi_hf.shards.places import place_of
from fungi_hf.shards.plan import ShardPlan

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from fungi_hf.shards.plan import Shard

PLAN: Final = "plan.json"
MANIFEST: Final = "manifest.json"
FAILURES: Final = "failures.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A complete job.

    Attributes:
        rows: N.
        shards: Number of shards.
        digest: Of all vectors in order; equal for equal vectors, however they came.
        fingerprint: Of the features.
        failures: Inputs that were left out.
        notes: What was special -> number of inputs.
    """

    rows: int
    shards: int
    digest: str
    fingerprint: str
    failures: tuple[Failure, ...] = ()
    notes: Mapping[str, int]


class ShardStore:
    """Shards of one plan in one place, written by any number of processes.

    A shard is valid if its file decodes, belongs to the plan, and its numbers have its own digest;
    all else is computed again. Every writer has a name of its own, the first to rename wins.
    """

    def __init__(self, where: str | Path, plan: ShardPlan) -> None:
        """Begin a job, or join one with the same plan.

        Raises:
            RunMismatchError: If the place has another plan, or shards and no plan.
            StorageError: If it cannot be read or written.
        """
        self.place, self.plan = place_of(where), plan
        self._digests: dict[int, str] = {}
        self._damaged: set[int] = set()
        names = self.place.names()
        if PLAN not in names:
            strange = [name for name in names if name.startswith("part-") or name == MANIFEST]
            if strange:
                raise RunMismatchError(
                    f"{self.place.name} has shards and no {PLAN}, so nobody can say of what they "
                    "are; remove the folder, or choose another"
                )
            if self.place.publish(PLAN, plan.to_json().encode()):
                return
        self._compare()

    def _compare(self) -> None:
        where = f"it is {self.place.name}/{PLAN}"
        text = self.place.read(PLAN).decode(errors="replace")
        other = ShardPlan.from_json(text, where)
        words = {"inputs": "other inputs", "fingerprint": "another extractor"}
        for name in [field.name for field in fields(ShardPlan)]:
            mine, theirs = getattr(self.plan, name), getattr(other, name)
            if mine != theirs:
                raise RunMismatchError(
                    f"{self.place.name} belongs to {words.get(name, f'another {name}')} "
                    f"({theirs!r:.60}, here {mine!r:.60}); remove it, or choose another folder"
                )

    def missing(self) -> Iterator[Shard]:
        """Give every shard that is not there or not valid, looking at each as it is asked for."""
        return (shard for shard in self.plan.shards() if self.digest(shard) is None)

    def digest(self, shard: Shard) -> str | None:
        """Give the digest of a shard that is valid; None where it is missing or damaged."""
        if shard.number not in self._digests:
            try:
                _, self._digests[shard.number] = self._load(shard)
            except FileNotFoundError:
                return None
            except StorageError as error:
                if shard.number not in self._damaged:
                    self._damaged.add(shard.number)
                    warnings.warn(
                        f"{self.place.name}/{shard.name} is not valid ({error}); it is computed "
                        "again",
                        stacklevel=3,
                    )
                return None
        return self._digests[shard.number]

    def _load(self, shard: Shard) -> tuple[Content, str]:
        return decode(self.place.read(shard.name), self.plan, shard)

    def read(self, shard: Shard) -> Content:
        """Give a valid shard.

        Raises:
            ShardError: If it is missing or damaged.
        """
        try:
            content, self._digests[shard.number] = self._load(shard)
        except FileNotFoundError:
            raise ShardError(f"{self.place.name} lacks {shard.name}") from None
        except StorageError as error:
            raise ShardError(f"{self.place.name}/{shard.name} is not valid: {error}") from None
        return content

    def write(
        self,
        shard: Shard,
        array: np.ndarray,
        inputs: Sequence[str],
        failures: Sequence[Failure] = (),
        notes: Mapping[str, int] | None = None,
    ) -> str:
        """Write a shard, unless a valid one was there first, and give the digest of what is there.

        The array [n, F] has the rows of all inputs but the failed ones; inputs are short texts.

        Raises:
            ShardError: If there are not as many rows as the plan says.
            StorageError: If it cannot be written.
        """
        failed = {one.index - shard.start for one in failures}
        kept = [row for row in range(len(shard)) if row not in failed]
        if array.shape != (len(kept), self.plan.width) or len(inputs) != len(shard):
            raise ShardError(
                f"{shard.name} takes {len(kept)} rows of {self.plan.width} numbers and "
                f"{len(shard)} inputs; got {array.shape} and {len(inputs)}"
            )
        whole = np.full((len(shard), self.plan.width), np.nan, self.plan.dtype)
        whole[kept] = array
        content = Content(whole, list(inputs), tuple(failures), dict(notes or {}))
        data = encode(content, self.plan, shard)
        if not self.place.publish(shard.name, data) and self.digest(shard) is None:
            self.place.publish(shard.name, data, replace=True)
        found = self.digest(shard)
        if found is None:
            raise ShardError(f"{self.place.name}/{shard.name} could not be read back")
        return found

    def complete(self) -> Manifest:
        """Look at every shard, then write `manifest.json`, whose presence means complete.

        Raises:
            ShardError: Naming what is missing.
        """
        lacking = [shard.name for shard in self.missing()]
        if lacking:
            raise ShardError(
                f"{self.place.name}: {len(lacking)} of {self.plan.n_shards} shards are missing, "
                f"such as {', '.join(lacking[:3])}; give the same command again"
            )
        failures, notes, total = list[Failure](), Counter[str](), hashlib.sha256()
        for shard in self.plan.shards():
            content = self.read(shard)
            failures += content.failures
            notes.update(content.notes)
            total.update(np.ascontiguousarray(content.array).data)
        manifest = Manifest(
            rows=self.plan.n_rows,
            shards=self.plan.n_shards,
            digest=total.hexdigest()[:32],
            fingerprint=self.plan.fingerprint,
            failures=tuple(failures),
            notes=dict(notes),
        )
        if failures:
            self.place.publish(FAILURES, failure_lines(failures), replace=True)
        record: dict[str, Any] = asdict(manifest) | {"failures": len(failures)}
        self.place.publish(MANIFEST, (json.dumps(record, indent=1) + "\n").encode(), replace=True)
        return manifest


def failure_lines(failures: Sequence[Failure]) -> bytes:
    """Give failures as JSON lines."""
    lines = (json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in failures)
    return "".join(lines).encode()
