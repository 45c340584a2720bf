"""`fungi-hf extract`: one process, several, or one of many; to one file, a folder, or stdout."""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fungi_hf.cli.arguments import check_counts, load
from fungi_hf.cli.rows import files_in, is_file
from fungi_hf.errors import ConfigError, InputError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fungi_hf.extractor import FungiExtractor
    from fungi_hf.shards import Manifest, Shard, ShardOptions, ShardStore
    from fungi_hf.shards.base import Source

INCOMPLETE: Final = 3
_LINES: Final = 1000  # of stdin that are read before the first is printed


def add_job(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say where features go and who computes them."""
    add = parser.add_argument
    words = ".parquet, .npy, .safetensors, or a folder (URL) of shards; default: JSON on stdout"
    add("--out", help=words)
    add("--batch-size", type=int, help="most inputs of one forward pass")
    add("--shard-rows", type=int, default=20_000, help="rows kept when interrupted")
    words = "processes (default: 1, this one; with --engine ray all CPUs of the cluster but one)"
    add("--workers", type=int, help=words)
    add("--threads", type=int, help="of each process (default: the cores, shared out; ray: 1)")
    words = "local (default), or ray: the cluster of RAY_ADDRESS, else one of this machine"
    add("--engine", choices=("local", "ray"), default="local", help=words)
    add("--gpus-per-worker", type=float, default=0, help="with --engine ray (default: 0)")
    add("--devices", help="of the workers, in turn, e.g. cuda:0,cuda:1")
    add("--shard", metavar="I/N", help="compute every N-th shard from I = 0 on, e.g. a Slurm array")
    add("--status", action="store_true", help="say what is missing; exit 3 if anything is")
    words = "raise (default), or skip inputs that cannot be used and list them beside the output"
    add("--on-error", choices=("raise", "skip"), default="raise", help=words)
    words = "of the numbers (default: float32)"
    add("--dtype", choices=("float32", "float16"), default="float32", help=words)
    add("--format", choices=("parquet", "npy"), default="parquet", help="of shards in a folder")


def run_extract(options: argparse.Namespace) -> int:
    """Run the command.

    Raises:
        ConfigError: If options contradict each other.
        InputError: If the inputs are of another kind than the encoder's.
    """
    check_counts(options, "batch_size", "shard_rows", "workers", "threads")
    many = [n for n in ("devices", "shard") if getattr(options, n)] + ["status"] * options.status
    many += [n for n in ("engine",) if options.engine != "local"]
    if options.out is None and (many or (options.workers or 1) > 1):
        raise ConfigError("--workers, --engine, --devices, --shard and --status need --out")
    if options.gpus_per_worker and options.engine == "local":
        raise ConfigError("--gpus-per-worker is of --engine ray; name --devices cuda:0,cuda:1")
    if options.devices and options.engine == "ray":
        raise ConfigError("--devices is of --engine local; say --gpus-per-worker 1")
    _part_of(options.shard)  # a wrong one is refused at once
    source = None if options.inputs == "-" else open_source(options.inputs, options.column)
    extractor = load(options)
    if is_file(options.inputs) and extractor.encoder.modality == "text":
        raise InputError(f"{options.inputs} holds sounds or pictures; this encoder takes texts")
    if options.threads is not None and not _has_workers(options):
        import torch

        torch.set_num_threads(options.threads)
    if options.out is None:
        _print(options, extractor, source)
        return 0
    if source is None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "stdin.txt"
            with path.open("wb") as file:
                for block in iter(lambda: sys.stdin.buffer.read(1 << 20), b""):
                    file.write(block)
            return _extract(options, extractor, open_source(path, options.column))
    return _extract(options, extractor, source)


def open_source(place: str | Path, column: str | None) -> Source:
    """Open a file or folder of inputs.

    Raises:
        InputError: If there is none, or no such column.
    """
    from fungi_hf.shards.sources import PathSource, source_of

    path = Path(place)
    if path.is_dir() or (is_file(str(place)) and path.is_file()):
        files = files_in(path) if path.is_dir() else [path]
        if not files:
            raise InputError(f"{place} holds no inputs")
        return PathSource(files, str(place))
    return source_of(place, column)


def _options(options: argparse.Namespace, *, kind: str) -> ShardOptions:
    from fungi_hf.shards import ShardOptions

    given: dict[str, Any] = {"kind": kind, "on_error": options.on_error, "dtype": options.dtype}
    return ShardOptions(
        shard_rows=options.shard_rows,
        batch_size=options.batch_size,
        prompt_name=options.prompt_name,
        prompt=options.prompt,
        **given,
    )


def _extract(options: argparse.Namespace, extractor: FungiExtractor, source: Source) -> int:
    from fungi_hf.extraction.inputs import warn_of
    from fungi_hf.shards import ShardStore
    from fungi_hf.shards.extract import plan_of
    from fungi_hf.shards.join import check_suffix, join
    from fungi_hf.shards.store import failure_lines

    out = Path(options.out)
    joins = bool(out.suffix) and "://" not in options.out and not out.is_dir()
    if joins:
        check_suffix(out)
    how = _options(options, kind="npy" if joins else options.format)
    where = out.with_name(f"{out.name}.parts") if joins else options.out
    if options.status and not (joins and out.is_file()) and not _is_begun(str(where)):
        sys.stdout.write(f"nothing is there: {where} has no plan\n")
        return INCOMPLETE
    store = ShardStore(where, plan_of(extractor, source, how))
    todo = list(store.missing())
    if options.status:
        n_done = store.plan.n_shards - len(todo)
        sys.stdout.write(f"{n_done} of {store.plan.n_shards} shards are done\n")
        sys.stdout.writelines(f"missing: {shard.name}\n" for shard in todo[:20])
        return INCOMPLETE if todo else 0
    part, n_parts = _part_of(options.shard)
    mine = [shard for shard in todo if shard.number % n_parts == part]
    lost = _compute(options, extractor, source, store, how, mine)
    if lost:
        sys.stderr.writelines(f"{name}: {why}\n" for name, why in lost.items())
        sys.stderr.write(f"{len(lost)} shards are lost, the rest is kept in {where}\n")
        return 1
    if options.shard and list(store.missing()):
        sys.stderr.write(f"{len(mine)} shards done; others are still missing in {where}\n")
        return 0
    manifest: Manifest = store.complete()
    warn_of(Counter(manifest.notes), extractor.encoder)
    beside = Path(f"{out}.failures.jsonl")
    if joins:
        join(store, out)
        if manifest.failures:
            beside.write_bytes(failure_lines(manifest.failures))
        store.place.remove()
    if manifest.failures:
        listed = beside if joins else f"{where}/failures.jsonl"
        sys.stderr.write(f"{len(manifest.failures)} inputs were left out, see {listed}\n")
    sys.stderr.write(f"{manifest.rows} vectors in {options.out}\n")
    return 0


def _is_begun(where: str) -> bool:
    from fungi_hf.shards.places import place_of
    from fungi_hf.shards.store import PLAN

    if "://" not in where:
        return (Path(where) / PLAN).is_file()
    return PLAN in place_of(where).names()


def _part_of(text: str | None) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", text or "0/1")
    if found is None or not int(found[1]) < int(found[2]):
        raise ConfigError(f"--shard must be I/N with I from 0 to N - 1; got {text}")
    return int(found[1]), int(found[2])


def _compute(
    options: argparse.Namespace,
    extractor: FungiExtractor,
    source: Source,
    store: ShardStore,
    how: ShardOptions,
    shards: list[Shard],
) -> dict[str, str]:
    # Give the names of shards that were lost, and why.
    from tqdm.auto import tqdm

    from fungi_hf.shards import extract_shard

    if shards and _has_workers(options):
        make = functools.partial(load_again, {n: getattr(options, n) for n in _OF_MODEL})
        pool = _pool(options, make, source, store, how)
        pool.run(shards, progress=True)
        return {store.plan.shard(number).name: why for number, why in pool.lost.items()}
    done = source.n_rows - sum(map(len, shards))
    with tqdm(total=source.n_rows, initial=done, unit="input") as bar:
        for shard in shards:
            if store.digest(shard) is None:  # nobody else was quicker
                extract_shard(extractor, source, shard, store, how)
            bar.update(len(shard))
    return {}


def _has_workers(options: argparse.Namespace) -> bool:
    return (options.workers or 1) > 1 or bool(options.devices) or options.engine != "local"


def _pool(
    options: argparse.Namespace,
    make: Any,
    source: Source,
    store: ShardStore,
    how: ShardOptions,
) -> Any:
    if options.engine == "ray":
        from fungi_hf.integrations.ray.cluster import Actors
        from fungi_hf.integrations.ray.files import RayPool

        actors = Actors(
            number=options.workers,
            num_cpus=options.threads or 1,
            num_gpus=options.gpus_per_worker,
        )
        return RayPool(make, source, store, how, actors)
    from fungi_hf.shards.pool import Pool, Workers

    devices = tuple(options.devices.split(",")) if options.devices else ()
    number = max(options.workers or 1, len(devices))
    workers = Workers(number=number, threads=options.threads, devices=devices)
    return Pool(make, source, store, how, workers)


_OF_MODEL: Final = ("model", "config", "objective", "device", "revision")


def load_again(options: dict[str, Any], device: str | None) -> FungiExtractor:
    """Load the extractor that a command's arguments name, in a process of its own."""
    if device is not None:
        options = options | {"device": device}
    return load(argparse.Namespace(**options))


def _print(options: argparse.Namespace, extractor: FungiExtractor, source: Source | None) -> None:
    # JSON lines as the inputs come, so that a pipe sees the first before the last is read.
    from fungi_hf.extraction.inputs import warn_of

    notes, n_failed = Counter[str](), 0
    how: dict[str, Any] = {"on_error": options.on_error, "prompt": options.prompt}
    how["prompt_name"] = options.prompt_name
    for first, part in parts_of(source, options.column, options.shard_rows):
        features, found = extractor.collect(part, options.batch_size, first=first, **how)
        notes.update(found)
        failed = {one.index for one in features.failures}
        n_failed += len(failed)
        for one in features.failures:
            sys.stderr.write(f"left out: {one.error}\n")
        kept = ((first + i, raw) for i, raw in enumerate(part) if first + i not in failed)
        for (row, raw), vector in zip(kept, features.array, strict=True):
            name = raw if isinstance(raw, str) else extractor.encoder.describe(raw)
            line = {"row": row, "input": name, "features": vector.tolist()}
            sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")
        sys.stdout.flush()
    warn_of(notes, extractor.encoder)
    if n_failed:
        sys.stderr.write(f"{n_failed} inputs were left out\n")


def parts_of(
    source: Source | None, column: str | None, most: int = _LINES
) -> Iterator[tuple[int, list[Any]]]:
    """Give inputs in parts, each with the number of its first; None is stdin, as it comes.

    Raises:
        ConfigError: If a column of stdin is named.
        InputError: If stdin is empty.
        StorageError: If stdin is not UTF-8.
    """
    step = min(most, _LINES)
    if source is not None:
        for start in range(0, source.n_rows, step):
            yield start, source.read(start, min(start + step, source.n_rows))
        return
    if column is not None:
        raise ConfigError("--column is of a table; stdin has one text a line")
    row = 0
    try:
        while part := [one.rstrip("\n") for one in itertools.islice(sys.stdin, step)]:
            yield row, part
            row += len(part)
    except UnicodeDecodeError as error:
        raise StorageError(f"stdin is not UTF-8: {error.reason} at byte {error.start}") from None
    if not row:
        raise InputError("- holds no inputs")
