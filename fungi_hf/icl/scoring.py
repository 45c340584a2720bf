"""Scores of labels after a prompt, which is computed once, and the calibration of such scores.

`naive_scores` is the slow twin: one full forward pass per label, obviously right. Calibrations take
out what a model prefers before it reads the text: pure functions of [n, C] log scores (in nats, any
constant per row). The label is the argmax of what they return, ties to the lowest id.
"""

from __future__ import annotations

import copy
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import DynamicCache

from fungi_hf.errors import InputError, InputTypeError, ShapeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from fungi_hf.types import Float64Array


@dataclass(frozen=True, slots=True)
class Encoded:
    """One prompt with every label after it, as tokens."""

    prefix: tuple[int, ...]  # what all labels' sequences share, at least one token
    suffixes: tuple[tuple[int, ...], ...]  # [C] the rest, end token included; none is empty

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return len(self.prefix) + max(map(len, self.suffixes))

    @property
    def lengths(self) -> list[int]:
        """[C] tokens of each label that are scored."""
        return [len(suffix) for suffix in self.suffixes]


def split_shared(sequences: Sequence[Sequence[int]]) -> Encoded:
    """Cut [C] token sequences, none a prefix of another, after their longest common prefix."""
    # Whole sequences: the tokenizer may merge the prompt's last letters with the label's first.
    rows = [tuple(sequence) for sequence in sequences]
    first, last = min(rows), max(rows)  # what these two share, all share
    shared = 0
    while shared < min(len(first), len(last)) - 1 and first[shared] == last[shared]:
        shared += 1
    return Encoded(first[:shared], tuple(row[shared:] for row in rows))


def _forward(
    model: Any, tokens: torch.Tensor, mask: torch.Tensor, cache: Any = None, keep: int = 0
) -> Any:
    """Run the model on new tokens [B, S] after what the cache holds; mask is [B, P + S]."""
    options: dict[str, Any] = {"use_cache": keep == 1 or cache is not None}
    past, accepted = mask.shape[1] - tokens.shape[1], inspect.signature(model.forward).parameters
    if "position_ids" in accepted:
        steps = torch.arange(past, mask.shape[1], device=tokens.device)
        options["position_ids"] = steps.expand(len(tokens), -1)
    if keep and "logits_to_keep" in accepted:
        options["logits_to_keep"] = keep
    if cache is not None:
        options["past_key_values"] = cache
    return model(input_ids=tokens, attention_mask=mask, **options)


def _sequence_scores(
    logits: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Add the log probabilities of the targets: [B, S, V], [B, S], [B, S] -> [B] float64."""
    wanted = logits.gather(-1, targets[..., None])[..., 0].double()  # [B, S]
    return ((wanted - torch.logsumexp(logits.double(), dim=-1)) * mask).sum(dim=1)


def _padded(rows: Sequence[Sequence[int]], device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad on the right: tokens and mask, both [B, S]."""
    width = max(map(len, rows))
    tokens = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
    return tokens, mask


def shared_prefix_scores(model: Any, encoded: Encoded, max_batch_tokens: int) -> Float64Array:
    """Give [C] log p(label | prompt) in nats, summed over the label's tokens.

    One forward pass over the prefix, its key-value cache repeated per label, one padded pass over
    the suffixes (several if cached and new tokens exceed `max_batch_tokens`). The model is in
    evaluation mode.
    """
    with torch.no_grad():
        prefix = torch.tensor([encoded.prefix], device=model.device)  # [1, P]
        start = _forward(model, prefix, torch.ones_like(prefix), keep=1)
        cache = start.past_key_values
        if not isinstance(cache, DynamicCache):
            return naive_scores(model, encoded, max_batch_tokens)
        first = torch.log_softmax(start.logits[0, -1].double(), dim=-1)  # [V]
        at_once = max(1, max_batch_tokens // encoded.longest)
        chunks = range(0, len(encoded.suffixes), at_once)
        scores = []
        for begin in chunks:
            tokens, mask = _padded(encoded.suffixes[begin : begin + at_once], first.device)
            scores.append(first[tokens[:, 0]])  # the prefix's last position predicts the first
            if tokens.shape[1] > 1:
                own = cache if begin == chunks[-1] else copy.deepcopy(cache)
                own.batch_repeat_interleave(len(tokens))
                before = mask.new_ones(len(tokens), len(encoded.prefix))
                seen = torch.cat([before, mask[:, :-1]], dim=1)  # [C, P + S - 1]
                logits = _forward(model, tokens[:, :-1], seen, own).logits  # [C, S - 1, V]
                scores[-1] = scores[-1] + _sequence_scores(logits, tokens[:, 1:], mask[:, 1:])
        return np.asarray(torch.cat(scores).cpu().numpy(), dtype=np.float64)


def naive_scores(model: Any, encoded: Encoded, max_batch_tokens: int) -> Float64Array:
    """Give the same as `shared_prefix_scores` by full forward passes over every sequence."""
    at_once, n_prefix = max(1, max_batch_tokens // encoded.longest), len(encoded.prefix)
    scores = []
    with torch.no_grad():
        for begin in range(0, len(encoded.suffixes), at_once):
            rows = [encoded.prefix + s for s in encoded.suffixes[begin : begin + at_once]]
            tokens, mask = _padded(rows, model.device)  # [C, P + S]
            logits = _forward(model, tokens, mask).logits[:, n_prefix - 1 : -1]
            scores.append(_sequence_scores(logits, tokens[:, n_prefix:], mask[:, n_prefix:]))
    return np.asarray(torch.cat(scores).cpu().numpy(), dtype=np.float64)


def constrained_choice(model: Any, encoded: Encoded) -> int:
    """Give the label that greedy decoding through the tree of the labels' tokens ends in."""
    alive, depth = list(range(len(encoded.suffixes))), 0
    fresh, cache, n_seen = list(encoded.prefix), None, 0
    with torch.no_grad():
        while True:
            options = sorted({encoded.suffixes[label][depth] for label in alive})
            chosen = options[0]
            if len(options) > 1:
                tokens = torch.tensor([fresh], device=model.device)
                n_seen += len(fresh)
                mask = torch.ones(1, n_seen, dtype=torch.long, device=model.device)
                out = _forward(model, tokens, mask, cache, keep=1)
                cache, fresh = out.past_key_values, []
                logits = out.logits[0, -1, torch.tensor(options, device=model.device)]
                chosen = options[int(logits.argmax())]
            alive = [label for label in alive if encoded.suffixes[label][depth] == chosen]
            if len(alive) == 1:
                return alive[0]
            fresh.append(chosen)
            depth += 1


def probabilities(scores: npt.ArrayLike) -> Float64Array:
    """Return the softmax over labels, along the last axis."""
    checked = _checked(scores, "scores")
    shifted = np.exp(checked - checked.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def contextual(scores: npt.ArrayLike, content_free: npt.ArrayLike) -> Float64Array:
    """Take out what the model says without content: [n, C] -> [n, C] (Zhao et al. 2021).

    Formula: z_i(y) - ln p_cf(y), p_cf the mean over the content-free inputs of their softmax,
    clipped at 1e-12. `content_free` is [n, M, C], M inputs with each query's own demonstrations,
    or [M, C] if one set serves all queries.

    Raises:
        ShapeError: If the shapes do not fit.
    """
    checked, free = _checked(scores, "scores", 2), _checked(content_free, "content_free")
    outer = free.shape[:-2] in ((), checked.shape[:1]) and free.ndim > 1  # one set, or one a row
    if not outer or free.shape[-1] != checked.shape[1] or not free.shape[-2]:
        raise ShapeError(
            f"content_free has shape {free.shape}, scores {checked.shape}; "
            "[n, M, C] or [M, C] with the same n and C is needed"
        )
    prior = probabilities(free).mean(axis=-2)  # [n, C] or [C]
    return np.asarray(checked - np.log(np.maximum(prior, 1e-12)))


def batch(scores: npt.ArrayLike, reference: npt.ArrayLike | None = None) -> Float64Array:
    """Take out the mean prediction over many texts: [n, C] -> [n, C] (Zhou et al. 2024).

    Formula: z_i(y) - ln mean_j p_j(y), the mean clipped at 1e-12 and taken over `reference` [R, C],
    e.g. of training texts with leave-one-out prompts; None takes the scores (transductive).

    Raises:
        ShapeError: If the numbers of labels differ.
    """
    checked = _checked(scores, "scores", 2)
    basis = checked if reference is None else _checked(reference, "reference", 2)
    if basis.shape[1] != checked.shape[1]:
        raise ShapeError(f"reference has shape {basis.shape}, scores {checked.shape}")
    prior = probabilities(basis).mean(axis=0)
    return np.asarray(checked - np.log(np.maximum(prior, 1e-12)))


def _checked(scores: npt.ArrayLike | None, name: str, n_axes: int | None = None) -> Float64Array:
    # An array of log scores: -inf is a score, NaN and +inf are not.
    origin = "label scores come from LocalLLM(output='score'), or from a server with top_logprobs"
    if scores is None:
        raise InputTypeError(f"{name} are missing; {origin}")
    try:
        array = np.asarray(scores, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputTypeError(f"{name} are not numbers for every label; {origin}") from None
    if array.ndim < 1 or not array.size:
        raise ShapeError(f"{name} have shape {array.shape}; at least one row and label are needed")
    if n_axes is not None and array.ndim != n_axes:
        raise ShapeError(f"{name} have shape {array.shape}; [n, C] is needed")
    if np.isnan(array).any() or (array == np.inf).any():
        raise InputError(f"{name} hold NaN or +Inf; log scores are finite or -Inf")
    if (array == -np.inf).all(axis=-1).any():
        raise InputError(f"{name} have rows in which every label is at -Inf")
    return array
