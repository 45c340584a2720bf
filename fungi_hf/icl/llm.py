"""What a language model is to this package, and the models and records that come with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from fungi_hf.icl.chat import ChatLLM
from fungi_hf.icl.limits import Limits
from fungi_hf.icl.reply import Reply, Usage
from fungi_hf.icl.retry import RequestFailedError
from fungi_hf.icl.sampling import Sampling

if TYPE_CHECKING:
    from fungi_hf.icl.labels import LabelSpace
    from fungi_hf.icl.prompt import Prompt

__all__ = ["LLM", "ChatLLM", "Limits", "Reply", "RequestFailedError", "Sampling", "Usage"]


@runtime_checkable
class LLM(Protocol):
    """Anything that answers prompts.

    `evaluate` uses more methods where they exist: `prompt_output(labels)`, `check(prompts)`,
    `key(prompt, labels, draw)`, `describe()`, `aclose()`, `answer_batch(prompts, labels)`.
    """

    @property
    def name(self) -> str:
        """A short name for records."""

    async def answer(self, prompt: Prompt, labels: LabelSpace) -> Reply:
        """Answer one prompt.

        Raise `RequestFailedError` if this row failed for good and others may go on.
        """
