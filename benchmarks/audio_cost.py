"""What audio features cost beside the plain forward pass: AST-base size, random weights.

    python -m benchmarks.audio_cost [--threads 2] [--repeats 5] [--out FILE]

Bars: embedding + KL at most 1.2 times the forward pass of the same batches; embedding + KL +
SimCLR at most 1.25 times the forward pass of all distinct inputs; peak memory at most the
forward's plus 300 MB. Features are timed from the waveform on (front-end, views, sketch and all);
the forward pass is timed on ready spectrograms.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from transformers import ASTConfig, ASTFeatureExtractor, ASTModel

from fungi_hf.batching import cut_batches
from fungi_hf.config import KL, FungiConfig, SimCLR
from fungi_hf.encoders.audio import AudioEncoder
from fungi_hf.extractor import FungiExtractor
from fungi_hf.seeding import sample_generator

FRAMES, STRIDE, VIEWS = 512, 10, 8  # 602 tokens, as in the published ESC-50 experiment
CLIPS = {"kl": 6, "simclr": 1}


def _extractor(arm: str, pooling: str) -> FungiExtractor:
    torch.manual_seed(0)
    model = ASTModel(ASTConfig(max_length=FRAMES, frequency_stride=STRIDE, time_stride=STRIDE))
    processor = ASTFeatureExtractor(max_length=FRAMES)
    objectives = [KL()]
    if arm == "simclr":
        objectives.append(SimCLR(n_views=VIEWS, n_negatives=2, negative_views=2))
    config = FungiConfig(objectives=tuple(objectives), pooling=pooling)
    extractor = FungiExtractor(AudioEncoder(model.eval(), processor, config), config)
    return extractor.fit(_sounds(2, 1)) if arm == "simclr" else extractor


def _sounds(count: int, seed: int) -> list[tuple[np.ndarray, int]]:
    generator = np.random.default_rng(seed)
    return [(generator.normal(0, 0.1, 80_000).astype(np.float32), 16000) for _ in range(count)]


def _spectrograms(extractor: FungiExtractor, arm: str, clips) -> list[torch.Tensor]:
    """Ready inputs of all distinct clips and views, in the batches of the extraction."""
    encoder = extractor.encoder
    items = []
    for i, raw in enumerate(clips):
        clip = encoder.check(raw, i)
        views = []
        if arm == "simclr":
            family = encoder.views("auto", VIEWS, {})
            views = family(clip, sample_generator(42, "views/simclr", clip.content))
        items.append(encoder.prepare([clip, *views]))
    batches = []
    for group in items if arm == "simclr" else [[p for item in items for p in item]]:
        parts = [group[:1], group[1:]] if arm == "simclr" else [group]
        for part in parts:
            batches += [
                encoder.collate([part[i] for i in rows])["input_values"]
                for rows in cut_batches(part, extractor.budget)
            ]
    return batches


def _forward(extractor: FungiExtractor, batches: list[torch.Tensor]) -> None:
    with torch.no_grad():
        for batch in batches:
            extractor.encoder.model(batch)


def _time(arm: str, pooling: str, repeats: int) -> dict[str, float]:
    extractor, clips = _extractor(arm, pooling), _sounds(CLIPS[arm], 2)
    batches = _spectrograms(extractor, arm, clips)
    runs = {"forward": lambda: _forward(extractor, batches), "features": lambda: extractor(clips)}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):  # alternated, so that a busy moment hits both
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if turn:
                times[name].append(time.perf_counter() - start)
    ratios = [f / p for f, p in zip(times["features"], times["forward"], strict=True)]
    return {
        "inputs": sum(len(batch) for batch in batches),
        "forward_s": round(statistics.median(times["forward"]), 3),
        "features_s": round(statistics.median(times["features"]), 3),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_of_best": round(min(times["features"]) / min(times["forward"]), 3),
    }


def _peak(arm: str, pooling: str, what: str) -> None:
    """Print the peak resident memory of one kind of run in MB, the model's loading left out."""
    extractor, clips = _extractor(arm, pooling), _sounds(CLIPS[arm], 2)
    batches = _spectrograms(extractor, arm, clips) if what == "forward" else []
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", "ascii")  # sets the peak to what is used now
    _forward(extractor, batches) if what == "forward" else extractor(clips)
    status = Path("/proc/self/status").read_text("ascii")
    print(int(status.split("VmHWM:")[1].split()[0]) / 1024)


def _peak_elsewhere(arm: str, pooling: str, what: str, threads: int) -> float:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.audio_cost"]
    command += ["--threads", str(threads), "--peak", arm, pooling, what]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return round(float(done.stdout.split()[-1]), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results/audio_cost.json"
    )
    parser.add_argument("--arms", nargs="+", default=["kl", "simclr"], choices=["kl", "simclr"])
    parser.add_argument("--poolings", nargs="+", default=["cls", "mean"])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    if arguments.peak:
        _peak(*arguments.peak)
        return
    result: dict[str, object] = {
        "model": f"AST-base size, random weights, {FRAMES} frames, stride {STRIDE}: 602 tokens",
        "threads": arguments.threads,
        "views": VIEWS,
        "bars": {"kl": 1.2, "simclr": 1.25, "extra_memory_mb": 300},
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for arm in arguments.arms:
        for pooling in arguments.poolings:
            measured: dict[str, float] = dict(_time(arm, pooling, arguments.repeats))
            for what in ("forward", "features"):
                peak = _peak_elsewhere(arm, pooling, what, arguments.threads)
                measured[f"{what}_peak_mb"] = peak
            measured["extra_mb"] = round(
                measured["features_peak_mb"] - measured["forward_peak_mb"], 1
            )
            result[f"{arm}, pooling {pooling}"] = measured
            arguments.out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
            print(arm, pooling, measured, flush=True)


if __name__ == "__main__":
    main()
