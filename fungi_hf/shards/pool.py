"""Workers of one machine: processes that take shards one by one, and are replaced when they die."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections import Counter, deque
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any, Final

from tqdm.auto import tqdm

from fungi_hf.checks import check_fields, check_integer
from fungi_hf.errors import FungiError, InputError, ShardError
from fungi_hf.shards.extract import extract_shard, plan_of
from fungi_hf.shards.store import ShardStore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.connection import Connection

    from fungi_hf.shards.base import Source
    from fungi_hf.shards.extract import Extractor, Receipt, ShardOptions
    from fungi_hf.shards.plan import Shard, ShardPlan

_DEATHS: Final = 2  # of workers on one shard, after which the shard is given up


@dataclass(frozen=True, kw_only=True)
class Workers:
    """How many processes, and what each may use.

    Attributes:
        number: Of processes.
        threads: Of each; None shares out the cores.
        devices: Names of torch, given to workers in turn; none leaves the choice to the loader.
    """

    number: int = 1
    threads: int | None = None
    devices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self, ["number"], check_integer)
        check_fields(self, ["threads"], check_integer, optional=True)

    @property
    def each(self) -> int:
        """Threads of a worker."""
        return self.threads or max(1, (os.cpu_count() or 1) // self.number)

    def device(self, number: int) -> str | None:
        """Give the device of a worker."""
        return self.devices[number % len(self.devices)] if self.devices else None


@dataclass
class _Worker:
    number: int
    process: Any
    connection: Connection
    shard: Shard | None = None


@dataclass
class Pool:
    """Runs a job's missing shards in processes of their own.

    Attributes:
        make: Gives the extractor on a device; it is called in every process and must be picklable.
    """

    make: Callable[[str | None], Extractor]
    source: Source
    store: ShardStore
    options: ShardOptions
    workers: Workers
    lost: dict[int, str] = field(default_factory=dict)  # shards that were given up -> why

    def run(self, shards: Sequence[Shard], *, progress: bool = False) -> list[Receipt]:
        """Compute shards; those whose workers died twice are left in `lost`.

        A worker that dies gives its shard back. The first error of an input, with
        `on_error="raise"`, ends the job when the shards under way are done.

        Raises:
            InputError: If an input is unusable.
            ShardError: If a worker cannot begin, or its shard cannot be written.
        """
        self._waiting, self._deaths = deque(shards), Counter[int]()
        self._error: FungiError | None = None
        receipts: list[Receipt] = []
        running = [self._start(n) for n in range(min(self.workers.number, len(shards)))]
        with tqdm(total=sum(map(len, shards)), disable=not progress, unit="input") as bar:
            try:
                while running:
                    handles: dict[Any, _Worker] = {one.connection: one for one in running}
                    handles |= {one.process.sentinel: one for one in running}
                    for ready in wait(list(handles)):
                        worker = handles[ready]
                        if worker not in running:
                            continue
                        receipt = self._hear(worker, running)
                        if receipt is not None:
                            receipts.append(receipt)
                            bar.update(receipt.rows)
            finally:
                for worker in running:
                    worker.process.terminate()
                    worker.process.join()
        if self._error is not None:
            raise self._error
        return receipts

    def _start(self, number: int) -> _Worker:
        context = multiprocessing.get_context("spawn")
        mine, theirs = context.Pipe()
        task = _Task(
            make=self.make,
            where=self.store.place.name,
            plan=self.store.plan,
            source=self.source,
            options=self.options,
            threads=self.workers.each,
            device=self.workers.device(number),
        )
        process = context.Process(target=_work, args=(theirs, task), daemon=True)
        process.start()
        theirs.close()
        return _Worker(number, process, mine)

    def _hear(self, worker: _Worker, running: list[_Worker]) -> Receipt | None:
        # Take what a worker says, and give it its next shard.
        try:
            said, found = worker.connection.recv()
        except (EOFError, OSError):
            self._bury(worker, running)
            return None
        receipt = None
        if said == "done":
            receipt, worker.shard = found, None
        elif said == "failed":
            kind, message = found
            self._error = self._error or (InputError if kind == "input" else ShardError)(message)
            worker.shard = None
            self._waiting.clear()
        if said == "stopped":
            worker.process.join()
            running.remove(worker)
        else:
            self._send(worker)
        return receipt

    def _send(self, worker: _Worker) -> None:
        worker.shard = self._waiting.popleft() if self._waiting else None
        try:
            worker.connection.send(worker.shard)
        except (BrokenPipeError, OSError):  # it has just died; its sentinel says so next
            return

    def _bury(self, worker: _Worker, running: list[_Worker]) -> None:
        worker.process.join()
        running.remove(worker)
        shard, code = worker.shard, worker.process.exitcode
        if shard is None:
            self._error = self._error or ShardError(
                f"a worker ended with status {code} before it took a shard; run it with --workers "
                "1 to see why"
            )
            self._waiting.clear()
            return
        self._deaths[shard.number] += 1
        if self._deaths[shard.number] < _DEATHS:
            self._waiting.appendleft(shard)
        else:
            self.lost[shard.number] = f"its worker died twice, the last time with status {code}"
        if self._waiting:
            running.append(self._start(worker.number))


@dataclass(frozen=True, kw_only=True)
class _Task:
    """All that a worker needs; plain data."""

    make: Callable[[str | None], Extractor]
    where: str
    plan: ShardPlan
    source: Source
    options: ShardOptions
    threads: int
    device: str | None

    def begin(self) -> tuple[Extractor, ShardStore]:
        """Make the extractor, and refuse one that is not the job's.

        Raises:
            ShardError: If its fingerprint is another.
        """
        import torch

        torch.set_num_threads(self.threads)
        extractor = self.make(self.device)
        mine = plan_of(extractor, self.source, self.options).fingerprint
        if mine != self.plan.fingerprint:
            raise ShardError(
                f"a worker's extractor has fingerprint {mine}, the job's is "
                f"{self.plan.fingerprint}; the model or its folder changed meanwhile"
            )
        return extractor, ShardStore(self.where, self.plan)

    def one(self, extractor: Extractor, shard: Shard, store: ShardStore) -> tuple[str, Any]:
        """Compute a shard, and say what became of it."""
        try:
            return "done", extract_shard(extractor, self.source, shard, store, self.options)
        except FungiError as error:
            kind = "input" if isinstance(error, InputError) else "other"
            return "failed", (kind, str(error))


def _work(connection: Connection, task: _Task) -> None:
    """Take shards until there is none, or the parent is gone."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        extractor, store = task.begin()
        connection.send(("ready", None))
        while (shard := connection.recv()) is not None:
            connection.send(task.one(extractor, shard, store))
        connection.send(("stopped", None))
    except (EOFError, BrokenPipeError):  # the parent was killed
        return
    except Exception as error:  # goes to the parent, whatever it is
        message = str(error) if isinstance(error, FungiError) else traceback.format_exc()
        connection.send(("failed", ("other", message)))
        if connection.recv() is None:
            connection.send(("stopped", None))
