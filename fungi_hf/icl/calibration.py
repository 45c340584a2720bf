"""Calibration of label scores: what a model prefers before it has read the text is taken out.

Pure functions on arrays [n, C] of log scores (natural logarithm, any constant per row); the label
is the argmax of what they return, ties to the lowest id.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from fungi_hf.errors import InputError, InputTypeError, ShapeError

if TYPE_CHECKING:
    import numpy.typing as npt

    from fungi_hf.types import Float64Array as Scores

Calibration = Literal["contextual", "batch"]
CONTENT_FREE: tuple[str, ...] = ("N/A", "", "[MASK]")  # Zhao et al. 2021
_LEAST = 1e-12


def probabilities(scores: npt.ArrayLike) -> Scores:
    """Return the softmax over labels, along the last axis."""
    checked = _checked(scores, "scores")
    shifted = np.exp(checked - checked.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def contextual(scores: npt.ArrayLike, content_free: npt.ArrayLike) -> Scores:
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
    return np.asarray(checked - np.log(np.maximum(prior, _LEAST)))


def batch(scores: npt.ArrayLike, reference: npt.ArrayLike | None = None) -> Scores:
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
    return np.asarray(checked - np.log(np.maximum(prior, _LEAST)))


def _checked(scores: npt.ArrayLike | None, name: str, n_axes: int | None = None) -> Scores:
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
