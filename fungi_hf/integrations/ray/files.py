"""A job of shards over a cluster: descriptors travel through Ray Data, features never do."""

from __future__ import annotations

import contextlib
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tqdm.auto import tqdm

from fungi_hf.errors import FungiError, InputError, ShardError, StorageError
from fungi_hf.integrations.ray.cluster import (
    Actors,
    Attempts,
    Carried,
    check_same,
    cluster,
    gpu_device,
    loaded,
    node,
    raised,
    told_of,
)
from fungi_hf.shards import ShardOptions, ShardStore, extract_shard
from fungi_hf.shards.extract import plan_of
from fungi_hf.shards.places import place_of
from fungi_hf.shards.sources import source_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fungi_hf.extractor import FungiExtractor
    from fungi_hf.integrations.ray.cluster import Extractor, Maker
    from fungi_hf.shards import Manifest, Shard, ShardPlan
    from fungi_hf.shards.base import Source

LOST: Final = "lost"
"""What an actor tells of work that killed its actors again and again."""


def extract_files(  # noqa: PLR0913  (a user names them)
    paths: str | Path | Sequence[str | Path],
    out: str | Path,
    extractor: Extractor,
    column: str | None = None,
    *,
    workers: int | None = None,
    num_gpus: float = 0,
    num_cpus: float = 1,
    progress: bool = False,
    **options: Any,
) -> Manifest:
    """Write the features of files to a folder of shards, on all machines of a cluster.

    The same call goes on where an earlier one stopped, whoever started it: shards are those of
    `FungiExtractor.extract_to`, `fungi-hf extract` and its `--shard`. Retries and two jobs at once
    are harmless, rows are in order, features never enter the object store.

    Args:
        paths: A .txt, .jsonl, .csv or .parquet file, several Parquet files, or a URL of them; all
            nodes see the same.
        out: A folder that all nodes see, or a URL of an object store.
        extractor: A folder or Hub id that every node can load, or a fitted extractor.
        column: Of the files; None takes the first of text, image, img, audio.
        workers: Actors that hold a model each; None takes all GPUs, or all CPUs but one.
        num_gpus: GPUs of each actor.
        num_cpus: CPUs of each actor, and torch's threads in it.
        progress: Show a bar.
        options: Fields of `fungi_hf.shards.ShardOptions`.

    Raises:
        ConfigError: If the actors would take every CPU, or an option is unknown.
        FingerprintMismatchError: If a node has another version of the extractor.
        InputError: If an input is unusable, or a node reads other files; finished shards stay.
        RunMismatchError: If the folder belongs to another job.
        ShardError: If shards are lost: their actors died again and again. All others are done.
        StorageError: If a node does not see `out`, or a shard cannot be written.
    """
    how = _options(options)
    source = files_source(paths, column)
    store = ShardStore(out, plan_of(loaded(extractor), source, how))
    actors = Actors(number=workers, num_cpus=num_cpus, num_gpus=num_gpus)
    todo = list(store.missing())
    if todo:
        pool = RayPool(extractor, source, store, how, actors)
        pool.run(todo, progress=progress)
        if pool.lost:
            shown = "; ".join(f"{store.plan.shard(n).name}: {why}" for n, why in pool.lost.items())
            raise ShardError(f"{len(pool.lost)} shards are lost, all others are done: {shown:.500}")
    return store.complete()


def _options(given: dict[str, Any]) -> ShardOptions:
    from fungi_hf.checks import check_known

    check_known("extract_files", given, ShardOptions.__dataclass_fields__)
    return ShardOptions(**given)


def files_source(paths: str | Path | Sequence[str | Path], column: str | None) -> Source:
    """Open files as one source.

    Raises:
        InputError: If several are named that are not all Parquet files.
    """
    if isinstance(paths, str | Path):
        return source_of(paths, column)
    places = [str(path) for path in paths]
    if len(places) == 1:
        return source_of(places[0], column)
    if not places or not all(Path(place).suffix == ".parquet" for place in places):
        raise InputError(f"several files must be .parquet files; got {places[:3]}")
    from fungi_hf.shards.columns import ParquetSource

    return ParquetSource(places, column)


@dataclass(frozen=True, kw_only=True)
class _Job:
    """All that an actor needs."""

    carried: Carried
    where: str
    plan: ShardPlan
    source: Source
    options: ShardOptions
    threads: int
    device: str | None
    attempts: Any
    token: str  # a file of the driver's, which holds its name

    def begin(self) -> tuple[FungiExtractor, ShardStore]:
        """See the driver's folder, make the extractor, join the job.

        Raises:
            StorageError: If this node does not see what the driver wrote.
            FingerprintMismatchError: If this node's extractor is another one.
        """
        with contextlib.suppress(OSError):  # relative names are the driver's
            os.chdir(self.carried.folder)
        try:
            seen = place_of(self.where).read(self.token) == self.token.encode()
        except (OSError, FungiError):
            seen = False
        if not seen:
            raise StorageError(
                f"node {node()} does not see {self.where} as the driver does: give a folder on "
                "shared storage, or the URL of an object store"
            )
        extractor = self.carried.build(self.device, self.threads)
        check_same(plan_of(extractor, self.source, self.options).fingerprint, self.plan.fingerprint)
        return extractor, ShardStore(self.where, self.plan)


class ShardWriter:
    """An actor: numbers of shards in, what became of them out, both plain data.

    Errors are told and not raised: Ray would wrap them, and take the whole job along.
    """

    def __init__(self, job: _Job) -> None:
        self._job, self._refusal = job, ("", "")
        try:
            self._extractor, self._store = job.begin()
        except Exception as error:  # Ray would begin again for ever
            self._refusal = told_of(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Write the shards of a batch."""
        answer: dict[str, list[Any]] = {"shard": [], "error": [], "message": []}
        for number in map(int, batch["shard"]):
            error, message = self._refusal if self._refusal[0] else self._one(number)
            for name, value in zip(answer, (number, error, message), strict=True):
                answer[name].append(value)
        return answer

    def _one(self, number: int) -> tuple[str, str]:
        job, shard = self._job, self._job.plan.shard(number)
        gone = Attempts.exhausted(job.attempts, str(number))
        if gone:
            return LOST, gone
        try:
            if self._store.digest(shard) is None:  # nobody else was quicker
                extract_shard(self._extractor, job.source, shard, self._store, job.options)
        except Exception as error:  # goes to the driver, whatever it is
            return told_of(error)
        return "", ""


@dataclass
class RayPool:
    """Runs a job's missing shards on a cluster, as `fungi_hf.shards.pool.Pool` does on one machine.

    Attributes:
        extractor: What `Carried.of` takes.
        lost: Shards that were given up -> why.
    """

    extractor: Extractor | Maker
    source: Source
    store: ShardStore
    options: ShardOptions
    actors: Actors
    lost: dict[int, str] = field(default_factory=dict)

    def run(self, shards: Sequence[Shard], *, progress: bool = False) -> None:
        """Compute shards; the first error that an actor tells ends the job.

        Raises:
            FungiError: What an actor told, such as an InputError.
        """
        # Not the plan: a node's own disk may have it of another day.
        token = f"seen-{secrets.token_hex(8)}"
        with cluster() as ray:
            self.store.place.publish(token, token.encode())
            try:
                self._run(ray, shards, token, progress=progress)
            finally:
                self.store.place.delete(token)

    def _run(self, ray: Any, shards: Sequence[Shard], token: str, *, progress: bool) -> None:
        number = min(self.actors.fitting(ray), len(shards))
        job = _Job(
            carried=Carried.of(ray, self.extractor),
            where=self.store.place.name,
            plan=self.store.plan,
            source=self.source,
            options=self.options,
            threads=self.actors.threads,
            device=gpu_device(self.actors.num_gpus),
            attempts=Attempts.counted(ray),
            token=token,
        )
        # A shard is a block, so that no actor gets all of them and a loss is one shard.
        items = [{"shard": shard.number} for shard in shards]
        dataset = ray.data.from_items(items, override_num_blocks=len(items))
        answers = told(ray, dataset, ShardWriter, job, 1, self.actors.options(ray, number))
        with tqdm(total=sum(map(len, shards)), disable=not progress, unit="input") as bar:
            for one in answers:
                shard = self.store.plan.shard(int(one["shard"]))
                if one["error"] == LOST:
                    self.lost[shard.number] = one["message"]
                elif one["error"]:
                    raise raised(one["error"], one["message"])
                else:
                    bar.update(len(shard))


def told(
    ray: Any, dataset: Any, actor: type, task: Any, batch_size: int, options: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Give what actors tell of batches of a data set, row by row."""
    context = ray.data.DataContext.get_current()
    before, context.enable_progress_bars = context.enable_progress_bars, False
    try:
        yield from dataset.map_batches(
            actor, fn_constructor_args=(task,), batch_size=batch_size, **options
        ).iter_rows()
    finally:
        context.enable_progress_bars = before
