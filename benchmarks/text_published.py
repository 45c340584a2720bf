"""Embedding, KL and SimCLR (12 views) against the published algorithm, run by our oracle of it.

Equal dtypes are compared: float32 with float32; a bfloat16 model with the published scripts under
bfloat16 autocast. Both sides make the same views and tokenise. Ours runs with the default sketch
and with the paper preset (dense signs, as published).

python -m benchmarks.text_published [--quick]
"""

from __future__ import annotations

import argparse
import contextlib
from typing import Any

import torch

from benchmarks import text_models, timing
from fungi_hf.config import KL, FungiConfig, SimCLR
from fungi_hf.gradients.layers import resolve_layer
from fungi_hf.objectives.base import make_objective
from fungi_hf.seeding import sample_generator
from fungi_hf.views.text import PublishedDeletion
from tests.oracles import published_text as published

SIZES = {"minilm": 64, "bert-base": 16}
BOUNDS = {"minilm": 6, "bert-base": 5}  # default sketch, float32
DTYPES = ("float32", "bfloat16")
BATCH, SIMCLR_BATCH = 32, 8  # as in the published job scripts
N_NEGATIVES = 32


def configs(dtype: str) -> dict[str, FungiConfig]:
    """Give the published objectives with our default sketch, and with all published choices."""
    simclr = SimCLR(logsumexp_temperature=1.0, views="nlpaug_deletion", n_negatives=N_NEGATIVES)
    paper = FungiConfig.paper("text")
    kl, _ = paper.objectives
    return {
        "default sketch": FungiConfig(objectives=(KL(), simclr), pooling="first", dtype=dtype),
        "paper preset": paper.replace(objectives=(kl, simclr), reduction=None, dtype=dtype),
    }


class Published:
    """The three passes of the published scripts: embedding, KL, SimCLR, each with its forward."""

    def __init__(self, model: Any, tokenizer: Any, texts: list[str], *, half: bool) -> None:
        """Draw heads, negatives and the sign matrix; none of it is timed."""
        settings = configs("float32")["default sketch"]
        width = model.config.hidden_size
        _, layer = resolve_layer(model)
        self.backbone = published.Backbone(model, tokenizer, layer)
        heads = [make_objective(spec, width=width, seed=42).head for spec in settings.objectives]
        self.kl_head, self.simclr_head = (
            published.LinearHead(head.weight.float(), head.bias.float()) for head in heads
        )
        self.views, self.texts, self.half = PublishedDeletion(12), texts, half
        self.negatives = published.negative_latents(
            self.backbone, [self._views(t)[:2] for t in texts[:N_NEGATIVES]], self.simclr_head
        )
        matrix = published.sign_matrix(width, width * (width + 1))
        self.matrix = matrix.bfloat16() if half else matrix

    def _views(self, text: str) -> list[str]:
        return list(self.views(text, sample_generator(42, "views/simclr", text.encode())))

    def _context(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast("cpu", torch.bfloat16) if self.half else contextlib.nullcontext()

    def __call__(self) -> None:
        """Do the three passes in data set order."""
        for first in range(0, len(self.texts), BATCH):
            with self._context():
                published.embeddings(self.backbone, self.texts[first : first + BATCH])
        for first in range(0, len(self.texts), BATCH):
            batch = self.texts[first : first + BATCH]
            with self._context():
                G = published.kl_gradients(self.backbone, batch, self.kl_head)
            published.project(G.to(self.matrix), self.matrix)
        for first in range(0, len(self.texts), SIMCLR_BATCH):
            sample = [self._views(text) for text in self.texts[first : first + SIMCLR_BATCH]]
            with self._context():
                G = published.simclr_gradients(
                    self.backbone, sample, self.simclr_head, self.negatives
                )
            published.project(G.to(self.matrix), self.matrix)


def compare(name: str, n_texts: int, rounds: int) -> dict[str, Any]:
    """Time the published way and ours in both dtypes, alternated."""
    texts = text_models.sentences(n_texts)
    model, tokenizer = text_models.load(name)
    runs: dict[str, Any] = {}
    for dtype in DTYPES:
        runs[f"published, {dtype}"] = Published(model, tokenizer, texts, half=dtype == "bfloat16")
        own, _ = text_models.load(name, dtype)
        for label, settings in configs(dtype).items():
            found = text_models.extractor(own, tokenizer, settings)
            found.fit(text_models.sentences(64))
            runs[f"{label}, {dtype}"] = lambda found=found: found(texts)
    seconds = timing.alternate(runs, rounds)
    return {
        "encoder": name,
        "texts": n_texts,
        "seconds": {label: timing.median(values) for label, values in seconds.items()},
        "times_faster": {
            f"{label}, {dtype}": round(
                timing.ratio(seconds, f"published, {dtype}", f"{label}, {dtype}"), 2
            )
            for dtype in DTYPES
            for label in ("default sketch", "paper preset")
        },
        "bound": BOUNDS[name],
    }


def main() -> None:
    """Write benchmarks/results/text_published.json, a run for each processor."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few texts and rounds: a smoke run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=SIZES, help="one encoder")
    options = parser.parse_args()
    quick = options.quick
    torch.manual_seed(0)
    table = [
        compare(name, 8 if quick else n_texts, 1 if quick else options.rounds)
        for name, n_texts in SIZES.items()
        if options.only in (None, name)
    ]
    if quick:
        timing.write("text_published_quick", {"rows": table})
    else:
        timing.write_beside("text_published", {"rows": table})


if __name__ == "__main__":
    main()
