"""Resident memory of a fit of 1,000,000 inputs, in a process of its own.

    python -m benchmarks.fit_memory [--rows 1000000]

The encoder is one narrow Linear layer over hashed texts, so that nothing but the package could hold
the rows: an embedding of 384 columns and the layer's input of 384, centred, half whitened and
reduced to 128 components, which takes two extractions. Texts are made as they are read, twice. The
rows are 3.1 GB of float32. The bar: the process grows by less than 500 MB over the encoder and a
fit of 2,000 inputs, which loads what is loaded once.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import torch
from torch import nn

from benchmarks import timing
from fungi_hf.config import Activation, FungiConfig
from fungi_hf.encoders.base import Encoder, Prepared
from fungi_hf.extractor import FungiExtractor

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

WIDTH = 384
BAR_MB = 500
_TABLE = 4096


class Stub(Encoder):
    """Embeds a text as one layer of a random row, chosen by its checksum."""

    max_length = 1
    layer_path = "layer"
    pooling = "mean"
    width = WIDTH

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.ModuleDict({"layer": nn.Linear(WIDTH, WIDTH)}).eval()
        layer: Any = self.model["layer"]
        self.layer = layer
        generator = np.random.default_rng(0)
        rows = generator.standard_normal((_TABLE, WIDTH)) * np.linspace(1, 3, WIDTH)
        self._table = torch.from_numpy(rows.astype(np.float32))

    def check(self, raw: object, index: int) -> str:
        """Give the text."""
        del index
        return str(raw)

    def content(self, raw: str) -> bytes:
        """Give its bytes."""
        return raw.encode()

    def prepare(self, raws: Sequence[str]) -> list[Prepared]:
        """Name a text's row."""
        return [Prepared(zlib.crc32(key), 1, key) for key in map(self.content, raws)]

    def collate(self, items: Sequence[Prepared]) -> Mapping[str, Tensor]:
        """Give rows that differ for every checksum, [N, 1, WIDTH]."""
        numbers = torch.tensor([item.data for item in items])
        near, far = self._table[numbers % _TABLE], self._table[numbers // _TABLE % _TABLE]
        return {"rows": (near + 0.5 * far)[:, None]}

    def embed(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Run the layer."""
        embeddings: Tensor = self.layer(batch["rows"])[:, 0]
        return embeddings

    def pool_activation(self, a: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Give the one token."""
        del batch
        return a[:, 0]


class Texts:
    """So many texts, made as they are read, as often as they are read."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __iter__(self) -> Iterator[str]:
        return (f"sentence number {i} of a long list" for i in range(self._count))


def measure(n_rows: int) -> dict[str, Any]:
    """Fit in this process and give its resident memory."""
    process = psutil.Process()
    config = FungiConfig(
        objectives=(Activation(),), center=True, whitening=0.5, reduction=128, dtype="float32"
    )
    extractor = FungiExtractor(Stub(), config)
    extractor.fit(Texts(2_000))
    before, peak = process.memory_info().rss / 2**20, timing.peak_memory_mb()
    start = time.perf_counter()
    extractor.fit(Texts(n_rows))
    seconds = time.perf_counter() - start
    return {
        "rows": n_rows,
        "columns": extractor.state.components.components.shape[1],
        "rows_mb": round(n_rows * 2 * WIDTH * 4 / 2**20, 1),
        "before_mb": round(before, 1),
        "peak_before_mb": peak,
        "peak_mb": timing.peak_memory_mb(),
        "seconds": round(seconds, 1),
        "stages": list(extractor.fit_stages),
    }


def main() -> None:
    """Write benchmarks/results/fit_memory.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--measure", action="store_true", help="in this process")
    options = parser.parse_args()
    if options.measure:
        sys.stdout.write(json.dumps(measure(options.rows)) + "\n")
        return
    module = "benchmarks.fit_memory"
    found = timing.in_fresh_process(module, "--measure", "--rows", str(options.rows))
    growth = round(found["peak_mb"] - found["before_mb"], 1)
    timing.write("fit_memory", {**found, "growth_mb": growth, "bar_mb": BAR_MB})
    if growth >= BAR_MB:
        raise SystemExit(f"the fit grew by {growth} MB; the bar is {BAR_MB} MB")


if __name__ == "__main__":
    main()
