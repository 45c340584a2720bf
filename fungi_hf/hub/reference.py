"""A `config.json` for folders that hold our files and no model: it points to the encoder.

transformers reads `config.json` before anything else; without one it cannot even tell that a
folder is ours. The file is written only where there is none, and never where a model lives.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

MODEL_TYPE: Final = "fungi"
TASK: Final = "fungi-feature-extraction"  # in the `config.json` of a saved pipeline


def reference_text(encoder: str) -> str:
    """Give the content of the `config.json` that points to an encoder."""
    return json.dumps({"model_type": MODEL_TYPE, "fungi_encoder": encoder}, indent=2) + "\n"


def is_reference(path: Path) -> bool:
    """Whether a `config.json` is ours and not a model's."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and document.get("model_type") == MODEL_TYPE


def register_reference() -> None:
    """Let `transformers.AutoConfig` read the reference; done once."""
    from transformers import AutoConfig, PreTrainedConfig

    class FungiReferenceConfig(PreTrainedConfig):
        """What `AutoConfig` gives for a folder that points to its encoder."""

        model_type = MODEL_TYPE

    AutoConfig.register(MODEL_TYPE, FungiReferenceConfig, exist_ok=True)
