"""What audio features cost beside the plain forward pass: AST-base size, random weights.

    python -m benchmarks.audio_cost [--threads 2] [--rounds 5] [--only time|memory]

Bars: embedding + KL at most 1.2 times the forward pass of the same inputs; embedding + KL +
SimCLR at most 1.25 times the forward pass of all distinct inputs; peak memory at most the
forward's plus 300 MB. Features are timed from the bytes of 44.1 kHz FLAC files on (decoding,
front-end, views, sketch and all); the forward pass is timed on ready spectrograms. `--only`
measures one half and keeps the other as it is in the file.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from transformers import ASTConfig, ASTFeatureExtractor, ASTModel

from benchmarks import timing
from fungi_hf.config import KL, FungiConfig, SimCLR
from fungi_hf.encoders.audio import patches
from fungi_hf.encoders.audio.encoder import AudioEncoder
from fungi_hf.extraction.batches import cut_batches
from fungi_hf.extractor import FungiExtractor
from fungi_hf.views.audio import SpectrogramCrop

FRAMES, STRIDE, VIEWS = 512, 10, 8  # 602 tokens, as in the published ESC-50 experiment
CLIPS = {"kl": 4, "simclr": 1}
NAMES = {"kl": "embedding + KL", "simclr": f"embedding + KL + SimCLR ({VIEWS} views)"}
ROWS = [(arm, pooling) for arm in CLIPS for pooling in ("cls", "mean")]
FILE = timing.RESULTS / "audio_cost.json"


def _extractor(arm: str, pooling: str) -> FungiExtractor:
    torch.manual_seed(0)
    model = ASTModel(ASTConfig(max_length=FRAMES, frequency_stride=STRIDE, time_stride=STRIDE))
    processor = ASTFeatureExtractor(max_length=FRAMES)
    objectives: list[Any] = [KL()]
    if arm == "simclr":
        objectives.append(SimCLR(n_views=VIEWS, n_negatives=2, negative_views=2))
    config = FungiConfig(objectives=tuple(objectives), pooling=pooling)
    extractor = FungiExtractor(AudioEncoder(model.eval(), processor, config), config)
    return extractor.fit(_sounds(2, 1)) if arm == "simclr" else extractor


def _sounds(count: int, seed: int) -> list[bytes]:
    generator = np.random.default_rng(seed)
    files = []
    for _ in range(count):
        file = io.BytesIO()
        wave = generator.normal(0, 0.1, 44100 * 5).astype(np.float32)
        soundfile.write(file, wave, 44100, format="FLAC")
        files.append(file.getvalue())
    return files


def _spectrograms(extractor: FungiExtractor, clips: list[bytes]) -> list[torch.Tensor]:
    """Ready inputs of all distinct clips and views, in batches of the extraction's size."""
    batches = []
    for samples in extractor._reader.read(clips):
        views = [view for sample in samples for of in sample.views.values() for view in of]
        items = list({item.key: item for item in [*(s.original for s in samples), *views]}.values())
        for rows in cut_batches(items, extractor.budget):
            batch = extractor.encoder.collate([items[i] for i in rows])
            batches.append(batch["input_values"])
    return batches


def _best_batches(
    extractor: FungiExtractor, spectrograms: list[torch.Tensor]
) -> tuple[int, list[torch.Tensor]]:
    """The same inputs in batches of the size that is fastest here, and that size."""
    inputs = torch.cat(spectrograms)
    seconds = {}
    for size in (1, 2, 4, 8):
        runs = []
        for _ in range(2):
            start = time.perf_counter()
            _forward(extractor, list(inputs.split(size)))
            runs.append(time.perf_counter() - start)
        seconds[size] = min(runs)
    best = min(seconds, key=lambda size: seconds[size])
    return best, list(inputs.split(best))


def _forward(extractor: FungiExtractor, batches: list[torch.Tensor]) -> None:
    with torch.no_grad():
        for batch in batches:
            extractor.encoder.model(batch)


@contextlib.contextmanager
def _clocks(encoder: AudioEncoder):
    """Count the seconds spent before the encoder, by part."""
    seconds = dict.fromkeys(("decode", "front-end", "views"), 0.0)

    def timed(part, function):
        def run(*arguments, **named):
            start = time.perf_counter()
            result = function(*arguments, **named)
            seconds[part] += time.perf_counter() - start
            return result

        return run

    body: Any = encoder._body
    places = [
        (encoder, "_decode", "decode"),
        (body, "log_mel", "front-end"),
        (SpectrogramCrop, "__call__", "views"),
        (patches, "apply_to_spectrograms", "views"),
    ]
    before = [(owner, name, vars(owner).get(name)) for owner, name, _ in places]
    for owner, name, part in places:
        setattr(owner, name, timed(part, getattr(owner, name)))
    yield seconds
    for owner, name, old in before:
        delattr(owner, name) if old is None else setattr(owner, name, old)


def _time(arm: str, pooling: str, rounds: int) -> dict[str, Any]:
    extractor, clips = _extractor(arm, pooling), _sounds(CLIPS[arm], 2)
    size, batches = _best_batches(extractor, _spectrograms(extractor, clips))
    encoder: Any = extractor.encoder
    runs = {
        "forward": lambda: _forward(extractor, batches),
        "features": lambda: extractor(clips),
    }
    with _clocks(encoder) as seconds:
        times = timing.alternate(runs, rounds)
        total = sum(times["features"]) * (rounds + 1) / rounds  # and the untimed round
    share = {part: round(spent / total, 5) for part, spent in seconds.items()}
    return {
        "inputs": sum(len(batch) for batch in batches),
        "forward_batch_size": size,
        "forward_s": timing.median(times["forward"]),
        "features_s": timing.median(times["features"]),
        "ratio": timing.ratio(times, "features", "forward"),
        "share": {**share, "encoder": round(1 - sum(share.values()), 5)},
    }


def _peak(arm: str, pooling: str, what: str) -> float:
    """Give the peak resident memory of one kind of run in MB, the model's loading left out."""
    extractor, clips = _extractor(arm, pooling), _sounds(CLIPS[arm], 2)
    batches = _spectrograms(extractor, clips) if what == "forward" else []
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", "ascii")  # sets the peak to what is used now
    _forward(extractor, batches) if what == "forward" else extractor(clips)
    status = Path("/proc/self/status").read_text("ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def _memory(arm: str, pooling: str, threads: int) -> dict[str, float]:
    peaks = {
        what: timing.in_fresh_process(
            "benchmarks.audio_cost", "--threads", str(threads), "--peak", arm, pooling, what
        )["mb"]
        for what in ("forward", "features")
    }
    return {
        "forward_peak_mb": round(peaks["forward"], 1),
        "features_peak_mb": round(peaks["features"], 1),
        "extra_mb": round(peaks["features"] - peaks["forward"], 1),
    }


def main() -> None:
    """Write benchmarks/results/audio_cost.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=["time", "memory"])
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    if options.peak:
        print(json.dumps({"mb": _peak(*options.peak)}))
        return
    before = json.loads(FILE.read_text("utf-8"))["rows"] if options.only and FILE.exists() else []
    rows = []
    for arm, pooling in ROWS:
        name = f"{NAMES[arm]}, {pooling}"
        row = next((old for old in before if old["row"] == name), {"row": name})
        if options.only != "memory":
            row |= _time(arm, pooling, options.rounds)
        if options.only != "time":
            row |= _memory(arm, pooling, options.threads)
        rows.append(row)
        print(row, flush=True)
    record = {
        "model": f"AST-base size, random weights, {FRAMES} frames, stride {STRIDE}: 602 tokens",
        "yardstick": "plain forward pass of ready spectrograms of the clips and all distinct views "
        "at its own best batch size (found in the same run)",
        "share": "of the features' time; the encoder's includes gradients and sketch",
        "bars": {"kl": 1.2, "simclr": 1.25, "extra_mb": 300},
        "rows": rows,
    }
    timing.write("audio_cost", record)


if __name__ == "__main__":
    main()
