"""Tiles of photographs, found again by tiles of their other half, with and without gradients.

    python -m recipes.demo_vision --model FOLDER_OR_ID

Any ViT, DINOv2, DINOv3, CLIP or SigLIP and their kin. The pictures are the sample in
recipes/data/vision/tiles.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

import numpy as np

from fungi_hf.config import KL, Activation, FungiConfig
from fungi_hf.evaluation import KNNProtocol, evaluate_knn, evaluate_linear
from fungi_hf.extractor import FungiExtractor
from recipes.vision.data import load

if TYPE_CHECKING:
    from fungi_hf.features import FungiFeatures
    from recipes.vision.data import Images

ARMS = {
    "embedding": "embedding",
    "KL gradient": "kl",
    "embedding + KL gradient": "embedding+kl",
    "activation (control)": "activation",
    "embedding + activation (control)": "embedding+activation",
}


def demonstrate(model: str, per_class: int | None = None, device: str | None = None) -> str:
    """Extract both halves, judge every arm, and give what is printed."""
    train, test = (load("tiles", split).spread(per_class) for split in ("train", "test"))
    config = FungiConfig(objectives=(KL(), Activation()), modality="vision")
    extractor = FungiExtractor.from_pretrained(model, config, device=device)
    start = time.perf_counter()
    left, right = (extractor(side.files) for side in (train, test))
    spent = time.perf_counter() - start
    encoder = extractor.encoder
    height, width = encoder.grid  # type: ignore[attr-defined]
    return "\n".join(
        [
            f"{type(encoder.model).__name__}, {encoder.layer_path}, pooling {encoder.pooling}, "
            f"{height} x {width} patches",
            f"{len(train) + len(test)} pictures -> {left.array.shape[1]} numbers each "
            f"in {spent:.1f} s",
            f"Accuracy in percent on {len(test)} tiles of the right halves (chance 10):",
            "",
            *table(left, train, right, test),
            "",
            *neighbours(left, train, right, test),
        ]
    )


def table(left: FungiFeatures, train: Images, right: FungiFeatures, test: Images) -> list[str]:
    """Give a Markdown table of the arms."""
    wanted = [blocks.split("+") for blocks in ARMS.values()]
    sides = (left, train.labels, right, test.labels)
    near = evaluate_knn(*sides, combinations=wanted, protocol=KNNProtocol(n_neighbors=5))
    probe = evaluate_linear(*sides, combinations=wanted)
    found: dict[str, list[float]] = {}
    for one in [*near, *probe]:
        found.setdefault(one.name, []).append(100 * one.metrics["accuracy"])
    lines = ["| features | 5 nearest neighbours | linear probe |", "| --- | ---: | ---: |"]
    for name, blocks in ARMS.items():
        lines.append(f"| {name} | " + " | ".join(f"{x:.1f}" for x in found[blocks]) + " |")
    return lines


def neighbours(left: FungiFeatures, train: Images, right: FungiFeatures, test: Images) -> list[str]:
    """Say which tiles of the left halves are nearest to a few of the right ones."""
    lines = []
    for row in np.linspace(0, len(test) - 1, 4).astype(int):
        similar = left.array @ right.array[row] / len(left.layout)
        best = similar.argmax()
        lines.append(
            f"a tile of {test.names[test.labels[row]]}: nearest is one of "
            f"{train.names[train.labels[best]]} (mean cosine of the blocks {similar[best]:.2f})"
        )
    return lines


def main() -> None:
    """Run the demonstration named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="Hub id or folder of an image encoder")
    parser.add_argument("--per-class", type=int, help="use only so many tiles a photograph")
    parser.add_argument("--device", help="e.g. cuda")
    arguments = parser.parse_args()
    print(demonstrate(arguments.model, arguments.per_class, arguments.device))


if __name__ == "__main__":
    main()
