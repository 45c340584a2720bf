"""Gradients waiting for a dense sketch, whose matrix is drawn once for many samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fungi_hf.gradients.tape import LayerFactors, concatenate

if TYPE_CHECKING:
    from torch import Tensor

    from fungi_hf.gradients.sketches import Sketch

_BUFFER_BYTES: Final = 128 * 2**20


class SketchBuffer:
    """Collects factors of one block and sketches them together into rows of an output."""

    def __init__(self, sketch: Sketch, out: Tensor, *, rounded: bool) -> None:
        """Write into `out`, [N, P] float32, rounded to bfloat16 if asked."""
        self._sketch, self._out, self._rounded = sketch, out, rounded
        self._rows: list[Tensor] = []
        self._parts: list[LayerFactors] = []
        self._bytes = 0

    def add(self, rows: Tensor, factors: LayerFactors) -> None:
        """Take the factors of the samples whose vectors belong at `rows` of the output."""
        self._rows.append(rows)
        self._parts.append(factors)
        row_bytes = factors.delta.shape[1] + factors.a.shape[1]
        self._bytes += len(factors.owner) * row_bytes * factors.delta.element_size()
        if self._bytes > _BUFFER_BYTES:
            self.flush()

    def flush(self) -> None:
        """Sketch what is waiting."""
        if not self._parts:
            return
        n_samples = sum(part.n_samples for part in self._parts)
        shifted, start = [], 0
        for part in self._parts:
            shifted.append(
                LayerFactors(
                    delta=part.delta,
                    a=part.a,
                    owner=part.owner + start,
                    n_samples=n_samples,
                    bias=part.bias,
                )
            )
            start += part.n_samples
        y = self._sketch(concatenate(shifted)).float().cpu()
        if self._rounded:
            y = y.bfloat16().float()
        place = 0
        for rows in self._rows:
            self._out[rows] = y[place : place + len(rows)]
            place += len(rows)
        self._rows, self._parts, self._bytes = [], [], 0
