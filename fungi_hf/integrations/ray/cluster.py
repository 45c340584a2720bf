"""The cluster: found or started, its resources, and an extractor's way to its workers."""

from __future__ import annotations

import contextlib
import os
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from fungi_hf import errors
from fungi_hf.checks import check_integer, check_number
from fungi_hf.errors import (
    ConfigError,
    FingerprintMismatchError,
    FungiError,
    OptionalDependencyError,
    ShardError,
)
from fungi_hf.extractor import FungiExtractor
from fungi_hf.integrations.parts import ExtractorParts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Extractor: TypeAlias = FungiExtractor | ExtractorParts | str | Path
"""A fitted extractor, its parts, or a folder or Hub id that every node can load."""
Maker: TypeAlias = "Callable[[str | None], FungiExtractor]"
"""What gives the extractor on a device; it must be picklable."""


def imported() -> Any:
    """Import Ray.

    Raises:
        OptionalDependencyError: If Ray is not installed.
    """
    try:
        import ray
        import ray.data  # noqa: F401 - Ray loads it when it is asked for by name alone
    except ImportError as error:
        raise OptionalDependencyError("ray", "ray") from error
    return ray


@contextlib.contextmanager
def cluster() -> Iterator[Any]:
    """Use the cluster that is there, or start a local one.

    There is one if `ray.init` was called, RAY_ADDRESS is set, or `ray start` ran on this machine.
    What was started is shut down.
    """
    ray = imported()
    joins = not ray.is_initialized()
    if joins and os.environ.get("RAY_ADDRESS"):
        ray.init()
    elif joins:
        _join_or_start(ray)
    try:
        yield ray
    finally:
        if joins:
            ray.shutdown()


def _join_or_start(ray: Any) -> None:
    # A cluster of `ray start` may want its token, so that nothing is set before it was looked for.
    # What is started sends no usage statistics and leaves no token file, unless the user says so.
    try:
        ray.init("auto")
    except ConnectionError:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
        ray.init(include_dashboard=False, log_to_driver=False)  # raises where `ray start` has died


@dataclass(frozen=True, kw_only=True)
class Actors:
    """How many actors there are, and what each takes.

    Attributes:
        number: None takes all GPUs, or all CPUs but one.
        num_cpus: Of each; as many threads. Half a CPU is one thread.
        num_gpus: Of each.
    """

    number: int | None = None
    num_cpus: float = 1
    num_gpus: float = 0

    def __post_init__(self) -> None:
        if self.number is not None:
            check_integer("workers", self.number)
        check_number("num_cpus", self.num_cpus, 0, 1e6, inclusive="high")
        check_number("num_gpus", self.num_gpus, 0, 1e6)

    @property
    def threads(self) -> int:
        """Of torch in each."""
        return max(1, int(self.num_cpus))

    def fitting(self, ray: Any) -> int:
        """Give their number in a cluster.

        Raises:
            ConfigError: If they would leave no CPU to read and write with, for which Ray Data waits
                without a word, or if there are not as many GPUs.
        """
        found = ray.cluster_resources()
        cpus, gpus = found.get("CPU", 0), found.get("GPU", 0)
        if self.number is not None:
            number = self.number
        elif self.num_gpus:
            number = int(gpus / self.num_gpus)
        else:
            number = max(1, int((cpus - 1) / self.num_cpus))
        if number * self.num_cpus > cpus - 1:
            raise ConfigError(
                f"{number} workers of {self.num_cpus:g} CPU take all {cpus:g} CPUs of the cluster "
                "and nothing is left to read: leave one CPU, with fewer workers or a smaller "
                "num_cpus (0.5 is one thread)"
            )
        if not number or number * self.num_gpus > gpus:
            raise ConfigError(
                f"{max(1, number)} workers of {self.num_gpus:g} GPU need more than the {gpus:g} "
                "GPUs of the cluster; set num_gpus=0, or start nodes with GPUs"
            )
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        wanted = {"CPU": self.num_cpus, "GPU": self.num_gpus}
        if nodes and not any(all(n.get(k, 0) >= v for k, v in wanted.items()) for n in nodes):
            raise ConfigError(
                f"no node has the {self.num_cpus:g} CPUs and {self.num_gpus:g} GPUs of one worker, "
                f"for which Ray waits; the largest has {max_of(nodes, 'CPU'):g} CPUs "
                f"and {max_of(nodes, 'GPU'):g} GPUs: ask for less"
            )
        return number

    def options(self, ray: Any, number: int) -> dict[str, Any]:
        """Give what `map_batches` takes."""
        return {
            "compute": ray.data.ActorPoolStrategy(size=number),
            "num_cpus": self.num_cpus,
            "num_gpus": self.num_gpus or None,
        }


@dataclass(frozen=True)
class Carried:
    """An extractor on its way to actors: a name, what makes it, or a reference to its parts.

    A large constructor argument would be pickled for every operator; a reference that the driver
    holds is not.
    """

    what: Any
    fingerprint: str | None = None  # what it must be where it arrives
    folder: str = field(default_factory=os.getcwd)  # in which names are relative ones

    @classmethod
    def of(cls, ray: Any, extractor: Extractor | Maker, fingerprint: str | None = None) -> Carried:
        """Put an extractor's parts into the object store once; a name is a name."""
        if isinstance(extractor, FungiExtractor):
            extractor = ExtractorParts(extractor)
        if isinstance(extractor, ExtractorParts):
            return cls(ray.put(extractor), fingerprint)
        return cls(str(extractor) if isinstance(extractor, Path) else extractor, fingerprint)

    def build(self, device: str | None, threads: int | None) -> FungiExtractor:
        """Make the extractor in an actor, and see that it is the driver's.

        Raises:
            FingerprintMismatchError: If it is not, naming the node.
        """
        import torch

        with contextlib.suppress(OSError):  # another machine may not have it
            os.chdir(self.folder)
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one of several processes
        torch.set_num_threads(threads or 1)
        what = self.what
        if callable(what):
            extractor: FungiExtractor = what(device)
        elif isinstance(what, str):
            extractor = loaded(what, device)
        else:
            import ray

            extractor = loaded(ray.get(what), device)
        if self.fingerprint is not None:
            check_same(extractor.fingerprint, self.fingerprint)
        return extractor


class Attempts:
    """Counts how often each piece of work was begun, in an actor that takes no CPU.

    Ray begins again for ever what kills its actors; whoever sees too high a number gives up.
    """

    MOST: Final = 4

    def __init__(self) -> None:
        self._begun: Counter[str] = Counter()

    def begin(self, key: str) -> int:
        """Give the number of the attempt, from 1."""
        self._begun[key] += 1
        return self._begun[key]

    @classmethod
    def counted(cls, ray: Any) -> Any:
        """Start the actor, beside the driver; it ends with the last handle.

        Where it dies it begins again at nothing: a job goes on without the machine it was on.
        """
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        options = {"max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": here}
        return ray.remote(num_cpus=0, **options)(cls).remote()

    @classmethod
    def exhausted(cls, counter: Any, key: str) -> str:
        """Count one attempt more; say that they were too many, or nothing."""
        import ray

        number = ray.get(counter.begin.remote(key))
        return f"its actor died {cls.MOST} times" if number > cls.MOST else ""


def max_of(nodes: list[dict[str, float]], resource: str) -> float:
    """Give the most of a resource that a node has."""
    return max(node.get(resource, 0) for node in nodes)


def loaded(extractor: Extractor, device: str | None = None) -> FungiExtractor:
    """Load a folder or Hub id, or build what is given in parts, on a device."""
    if isinstance(extractor, str | Path):
        return FungiExtractor.from_pretrained(extractor, device=device)
    if isinstance(extractor, ExtractorParts):
        if device is not None:
            extractor.model.to(device)
        return extractor.build()
    return extractor


def check_same(here: str, wanted: str) -> None:
    """Refuse a fingerprint that is not the driver's.

    Raises:
        FingerprintMismatchError: Naming the node.
    """
    if here != wanted:
        raise FingerprintMismatchError(
            f"node {node()} has an extractor of fingerprint {here}, the driver's is {wanted}: give "
            "all nodes the same folder or revision"
        )


def told_of(error: Exception) -> tuple[str, str]:
    """Give kind and words of an error, as plain data; of one that nobody foresaw, the traceback."""
    if isinstance(error, FungiError):
        return type(error).__name__, str(error)
    return ShardError.__name__, f"node {node()}: {''.join(traceback.format_exception(error))}"


def raised(kind: str, message: str) -> FungiError:
    """Give the error that an actor told."""
    made: Any = getattr(errors, kind, ShardError)
    try:
        return made(message)
    except TypeError:  # it wants more than words, such as the name of an extra
        return ShardError(message)


def node() -> str:
    """Name the node of the process."""
    import socket

    ray, name = imported(), socket.gethostname()
    if not ray.is_initialized():
        return name
    return f"{name} ({ray.get_runtime_context().get_node_id()[:12]})"


def gpu_device(num_gpus: float) -> str | None:
    """Give the device of an actor with a GPU, of which Ray shows it its own alone."""
    return "cuda" if num_gpus else None
