"""One table on one encoder: check everything, load the model once, then set by set."""

from __future__ import annotations

import importlib.metadata
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fungi_hf.encoders.loading import encoder_digest
from fungi_hf.errors import ConfigError, InputError, StorageError
from fungi_hf.extractor import FungiExtractor
from recipes.paper import access, dense, judge, tables
from recipes.paper.loading import load
from recipes.run import model_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fungi_hf.config import FungiConfig
    from recipes.paper.access import Place, Places
    from recipes.paper.registry import DataSet
    from recipes.paper.tables import Table

RECORD: Final = "fungi-hf-paper-table"
_PUBLISHED_SIZE: Final = 512  # pixels, of segmentation
_LIBRARIES: Final = ("fungi-hf", "torch", "transformers", "datasets", "numpy", "scikit-learn")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line chose.

    Attributes:
        sets: Names; none are all of the table.
        objectives: Names of the preset's; None takes all.
        rows: Of both splits; None takes all.
        shots: Rows a class of the few-shot judge.
        probe_all: Whether every column gets a linear probe, not the bare embedding alone.
        skip_missing: Whether sets that are not at hand are left out and listed.
    """

    model: str
    preset: str = "paper"
    sets: tuple[str, ...] = ()
    objectives: tuple[str, ...] | None = None
    pooling: str | None = None
    image_size: tuple[int, int] | None = None
    rows: tuple[int, int] | None = None
    shots: int = 5
    judges: tuple[str, ...] = tables.JUDGES
    probe_all: bool = False
    seed: int = 42
    device: str | None = None
    skip_missing: bool = False
    places: Places = field(default_factory=access.Places)


def run(
    table: Table, options: Options, keep: Callable[[dict[str, Any]], None]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Give the record of a table, and a line for each set that is not at hand.

    `keep` gets the record after every set, so that a late error loses none.

    Raises:
        StorageError: If a set is not at hand; all that are missing are named at once.
        ConfigError: If a name is none of the choices, or the model is of another modality.
    """
    wanted = table.some(options.sets)
    configs = {one.name: _config(table, one, options) for one in wanted}  # refuses wrong names
    found, lines = access.missing(wanted, options.places)
    if lines and not (options.skip_missing and found):
        raise StorageError(refusal(lines, len(wanted)))
    there = [one for one in wanted if one.name in found]
    configs = {one.name: _sized(found[one.name], configs[one.name]) for one in there}
    extractor = _loaded(table, options, configs[there[0].name])
    record = _head(table, options, extractor) | {"missing": sorted(lines)}
    for one in there:
        own = extractor.with_config(configs[one.name])
        record["sets"].append(judged(table, one, found[one.name], options, own))
        keep(record)
    return record, lines


def _loaded(table: Table, options: Options, config: FungiConfig) -> FungiExtractor:
    folder = model_folder(options.model)
    try:
        return FungiExtractor.from_pretrained(folder, config, device=options.device)
    except ConfigError as error:
        if "modality=" not in str(error):
            raise
        by: dict[str, list[str]] = {}
        for name, one in tables.TABLES.items():
            by.setdefault(one.modality, []).append(name)
        allowed = "; ".join(f"of {kind}: {', '.join(names)}" for kind, names in by.items())
        raise ConfigError(
            f"table {table.name!r} takes an encoder of {table.modality}: {error}. Tables for "
            f"encoders {allowed}"
        ) from None


def refusal(lines: dict[str, str], n: int) -> str:
    """Say which sets are missing, one a line."""
    return "\n".join(
        [
            f"{len(lines)} of {n} sets are not at hand:",
            *(f"  {line}" for line in lines.values()),
            "or run the others: --skip-missing, or --sets with their names",
        ]
    )


def judged(
    table: Table, one: DataSet, place: Place, options: Options, extractor: FungiExtractor
) -> dict[str, Any]:
    """Give the record of one set."""
    loaded = load(one, place, options.rows)
    _check_rows(table, one, len(loaded.train), options)
    start = time.perf_counter()
    if extractor.config.needs_fit:
        extractor.fit(loaded.train.inputs, progress=True)
    fitted = time.perf_counter()
    how: dict[str, Any] = {"seed": options.seed}
    if table.task == "segmentation":
        results = dense.segment(
            extractor, loaded, preset=options.preset, judges=options.judges, **how
        )
    else:
        sides = [extractor(s.inputs, progress=True) for s in (loaded.train, loaded.test)]
        done = time.perf_counter()
        if table.task == "landmarks":
            results = judge.find_landmarks(sides[0], sides[1], loaded, **how)
        else:
            results = judge.classify(
                sides[0], sides[1], loaded, table, preset=options.preset, shots=options.shots,
                judges=options.judges, probe_all=options.probe_all, **how,
            )  # fmt: skip
    ended = time.perf_counter()
    seconds = {"fit": fitted - start}
    if table.task == "segmentation":
        seconds["extract and judge"] = ended - fitted
    else:
        seconds |= {"extract": done - fitted, "judge": ended - done}
    notes = results.pop("notes")
    return {
        "set": one.name,
        "title": place.local.title if place.local else one.title,
        "is_part": place.local is None or place.local.is_part,
        "licence": place.local.licence if place.local else one.licence,
        "source": place.record(),
        "metric": one.metric,
        "rows": {"train": len(loaded.train), "test": len(loaded.test)},
        "published_rows": {"train": one.rows[0], "test": one.rows[1]},
        "classes": loaded.n_classes,
        "fingerprint": extractor.fingerprint,
        "config": extractor.config.to_dict(),
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "notes": notes,
        "results": results,
    }


def _check_rows(table: Table, one: DataSet, n: int, options: Options) -> None:
    # Said before the extraction, not after it.
    k = tables.neighbours(table, options.preset, 1, options.seed).n_neighbors
    if table.task == "classification" and "full" in options.judges and n < k:
        raise InputError(
            f"{one.name}: {n} training rows for {k} neighbours; allowed: --rows of at least {k}, "
            "or --judges without full"
        )


def _config(table: Table, one: DataSet, options: Options) -> FungiConfig:
    return tables.config(
        table,
        one,
        preset=options.preset,
        objectives=options.objectives,
        seed=options.seed,
        pooling=options.pooling,
        image_size=options.image_size,
    )


def _sized(place: Place, config: FungiConfig) -> FungiConfig:
    # The files that stand for a set may have a shape of their own.
    size = place.local.image_size if place.local else None
    is_asked = config.image_size not in (None, _PUBLISHED_SIZE)
    return config if size is None or is_asked else config.replace(image_size=size)


def _head(table: Table, options: Options, extractor: FungiExtractor) -> dict[str, Any]:
    encoder = extractor.encoder
    is_folder = Path(options.model).is_dir()
    return {
        "record": RECORD,
        "version": 1,
        "table": table.name,
        "model": {
            "id": Path(options.model).resolve().name if is_folder else options.model,
            "revision": None if is_folder else extractor.source.revision,
            "class": type(encoder.model).__name__,
            "layer": encoder.layer_path,
            "digest": encoder_digest(encoder),
        },
        "preset": options.preset,
        "options": {
            "objectives": options.objectives,
            "pooling": options.pooling,
            "image_size": options.image_size,
            "rows": options.rows,
            "shots": options.shots,
            "judges": options.judges,
            "probe_all": options.probe_all,
        },
        "seed": options.seed,
        "versions": versions(),
        "sets": [],
    }


def versions(names: Sequence[str] = _LIBRARIES) -> dict[str, str]:
    """Give the installed versions, without a build's suffix."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name).split("+")[0]
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
