"""The cases that tuning is judged on: text sets and sounds with all their features.

Each input passes the encoder once per pooling and once for the gradients, kept in out/features.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import torch

from fungi_hf.config import KL, Activation, FungiConfig
from fungi_hf.extraction.reduction import PrincipalComponents
from fungi_hf.extractor import FungiExtractor
from fungi_hf.features import FungiFeatures
from fungi_hf.tuning import TuningSearch
from fungi_hf.tuning.scan import scan, sibling_layers
from recipes import protocol
from recipes import run as text_recipe
from recipes.audio import run as audio_recipe
from recipes.datasets import load

HERE = Path(__file__).parent
CACHE = Path("out/features")
TEXTS = [f"{data}-{p}" for data in ("banking77", "trec6", "sst2", "sst5") for p in ("cls", "mean")]
# Case -> data, fold column, folds that are tests (all in turn if none), group column.
SOUNDS: dict[str, tuple[str, str, tuple[str, ...], str | None]] = {
    "fsdd": ("fsdd", "speaker", (), "speaker"),
    "fsdd-ungrouped": ("fsdd", "speaker", (), None),
    "fsdd-official": ("fsdd", "split", ("test",), None),
    "esc10": ("esc10", "fold", (), "src"),
}
# The published audio preset, as far as an encoder of 30-s windows without a class token allows.
PAPER_SOUND = FungiConfig.paper("audio").replace(
    pooling="auto",
    gradient_tokens="all",
    audio_statistics="processor",
    max_length=None,
    reduction=None,
)
PAPER_WIDTH = 512
Blocks = dict[str, np.ndarray]


@dataclass
class Case:
    """Everything that tuning may need of one data set, computed once for all its rows.

    Attributes:
        name: Of the case.
        extractor: What tuning starts from.
        labels: [N] class numbers of all rows.
        groups: [N] group names, or None.
        splits: Training rows and test rows, several for cross-validation.
        scans: Pooling -> embedding and layers' inputs of all rows.
        gradients: Pooling -> blocks of all rows at the target layer.
        search: What may be chosen.
        paper: Per split training rows, test rows, and which of them the paper preset has right.
    """

    name: str
    extractor: FungiExtractor
    labels: np.ndarray
    groups: np.ndarray | None
    splits: list[tuple[np.ndarray, np.ndarray]]
    scans: dict[str, Blocks]
    gradients: dict[str, Blocks]
    search: TuningSearch
    paper: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def text_case(name: str) -> Case:
    """Compute, or read back, everything of a text case."""
    data, own = name.split("-")
    train, test = load(data, "train"), load(data, "test")
    texts, n = train.texts + test.texts, len(train)
    scans, gradients = {}, {}
    for pooling in ("cls", "mean"):
        recipe = read_recipe(f"{data}-minilm-{pooling}")
        model = text_recipe.model_folder(recipe["model"])
        extractor = FungiExtractor.from_pretrained(model, FungiConfig(pooling=pooling))
        scans[pooling] = scanned(f"{data}-minilm-{pooling}", extractor, texts)
        left, right_ = features_of(recipe)
        both = left.joined(right_)
        gradients[pooling] = {block: both.block(block) for block in both.layout}
        if pooling == own:
            chosen = extractor
    labels = np.concatenate([train.labels, test.labels])
    rows = np.arange(len(texts))
    objectives = FungiConfig.from_dict(read_recipe(f"{data}-minilm-{own}")["config"]).objectives
    return Case(
        name=name,
        extractor=chosen,
        labels=labels,
        groups=None,
        splits=[(rows[:n], rows[n:])],
        scans=scans,
        gradients=gradients,
        search=TuningSearch(objectives=objectives),
        paper=[paper_of(f"{data}-minilm-{own}-paper", n, labels)],
    )


def read_recipe(name: str) -> dict[str, Any]:
    """Read the recipe of a text experiment."""
    found: dict[str, Any] = json.loads((HERE / f"configs/{name}.json").read_text("utf-8"))
    return found


def features_of(recipe: dict[str, Any]) -> tuple[FungiFeatures, FungiFeatures]:
    """Read the features that the recipe's last run left, or extract them."""
    result = HERE / f"results/{recipe['name']}.json"
    if result.exists():
        mark = json.loads(result.read_text("utf-8"))["fingerprint"]
        paths = [CACHE / f"{recipe['name']}-{s}-{mark}.safetensors" for s in ("train", "test")]
        if all(path.exists() for path in paths):
            return FungiFeatures.load(paths[0]), FungiFeatures.load(paths[1])
    train, test, _ = text_recipe.extract(recipe, CACHE)
    return train, test


def paper_of(name: str, n_train: int, labels: np.ndarray) -> tuple[Any, Any, Any]:
    """Classify as published, on the rows that the paper preset was run on."""
    recipe = read_recipe(name)
    train, test = features_of(recipe)
    wanted = recipe.get("rows") or {}
    rows = spread(n_train, wanted.get("train"))
    queries = n_train + spread(len(labels) - n_train, wanted.get("test"))
    hits = as_published(train.array, test.array, labels[rows], recipe["pca"]) == labels[queries]
    return rows, queries, hits


def as_published(train: np.ndarray, test: np.ndarray, labels: np.ndarray, width: int) -> np.ndarray:
    """Reduce by a PCA of the training rows where that is possible, and vote by distance."""
    left, queries = (torch.from_numpy(np.ascontiguousarray(rows)) for rows in (train, test))
    if width < min(left.shape):
        pca = PrincipalComponents.fit(left, width)
        left, queries = pca.transform(left), pca.transform(queries)
    similarity = queries @ left.T - (left**2).sum(1) / 2  # ranks as the Euclidean distance does
    return protocol.predict(similarity.numpy(), labels)


def spread(n: int, wanted: int | None) -> np.ndarray:
    """Give the rows that `Split.head` takes."""
    if wanted is None or wanted >= n:
        return np.arange(n)
    return np.linspace(0, n - 1, wanted).round().astype(int)


def audio_case(name: str, folder: Path, model: str) -> Case:
    """Compute, or read back, everything of a sound case."""
    data, fold_column, tests, group_column = SOUNDS[name]
    path = folder / data / f"{data}.parquet"
    sounds = audio_recipe.read(path, fold_column)
    config = FungiConfig(objectives=(KL(), Activation()))
    extractor = FungiExtractor.from_pretrained(model, config)
    pooling = extractor.encoder.pooling
    # The blocks are cached by the folds of the leave-one-out case; they depend on no fold.
    cached = audio_recipe.read(path, SOUNDS[data][1])
    found = audio_recipe.extract(cached, model, config, CACHE)
    rows = np.arange(len(sounds.files))
    groups = None
    if group_column is not None:
        column = pyarrow.parquet.read_table(path, columns=[group_column])[group_column]
        groups = np.array(list(map(str, column.to_pylist())))
    labels = np.unique(sounds.labels, return_inverse=True)[1]
    folds = tests or tuple(sorted(set(sounds.folds)))
    splits = [(rows[sounds.folds != fold], rows[sounds.folds == fold]) for fold in folds]
    case = Case(
        name=name,
        extractor=extractor,
        labels=labels,
        groups=groups,
        splits=splits,
        scans={pooling: scanned(f"{data}-whisper", extractor, sounds.files)},
        gradients={pooling: {block: found.block(block) for block in found.layout}},
        search=TuningSearch(objectives=config.objectives),
        notes=["tuning tried no SimCLR on sounds: 12 views of every clip take half an hour"],
    )
    if not tests:
        published = audio_recipe.extract(cached, model, PAPER_SOUND, CACHE)
        for fold, (train, test) in zip(folds, splits, strict=True):
            blocks = audio_recipe.columns(published, ["embedding", "kl", "simclr"], fold)
            votes = as_published(blocks[train], blocks[test], labels[train], PAPER_WIDTH)
            case.paper.append((train, test, votes == labels[test]))
    return case


def scanned(name: str, extractor: FungiExtractor, inputs: list[Any]) -> Blocks:
    """Scan all inputs, or read the scan back."""
    path = CACHE / f"{name}-scan-{extractor.fingerprint}.npz"
    if not path.exists():
        encoder = extractor.encoder
        items = [encoder.check(raw, place) for place, raw in enumerate(inputs)]
        found = scan(encoder, items, sibling_layers(encoder, 12), extractor.budget)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **found)
    with np.load(path) as stored:
        return {block: stored[block] for block in stored.files}
