"""Demonstrations for LLM prompts: select, show, ask, score.

Importing this package loads neither an LLM client nor a model library.
"""

from fungi_hf.icl.answers import FreeAnswers
from fungi_hf.icl.chat import ChatLLM
from fungi_hf.icl.comparison import compare
from fungi_hf.icl.diversity import vote_k_pool
from fungi_hf.icl.examples import Examples
from fungi_hf.icl.labels import LabelSpace
from fungi_hf.icl.local import LocalLLM
from fungi_hf.icl.prompt import PromptBuilder
from fungi_hf.icl.run import aevaluate, evaluate
from fungi_hf.icl.selector import DemoSelector
from fungi_hf.icl.server.fake_server import FakeOpenAIServer

__all__ = [
    "ChatLLM",
    "DemoSelector",
    "Examples",
    "FakeOpenAIServer",
    "FreeAnswers",
    "LabelSpace",
    "LocalLLM",
    "PromptBuilder",
    "aevaluate",
    "compare",
    "evaluate",
    "vote_k_pool",
]
