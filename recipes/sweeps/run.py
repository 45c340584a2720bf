"""Run one sweep over a text set and write its JSON and a page of its figures.

python -m recipes.sweeps.run recipes/sweeps/layers-banking77-minilm-cls.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from fungi_hf.config import FungiConfig
from fungi_hf.evaluation.report.documents import EvaluationDocument
from fungi_hf.evaluation.report.sections import write_report
from fungi_hf.evaluation.sweeps.layers import SweepData, sweep_layers, sweep_objective
from fungi_hf.evaluation.sweeps.sketches import sweep_sketches
from fungi_hf.extractor import FungiExtractor
from recipes.run import model_folder, splits

RESULTS = Path(__file__).parent.parent / "results"


def run(recipe: dict[str, Any]) -> dict[str, Any]:
    """Give the sweep of one recipe, as JSON."""
    config = FungiConfig.from_dict(recipe["config"])
    extractor = FungiExtractor.from_pretrained(model_folder(recipe["model"]), config)
    train, test = splits(recipe)
    data = SweepData(
        train=train.texts,
        train_labels=train.labels,
        test=test.texts,
        test_labels=test.labels,
        progress=True,
    )
    options = dict(recipe.get("options") or {})
    if recipe["sweep"] == "layers":
        found = sweep_layers(extractor, data, **options)
    elif recipe["sweep"] == "sketches":
        found = sweep_sketches(extractor, data, **options)
    else:
        found = sweep_objective(extractor, data, recipe["sweep"], **options)
    return found.to_dict()


def main() -> None:
    """Run the recipes named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipes", nargs="+", type=Path, help="recipe files")
    parser.add_argument("--pages", type=Path, default=Path("out/pages"))
    options = parser.parse_args()
    for path in options.recipes:
        recipe = json.loads(path.read_text(encoding="utf-8"))
        found = run(recipe)
        text = json.dumps(found, indent=1) + "\n"
        (RESULTS / f"sweep-{recipe['name']}.json").write_text(text, encoding="utf-8")
        options.pages.mkdir(parents=True, exist_ok=True)
        page = options.pages / f"{recipe['name']}.html"
        write_report(page, EvaluationDocument.from_dict(found), title=recipe["name"])
        print(f"{recipe['name']}: {len(found['rows'])} rows; figures in {page}")


if __name__ == "__main__":
    main()
