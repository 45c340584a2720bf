"""What a run would download and compute, and the list of tables and sets: nothing is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fungi_hf.errors import StorageError
from recipes.paper import tables
from recipes.paper.access import find, is_local
from recipes.paper.registry import CONVERTED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fungi_hf.config import FungiConfig
    from recipes.paper.access import Places
    from recipes.paper.registry import DataSet
    from recipes.paper.run import Options
    from recipes.paper.tables import Table


def listing(places: Places) -> str:
    """Give every table with its encoders and sets: where they are, licence, and what is here."""
    lines = []
    for table in tables.TABLES.values():
        lines += [f"{table.name}: {table.title}"]
        lines += [f"  encoder {name}: {model}" for name, model in table.models.items()]
        for one in table.sets:
            here = "files here" if is_local(one, places) else "not here"
            if here == "files here" and one.local and not one.local.is_part:
                here = f"files here: {one.local.title}"
            terms = ", gated" if one.gated else ""
            lines.append(
                f"  {one.name:16} {one.hub}@{one.revision}{terms}; {one.metric}; "
                f"{one.rows[0]:,} / {one.rows[1]:,} rows; licence: {one.licence}; {here}"
            )
    return "\n".join(lines)


def plan(table: Table, options: Options) -> str:
    """Say for each set where it comes from, what is downloaded, and how many forward passes."""
    lines = [
        f"{table.name}, preset {options.preset}, {options.model}: "
        "forward passes count the input and each of its views once"
    ]
    total = 0
    for one in table.some(options.sets):
        config = tables.config(
            table, one, preset=options.preset, objectives=options.objectives, seed=options.seed,
            pooling=options.pooling, image_size=options.image_size,
        )  # fmt: skip
        rows = _rows(one, options)
        n = passes(config, rows)
        if table.task == "segmentation":
            n *= len(options.judges)  # features of patches are not kept between judges
        total += n
        lines.append(
            f"  {one.name:16} {_place(one, options.places)}; {rows[0]:,} + {rows[1]:,} rows; "
            f"{n:,} forward passes"
        )
    lines.append(f"  in all {total:,} forward passes; the published rows are counted, local files "
                 "may have fewer")  # fmt: skip
    return "\n".join(lines)


def passes(config: FungiConfig, rows: tuple[int, int]) -> int:
    """Give the most forward passes of a run: equal views of an input are encoded once."""
    # An objective of one view takes the input itself.
    views = 1 + sum(spec.n_views for spec in config.objectives if spec.n_views > 1)
    bank = sum(
        (rows[0] if spec.learns_from_all else min(rows[0], spec.n_training)) * spec.training_views
        for spec in config.objectives
        if spec.needs_fit and not spec.per_token
    )
    return sum(rows) * views + bank


def _rows(one: DataSet, options: Options) -> tuple[int, int]:
    if options.rows is None:
        return one.rows
    train = one.rows[0] if one.task == "landmarks" else min(one.rows[0], options.rows[0])
    return train, min(one.rows[1], options.rows[1])


def _place(one: DataSet, places: Places) -> str:
    try:
        place = find(one, places)
    except StorageError as error:
        return f"{_size(one.megabytes)}, NOT AT HAND: {error}"
    if place.kind != "hub":
        name = place.local.folder if place.local else place.where
        return f"files here ({name}), nothing to download"
    about = _size(place.megabytes or one.megabytes)
    return f"download {place.where}@{place.resolved or place.revision}, {about}"


def _size(megabytes: float | None) -> str:
    return f"about {max(megabytes, 0.1):,.1f} MB" if megabytes else "size not known"


def rows_of_registry() -> list[Sequence[Any]]:
    """Give the registry as rows of a table for the documentation."""
    found: list[Sequence[Any]] = []
    for table in tables.TABLES.values():
        for one in table.sets:
            branch = "converted" if one.revision == CONVERTED else one.revision
            source = f"`{one.hub}`" + (f", {one.config}" if one.config else "") + f" ({branch})"
            columns = ", ".join(f"`{name}`" for name in one.columns if name)
            local = f"{one.local.title}" if one.local else ""
            found.append(
                (one.title, source, columns, " / ".join(dict.fromkeys(one.splits)), one.metric,
                 one.licence + (" (gated)" if one.gated else ""), local, one.differs)
            )  # fmt: skip
    return found
