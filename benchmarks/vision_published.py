"""Embedding, KL, DINO and SimCLR (49 patches) against the published algorithm, our oracle of it.

    python -m benchmarks.vision_published [--quick]

ViT-S/16 shape at 224, random weights, float32, 2 threads. Both sides start from the same decoded
pictures and make their views from the same boxes: the published way with pillow, image by image.
Ours runs with the default sketch and with the paper preset (dense signs, as published). Beside the
ratios stands what a plain forward pass of the original and all views takes, which both sides need.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import ViTConfig, ViTModel

from benchmarks import timing
from benchmarks.vision_cost import SETTINGS, forward, photographs, pixels_of
from fungi_hf.config import FungiConfig
from fungi_hf.encoders.vision.encoder import VisionEncoder
from fungi_hf.encoders.vision.pictures import decode
from fungi_hf.extractor import FungiExtractor
from fungi_hf.seeding import sample_generator
from tests.oracles import published_text, published_vision

if TYPE_CHECKING:
    from fungi_hf.specs import ObjectiveSpec

N_NEGATIVES = 256 * 49  # published; drawn at random here, since neither side times their making
BOUND = 6


def extractor(model: Any, *, paper: bool) -> FungiExtractor:
    """Give the three objectives with the default sketch, or with all published choices."""
    preset = FungiConfig.paper("vision")
    kl, dino, simclr = preset.objectives
    simclr = replace(simclr, n_negatives=1, negative_views=4)  # type: ignore[call-arg]
    preset = preset.replace(objectives=(kl, dino, simclr), reduction=None)
    config = preset if paper else FungiConfig(objectives=preset.objectives, pooling="cls")
    return FungiExtractor(VisionEncoder(model, SETTINGS, config), config)


class Published:
    """Four passes as the published scripts make them: embedding, KL, DINO, SimCLR."""

    def __init__(self, ours: FungiExtractor, files: list[bytes]) -> None:
        """Take heads and negatives from a fitted extractor; draw signs; none of it is timed."""
        encoder, objectives = ours.encoder, ours._plan.objectives
        self._ours = ours
        self._backbone = published_vision.Backbone(encoder.model, encoder.layer)
        self._pictures = [decode(file) for file in files]
        width = encoder.width
        self._signs = published_text.sign_matrix(width, width * (width + 1))

        def head(one: Any) -> published_text.LinearHead:
            return published_text.LinearHead(one.weight.float(), one.bias.float())

        kl, dino, simclr = (objectives[name] for name in ("kl", "dino", "simclr"))
        self._kl = head(kl.head)  # type: ignore[attr-defined]
        student, teacher = head(dino.heads._student), head(dino.heads._teacher)  # type: ignore[attr-defined]
        contrast, negatives = head(simclr.head), simclr.negatives.float()  # type: ignore[attr-defined]
        self._losses = {
            "dino": lambda e: published_vision.dino_loss(e, student, teacher),
            "simclr": lambda e: published_vision.simclr_loss(e, contrast, negatives, 0.07, 0.07),
        }

    def _views(self, spec: ObjectiveSpec, picture: Any) -> torch.Tensor:
        name, options = spec.view_generator
        generator = sample_generator(42, f"views/{spec.kind}", picture.content)
        made = self._ours.encoder.views(name, spec.n_views, options)(picture, generator)
        pixels = np.asarray(picture.pixels())
        views = [
            published_vision.view_pixels(
                pixels,
                (one.draw.top, one.draw.left, one.draw.height, one.draw.width),
                size=224,
                resample="bicubic",
                statistics=published_vision.IMAGENET,
                frame=one.draw.frame,
            )
            for one in made
        ]
        return torch.stack(views).float()

    def __call__(self) -> None:
        """Do the passes, an image a batch where there are views."""
        encoder = self._ours.encoder
        originals = encoder.collate(encoder.prepare(self._pictures))["pixel_values"]
        published_text.embeddings(self._backbone, originals)  # type: ignore[arg-type]
        G = published_vision.kl_gradients(self._backbone, originals, self._kl, 15.0)
        published_text.project(G, self._signs)
        for spec in self._ours.config.objectives[1:]:
            for picture in self._pictures:
                views = self._views(spec, picture)[None]
                loss = self._losses[spec.name]
                G = published_vision.view_gradients(self._backbone, views, loss)
                published_text.project(G, self._signs)


def main() -> None:
    """Write benchmarks/results/vision_published.json, one run a processor."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--quick", action="store_true", help="one image, one round, no file")
    options = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    model = ViTModel(
        ViTConfig(hidden_size=384, num_attention_heads=6, intermediate_size=1536),
        add_pooling_layer=False,
    ).eval()
    files = photographs(1 if options.quick else options.images)
    ours = {label: extractor(model, paper=label == "paper preset") for label in
            ("default sketch", "paper preset")}  # fmt: skip
    for one in ours.values():
        one.fit(photographs(1, seed=1))
        drawn = torch.randn(N_NEGATIVES, 96, generator=torch.Generator().manual_seed(0))
        bank = torch.nn.functional.normalize(drawn.double(), dim=-1)
        one._plan.objectives["simclr"].load_state({"negatives": bank})
    published = Published(ours["paper preset"], files)
    pixels = pixels_of(ours["default sketch"], files)
    runs: dict[str, Any] = {"published": published}
    runs |= {label: lambda one=one: one(files) for label, one in ours.items()}
    runs["plain forward of original and views"] = lambda: forward(model, pixels, 8)
    seconds = timing.alternate(runs, 1 if options.quick else options.rounds)
    record = {
        "images": len(files),
        "inputs_encoded": len(pixels),
        "negatives": N_NEGATIVES,
        "seconds": {label: timing.median(values) for label, values in seconds.items()},
        "times_faster": {label: timing.ratio(seconds, "published", label) for label in ours},
        "plain_forward_share": {
            label: timing.ratio(seconds, "plain forward of original and views", label)
            for label in ("published", *ours)
        },
        "bound": BOUND,
    }
    if options.quick:
        print(record)
    else:
        timing.write_beside("vision_published", record)


if __name__ == "__main__":
    main()
