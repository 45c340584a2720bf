"""In-context segmentation of CamVid frames: every block, whitened or not, beside all controls.

    FUNGI_DATA=FOLDER python -m recipes.vision.segmentation --model FOLDER_OR_ID [--size 168 224]

The set is `segmentation/camvid200`: 120 training and 80 test frames of videos, 11 classes, Void is
not scored. What is best on training frames (each video by the others) is judged on the test frames
beside the rest, with all training frames, a tenth of their patches, 30 and 8 frames.
"""

from __future__ import annotations

import argparse
import io
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from fungi_hf.config import Activation, FungiConfig
from fungi_hf.dense import DenseFeatures, unit_concatenation
from fungi_hf.evaluation.segmentation import (
    SEGMENTATION_PROTOCOLS,
    TrainingDraws,
    evaluate_segmentation,
)
from fungi_hf.extractor import FungiExtractor
from fungi_hf.gradients.layers import block_number, linear_layers
from fungi_hf.specs.dense import DenseInfoNCE
from recipes.datasets import folder_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fungi_hf.evaluation import EvaluationResult

    Triple = tuple[DenseFeatures, np.ndarray, np.ndarray]

RESULTS = Path(__file__).parents[1] / "results" / "vision"
SEEDS: Final = (42, 43, 44, 45, 46)
HALF: Final = 0.5  # whitened by half
PROTOCOL: Final = replace(SEGMENTATION_PROTOCOLS["fungi"], ignore=(11,))
FEW: Final = replace(SEGMENTATION_PROTOCOLS["fungi-few-shot"], ignore=(11,))


@dataclass(frozen=True)
class Frames:
    """Frames of one split, their masks, and the video that each is from."""

    files: list[bytes]
    masks: list[np.ndarray]
    videos: list[str]


def frames(split: str, name: str = "segmentation/camvid200") -> Frames:
    """Read one split."""
    import pyarrow.parquet as pq
    from PIL import Image

    (table,) = sorted(folder_of(name).glob("*.parquet"))
    rows = [row for row in pq.read_table(table).to_pylist() if row["split"] == split]
    masks = [np.asarray(Image.open(io.BytesIO(row["mask_bytes"]))) for row in rows]
    videos = [row["file"].split("/")[-1].split("_")[0] for row in rows]
    return Frames([row["image_bytes"] for row in rows], masks, videos)


def configs(model: Any, size: tuple[int, int], whitening: float) -> list[FungiConfig]:
    """Give what is extracted: tokens, activations, gradients; then gradients two blocks below."""
    paths = [path for path in linear_layers(model) if path.endswith(("q_proj", "query"))]
    numbers = {block_number(path): path for path in paths}
    last = max(number for number in numbers if number is not None)
    inner = [Activation(layer=numbers[k], name=f"after_{k}") for k in range(last - 3, last + 1)]
    shared: dict[str, Any] = {"pooling": "cls", "image_size": size, "whitening": whitening}
    losses = (DenseInfoNCE(), DenseInfoNCE(logsumexp_temperature=1.0, name="dense_untempered"))
    outputs = [p for p in linear_layers(model) if block_number(p) == last - 2]
    below = next(p for p in outputs if p.endswith(("o_proj", "attention.output.dense")))
    return [
        FungiConfig(objectives=(Activation(), *losses, *inner), **shared),
        FungiConfig(objectives=(DenseInfoNCE(name="dense_below"),), target_layer=below, **shared),
    ]


def extract(model: Any, processor: Any, train: Frames, test: Frames, **how: Any) -> Any:
    """Give (features, mask, pixels) of all frames of both splits, and the configs."""
    from fungi_hf.encoders.vision.pictures import decode

    loaded = FungiExtractor.from_pretrained(
        model, FungiConfig(pooling="cls", objectives=()), processor
    )
    found: list[list[DenseFeatures]] = []
    for config in configs(loaded.encoder.model, **how):
        extractor = loaded.with_config(config).fit(train.files, progress=True)
        found.append(list(extractor.dense([*train.files, *test.files], progress=True)))
    joined = [_joined(pair) for pair in zip(*found, strict=True)]
    pixels = [decode(file).pixels() for file in [*train.files, *test.files]]
    triples = list(zip(joined, [*train.masks, *test.masks], pixels, strict=True))
    return triples[: len(train.files)], triples[len(train.files) :]


def _joined(pair: Iterable[DenseFeatures]) -> DenseFeatures:
    first, second = pair
    parts = {name: first.block(name) for name in first.layout}
    parts["dense_below"] = second.block("dense_below")
    units = {n: p / np.linalg.norm(p, axis=1, keepdims=True) for n, p in parts.items()}
    array, layout = unit_concatenation(units, {})
    fingerprint = f"{first.fingerprint}+{second.fingerprint}"
    return DenseFeatures(array, first.grid, layout, fingerprint, first.source)


def combinations(features: DenseFeatures) -> list[list[str]]:
    """Give all blocks alone, and those beside the tokens and the best inner ones."""
    names = list(features.layout)
    inner = [name for name in names if name.startswith("after_")]
    gradients = [name for name in names if name.startswith("dense")]
    beside = [["tokens", name] for name in [*gradients, "activation", inner[-2]]]
    below = [[inner[-2], name] for name in ("dense_infonce", "dense_below", inner[-1], inner[-3])]
    more = [inner[-3:], [*inner[-3:], "dense_below"], [*inner[-3:], "dense_infonce"], inner, names]
    return [*([name] for name in names), *beside, *below, *more]


def judge(train: list[Triple], test: list[Triple], some: list[list[str]], **how: Any) -> Any:
    """Give the records of the combinations."""
    how = {"protocol": PROTOCOL, "controls": False} | how
    return evaluate_segmentation(train, test, n_classes=11, combinations=some, **how)


def across_videos(train: list[Triple], videos: list[str], some: list[list[str]]) -> dict[str, Any]:
    """Give the mIoU of each video by the others, meaned over frames, by combination."""
    totals: dict[str, float] = {}
    for video in sorted(set(videos)):
        inside = [one for one, own in zip(train, videos, strict=True) if own == video]
        outside = [one for one, own in zip(train, videos, strict=True) if own != video]
        for record in judge(outside, inside, some):
            share = len(inside) / len(train)
            totals[record.name] = totals.get(record.name, 0.0) + share * record.metrics["miou"]
    return totals


def row(record: EvaluationResult) -> dict[str, Any]:
    """Give what is kept of a record, shares in percent."""
    metrics = {name: round(100 * value, 2) for name, value in record.metrics.items()}
    found: dict[str, Any] = {"name": record.name, "protocol": record.protocol, **metrics}
    found["interval"] = [round(100 * end, 2) for end in record.intervals["miou"]]
    if record.spread:
        found["deviation"] = round(100 * record.spread["miou"], 2)
    if record.against_baseline:
        found["against_first"] = dict(record.against_baseline)
    return found


def random_weights(model: str, size: tuple[int, int], train: Frames, test: Frames) -> Any:
    """Give both splits by the plain tokens of the same architecture with random weights."""
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(0)
    made = AutoModel.from_config(AutoConfig.from_pretrained(model)).float().eval()
    known = FungiExtractor.from_pretrained(model, FungiConfig(pooling="cls", objectives=()))
    config = FungiConfig(pooling="cls", objectives=(), dense=True, image_size=size)
    extractor = FungiExtractor.from_pretrained(made, config, known.encoder.processor)
    return tuple(
        [(one, mask) for one, mask in zip(extractor.dense(s.files), s.masks, strict=True)]
        for s in (train, test)
    )


def main() -> None:
    """Write recipes/results/vision/segmentation-MODEL.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--size", type=int, nargs=2, default=(168, 224))
    options = parser.parse_args()
    size = (options.size[0], options.size[1])
    train, test = frames("train"), frames("test")
    sets, chosen = {}, {}
    for title, whitening in (("plain", 0.0), ("whitened", HALF)):
        sets[title] = extract(options.model, None, train, test, size=size, whitening=whitening)
        known, _ = sets[title]
        scores = across_videos(known, train.videos, combinations(known[0][0]))
        chosen |= {(title, name): score for name, score in scores.items()}
        print(title, max(scores, key=scores.__getitem__), flush=True)
    best_set, best = max(chosen, key=chosen.__getitem__)
    known, asked = sets[best_set]
    others = {"random weights": random_weights(options.model, size, train, test)}
    blocks = best.split("+")
    # The tuned combination first: the controls are compared with it.
    beside = judge(known, asked, [blocks], controls=True, others=others)
    tables = {
        title: [row(one) for one in judge(*pair, combinations(pair[0][0][0]))]
        for title, pair in sets.items()
    }
    usual = [["tokens"], ["activation"], ["tokens", "dense_infonce"]]
    few = []
    for rule in (PROTOCOL, FEW):
        draws = TrainingDraws(amounts=(30, 8), seeds=SEEDS)
        few += judge(*sets["plain"], usual, protocol=rule, draws=draws)
        few += judge(known, asked, [blocks], protocol=rule, draws=draws)
    bounded = replace(PROTOCOL, name="fungi, a tenth of the patches", bank_rows=2304)
    tenth = judge(*sets["plain"], usual, protocol=bounded)
    tenth += judge(known, asked, [blocks], protocol=bounded)
    record = {
        "recipe": "vision-segmentation",
        "data": "segmentation/camvid200",
        "model": Path(options.model).name,
        "image_size": list(size),
        "grid": list(known[0][0].grid),
        "frames": {"train": len(known), "test": len(asked)},
        "protocol": "K 30, temperature 0.02; intervals resample frames, which are of videos",
        "tuned": {
            "set": best_set,
            "blocks": best,
            "across_videos": round(100 * chosen[best_set, best], 2),
        },
        "beside_controls": [row(one) for one in beside],
        "blocks": tables,
        "few_images": [row(one) for one in few],
        "bounded_bank": [row(one) for one in tenth],
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"segmentation-{Path(options.model).name}.json"
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    for one in record["beside_controls"]:
        print(one["name"], one["miou"], one["interval"])


if __name__ == "__main__":
    main()
