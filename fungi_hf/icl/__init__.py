"""Demonstrations for LLM prompts: select, show, ask, score.

Importing this package loads neither an LLM client nor a model library; most names are loaded when
they are first used.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING

# Two modules are named like their function: imported here, the function wins for good.
from fungi_hf.icl.compare import compare
from fungi_hf.icl.evaluate import evaluate

if TYPE_CHECKING:
    from fungi_hf.icl.examples import Examples
    from fungi_hf.icl.fake_server import FakeOpenAIServer
    from fungi_hf.icl.labels import LabelSpace
    from fungi_hf.icl.llm import ChatLLM
    from fungi_hf.icl.local import LocalLLM
    from fungi_hf.icl.prompt import PromptBuilder
    from fungi_hf.icl.selector import DemoSelector
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
    "FakeOpenAIServer": "fake_server",
    "LabelSpace": "labels",
    "LocalLLM": "local",
    "PromptBuilder": "prompt",
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


class _Package(ModuleType):
    """Keeps the functions `compare` and `evaluate` from being hidden by the modules they live in.

    The import system sets a submodule as an attribute of its package once it is loaded.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if isinstance(value, ModuleType) and _HOMES.get(name) == name:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
