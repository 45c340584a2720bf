"""Resident memory over 10,000 photographs of 12 megapixels' like, streamed from files.

    python -m benchmarks.vision_memory [--photos 10000]

Photographs of 600 x 800 are made on the fly, every hundredth of 4000 x 3000, so that nothing but
the package could hold them. A ViT of two narrow blocks, KL and DINO with two crops: decoding and
cutting are most of the work. The package keeps decoded pixels of at most 768 MB, which the first
quarter of the photographs fills. The bar: from there to the end resident memory grows by less than
50 MB; the highest mark between is written, too.
"""

from __future__ import annotations

import argparse
import io
import json
from typing import TYPE_CHECKING

import numpy as np
import psutil
import torch
from PIL import Image
from transformers import ViTConfig, ViTModel

from benchmarks import timing
from benchmarks.vision_cost import SETTINGS
from fungi_hf.config import KL, FungiConfig
from fungi_hf.encoders.vision.encoder import VisionEncoder
from fungi_hf.extractor import FungiExtractor
from fungi_hf.specs.targets import DINO

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZES = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}


def photographs(count: int, marks: list[dict[str, float]]) -> Iterator[bytes]:
    """Give JPEG files one by one; note resident memory at every twentieth part."""
    generator, process = np.random.default_rng(0), psutil.Process()
    small = generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    for i in range(count):
        if i % max(1, count // 20) == 0:
            marks.append({"photos": i, "resident_mb": process.memory_info().rss / 2**20})
        shape = (4000, 3000) if i % 100 == 0 else (800, 600)
        small[i % 12, i % 16] = generator.integers(0, 256, 3)
        file = io.BytesIO()
        Image.fromarray(small).resize(shape, Image.Resampling.BILINEAR).save(file, "JPEG")
        yield file.getvalue()


def main() -> None:
    """Write benchmarks/results/vision_memory.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=10_000)
    options = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    shape = ViTConfig(num_hidden_layers=2, patch_size=32, **SIZES)
    model = ViTModel(shape, add_pooling_layer=False).eval()
    objectives = (KL(latent_dim=32), DINO(n_views=2, latent_dim=64))
    config = FungiConfig(objectives=objectives, pooling="cls")
    extractor = FungiExtractor(VisionEncoder(model, SETTINGS, config), config)
    marks: list[dict[str, float]] = []
    features = extractor(photographs(options.photos, marks))
    rows = [{name: round(value, 1) for name, value in mark.items()} for mark in marks]
    settled = [row["resident_mb"] for row in rows[len(rows) // 4 :]]
    record = {
        "photos": options.photos,
        "features_mb": round(features.array.nbytes / 2**20, 2),
        "growth_mb": round(settled[-1] - settled[0], 1),
        "highest_mb": round(max(settled) - settled[0], 1),
        "bar_mb": 50,
        "marks": rows,
    }
    timing.write("vision_memory", record)
    print(json.dumps({"growth_mb": record["growth_mb"]}))


if __name__ == "__main__":
    main()
