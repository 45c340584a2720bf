"""Tiny data sets with the columns, splits and forms of those of the registry."""

from __future__ import annotations

import io
import wave
import zlib
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from recipes.paper.masks import voc_colour
from recipes.paper.registry import CONVERTED, SETS

if TYPE_CHECKING:
    from recipes.paper.registry import DataSet

CLASSES = ["one", "two", "three"]
N_TRAIN, N_TEST = 24, 12
WORDS = ("my card is lost", "please help me pay", "what is the new bank account")


def repository(one: DataSet) -> tuple[str, dict[str, bytes]]:
    """Give the revision that holds the data, and its files."""
    tables = _splits(one)
    if one.revision == CONVERTED:
        return CONVERTED, {f"{one.config}/{n}/0000.parquet": t for n, t in tables.items()}
    folder = one.config or "data"
    files = {f"{folder}/{name}-00000-of-00001.parquet": table for name, table in tables.items()}
    if one.config:
        other = {path.replace(folder, "other"): table for path, table in files.items()}
        files |= other | {"README.md": _configurations((one.config, "other"), list(tables))}
    return "main", files


def _configurations(names: tuple[str, ...], splits: list[str]) -> bytes:
    lines = ["---", "configs:"]
    for name in names:
        lines += [f"- config_name: {name}", "  data_files:"]
        for split in splits:
            lines += [f"  - split: {split}", f"    path: {name}/{split}-*"]
    return "\n".join([*lines, "---", ""]).encode()


def _splits(one: DataSet) -> dict[str, bytes]:
    sizes = dict(zip(one.splits, (N_TRAIN, N_TEST), strict=True))
    if one.fold:
        sizes = {one.splits[0]: N_TRAIN + N_TEST}
    found = {}
    for name, n in sizes.items():
        file = io.BytesIO()
        pq.write_table(_rows(one, n, name), file)
        found[name] = file.getvalue()
    return found


def _rows(one: DataSet, n: int, split: str) -> pa.Table:
    rng = np.random.default_rng(zlib.crc32(f"{one.name} {split}".encode()))
    codes = np.arange(n) % len(CLASSES)
    features: dict[str, Any] = {}
    rows: dict[str, Any] = {}
    if one.modality == "text":
        words = [f"{WORDS[code]} {place}" for place, code in enumerate(codes)]
        features[one.inputs], rows[one.inputs] = datasets.Value("string"), words
    elif one.modality == "audio":
        clips = [{"bytes": sound(code, rng), "path": None} for code in codes]
        features[one.inputs], rows[one.inputs] = datasets.Audio(sampling_rate=16000), clips
    else:
        images = [{"bytes": picture(code, rng), "path": None} for code in codes]
        features[one.inputs], rows[one.inputs] = datasets.Image(), images
    if one.task == "segmentation":
        masks = [{"bytes": mask(one, code), "path": None} for code in codes]
        features[one.labels], rows[one.labels] = datasets.Image(), masks
    elif one.task == "landmarks":
        is_asked = split == one.splits[1]
        for kind, shift in (("easy", 0), ("hard", 1), ("junk", 2)):
            own = [[int(code) + 3 * shift, int(code) + 9 + 3 * shift] for code in codes]
            features[kind] = datasets.List(datasets.Value("int64"))
            rows[kind] = own if is_asked else [[] for _ in codes]
    elif one.bins:
        features[one.labels], rows[one.labels] = datasets.Value("float32"), _scores(codes)
    elif one.left_out:
        names = [*(f"word {k}" for k in range(35)), "_silence_"]
        labels = np.where(np.arange(n) % 6 == 5, 35, codes)
        features[one.labels], rows[one.labels] = datasets.ClassLabel(names=names), labels
    else:
        features[one.labels], rows[one.labels] = datasets.ClassLabel(names=CLASSES), codes
    if one.fold:
        folds = np.where(np.arange(n) < N_TEST, 1, 2 + np.arange(n) % 4)
        features[one.fold[0]], rows[one.fold[0]] = datasets.Value("int64"), folds
    # Written by arrow itself: datasets would encode sounds with torchcodec.
    return pa.table(rows, schema=datasets.Features(features).arrow_schema)


def _scores(codes: np.ndarray) -> list[float]:
    return [(0.1, 0.5, 1.0)[code] for code in codes]


def picture(code: int, rng: np.random.Generator, size: int = 32) -> bytes:
    pixels = rng.integers(0, 60, (size, size, 3))
    pixels[..., code % 3] += 150
    return _png(Image.fromarray(pixels.astype(np.uint8)))


def sound(code: int, rng: np.random.Generator) -> bytes:
    times = np.arange(4800) / 16000
    wave_form = np.sin(2 * np.pi * 300 * (code + 1) * times) + 0.1 * rng.standard_normal(4800)
    file = io.BytesIO()
    with wave.open(file, "wb") as target:
        target.setnchannels(1)
        target.setsampwidth(2)
        target.setframerate(16000)
        target.writeframes((8000 * wave_form).astype("<i2").tobytes())
    return file.getvalue()


def labels_of(one: DataSet, code: int) -> np.ndarray:
    """The left half is one class and the right half another; the first row is void."""
    labels = np.full((32, 32), 1 + code)
    labels[:, 16:] = 4 + code
    labels[0] = one.ignore[0]
    return labels


def mask(one: DataSet, code: int) -> bytes:
    labels = labels_of(one, code)
    if one.name != "voc":
        return _png(Image.fromarray(labels.astype(np.uint8)))
    colours = np.array([voc_colour(k) if k < 21 else (224, 224, 192) for k in range(256)])
    return _png(Image.fromarray(colours[labels].astype(np.uint8)))


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def all_repositories() -> list[tuple[str, str, dict[str, bytes]]]:
    """Give (repository, revision, files); configurations of one repository are together."""
    found: dict[tuple[str, str], dict[str, bytes]] = {}
    for one in SETS.values():
        revision, files = repository(one)
        found.setdefault((one.hub, revision), {}).update(files)
    return [(hub, revision, files) for (hub, revision), files in found.items()]
