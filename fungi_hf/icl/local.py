"""A transformers causal model that scores every label, or writes one of them.

The prompt is computed once for all labels, and the model is left as it was found.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from fungi_hf.checks import check_choice, check_integer
from fungi_hf.errors import ConfigError, InputError, InputTypeError
from fungi_hf.icl.model import LLM
from fungi_hf.icl.reply import Reply, Usage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fungi_hf.icl.prompt import Prompt
    from fungi_hf.icl.scoring import Encoded
    from fungi_hf.icl.task import Task
    from fungi_hf.types import Float64Array

Calibration = Literal["contextual", "batch"]
LocalOutput = Literal["score", "generate"]
Reduce = Literal["sum", "mean"]
CONTENT_FREE: tuple[str, ...] = ("N/A", "", "[MASK]")  # Zhao et al. 2021


class LocalLLM(LLM):
    """A causal language model in this process.

    Prompts go through the tokenizer's chat template if it has one; else build them with
    `style="completion"`.

    Args:
        model: A transformers causal model, on its device.
        tokenizer: Its tokenizer, with an end token.
        output: "score" takes the label with the highest log probability; "generate" decodes
            greedily among the labels' tokens only.
        reduce: "sum" adds the log probabilities of a label's tokens, "mean" averages them.
        calibration: None; "contextual" (three content-free inputs with the query's own
            demonstrations, or those of the prompts given to `calibrate`); or "batch" (the mean
            prediction on the prompts given to `calibrate`).
        max_batch_tokens: Most tokens, cached ones included, in one forward pass.

    Raises:
        ConfigError: If a choice is unknown, or scores are needed and not computed.
    """

    batch_size = 16  # rows between two journal entries
    scores_labels = True

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        output: LocalOutput = "score",
        reduce: Reduce = "sum",
        calibration: Calibration | None = None,
        max_batch_tokens: int = 1 << 15,
    ) -> None:
        check_choice("output", output, get_args(LocalOutput))
        check_choice("reduce", reduce, get_args(Reduce))
        if calibration is not None:
            check_choice("calibration", calibration, get_args(Calibration))
            if output != "score":
                raise ConfigError(f"calibration={calibration!r} needs label scores: output='score'")
        self.max_batch_tokens = check_integer("max_batch_tokens", max_batch_tokens)
        if not (hasattr(model, "forward") and hasattr(model, "config")) or not callable(tokenizer):
            raise ConfigError("model and tokenizer must be a transformers causal model and its own")
        if getattr(tokenizer, "eos_token_id", None) is None:
            raise ConfigError("the tokenizer has no end token, so labels cannot be told apart")
        self.model, self.tokenizer = model, tokenizer
        self.output, self.reduce, self.calibration = output, reduce, calibration
        self._reference: Float64Array | None = None

    @property
    def name(self) -> str:
        """Kind and model."""
        return f"local:{getattr(self.model.config, 'name_or_path', '') or 'model'}"

    def describe(self) -> dict[str, object]:
        """Give everything that an answer depends on, for a run's record."""
        reference, scores = self._reference, None
        if reference is not None:
            scores = hashlib.sha256(np.round(reference, 6).tobytes()).hexdigest()
        return {
            "kind": "local",
            "model": self.name,
            "weights": self._weights,
            "output": self.output,
            "reduce": self.reduce,
            "calibration": self.calibration,
            "calibration_rows": None if reference is None else len(reference),
            "calibration_scores": scores,
        }

    def calibrate(self, prompts: Sequence[Prompt], labels: Task) -> None:
        """Learn what the model says whatever the text is.

        For "batch" give e.g. prompts of training texts, to which `select` does not show themselves;
        for "contextual" prompts whose query is replaced by content-free inputs, averaged over all.

        Raises:
            ConfigError: If there is no calibration to be fitted.
            InputError: If there are no prompts.
        """
        if self.calibration is None:
            raise ConfigError("calibration is None; choose 'batch' or 'contextual' first")
        if not prompts:
            raise InputError("calibrate needs at least one prompt")
        if self.calibration == "contextual":
            prompts = [free for prompt in prompts for free in content_free(prompt)]
        encoded = [self.encode(prompt, labels) for prompt in prompts]
        with _undisturbed(self.model):
            self._reference = np.stack([self._scores(one) for one in encoded])

    async def answer(self, prompt: Prompt, labels: Task) -> Reply:
        """Answer one prompt."""
        return self.answer_batch([prompt], labels)[0]

    def answer_batch(self, prompts: Sequence[Prompt], labels: Task) -> list[Reply]:
        """Answer prompts with labels, the longest first so that a lack of memory shows at once.

        A prompt that is longer than the model's positions gets the finish reason "overflow".

        Raises:
            ConfigError: If "batch" calibration was not given its prompts.
        """
        if self.calibration == "batch" and self._reference is None:
            raise ConfigError(
                "calibration='batch' needs prompts to average over: call calibrate(prompts, "
                "labels) first, e.g. with prompts of training texts"
            )
        encoded = [self.encode(prompt, labels) for prompt in prompts]
        order = sorted(range(len(prompts)), key=lambda i: -encoded[i].longest)
        with _undisturbed(self.model):
            replies = {i: self._answer(prompts[i], encoded[i], labels) for i in order}
        return [replies[i] for i in range(len(prompts))]

    def encode(self, prompt: Prompt, labels: Task) -> Encoded:
        """Give the prompt with each label after it, as tokens.

        Raises:
            ConfigError: If there are no labels.
            InputError: If there is no chat template and the style is not "completion", or the
                prompt has no token in common for all labels.
        """
        from fungi_hf.icl.scoring import split_shared

        if not labels.surfaces:
            raise ConfigError("a LocalLLM scores or chooses labels, and free answers have none")
        is_raw = prompt.style == "completion"
        if is_raw:
            words = prompt.text + " "
        elif getattr(self.tokenizer, "chat_template", None):
            words = self.tokenizer.apply_chat_template(
                list(prompt.messages), tokenize=False, add_generation_prompt=True
            )
        else:
            raise InputError(
                f"the tokenizer has no chat template for style {prompt.style!r}; build prompts "
                "with style='completion'"
            )
        texts = [words + surface for surface in labels.surfaces]
        end = self.tokenizer.eos_token_id
        batch = self.tokenizer(texts, add_special_tokens=is_raw)["input_ids"]
        encoded = split_shared([[*ids, end] if ids[-1] != end else ids for ids in batch])
        if not encoded.prefix:
            raise InputError("the prompt has no tokens that come before every label")
        return encoded

    def _answer(self, prompt: Prompt, encoded: Encoded, labels: Task) -> Reply:
        most = getattr(self.model.config, "max_position_embeddings", None)
        if most is not None and encoded.longest > most:
            return Reply(finish_reason="overflow")
        scores = None
        if self.output == "generate":
            from fungi_hf.icl.scoring import constrained_choice

            label = constrained_choice(self.model, encoded)
        else:
            sums = self._scores(encoded)
            scores = tuple(map(float, sums))
            label = int(np.argmax(self._calibrated(sums, prompt, labels)))
        usage = Usage(input_tokens=len(encoded.prefix), output_tokens=encoded.lengths[label])
        words, name = labels.surfaces[label], self.name
        return Reply(content=words, usage=usage, model=name, label_scores=scores, attempts=1)

    def _scores(self, encoded: Encoded) -> Float64Array:
        from fungi_hf.icl.scoring import shared_prefix_scores

        sums = shared_prefix_scores(self.model, encoded, self.max_batch_tokens)
        return sums / np.array(encoded.lengths) if self.reduce == "mean" else sums

    def _calibrated(self, scores: Float64Array, prompt: Prompt, labels: Task) -> Float64Array:
        if self.calibration is None:
            return scores
        from fungi_hf.icl.scoring import batch, contextual

        if self.calibration == "batch":
            return batch(scores[None], self._reference)[0]
        free = self._reference
        if free is None:
            own = [self.encode(one, labels) for one in content_free(prompt)]
            free = np.stack([self._scores(one) for one in own])
        return contextual(scores[None], free)[0]

    @functools.cached_property
    def _weights(self) -> str:
        """Give a digest of all weights; computed once, since they are not to change."""
        from fungi_hf.storage.files import tensor_digest

        return tensor_digest(self.model.state_dict())


def content_free(prompt: Prompt) -> list[Prompt]:
    """Give the prompt three times, its query replaced by each content-free input.

    Raises:
        InputTypeError: If the query is audio.
    """
    *before, last = prompt.messages
    content = last["content"]
    if not isinstance(content, str):
        raise InputTypeError("there is no content-free audio; use calibration='batch'")
    contents = CONTENT_FREE
    if prompt.style != "multiturn":
        # Texts are JSON strings on one line, so the last `Text:` line is the query's.
        lines = content.split("\n")
        at = max(i for i, line in enumerate(lines) if line.startswith("Text: "))
        filled = [f"Text: {json.dumps(words)}" for words in contents]
        contents = tuple("\n".join([*lines[:at], line, *lines[at + 1 :]]) for line in filled)
    return [
        replace(prompt, messages=(*before, {**last, "content": content})) for content in contents
    ]


@contextlib.contextmanager
def _undisturbed(model: Any) -> Iterator[None]:
    """Use the model in evaluation mode and put every module's mode back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
