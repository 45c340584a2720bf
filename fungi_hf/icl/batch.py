"""Batch files: what a provider is to answer overnight, written out and read back into a run.

A request's line is named by the key of the request, so that an answer finds its row whatever order
the provider answers in, and an answer to another request is never taken.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fungi_hf.errors import InputError, LLMError, RequestFailedError, StorageError
from fungi_hf.icl.faults import Failure, read_answer
from fungi_hf.icl.model import LLM
from fungi_hf.storage.files import replacing
from fungi_hf.tables import read_rows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fungi_hf.icl.chat import ChatLLM
    from fungi_hf.icl.plan import PlannedPrompt
    from fungi_hf.icl.prompt import Prompt
    from fungi_hf.icl.reply import Reply
    from fungi_hf.icl.sampling import OutputMode
    from fungi_hf.icl.task import Task

_URL = "/v1/chat/completions"


def write_batch(path: str | Path, llm: ChatLLM, todo: Sequence[PlannedPrompt], labels: Task) -> int:
    """Write the requests of prompts as OpenAI's batch format has them; give their number.

    Equal requests are written once. A line is {"custom_id", "method", "url", "body"}; `url` is the
    endpoint's path. Prompts over the budget have no request.

    Raises:
        StorageError: If the file cannot be written.
    """
    lines = {}
    for one in todo:
        if one.prompt.messages:
            body, key = llm.request(one.prompt, labels)
            lines[key] = {"custom_id": key, "method": "POST", "url": _URL, "body": body}
    try:
        with replacing(Path(path)) as part, part.open("w", encoding="ascii") as stream:
            stream.writelines(json.dumps(line, allow_nan=False) + "\n" for line in lines.values())
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error}") from None
    return len(lines)


def read_batch(paths: Sequence[str | Path]) -> dict[str, dict[str, Any]]:
    """Read answer files, also the provider's files of errors; of two answers the later counts.

    Raises:
        InputError: If a line has no `custom_id`.
    """
    found: dict[str, dict[str, Any]] = {}
    for path in paths:
        for number, row in enumerate(read_rows(path)):
            if not isinstance(row.get("custom_id"), str):
                raise InputError(
                    f"{path}: row {number} has no custom_id; a batch's answer has the form "
                    '{"custom_id": ..., "response": {"status_code": 200, "body": {...}}}'
                )
            found[row["custom_id"]] = row
    return found


class AnsweredLLM(LLM):
    """A chat model whose answers are at hand; what is not there is a failed row.

    It describes itself as the model that it stands for, so that a run folder takes both.
    """

    def __init__(self, llm: ChatLLM, answers: Mapping[str, Mapping[str, Any]]) -> None:
        self._llm, self._answers = llm, answers
        self._used: set[str] = set()
        self.limits = llm.limits

    @property
    def name(self) -> str:
        """The name of the model."""
        return self._llm.name

    def describe(self) -> dict[str, object]:
        """Give what the model itself gives."""
        return self._llm.describe()

    def prompt_output(self, labels: Task) -> OutputMode:
        """Give the form of answers of the model."""
        return self._llm.prompt_output(labels)

    async def answer(self, prompt: Prompt, labels: Task) -> Reply:
        """Give the answer of the files.

        Raises:
            RequestFailedError: If there is none, or it is an error.
            LLMError: If the provider refused for good.
        """
        _, key = self._llm.request(prompt, labels)
        row = self._answers.get(key)
        if row is None:
            raise RequestFailedError("the batch files have no answer to this request", 0)
        response = row.get("response") or {}
        status = response.get("status_code")
        if row.get("error") and not response:
            status, body = 500, {"error": row["error"]}
        else:
            body = response.get("body") or {}
        content = json.dumps(body).encode()
        outcome = read_answer(status if isinstance(status, int) else 200, {}, content, self.limits)
        if isinstance(outcome, Failure) and outcome.kind in ("retry", "row"):
            raise RequestFailedError(outcome.message, 1)
        if isinstance(outcome, Failure) and outcome.kind in ("fatal", "auth"):
            raise LLMError(outcome.message)
        reply = self._llm.reply(outcome, labels, 1)
        if key in self._used:  # billed once
            return reply.free()
        self._used.add(key)
        return reply
