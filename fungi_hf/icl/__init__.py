"""Demonstrations for LLM prompts: select, show, ask, score.

Importing this package loads neither an LLM client nor a model library; most names are loaded when
they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fungi_hf.icl.comparison import compare
    from fungi_hf.icl.examples import Examples
    from fungi_hf.icl.labels import LabelSpace
    from fungi_hf.icl.llm import ChatLLM
    from fungi_hf.icl.local import LocalLLM
    from fungi_hf.icl.prompt import PromptBuilder
    from fungi_hf.icl.run import evaluate
    from fungi_hf.icl.selector import DemoSelector
    from fungi_hf.icl.server.fake_server import FakeOpenAIServer
    from fungi_hf.icl.vote_k import vote_k_pool

__all__ = [
    "ChatLLM",
    "DemoSelector",
    "Examples",
    "FakeOpenAIServer",
    "LabelSpace",
    "LocalLLM",
    "PromptBuilder",
    "compare",
    "evaluate",
    "vote_k_pool",
]

_HOMES = {
    "ChatLLM": "llm",
    "DemoSelector": "selector",
    "Examples": "examples",
    "FakeOpenAIServer": "server.fake_server",
    "LabelSpace": "labels",
    "LocalLLM": "local",
    "PromptBuilder": "prompt",
    "compare": "comparison",
    "evaluate": "run",
    "vote_k_pool": "vote_k",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
