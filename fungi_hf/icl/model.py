"""What a language model is to this package: two members to define, defaults for all others.

A base class, not a structural protocol: a model written today still runs when `evaluate` asks
one thing more tomorrow.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from fungi_hf.errors import ConfigError
from fungi_hf.icl.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fungi_hf.icl.prompt import Prompt
    from fungi_hf.icl.reply import Reply
    from fungi_hf.icl.sampling import OutputMode
    from fungi_hf.icl.task import Task


class LLM(ABC):
    """A language model that answers prompts; an own model derives from it.

    `name` and `answer` are to be defined. `evaluate` asks for the others too and asks for nothing
    else; their defaults describe a model that answers one prompt at a time in plain text.

    Attributes:
        limits: How many prompts are asked at once (`concurrency`), and the statuses that a
            resumed run asks again (`ask_again`).
        batch_size: Prompts that `answer_batch` takes at once; None sends every prompt through
            `answer`.
        scores_labels: Labels are scored after the prompt, so prompts keep room for the longest.

    Example:
        >>> class Parrot(LLM):
        ...     name = "parrot"
        ...
        ...     async def answer(self, prompt, labels):
        ...         return Reply(content=prompt.messages[-2]["content"])
    """

    limits: Limits = Limits()
    batch_size: ClassVar[int | None] = None
    scores_labels: ClassVar[bool] = False

    @property
    @abstractmethod
    def name(self) -> str:
        """A short name for records; a class attribute or a property."""

    @abstractmethod
    async def answer(self, prompt: Prompt, labels: Task) -> Reply:
        """Answer one prompt; `prompt.draw` numbers the repetition.

        `labels` is the task: a `LabelSpace`, or `FreeAnswers`, which has no `surfaces`.

        One without a readable answer is a reply too, see `Reply.failure`. Raise
        `RequestFailedError` if this row failed for good and others may go on; any other `LLMError`
        stops the run.
        """

    def answer_batch(
        self,
        prompts: Sequence[Prompt],  # noqa: ARG002 - for subclasses
        labels: Task,  # noqa: ARG002
    ) -> list[Reply]:
        """Answer up to `batch_size` prompts, in their order; needed where that is set.

        Raises:
            ConfigError: If a class sets `batch_size` and does not define this.
        """
        raise ConfigError(
            f"{type(self).__name__} sets batch_size={self.batch_size} without answer_batch; define "
            "it, or leave batch_size at None"
        )

    def prompt_output(self, labels: Task) -> OutputMode:  # noqa: ARG002 - for subclasses
        """Give the form of answers that prompts should show."""
        return "text"

    @property
    def max_output_tokens(self) -> int:
        """The most tokens of an answer, for a dry run; 0 if the model does not say."""
        return 0

    def describe(self) -> dict[str, object]:
        """Give everything that an answer depends on, for a run's record; no secrets."""
        return {"name": self.name}

    def check(self, prompts: Sequence[Prompt]) -> None:  # noqa: B027 - nothing to refuse
        """Raise what can be known to fail before the first of these prompts is asked."""

    def is_cached(self, prompt: Prompt, labels: Task) -> bool:  # noqa: ARG002
        """Say whether the answer is known already, so that nothing would be sent."""
        return False

    async def aclose(self) -> None:  # noqa: B027 - nothing to close
        """Close what belongs to the running event loop; the next answer opens it again."""
