"""Embedding, KL and SimCLR (12 views) against the published algorithm, run by our oracle of it.

python -m benchmarks.text_published [--quick]
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

from benchmarks import text_models, timing
from fungi_hf.config import KL, FungiConfig, SimCLR
from fungi_hf.gradients.layers import resolve_layer
from fungi_hf.objectives.build import make_objective
from fungi_hf.seeding import sample_generator
from fungi_hf.views.text import PublishedDeletion
from tests.oracles import published_text as published

SIZES = {"minilm": 64, "bert-base": 16}
BOUNDS = {"minilm": {"float32": 6, "bfloat16": 10}, "bert-base": {"float32": 5, "bfloat16": 8.5}}
BATCH, SIMCLR_BATCH = 32, 8  # as in the published job scripts


def config(dtype: str) -> FungiConfig:
    """Give the published objectives with our default sketch."""
    simclr = SimCLR(logsumexp_temperature=1.0, views="nlpaug_deletion", n_negatives=32)
    return FungiConfig(objectives=(KL(), simclr), pooling="first", dtype=dtype)


class Published:
    """The three passes of the published scripts: embedding, KL, SimCLR, each with its forward."""

    def __init__(self, model: Any, tokenizer: Any, texts: list[str]) -> None:
        """Draw heads, negatives, views and the sign matrix; none of it is timed."""
        settings = config("float32")
        width = model.config.hidden_size
        path, layer = resolve_layer(model)
        del path
        self.backbone = published.Backbone(model, tokenizer, layer)
        heads = [make_objective(spec, width=width, seed=42).head for spec in settings.objectives]
        self.kl_head, self.simclr_head = (
            published.LinearHead(head.weight.float(), head.bias.float()) for head in heads
        )
        views = PublishedDeletion(12)
        self.texts = texts
        self.views = [views(t, sample_generator(42, "views/simclr", t)) for t in texts]
        self.negatives = published.negative_latents(
            self.backbone, [sample[:2] for sample in self.views[:32]], self.simclr_head
        )
        self.matrix = published.sign_matrix(width, width * (width + 1))

    def __call__(self) -> None:
        """Do the three passes in data set order."""
        for first in range(0, len(self.texts), BATCH):
            batch = self.texts[first : first + BATCH]
            published.embeddings(self.backbone, batch)
        for first in range(0, len(self.texts), BATCH):
            batch = self.texts[first : first + BATCH]
            G = published.kl_gradients(self.backbone, batch, self.kl_head)
            published.project(G, self.matrix)
        for first in range(0, len(self.texts), SIMCLR_BATCH):
            sample = self.views[first : first + SIMCLR_BATCH]
            G = published.simclr_gradients(self.backbone, sample, self.simclr_head, self.negatives)
            published.project(G, self.matrix)


def compare(name: str, n_texts: int, rounds: int) -> dict[str, Any]:
    """Time the published way and ours in both dtypes, alternated."""
    texts = text_models.sentences(n_texts)
    model, tokenizer = text_models.load(name)
    runs: dict[str, Any] = {"published": Published(model, tokenizer, texts)}
    for dtype in ("float32", "bfloat16"):
        own, _ = text_models.load(name, dtype)
        found = text_models.extractor(own, tokenizer, config(dtype))
        found.fit(text_models.sentences(64))
        runs[dtype] = lambda found=found: found(texts)
    seconds = timing.alternate(runs, rounds)
    return {
        "encoder": name,
        "texts": n_texts,
        "seconds": {label: timing.median(values) for label, values in seconds.items()},
        "times_faster": {
            dtype: round(1 / timing.ratio(seconds, dtype, "published"), 2)
            for dtype in ("float32", "bfloat16")
        },
        "bounds": BOUNDS[name],
    }


def main() -> None:
    """Write benchmarks/results/text_published.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few texts and rounds: a smoke run")
    quick = parser.parse_args().quick
    torch.manual_seed(0)
    table = [
        compare(name, 8 if quick else n_texts, 1 if quick else 5) for name, n_texts in SIZES.items()
    ]
    timing.write("text_published_quick" if quick else "text_published", {"rows": table})


if __name__ == "__main__":
    main()
