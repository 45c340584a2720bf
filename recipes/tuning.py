"""Tune every case on its training rows and judge the choice on its test rows.

python -m recipes.tuning [CASE ...] [--audio FOLDER --whisper MODEL]

A case is a text set under one pooling of MiniLM ("trec6-cls"), or a sound set ("fsdd", one speaker
left out; "esc10", one fold left out). Each input passes the encoder once per pooling and once for
the gradients; what the tuner would compute of its training rows is cut out of that. Test labels
are read after the choice.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fungi_hf.config import KL, Activation, FungiConfig
from fungi_hf.evaluation.statistics import mcnemar
from fungi_hf.evaluation.tuning import TuningSearch
from fungi_hf.evaluation.tuning.sample import draw_rows, read_groups
from fungi_hf.evaluation.tuning.scan import scan, sibling_layers
from fungi_hf.evaluation.tuning.search import EMBEDDING, Candidate
from fungi_hf.evaluation.tuning.selection import choose, scores
from fungi_hf.evaluation.tuning.stages import Stages
from fungi_hf.extractor import FungiExtractor
from fungi_hf.features import FungiFeatures
from fungi_hf.finishing import Finisher
from fungi_hf.reduction import PrincipalComponents
from recipes import protocol
from recipes import run as text_recipe
from recipes.audio import run as audio_recipe
from recipes.datasets import load

if TYPE_CHECKING:
    from fungi_hf.encoders.base import Encoder

HERE = Path(__file__).parent
CACHE = Path("out/features")
TEXTS = [f"{data}-{p}" for data in ("banking77", "trec6", "sst2", "sst5") for p in ("cls", "mean")]
SOUNDS = {"fsdd": ("speaker", "speaker"), "esc10": ("fold", "src")}  # fold column, group column
Blocks = dict[str, np.ndarray]


@dataclass
class Case:
    """Everything that tuning may need of one data set, computed once for all its rows.

    Attributes:
        name: Of the case.
        extractor: What tuning starts from.
        labels: [N] class numbers of all rows.
        groups: [N] group names, or None.
        splits: Training rows and test rows, several for cross-validation.
        scans: Pooling -> embedding and layers' inputs of all rows.
        gradients: Pooling -> blocks of all rows at the target layer.
        search: What may be chosen.
        paper: Training rows, test rows, and which test rows the paper preset has right.
    """

    name: str
    extractor: FungiExtractor
    labels: np.ndarray
    groups: np.ndarray | None
    splits: list[tuple[np.ndarray, np.ndarray]]
    scans: dict[str, Blocks]
    gradients: dict[str, Blocks]
    search: TuningSearch
    paper: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
    notes: list[str] = field(default_factory=list)


class Cut(Stages):
    """The tuner's stages on rows that were computed before."""

    case: Case
    rows: np.ndarray

    def scan(self, encoder: Encoder, layers: list[str]) -> Blocks:
        """Cut the rows that vote out of the scan of all rows."""
        found = self.case.scans[encoder.pooling]
        return {name: found[name][self.rows] for name in (EMBEDDING, *layers)}

    def extract(self, extractor: FungiExtractor, *, progress: bool) -> Blocks:  # noqa: ARG002
        """Cut the rows that vote out of the extraction of all rows."""
        found = self.case.gradients[extractor.encoder.pooling]
        return {name: block[self.rows] for name, block in found.items()}


def decide(case: Case, train: np.ndarray, search: TuningSearch) -> tuple[Candidate, Any]:
    """Choose from training rows; give the candidate, and its score with the embedding's."""
    labels = np.unique(case.labels[train], return_inverse=True)[1]
    groups = None if case.groups is None else case.groups[train]
    numbers, _ = read_groups(groups, len(train))
    drawn = draw_rows(labels, search.max_rows, search.seed)
    stages = Cut(case.extractor, [None] * len(drawn), labels[drawn], numbers[drawn], search)
    stages.case, stages.rows = case, train[drawn]
    outcomes = stages.outcomes(progress=False)
    place, best = choose(outcomes, stages.specs, stages.min_gain)
    found = scores(outcomes, stages.specs, best, 0)
    return outcomes[place].candidate, (found[place], found[0], len(found))


def right(case: Case, candidate: Candidate, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Say which test rows a candidate, fitted on training rows, has right."""
    raw = {**case.gradients.get(candidate.pooling, {})}
    scanned = case.scans[candidate.pooling]
    raw |= {EMBEDDING: scanned[EMBEDDING], "activation": scanned[candidate.layer]}
    specs = Cut(case.extractor, [], np.zeros(0, int), np.zeros(0, int), case.search).specs
    config = candidate.config(case.extractor.config, specs)
    finisher = Finisher(config, {name: rows.shape[1] for name, rows in raw.items()}, {})
    blocks = {name: torch.from_numpy(raw[name]) for name in candidate.blocks}
    finisher.fit({name: rows[train] for name, rows in blocks.items()})
    left, queries = (
        finisher.finish({name: rows[some] for name, rows in blocks.items()})
        for some in (train, test)
    )
    whole = [np.ascontiguousarray(rows) for rows in (left, queries)]
    return protocol.predict(whole[1] @ whole[0].T, case.labels[train]) == case.labels[test]


def judge(case: Case) -> dict[str, Any]:
    """Tune with pooling held and free, and compare with what is to be beaten."""
    own = case.extractor.encoder
    arms = {
        "embedding": Candidate(pooling=own.pooling, layer=own.layer_path),
        "activation": Candidate(
            pooling=own.pooling, layer=own.layer_path, weights=(("activation", 1.0),)
        ),
    }
    outcome: dict[str, list[np.ndarray]] = {name: [] for name in (*arms, "fixed", "free")}
    chosen: dict[str, list[Any]] = {"fixed": [], "free": []}
    on_paper_rows: dict[str, np.ndarray] = {}
    for train, test in case.splits:
        found = dict(arms)
        for name, is_free in (("fixed", False), ("free", True)):
            if is_free and len(case.scans) == 1:
                found[name] = found["fixed"]
                chosen[name] = chosen["fixed"]
                continue
            search = replace(case.search, free_pooling=is_free)
            found[name], evidence = decide(case, train, search)
            chosen[name].append(record(found[name], *evidence))
        for name, candidate in found.items():
            outcome[name].append(right(case, candidate, train, test))
        if case.paper is not None:
            for name in ("fixed", "free"):
                on_paper_rows[name] = right(case, found[name], *case.paper[:2])
    joined = {name: np.concatenate(rows) for name, rows in outcome.items()}
    result: dict[str, Any] = {
        "case": case.name,
        "rows": {"train": len(case.splits[0][0]), "test": len(joined["embedding"])},
        "splits": len(case.splits),
        "accuracy": {name: float(rows.mean()) for name, rows in joined.items()},
        "chosen": chosen,
        "notes": case.notes,
    }
    tests = {}
    for name in ("fixed", "free"):
        tests[name] = {b: compare(joined[b], joined[name]) for b in ("embedding", "activation")}
        if case.paper is not None:
            tests[name]["paper"] = compare(case.paper[2], on_paper_rows[name])
    if case.paper is not None:
        result["accuracy"]["paper"] = float(case.paper[2].mean())
        result["paper_rows"] = {"train": len(case.paper[0]), "test": len(case.paper[1])}
        result["on_paper_rows"] = {n: float(rows.mean()) for n, rows in on_paper_rows.items()}
    return {**result, "tests": tests}


def record(candidate: Candidate, score: Any, plain: Any, n: int) -> dict[str, Any]:
    """Give what was chosen, and on what evidence."""
    return {
        "features": candidate.name,
        "pooling": candidate.pooling,
        "layer": candidate.layer,
        "blocks": candidate.transform.name,
        "components": candidate.components,
        "leave_one_out": score.accuracy,
        "embedding_leave_one_out": plain.accuracy,
        "candidates": n,
    }


def compare(baseline: np.ndarray, tuned: np.ndarray) -> dict[str, float]:
    """Give the difference in shares and the exact paired p."""
    test = mcnemar(baseline, tuned)
    return {"difference": test.difference, "p": test.p}


def text_case(name: str) -> Case:
    """Compute, or read back, everything of a text case."""
    data, own = name.split("-")
    train, test = load(data, "train"), load(data, "test")
    texts, n = train.texts + test.texts, len(train)
    scans, gradients = {}, {}
    for pooling in ("cls", "mean"):
        recipe = read_recipe(f"{data}-minilm-{pooling}")
        model = text_recipe.model_folder(recipe["model"])
        extractor = FungiExtractor.from_pretrained(model, FungiConfig(pooling=pooling))
        scans[pooling] = scanned(f"{data}-minilm-{pooling}", extractor, texts)
        left, right_ = features_of(recipe)
        both = left.joined(right_)
        gradients[pooling] = {block: both.block(block) for block in both.layout}
        if pooling == own:
            chosen = extractor
    labels = np.concatenate([train.labels, test.labels])
    rows = np.arange(len(texts))
    objectives = FungiConfig.from_dict(read_recipe(f"{data}-minilm-{own}")["config"]).objectives
    return Case(
        name=name,
        extractor=chosen,
        labels=labels,
        groups=None,
        splits=[(rows[:n], rows[n:])],
        scans=scans,
        gradients=gradients,
        search=TuningSearch(objectives=objectives),
        paper=paper_of(f"{data}-minilm-{own}-paper", n, labels),
    )


def read_recipe(name: str) -> dict[str, Any]:
    """Read the recipe of a text experiment."""
    found: dict[str, Any] = json.loads((HERE / f"configs/{name}.json").read_text("utf-8"))
    return found


def features_of(recipe: dict[str, Any]) -> tuple[FungiFeatures, FungiFeatures]:
    """Read the features that the recipe's last run left, or extract them."""
    result = HERE / f"results/{recipe['name']}.json"
    if result.exists():
        mark = json.loads(result.read_text("utf-8"))["fingerprint"]
        paths = [CACHE / f"{recipe['name']}-{s}-{mark}.safetensors" for s in ("train", "test")]
        if all(path.exists() for path in paths):
            return FungiFeatures.load(paths[0]), FungiFeatures.load(paths[1])
    train, test, _ = text_recipe.extract(recipe, CACHE)
    return train, test


def paper_of(name: str, n_train: int, labels: np.ndarray) -> tuple[Any, Any, Any]:
    """Classify as published, on the rows that the paper preset was run on."""
    recipe = read_recipe(name)
    train, test = features_of(recipe)
    wanted = recipe.get("rows") or {}
    rows = spread(n_train, wanted.get("train"))
    queries = n_train + spread(len(labels) - n_train, wanted.get("test"))
    left, right_ = (torch.from_numpy(features.array) for features in (train, test))
    if recipe["pca"] < min(left.shape):
        pca = PrincipalComponents.fit(left, recipe["pca"])
        left, right_ = pca.transform(left), pca.transform(right_)
    similarity = right_ @ left.T - (left**2).sum(1) / 2  # ranks as the Euclidean distance does
    return rows, queries, protocol.predict(similarity.numpy(), labels[rows]) == labels[queries]


def spread(n: int, wanted: int | None) -> np.ndarray:
    """Give the rows that `Split.head` takes."""
    if wanted is None or wanted >= n:
        return np.arange(n)
    return np.linspace(0, n - 1, wanted).round().astype(int)


def audio_case(name: str, folder: Path, model: str) -> Case:
    """Compute, or read back, everything of a sound case."""
    import pyarrow.parquet

    fold_column, group_column = SOUNDS[name]
    path = folder / name / f"{name}.parquet"
    sounds = audio_recipe.read(path, fold_column)
    groups = pyarrow.parquet.read_table(path, columns=[group_column])[group_column].to_pylist()
    config = FungiConfig(objectives=(KL(), Activation()))
    extractor = FungiExtractor.from_pretrained(model, config)
    pooling = extractor.encoder.pooling
    found = audio_recipe.extract(sounds, model, config, CACHE)
    rows = np.arange(len(sounds.files))
    folds = [sounds.folds == fold for fold in sorted(set(sounds.folds))]
    return Case(
        name=name,
        extractor=extractor,
        labels=np.unique(sounds.labels, return_inverse=True)[1],
        groups=np.array(list(map(str, groups))),
        splits=[(rows[~fold], rows[fold]) for fold in folds],
        scans={pooling: scanned(f"{name}-whisper", extractor, sounds.files)},
        gradients={pooling: {block: found.block(block) for block in found.layout}},
        search=TuningSearch(objectives=config.objectives),
        notes=["no SimCLR on sounds: 12 views of 30-s windows would take hours on 2 cores"],
    )


def scanned(name: str, extractor: FungiExtractor, inputs: list[Any]) -> Blocks:
    """Scan all inputs, or read the scan back."""
    path = CACHE / f"{name}-scan-{extractor.fingerprint}.npz"
    if not path.exists():
        encoder = extractor.encoder
        items = [encoder.check(raw, place) for place, raw in enumerate(inputs)]
        found = scan(encoder, items, sibling_layers(encoder, 12), extractor.budget)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **found)
    with np.load(path) as stored:
        return {block: stored[block] for block in stored.files}


def summary(cases: list[dict[str, Any]]) -> dict[str, Any]:
    """Average over cases; list where a tuned choice is significantly worse than a baseline."""
    result: dict[str, Any] = {}
    for name in ("fixed", "free"):
        gains = [
            {
                b: one["tests"][name][b]["difference"]
                for b in ("embedding", "activation", "paper")
                if b in one["tests"][name]
            }
            for one in cases
        ]
        hard = [
            g["embedding"] for g, c in zip(gains, cases, strict=True) if "mean" not in c["case"]
        ]
        result[name] = {
            "mean_gain_over_best_baseline": float(np.mean([min(g.values()) for g in gains])),
            "mean_gain_over_embedding_cls_and_sounds": float(np.mean(hard)) if hard else None,
            "significantly_worse": [
                f"{one['case']} against {b}"
                for one in cases
                for b, test in one["tests"][name].items()
                if test["difference"] < 0 and test["p"] < 0.05
            ],
        }
    return result


def main() -> None:
    """Run the cases named on the command line; others keep their results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=TEXTS, help=", ".join([*TEXTS, *SOUNDS]))
    parser.add_argument("--audio", type=Path, help="folder of fsdd/ and esc10/")
    parser.add_argument("--whisper", help="Whisper model: folder or Hub id")
    parser.add_argument("--out", type=Path, default=HERE / "results/tuning.json")
    options = parser.parse_args()
    done: dict[str, dict[str, Any]] = {}
    if options.out.exists():
        done = {one["case"]: one for one in json.loads(options.out.read_text("utf-8"))["cases"]}
    for name in options.cases:
        if name in SOUNDS:
            done[name] = judge(audio_case(name, options.audio, options.whisper))
        else:
            done[name] = judge(text_case(name))
        cases = [done[key] for key in (*TEXTS, *SOUNDS) if key in done]
        text = json.dumps({"cases": cases, "summary": summary(cases)}, indent=1)
        options.out.write_text(text + "\n", encoding="utf-8")
        print(name, {k: round(100 * v, 1) for k, v in done[name]["accuracy"].items()}, flush=True)
        for kind, some in done[name]["chosen"].items():
            print("  ", kind, some[0]["features"], some[0]["pooling"], some[0]["layer"],
                  some[0]["blocks"], some[0]["components"], flush=True)  # fmt: skip
    print(json.dumps(summary(cases), indent=1))


if __name__ == "__main__":
    main()
