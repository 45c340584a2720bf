"""Give recorded results the fingerprints that their features have now.

    FUNGI_DATA=folder-of-data-sets python -m recipes.relabel

For a change of what a fingerprint digests, not of what is computed: extractors are fitted again,
numbers stay. A fitted state differs between processors in its last bits, and the fingerprint with
it: a recorded fingerprint is that of the machine that wrote it last.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fungi_hf import FungiConfig, FungiExtractor
from recipes.run import fitted, model_folder, splits

RESULTS = Path(__file__).parent / "results"


def relabelled(document: dict[str, Any]) -> dict[str, str]:
    """Give recorded fingerprint -> today's, for what one file of results holds."""
    if "fingerprint" in document:
        recipe = document["recipe"]
        return {document["fingerprint"]: fitted(recipe, splits(recipe)[0]).fingerprint}
    recorded = {name.partition(":")[0] for name in document.get("fingerprints", {}).values()}
    if not recorded:
        return {}
    recipe = document["recipe"]
    config = FungiConfig(**recipe["fungi"])
    extractor = FungiExtractor.from_pretrained(model_folder(recipe["encoder"]), config)
    if not extractor.is_fitted:
        raise SystemExit(f"{recipe['name']}: run recipes.icl.run again; its config wants a fit")
    return dict.fromkeys(recorded, extractor.fingerprint)


def main() -> None:
    """Replace the fingerprints in place, and nothing else."""
    for path in sorted(RESULTS.glob("*.json")):
        text = path.read_text(encoding="utf-8")
        document = json.loads(text)
        for old, new in relabelled(document).items() if isinstance(document, dict) else ():
            text = text.replace(old, new)
            path.write_text(text, encoding="utf-8")
            print(f"{path.name}: {old} -> {new}")


if __name__ == "__main__":
    main()
