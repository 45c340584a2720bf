"""What a sweep found: one row a variant, as JSON or CSV."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from fungi_hf.errors import StorageError, choices
from fungi_hf.evaluation.records import read_stored

if TYPE_CHECKING:
    from collections.abc import Mapping

Cell: TypeAlias = str | int | float | None
RECORD: Final = "fungi-hf-sweep"
SUFFIXES: Final = (".json", ".csv")


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepResult:
    """A table of variants.

    Attributes:
        kind: `layers`, `sketches`, or the swept field of an objective, e.g. `temperature`.
        rows: Column -> value, the same columns in every row; shares are in [0, 1].
        settings: What all rows share.
        notes: Facts that a reader needs, e.g. a layer that was left out.
    """

    kind: str
    rows: tuple[Mapping[str, Cell], ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        """Names of all columns, in order."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def to_dict(self) -> dict[str, Any]:
        """Give plain, JSON-able values."""
        return {
            "record": RECORD,
            "version": 1,
            "kind": self.kind,
            "settings": dict(self.settings),
            "rows": [dict(row) for row in self.rows],
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SweepResult:
        """Read what `to_dict` gave."""
        kept = read_stored(values, RECORD, ("kind", "settings", "rows", "notes"))
        rows = tuple(dict(row) for row in kept["rows"])
        return cls(**kept | {"rows": rows, "notes": tuple(kept["notes"])})

    def to_csv(self) -> str:
        """Give the rows as CSV with a header; an absent value is an empty cell."""
        target = io.StringIO()
        writer = csv.DictWriter(target, self.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return target.getvalue()

    def write(self, path: str | Path) -> None:
        """Write a .json or .csv file.

        Raises:
            StorageError: If the suffix is another, or the file cannot be written.
        """
        place = Path(path)
        if place.suffix not in SUFFIXES:
            raise StorageError(f"{path}: unknown kind of file {choices(place.suffix, SUFFIXES)}")
        text = json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"
        try:
            place.write_text(self.to_csv() if place.suffix == ".csv" else text, encoding="utf-8")
        except OSError as error:
            raise StorageError(f"the sweep cannot be written to {path}: {error}") from error
