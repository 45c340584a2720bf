"""How well Khatri-Rao sketches keep exact gradient cosines, by rank (MiniLM, Banking-77).

python -m benchmarks.sketch_error
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from benchmarks import text_models, timing
from fungi_hf.config import FungiConfig, SimCLR
from fungi_hf.extraction.batches import cut_groups
from fungi_hf.extraction.group import Group
from fungi_hf.gradients.factors import unit_rows
from fungi_hf.gradients.sketches import make_sketch
from fungi_hf.gradients.tape import untouched

if TYPE_CHECKING:
    from fungi_hf.gradients.factors import LayerFactors

RANKS, SEEDS, WIDTH = (1, 2, 4, 8), 6, 384


def factors(pooling: str, texts: list[str]) -> dict[str, list[LayerFactors]]:
    """Give the exact gradients of every text, by objective."""
    model, tokenizer = text_models.load("minilm")
    config = FungiConfig(pooling=pooling, objectives=("kl", SimCLR()))
    found = text_models.extractor(model, tokenizer, config).fit(texts)
    plan = found._plan
    parts: dict[str, list[LayerFactors]] = {name: [] for name in plan.objectives}
    with untouched(model):
        for chunk in found._reader.read(texts):
            for samples in cut_groups(chunk, plan.budget):
                group = Group(samples, plan, plan.budget)
                for name, some in parts.items():
                    some.extend(group.factors(name).values())
    return parts


def errors(parts: list[LayerFactors], rank: int) -> dict[str, float]:
    """Give RMSE of cosines and the share of the true 10 nearest kept, mean over sketch seeds."""
    exact = _cosines(torch.cat([part.materialise().flatten(1) for part in parts]))
    other = ~np.eye(len(exact), dtype=bool)
    nearest = _nearest(exact)
    misses, kept = [], []
    for seed in range(SEEDS):
        m, n1 = parts[0].delta.shape[1], parts[0].inputs.shape[1]
        sketch = make_sketch("khatri_rao", m, n1, WIDTH, seed=seed, rank=rank)
        cosines = _cosines(torch.cat([sketch(part) for part in parts]))
        misses.append(np.sqrt(((cosines - exact)[other] ** 2).mean()))
        pairs = zip(_nearest(cosines), nearest, strict=True)
        kept.append(np.mean([len(set(a) & set(b)) / 10 for a, b in pairs]))
    return {"rmse": round(float(np.mean(misses)), 4), "kept": round(float(np.mean(kept)), 3)}


def _cosines(rows: torch.Tensor) -> np.ndarray:
    unit = unit_rows(rows)
    return (unit @ unit.T).numpy()


def _nearest(cosines: np.ndarray) -> np.ndarray:
    return np.argsort(-np.where(np.eye(len(cosines), dtype=bool), -9, cosines), axis=1)[:, :10]


def main() -> None:
    """Write benchmarks/results/sketch_error.json."""
    texts = text_models.sentences(150)
    table = {
        f"{pooling}, {name}": {f"s={rank}": errors(parts, rank) for rank in RANKS}
        for pooling in ("cls", "mean")
        for name, parts in factors(pooling, texts).items()
    }
    timing.write(
        "sketch_error", {"texts": len(texts), "width": WIDTH, "seeds": SEEDS, "rows": table}
    )


if __name__ == "__main__":
    main()
