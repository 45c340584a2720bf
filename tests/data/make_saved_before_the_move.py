"""Store a fitted extractor with its tiny model, and its features of three texts.

    git worktree add /tmp/before 557f83e && cd /tmp/before
    python .../tests/data/make_saved_before_the_move.py   # with the package of that commit

The folder was written by commit 557f83e, before the modules moved. It must load for ever.
"""

from pathlib import Path

import torch

from fungi_hf import KL, Activation, FungiConfig, FungiExtractor, SimCLR
from fungi_hf.testing import tiny_text_model

TRAIN = [
    "my card is lost",
    "please help me pay",
    "what is the new bank account",
    "how do you pay the old card",
    "it was my money",
    "do not pay me",
]
TEXTS = ["pay my card", "lost", "what? the bank paid me, but you paid the bank twice"]

if __name__ == "__main__":
    model, tokenizer = tiny_text_model("bert", dtype=torch.float32)
    config = FungiConfig(
        objectives=(
            KL(latent_dim=24),
            SimCLR(n_views=4, latent_dim=8, n_negatives=6),
            Activation(),
        ),
        center=True,
    )
    extractor = FungiExtractor.from_pretrained(model, config, tokenizer).fit(TRAIN)
    folder = Path(__file__).with_name("saved_before_the_move")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    extractor.write(folder, with_model=True)
    extractor(TEXTS).save(folder / "features.safetensors")
