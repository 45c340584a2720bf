"""What dense features cost beside the plain forward pass: ViT-S/16 shape at 512 x 512 pixels.

    python -m benchmarks.dense_cost [--rounds 7] [--quick]

The bar: tokens + DenseInfoNCE at most 1.35 times the forward pass of the same images plus the
derived cost of the head (0.7 of 31.8 billion multiplications, in float64, which takes twice the
time: 0.044), peak memory at most the forward's plus 400 MB; the search of one image in a bank of
102,400 rows of 768 numbers at most 1.1 times a numpy matmul and argpartition. Features are timed
from decoded pixels of the model's size, the forward pass on ready pixel tensors at its own best
batch size. Random weights, float32, 2 threads. The paper preset, whose sketch forms every
token's gradient in blocks, stands beside.
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import ViTConfig, ViTModel

from benchmarks import timing
from benchmarks.vision_cost import SHAPES, best_size, forward, photographs, pixels_of
from fungi_hf.config import FungiConfig
from fungi_hf.dense import DenseFeatures
from fungi_hf.encoders.vision.encoder import VisionEncoder
from fungi_hf.encoders.vision.pictures import decode
from fungi_hf.evaluation.segmentation import SEGMENTATION_PROTOCOLS, MemoryBank
from fungi_hf.extractor import FungiExtractor
from fungi_hf.specs.dense import DenseInfoNCE

if TYPE_CHECKING:
    from collections.abc import Callable

SIZE = 512
IMAGES = 4
BANK_ROWS = 102_400
HEAD = 2 * 0.7 / 31.8  # of a forward pass
SETTINGS = {
    "image_processor_type": "ViTImageProcessor",
    "size": {"height": SIZE, "width": SIZE},
    "resample": 3,
}
ARMS = {
    "tokens": FungiConfig(objectives=(), dense=True, pooling="cls"),
    "tokens + DenseInfoNCE": FungiConfig(objectives=(DenseInfoNCE(),), pooling="cls"),
    "paper preset": FungiConfig.paper("segmentation"),
}


def build(arm: str, images: list[Any]) -> FungiExtractor:
    """Give a fitted extractor over a model of random weights."""
    torch.manual_seed(0)
    width, heads, inner = SHAPES["ViT-S/16"]
    sizes = {"hidden_size": width, "num_attention_heads": heads, "intermediate_size": inner}
    model = ViTModel(ViTConfig(image_size=SIZE, **sizes), add_pooling_layer=False).eval()
    extractor = FungiExtractor(VisionEncoder(model, SETTINGS, ARMS[arm]), ARMS[arm])
    return extractor.fit(images) if extractor.config.needs_fit else extractor


def pictures() -> list[Any]:
    """Give decoded pictures of the model's size."""
    from PIL import Image

    found = [Image.fromarray(decode(file).pixels()) for file in photographs(IMAGES)]
    return [np.asarray(one.resize((SIZE, SIZE))) for one in found]


def cost(rounds: int) -> dict[str, Any]:
    """Time all arms against the yardstick."""
    images = pictures()
    extractors = {name: build(name, images) for name in ARMS}
    model = extractors["tokens"].encoder.model
    pixels = pixels_of(extractors["tokens"], images)
    size = best_size(model, pixels)

    def dense(extractor: FungiExtractor) -> Callable[[], object]:
        return lambda: [one.grid for one in extractor.dense(images)]

    runs: dict[str, Callable[[], object]] = {
        "plain forward": lambda: forward(model, pixels, size),
        **{name: dense(extractor) for name, extractor in extractors.items()},
    }
    seconds = timing.alternate(runs, rounds)
    return {
        "images": len(images),
        "plain_forward_batch_size": size,
        "seconds": {name: timing.median(values) for name, values in seconds.items()},
        "ratio_to_plain_forward": {
            name: timing.ratio(seconds, name, "plain forward") for name in ARMS
        },
        "bar": round(1.35 + HEAD, 3),
    }


def peak(what: str) -> None:
    """Print the peak memory of one run, for a process of its own."""
    torch.set_num_threads(2)
    images = pictures()
    extractor = build("tokens" if what == "forward" else what, images)
    if what == "forward":
        forward(extractor.encoder.model, pixels_of(extractor, images), 4)
    else:
        for _ in extractor.dense(images):
            pass
    print(json.dumps({"peak_mb": timing.peak_memory_mb()}))


def memory() -> dict[str, Any]:
    """Give all peaks in MiB, and what features need more than the forward pass."""
    names = ("forward", *ARMS)
    peaks = {
        name: timing.in_fresh_process("benchmarks.dense_cost", "--peak", name)["peak_mb"]
        for name in names
    }
    more = {name: round(peaks[name] - peaks["forward"], 1) for name in ARMS}
    return {"peak_mb": peaks, "more_mb": more, "bar_mb": 400}


def search(rounds: int) -> dict[str, Any]:
    """Time the search of one image's patches in a bank beside a matmul and argpartition."""
    generator = np.random.default_rng(0)
    layout = {"tokens": slice(0, 384), "dense_infonce": slice(384, 768)}

    def rows(n: int) -> np.ndarray:
        made = generator.standard_normal((n, 768), dtype=np.float32)
        return made / np.linalg.norm(made, axis=1, keepdims=True)

    keys, k = rows(BANK_ROWS), 30
    values = np.full((BANK_ROWS, 21), 1 / 21, np.float32)
    bank = MemoryBank(keys, values, layout, "f", SEGMENTATION_PROTOCOLS["fungi"], 100)
    asked = DenseFeatures(rows(1024), (32, 32), layout, "f", "an image")

    def plain() -> object:
        products = asked.array @ keys.T
        nearest = np.argpartition(-products, k, axis=1)[:, :k]
        return np.take_along_axis(products, nearest, axis=1)

    runs: dict[str, Callable[[], object]] = {
        "matmul and argpartition": plain,
        "memory bank": lambda: bank.probabilities(asked),
    }
    seconds = timing.alternate(runs, rounds)
    return {
        "bank": [BANK_ROWS, 768],
        "queries": 1024,
        "seconds": {name: timing.median(values) for name, values in seconds.items()},
        "ratio": timing.ratio(seconds, "memory bank", "matmul and argpartition"),
        "bar": 1.1,
    }


def main() -> None:
    """Write benchmarks/results/dense_cost.json, one run a processor."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="one round, no file")
    parser.add_argument("--peak", help="of one run, for a process of its own")
    options = parser.parse_args()
    if options.peak:
        peak(options.peak)
        return
    torch.set_num_threads(2)
    if options.quick:
        print(json.dumps({"cost": cost(1), "search": search(1)}, indent=2))
        return
    record = {
        "yardstick": "plain forward pass of the same pixel tensors at its own best batch size, "
        "sdpa, float32, 512 x 512 pixels, 1025 tokens",
        "cost": cost(options.rounds),
        "memory": memory(),
        "search": search(options.rounds),
    }
    timing.write_beside("dense_cost", record)


if __name__ == "__main__":
    main()
