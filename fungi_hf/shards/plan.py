"""The plan of a job: which rows every shard has, and what its rows must be."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from fungi_hf.checks import check_choices, check_fields, check_integer
from fungi_hf.errors import RunMismatchError
from fungi_hf.tables import make_layout

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fungi_hf.types import Layout

FORMAT: Final = "fungi-hf-shards"
VERSION: Final = 1
Numbers = Literal["float32", "float16"]
Kind = Literal["parquet", "npy"]


@dataclass(frozen=True, slots=True)
class Shard:
    """Rows start to stop - 1 of the input, and the name of their file."""

    number: int
    start: int
    stop: int
    name: str

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """What all processes of a job agree on; it follows from row counts and an extractor alone.

    Attributes:
        n_rows: N, the rows of the input.
        shard_rows: Rows of each shard but the last.
        inputs: Digest of the input.
        fingerprint: Of the extractor.
        prompt: Name and text of the prompt, as they were asked for.
        widths: Block name -> columns, in order.
        factors: Blocks of exact factors: name -> (m, n1).
        dtype: Of the numbers on disk.
        kind: Of the files.
    """

    n_rows: int
    shard_rows: int
    inputs: str
    fingerprint: str
    widths: Mapping[str, int]
    factors: Mapping[str, tuple[int, int]]
    dtype: Numbers = "float32"
    kind: Kind = "parquet"
    prompt: tuple[str | None, str | None] = (None, None)

    def __post_init__(self) -> None:
        check_fields(self, ("n_rows", "shard_rows"), check_integer)
        check_choices(self, {"dtype": Numbers, "kind": Kind})

    @property
    def width(self) -> int:
        """F."""
        return sum(self.widths.values())

    @property
    def layout(self) -> Layout:
        """Block name -> slice of the columns."""
        return make_layout(self.widths)

    @property
    def n_shards(self) -> int:
        """Shards of the job."""
        return -(-self.n_rows // self.shard_rows)

    def shard(self, number: int) -> Shard:
        """Give a shard by its number from 0."""
        start = number * self.shard_rows
        stop = min(start + self.shard_rows, self.n_rows)
        digits = max(5, len(str(self.n_shards)))
        name = f"part-{number:0{digits}d}-of-{self.n_shards:0{digits}d}.{self.kind}"
        return Shard(number, start, stop, name)

    def shards(self) -> Iterator[Shard]:
        """Give all shards."""
        return map(self.shard, range(self.n_shards))

    def to_json(self) -> str:
        """Give the text that `from_json` reads; equal plans give equal texts."""
        fields = asdict(self) | {
            "widths": list(map(list, self.widths.items())),
            "factors": {name: list(shape) for name, shape in self.factors.items()},
        }
        return json.dumps({"format": FORMAT, "version": VERSION, **fields}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> ShardPlan:
        """Read a plan.

        Raises:
            RunMismatchError: If the text is damaged, or of another version.
        """
        remedy = f"remove the folder, or choose another; {where}"
        try:
            fields: dict[str, Any] = json.loads(text)
            if (fields.pop("format"), fields.pop("version")) != (FORMAT, VERSION):
                raise RunMismatchError(f"the plan is of another version of fungi-hf: {remedy}")
            fields["widths"] = {str(name): int(width) for name, width in fields["widths"]}
            factors = fields["factors"].items()
            fields["prompt"] = tuple(fields["prompt"])
            fields["factors"] = {str(name): (int(m), int(n1)) for name, (m, n1) in factors}
            return cls(**fields)
        except RunMismatchError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise RunMismatchError(f"the plan is damaged ({error}): {remedy}") from None
