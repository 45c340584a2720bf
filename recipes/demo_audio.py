"""Spoken digits of a speaker the encoder's neighbours have not heard, with and without gradients.

    python -m recipes.demo_audio --model FOLDER_OR_ID

Any AST, SSAST, Whisper, wav2vec2, HuBERT or WavLM. The sounds are the sample in recipes/data/fsdd.
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np

from fungi_hf.config import KL, Activation, FungiConfig
from fungi_hf.encoders.audio.decoding import decode
from fungi_hf.extractor import FungiExtractor
from recipes.audio.run import ROOT, Sounds, columns, mean, read, score, table

RECIPE = {"neighbors": [1, 5], "shots": 5, "draws": 5}
ARMS = {
    "embedding": ["embedding"],
    "KL gradient": ["kl"],
    "embedding + KL gradient": ["embedding", "kl"],
    "embedding + activation (control)": ["embedding", "activation"],
}


def demonstrate(model: str, clips: int | None = None, device: str | None = None) -> str:
    """Extract, score every speaker in turn, and give what is printed."""
    sounds = read(ROOT / "recipes/data/fsdd/fsdd.parquet", "speaker")
    if clips is not None:
        rows = np.linspace(0, len(sounds.files) - 1, clips).astype(int)
        files = [sounds.files[row] for row in rows]
        sounds = Sounds(files, sounds.labels[rows], sounds.folds[rows])
    seconds = sum(decode(file, 16000).seconds for file in sounds.files)
    config = FungiConfig(objectives=(KL(), Activation()))
    extractor = FungiExtractor.from_pretrained(model, config, device=device)
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # clips that an encoder cuts are counted once
        features = extractor(sounds.files)
    spent = time.perf_counter() - start
    speakers = sorted(set(sounds.folds))
    scores = {
        arm: {s: score(columns(features, blocks), sounds, s, RECIPE)[0] for s in speakers}
        for arm, blocks in ARMS.items()
    }
    result = {"mean": {arm: mean(by_fold) for arm, by_fold in scores.items()}}
    encoder = extractor.encoder
    return "\n".join(
        [
            f"{type(encoder.model).__name__}, {encoder.layer_path}, pooling {encoder.pooling}",
            f"{len(sounds.files)} clips ({seconds:.0f} s of sound) -> {features.array.shape} "
            f"in {spent:.1f} s",
            "Accuracy in percent, one speaker left out, mean over "
            f"{len(speakers)} speakers (chance 10):",
            "",
            table(result),
            "",
            *neighbours(features.array, sounds),
        ]
    )


def neighbours(array: np.ndarray, sounds: Sounds) -> list[str]:
    """Say which clips of other speakers are nearest to a few."""
    lines = []
    for row in np.linspace(0, len(array) - 1, 4).astype(int):
        similar = array @ array[row] / np.linalg.norm(array, axis=1) / np.linalg.norm(array[row])
        similar[sounds.folds == sounds.folds[row]] = -1
        best = similar.argmax()
        lines.append(
            f"{sounds.labels[row]} by {sounds.folds[row]}: nearest is {sounds.labels[best]} "
            f"by {sounds.folds[best]} (cosine {similar[best]:.2f})"
        )
    return lines


def main() -> None:
    """Run the demonstration named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="Hub id or folder of an audio encoder")
    parser.add_argument("--clips", type=int, help="use only so many of the 300 clips")
    parser.add_argument("--device", help="e.g. cuda")
    arguments = parser.parse_args()
    print(demonstrate(arguments.model, arguments.clips, arguments.device))


if __name__ == "__main__":
    main()
