"""Are features on a GPU those of the CPU? The largest 1 - cosine of every block.

    python -m benchmarks.gpu [--texts 200] [--pictures 12]

Texts: a BERT of MiniLM's size; pictures: a ViT-S/16 at 224. Random weights, float32, no TF32.
"""

from __future__ import annotations

import argparse
import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers

from benchmarks import timing
from benchmarks.vision_cost import SETTINGS
from fungi_hf import FungiConfig, FungiExtractor
from fungi_hf.config import KL, Activation
from fungi_hf.encoders.vision.encoder import VisionEncoder
from fungi_hf.specs.objectives import SimCLR
from fungi_hf.specs.targets import DINO
from fungi_hf.testing import tiny_text_model

if TYPE_CHECKING:
    from collections.abc import Callable

INNER = ("encoder.layer.3.attention.output.dense", "encoder.layer.4.attention.output.dense")
VISION = {
    "kl, cls": FungiConfig(objectives=(KL(),), pooling="cls"),
    "kl + dino, cls": FungiConfig(objectives=(KL(), DINO()), pooling="cls"),
}


def bert_on(device: str) -> Callable[[FungiConfig], FungiExtractor]:
    """Give what makes an extractor over a BERT of random weights on a device."""
    _, tokenizer = tiny_text_model("bert")
    torch.manual_seed(0)
    sizes = {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536}
    model = transformers.BertModel(transformers.BertConfig(**sizes)).eval().to(device)
    return lambda config: FungiExtractor.from_pretrained(model, config, tokenizer)


def texts(n: int) -> list[str]:
    """Give texts of 4 to 28 letters, which the small tokenizer knows as words."""
    words = np.array(tuple("abcdefghijklmnop"))
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(words, rng.integers(4, 29))) for _ in range(n)]


def pictures(n: int) -> list[Any]:
    """Give arrays of 224 x 224 pixels, smooth and noisy."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)
    return [np.repeat(np.repeat(one, 28, 0), 28, 1) for one in coarse]


def text_configs() -> dict[str, FungiConfig]:
    """Give what texts are extracted with."""
    inner = (*INNER, "auto")
    late = SimCLR(late_views=2)
    return {
        "kl, mean": FungiConfig(objectives=(KL(),), pooling="mean"),
        "kl, cls": FungiConfig(objectives=(KL(),), pooling="cls"),
        "kl at three layers, mean": FungiConfig(objectives=(KL(layer=inner),), pooling="mean"),
        "kl + simclr, mean": FungiConfig(objectives=(KL(), SimCLR()), pooling="mean"),
        "late simclr, cls": FungiConfig(objectives=(KL(), late), pooling="cls"),
        "kl + activation, whitened": FungiConfig(
            objectives=(KL(), Activation()), pooling="mean", whitening=1.0
        ),
        "kl, rademacher": FungiConfig(objectives=(KL(),), pooling="mean", sketch="rademacher"),
    }


def vision_on(device: str) -> Callable[[FungiConfig], FungiExtractor]:
    """Give the same for a ViT-S/16."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}
    model = transformers.ViTModel(transformers.ViTConfig(**sizes), add_pooling_layer=False)
    model = model.eval().to(device)
    return lambda config: FungiExtractor(
        VisionEncoder(model, copy.deepcopy(SETTINGS), config), config
    )


def difference(here: Any, there: Any) -> dict[str, float]:
    """Give the largest 1 - cosine of every block."""
    found = {}
    for name in here.layout:
        a, b = (one.block(name).astype(np.float64) for one in (here, there))
        cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        found[name] = float((1 - cosine).max())
    return found


def compared(
    make: Callable[[str], Callable[[FungiConfig], FungiExtractor]],
    configs: dict[str, FungiConfig],
    inputs: list[Any],
) -> dict[str, Any]:
    """Extract on both devices."""
    found: dict[str, Any] = {}
    on = {device: make(device) for device in ("cpu", "cuda")}
    for name, config in configs.items():
        sides = [each(config).fit_transform(inputs) for each in on.values()]
        found[name] = difference(*sides)
        print(name, found[name], flush=True)
    return found


def main() -> None:
    """Write benchmarks/results/gpu.json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--pictures", type=int, default=12)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("no GPU that torch can use is here")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    record = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "texts": options.texts,
        "pictures": options.pictures,
        "differences": {
            "texts": compared(bert_on, text_configs(), texts(options.texts)),
            "pictures": compared(vision_on, VISION, pictures(options.pictures)),
        },
    }
    timing.write("gpu", record)


if __name__ == "__main__":
    main()
