"""Rows of a data set: from the Hub, from a repository's folder, or from files of our own form.

All three become splits of `datasets`, whose columns and splits are checked by name. Pictures and
sounds stay whole files, which the extractor decodes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fungi_hf.errors import ConfigError, InputError, LabelError, StorageError, choices
from fungi_hf.evaluation.landmarks import Landmarks, read_landmarks
from fungi_hf.storage.files import explain
from recipes.paper.masks import Masks
from recipes.paper.registry import CONVERTED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from recipes.paper.access import Place
    from recipes.paper.registry import DataSet

_PICTURES: Final = (".jpg", ".jpeg", ".png")
_INPUTS: Final = {"text": "text", "vision": "image_bytes", "audio": "audio_bytes"}


@dataclass(frozen=True)
class Side:
    """Inputs of one split, as often readable as wanted, and their labels [N], if there are any."""

    inputs: Any
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    masks: Any = None
    n: int = 0

    def __len__(self) -> int:
        return self.n


@dataclass(frozen=True)
class Loaded:
    """Both splits of one set; of landmarks the database and the queries, with their truth.

    The spec says what was read: of local files other columns than the registry's.
    """

    spec: DataSet
    train: Side
    test: Side
    names: list[str] = field(default_factory=list)
    truth: Landmarks | None = None

    @property
    def n_classes(self) -> int:
        """Classes of the training rows, or of the masks; 0 of landmarks."""
        return self.spec.n_classes or len(np.unique(self.train.labels))


def load(one: DataSet, place: Place, rows: tuple[int, int] | None = None) -> Loaded:
    """Read a set; `rows` keeps so many of each split, evenly spread.

    Raises:
        ConfigError: If a column or split does not exist.
        StorageError: If files cannot be read.
        LabelError: If labels are no classes.
    """
    if one.task == "landmarks" and place.kind == "local":
        return _local_landmarks(one, Path(place.where), rows)
    tables, spec, names = _tables(one, place)
    sides = []
    for side, split in enumerate(spec.splits):
        if split not in tables:
            raise ConfigError(f"{one.name}: split {choices(split, tables)}")
        table = tables[split]
        for column in spec.columns:
            if column not in table.column_names:
                raise ConfigError(f"{one.name}: column {choices(column, table.column_names)}")
        kept = _kept(table, spec, side)
        wanted = rows[side] if rows and not (spec.task == "landmarks" and side == 0) else None
        sides.append(table.select(kept[spread(len(kept), wanted)]))
    if spec.task == "landmarks":
        truth = _truth(sides[0], sides[1])
        pool, asked = (Side(side[spec.inputs], n=len(side)) for side in sides)
        return Loaded(spec, pool, asked, truth=truth)
    if spec.task == "segmentation":
        pair = [
            Side(side[spec.inputs], masks=Masks(side, spec.labels), n=len(side)) for side in sides
        ]
        return Loaded(spec, pair[0], pair[1], names)
    names = names or _names(sides[0], spec)
    found = [
        Side(side[spec.inputs], _classes(side[spec.labels], spec), n=len(side)) for side in sides
    ]
    return Loaded(spec, found[0], found[1], names)


def spread(n: int, wanted: int | None) -> np.ndarray:
    """Give `wanted` of n places, evenly spread; all without a number."""
    if wanted is None or wanted >= n:
        return np.arange(n)
    return np.linspace(0, n - 1, wanted).round().astype(np.int64)


def builder_of(
    one: DataSet, where: str, revision: str | None = None, resolved: str | None = None
) -> Any:
    """Give what prepares a repository or folder; nothing but its list of files is read."""
    import datasets

    how: dict[str, Any] = {"name": one.config}
    if one.config and (
        revision == CONVERTED or (Path(where) / one.config / one.splits[0]).is_dir()
    ):
        # The converted branch has a folder for each split, and no file that names them.
        splits = dict.fromkeys(one.splits)
        how = {"data_files": {name: f"{one.config}/{name}/*.parquet" for name in splits}}
    return datasets.load_dataset_builder(where, revision=resolved or revision, **how)


def _tables(one: DataSet, place: Place) -> tuple[dict[str, Any], DataSet, list[str]]:
    if place.kind == "local":
        return _local(one, place)
    import datasets

    for split in one.splits if place.splits else ():
        if split not in place.splits:
            raise ConfigError(f"{one.name}: split {choices(split, place.splits)}")
    try:
        builder = builder_of(one, place.where, place.revision, place.resolved)
        builder.download_and_prepare()
        tables = builder.as_dataset()
    except (OSError, ValueError) as error:
        raise StorageError(
            f"{one.name}: {place.where} cannot be loaded by `datasets`: {explain(error)}"
        ) from error
    return {name: _undecoded(table, datasets) for name, table in tables.items()}, one, []


def _undecoded(table: Any, datasets: Any) -> Any:
    for name, feature in table.features.items():
        if isinstance(feature, datasets.Image | datasets.Audio):
            table = table.cast_column(name, type(feature)(decode=False))
    return table


def _local(one: DataSet, place: Place) -> tuple[dict[str, Any], DataSet, list[str]]:
    """Read `*.parquet` and labels.json: a file for each split, or a column `split` or the fold."""
    import datasets
    import pyarrow.parquet as pq

    folder, local = Path(place.where), place.local
    paths = {path.stem: path for path in sorted(folder.glob("*.parquet"))}
    if not paths or local is None:
        raise StorageError(f"{one.name}: {folder} holds no parquet file beside its labels.json")
    names = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
    labels = "mask_bytes" if one.task == "segmentation" else "label"
    spec = replace(
        one, inputs=_INPUTS[one.modality], labels=labels, splits=("train", "test"), bins=None,
        fold=local.fold, left_out=(), n_classes=local.n_classes, ignore=local.ignore,
    )  # fmt: skip
    if len(paths) > 1:
        wanted = {name: path for name, path in paths.items() if name in spec.splits}
        return {n: datasets.Dataset(pq.read_table(p)) for n, p in wanted.items()}, spec, names
    (path,) = paths.values()
    table = pq.read_table(path)
    if spec.fold:
        return {"train": datasets.Dataset(table)}, replace(spec, splits=("train", "train")), names
    if "split" not in table.column_names:
        raise ConfigError(f"{one.name}: column {choices('split', table.column_names)}")
    splits = np.array(table["split"].to_pylist())
    tables = {
        name: datasets.Dataset(table.take(np.flatnonzero(splits == name)))
        for name in np.unique(splits).tolist()
    }
    return tables, spec, names


def _kept(table: Any, spec: DataSet, side: int) -> np.ndarray:
    kept = np.ones(len(table), bool)
    if spec.fold:
        column, value = spec.fold
        kept = (np.array(table[column][:]) == value) == bool(side)
    if spec.left_out:
        kept &= ~np.isin(np.array(table[spec.labels][:]), spec.left_out)
    if not kept.any():
        raise InputError(f"{spec.name}: no row is left in {'test' if side else 'train'}")
    return np.flatnonzero(kept)


def _classes(column: Any, spec: DataSet) -> np.ndarray:
    labels = np.array(column[:])
    if spec.bins:
        return np.minimum((labels.astype(float) * spec.bins).astype(np.int64), spec.bins - 1)
    if labels.dtype.kind not in "iuU":
        raise LabelError(
            f"{spec.name}: column {spec.labels!r} holds {labels.dtype}; classes are integers or "
            "texts"
        )
    return labels


def _names(table: Any, spec: DataSet) -> list[str]:
    return list(getattr(table.features[spec.labels], "names", ()) or ())


def _truth(pool: Any, asked: Any) -> Landmarks:
    lists: dict[str, Sequence[Any]] = {
        kind: [list(map(int, own)) for own in asked[kind][:]] for kind in ("easy", "hard", "junk")
    }
    names = [f"image {row}" for row in range(len(pool))]
    return Landmarks(database=names, queries=[f"query {r}" for r in range(len(asked))], **lists)


def _local_landmarks(one: DataSet, folder: Path, rows: tuple[int, int] | None) -> Loaded:
    """Read truth.json (see docs/evaluation.md) and the pictures below the folder."""
    truth = read_landmarks(folder / "truth.json")
    files = [str(p) for p in sorted(folder.rglob("*")) if p.suffix.lower() in _PICTURES]
    pool = [files[row] for row in truth.database_rows(files)]
    places = spread(len(truth.queries), rows[1] if rows else None).tolist()
    asked = [files[row] for row in truth.query_rows(files)]
    kept = {
        name: [getattr(truth, name)[place] for place in places]
        for name in ("queries", "easy", "hard", "junk")
    }
    truth = Landmarks(database=truth.database, **kept)
    queries = Side([asked[place] for place in places], n=len(places))
    return Loaded(one, Side(pool, n=len(pool)), queries, truth=truth)
