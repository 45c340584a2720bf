"""What a sweep found: one row a variant, as JSON or CSV."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from fungi_hf.errors import StorageError, choices
from fungi_hf.evaluation.records import read_plain, to_plain, write_text

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
        settings: What all rows share.
        rows: Column -> value, the same columns in every row; shares are in [0, 1].
        notes: Facts that a reader needs, e.g. a layer that was left out.
    """

    kind: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    rows: tuple[Mapping[str, Cell], ...]
    notes: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        """Names of all columns, in order."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def to_dict(self) -> dict[str, Any]:
        """Give plain, JSON-able values."""
        return to_plain(RECORD, self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SweepResult:
        """Read what `to_dict` gave."""
        kept = read_plain(values, RECORD, [one.name for one in fields(cls)])
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
            StorageError: If the suffix is another.
        """
        place = Path(path)
        if place.suffix not in SUFFIXES:
            raise StorageError(f"{path}: unknown kind of file {choices(place.suffix, SUFFIXES)}")
        text = json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"
        write_text(place, self.to_csv() if place.suffix == ".csv" else text, "sweep")
