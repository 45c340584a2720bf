"""The whole job of a worker: one shard's inputs in, one valid file out; and the job of all."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

import numpy as np
from tqdm.auto import tqdm

from fungi_hf.checks import check_choices, check_fields, check_integer
from fungi_hf.errors import InputError
from fungi_hf.shards.base import Source
from fungi_hf.shards.plan import Kind, Numbers, ShardPlan
from fungi_hf.shards.sources import ListSource, source_of
from fungi_hf.shards.store import ShardStore

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable
    from pathlib import Path

    from fungi_hf.features import Failure, FungiFeatures
    from fungi_hf.shards.plan import Shard
    from fungi_hf.shards.store import Manifest

OnError = Literal["raise", "skip"]
SHARD_ROWS: Final = 20_000


class Extractor(Protocol):
    """What is asked of an extractor."""

    @property
    def encoder(self) -> Any:
        """Has `describe`, `content` and `check`."""

    def collect(
        self,
        inputs: Any,
        batch_size: int | None = None,
        *,
        progress: bool = False,
        on_error: str = "raise",
        first: int = 0,
        prompt_name: str | None = None,
        prompt: str | None = None,
    ) -> tuple[FungiFeatures, Counter[str]]:
        """Give features and counts of what was special; of no inputs, layout and fingerprint."""


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What became of one shard; plain data.

    Attributes:
        shard: Its number.
        rows: Of the shard.
        digest: Of its content.
        failures: Inputs that were left out.
        notes: What was special -> number of inputs.
        seconds: It took.
    """

    shard: int
    rows: int
    digest: str
    failures: tuple[Failure, ...]
    notes: dict[str, int]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class ShardOptions:
    """How shards are made.

    Attributes:
        shard_rows: Rows of a shard; memory is that of one.
        batch_size: Most inputs of one forward pass.
        on_error: "raise", or "skip" to leave unusable inputs out: their rows are null (NaN in
            .npy), and `failures.jsonl` lists them.
        dtype: Of the numbers on disk.
        kind: "parquet" or "npy".
        prompt_name: As in a call of the extractor, and so is `prompt`.
        prompt: The text itself.
    """

    shard_rows: int = SHARD_ROWS
    batch_size: int | None = None
    on_error: OnError = "raise"
    dtype: Numbers = "float32"
    kind: Kind = "parquet"
    prompt_name: str | None = None
    prompt: str | None = None

    def __post_init__(self) -> None:
        check_fields(self, ["shard_rows"], check_integer)
        check_fields(self, ["batch_size"], check_integer, optional=True)
        check_choices(self, {"on_error": OnError, "dtype": Numbers, "kind": Kind})

    @property
    def prompts(self) -> dict[str, str | None]:
        """What a call of the extractor takes."""
        return {"prompt_name": self.prompt_name, "prompt": self.prompt}


def plan_of(extractor: Extractor, source: Source, options: ShardOptions) -> ShardPlan:
    """Plan a job; nothing is encoded."""
    how: dict[str, Any] = {**options.prompts}
    empty, _ = extractor.collect([], **how)
    return ShardPlan(
        n_rows=source.n_rows,
        shard_rows=options.shard_rows,
        inputs=source.digest,
        fingerprint=empty.fingerprint,
        widths={name: part.stop - part.start for name, part in empty.layout.items()},
        factors=dict(empty.factors),
        dtype=options.dtype,
        kind=options.kind,
        prompt=(options.prompt_name, options.prompt),
    )


def extract_shard(
    extractor: Extractor, source: Source, shard: Shard, store: ShardStore, options: ShardOptions
) -> Receipt:
    """Compute one shard and write it; its numbers depend on its own inputs alone.

    Errors name inputs by their places in the whole input.

    Raises:
        InputError: If an input is unusable, or the source was changed while it is read.
        StorageError: If the shard cannot be written.
    """
    start = time.perf_counter()
    inputs = source.read(shard.start, shard.stop)
    if len(inputs) != len(shard):
        raise InputError(
            f"{source.name} gave {len(inputs)} rows for {shard.start} to {shard.stop}; it was "
            "changed while it is read"
        )
    how: dict[str, Any] = {"on_error": options.on_error, **options.prompts}
    features, notes = extractor.collect(inputs, options.batch_size, first=shard.start, **how)
    names = [one if isinstance(one, str) else extractor.encoder.describe(one) for one in inputs]
    names = [name.encode("utf-8", "replace").decode() for name in names]  # a lone surrogate
    array = np.asarray(features.array, store.plan.dtype)
    digest = store.write(shard, array, names, features.failures, notes)
    return Receipt(
        shard=shard.number,
        rows=len(shard),
        digest=digest,
        failures=features.failures,
        notes=dict(notes),
        seconds=time.perf_counter() - start,
    )


def extract_to(
    extractor: Extractor,
    where: str | Path,
    inputs: Iterable[Any] | str | Path,
    *,
    column: str | None = None,
    options: ShardOptions | None = None,
    progress: bool = False,
) -> Manifest:
    """Write the features of large inputs to a folder of shards, going on where a job stopped.

    Args:
        extractor: A fitted extractor.
        where: The folder, or a URL of an object store.
        inputs: A .txt, .jsonl, .csv or .parquet file, or a sequence; an iterator is held.
        column: Of a file; None takes the first of text, image, img, audio.
        options: How shards are made.
        progress: Show a bar.

    Raises:
        RunMismatchError: If the folder belongs to another job.
        StorageError: If it cannot be written.
        InputError: If an input is unusable; finished shards stay.
    """
    options = options or ShardOptions()
    source = as_source(inputs, column, extractor)
    store = ShardStore(where, plan_of(extractor, source, options))
    todo = list(store.missing())
    done = source.n_rows - sum(map(len, todo))
    with tqdm(total=source.n_rows, initial=done, disable=not progress, unit="input") as bar:
        for shard in todo:
            if store.digest(shard) is None:  # nobody else was quicker
                extract_shard(extractor, source, shard, store, options)
            bar.update(len(shard))
    return store.complete()


def as_source(inputs: Any, column: str | None, extractor: Extractor) -> Source:
    """Give what inputs are, as a source.

    Raises:
        InputError: If there are none, or a column is named that nothing has.
    """
    if isinstance(inputs, Source):
        return inputs
    if isinstance(inputs, str) or hasattr(inputs, "__fspath__"):
        return source_of(inputs, column)
    if column is not None:
        raise InputError(f"column={column!r} is of a file; a sequence has none")
    held = inputs if hasattr(inputs, "__getitem__") and hasattr(inputs, "__len__") else list(inputs)
    if not len(held):
        raise InputError("there are no inputs")
    encoder = extractor.encoder
    return ListSource(held, content=lambda raw: encoder.content(encoder.check(raw, 0)))
