"""What image features cost beside the plain forward pass: ViT-S/16 and ViT-B/16 shape at 224.

    python -m benchmarks.vision_cost [--rounds 7] [--quick]

Bars: embedding + KL at most 0.97 times the forward pass with the class token, 1.12 with the mean;
embedding + KL + DINO (12 views) at most 1.0 (1.1) times the forward pass of the original and all
views; peak memory at most the forward's plus 300 MB. Features with DINO are timed from the bytes
of JPEG files on (decoding, boxes, sketch and all), those with KL alone from decoded pixels of the
model's size; the forward pass on ready pixel tensors, in batches of the size that is fastest here.
Random weights, float32, 2 threads.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from transformers import ViTConfig, ViTModel

from benchmarks import timing
from fungi_hf.config import KL, FungiConfig
from fungi_hf.encoders.vision.encoder import VisionEncoder
from fungi_hf.encoders.vision.pictures import decode
from fungi_hf.extractor import FungiExtractor
from fungi_hf.specs.targets import DINO

if TYPE_CHECKING:
    from collections.abc import Callable

SHAPES = {"ViT-S/16": (384, 6, 1536), "ViT-B/16": (768, 12, 3072)}
ARMS: dict[str, tuple[Any, ...]] = {"kl": (KL(),), "dino": (KL(), DINO())}
NAMES = {"kl": "embedding + KL", "dino": "embedding + KL + DINO (12 views)"}
IMAGES = {"kl": {"ViT-S/16": 24, "ViT-B/16": 12}, "dino": {"ViT-S/16": 2, "ViT-B/16": 1}}
BARS = {"kl": {"cls": 0.97, "mean": 1.12}, "dino": {"cls": 1.0, "mean": 1.1}}
SETTINGS = {
    "image_processor_type": "ViTImageProcessor",
    "size": {"height": 224, "width": 224},
    "resample": 3,
}


def build(shape: str, arm: str, pooling: str) -> FungiExtractor:
    """Give an extractor over a model of random weights."""
    torch.manual_seed(0)
    width, heads, inner = SHAPES[shape]
    sizes = {"hidden_size": width, "num_attention_heads": heads, "intermediate_size": inner}
    model = ViTModel(ViTConfig(**sizes), add_pooling_layer=False).eval()
    config = FungiConfig(objectives=ARMS[arm], pooling=pooling)
    return FungiExtractor(VisionEncoder(model, SETTINGS, config), config)


def photographs(count: int, seed: int = 0) -> list[bytes]:
    """Give JPEG files of 375 x 500 pixels, smooth and noisy."""
    generator = np.random.default_rng(seed)
    files = []
    for _ in range(count):
        small = generator.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        large = np.asarray(Image.fromarray(small).resize((500, 375), Image.Resampling.BICUBIC))
        noisy = (large + generator.normal(0, 8, large.shape)).clip(0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(noisy).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


def pixels_of(extractor: FungiExtractor, files: list[Any]) -> torch.Tensor:
    """Give the pixel tensors of all originals and distinct views."""
    samples = [sample for some in extractor._reader.read(files) for sample in some]
    views = [view for sample in samples for of in sample.views.values() for view in of]
    items = {item.key: item for item in [*(s.original for s in samples), *views]}
    return extractor.encoder.collate(list(items.values()))["pixel_values"]


def forward(model: Any, pixels: torch.Tensor, size: int) -> None:
    """Run the plain forward pass in batches."""
    with torch.no_grad():
        for batch in pixels.split(size):
            model(pixel_values=batch)


def best_size(model: Any, pixels: torch.Tensor) -> int:
    """Give the batch size of the fastest forward pass."""
    seconds = {}
    for size in (1, 2, 4, 8, 16):
        runs = []
        for _ in range(2):
            start = time.perf_counter()
            forward(model, pixels, size)
            runs.append(time.perf_counter() - start)
        seconds[size] = min(runs)
    return min(seconds, key=seconds.__getitem__)


def row(shape: str, arm: str, *, rounds: int) -> dict[str, Any]:
    """Time both poolings of one shape and one set of blocks against the yardstick."""
    files: list[Any] = list(photographs(IMAGES[arm][shape]))
    if arm == "kl":
        files = [decode(file).pixels()[:224, :224].copy() for file in files]
    extractors = {pooling: build(shape, arm, pooling) for pooling in ("cls", "mean")}
    model = extractors["cls"].encoder.model
    pixels = pixels_of(extractors["cls"], files)
    size = best_size(model, pixels)
    runs: dict[str, Callable[[], object]] = {
        "plain forward": lambda: forward(model, pixels, size),
        **{name: lambda e=e: e(files) for name, e in extractors.items()},  # type: ignore[misc]
    }
    seconds = timing.alternate(runs, rounds)
    return {
        "shape": shape,
        "blocks": NAMES[arm],
        "images": len(files),
        "inputs_encoded": len(pixels),
        "plain_forward_batch_size": size,
        "seconds": {name: timing.median(values) for name, values in seconds.items()},
        "ratio_to_plain_forward": {
            name: timing.ratio(seconds, name, "plain forward") for name in extractors
        },
        "bars": BARS[arm],
    }


def peak(what: str, shape: str, arm: str) -> None:
    """Print the peak memory of one run, for a process of its own."""
    torch.set_num_threads(2)
    extractor, files = build(shape, arm, "cls"), photographs(IMAGES[arm][shape])
    pixels = pixels_of(extractor, files)
    if what == "forward":
        forward(extractor.encoder.model, pixels, 8)
    else:
        extractor(files)
    print(json.dumps({"peak_mb": timing.peak_memory_mb()}))


def memory(shape: str, arm: str) -> dict[str, Any]:
    """Give both peaks and their difference in MiB."""
    found = {
        what: timing.in_fresh_process("benchmarks.vision_cost", "--peak", what, shape, arm)
        for what in ("forward", "features")
    }
    peaks = {what: one["peak_mb"] for what, one in found.items()}
    return {
        "shape": shape,
        "blocks": NAMES[arm],
        "peak_mb": peaks,
        "more_mb": round(peaks["features"] - peaks["forward"], 1),
        "bar_mb": 300,
    }


def main() -> None:
    """Write benchmarks/results/vision_cost.json, one run a processor."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="one round of ViT-S, no file")
    parser.add_argument("--peak", nargs=3, help="of one run, for a process of its own")
    options = parser.parse_args()
    if options.peak:
        peak(*options.peak)
        return
    torch.set_num_threads(2)
    if options.quick:
        print(json.dumps(row("ViT-S/16", "kl", rounds=1), indent=2))
        return
    cases = [(shape, arm) for shape in SHAPES for arm in ARMS]
    record = {
        "yardstick": "plain forward pass of the same pixel tensors (original and all views) at its "
        "own best batch size, sdpa, float32; features with DINO from the bytes of JPEG files, "
        "375 x 500, those with KL alone from decoded pixels",
        "rows": [row(shape, arm, rounds=options.rounds) for shape, arm in cases],
        "memory": [memory(shape, arm) for shape, arm in cases],
    }
    timing.write_beside("vision_cost", record)


if __name__ == "__main__":
    main()
