"""A gradient as a sum of outer products: held, cut, normalised, compressed, compared."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch

from fungi_hf.devices import sent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from fungi_hf.types import Float32Array

_SAMPLES: Final = 64  # whose gradients are formed in full at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerFactors:
    """Per-sample gradients as sums of outer products, never materialised.

    `G_i = sum over the rows r with owner[r] == i of  delta[r] (x) [a[r]; 1]`, the 1 only with
    `bias`. Rows are float32 or float64; a sample without rows has a zero gradient.

    Attributes:
        delta: [R, m] gradient of the loss at the layer's output.
        a: [R, n] the layer's input at the same tokens.
        owner: [R] int64 on the CPU, the sample of each row, so that nothing that follows from it
            waits for a device.
        n_samples: B.
        bias: Whether the layer has a bias, whose gradient is the last column of G.
    """

    delta: Tensor
    a: Tensor
    owner: Tensor
    n_samples: int
    bias: bool

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n1) of one gradient."""
        return self.delta.shape[1], self.a.shape[1] + self.bias

    @property
    def inputs(self) -> Tensor:
        """[R, n1]: `a` with a constant 1 appended when the layer has a bias."""
        if not self.bias:
            return self.a
        return torch.cat([self.a, self.a.new_ones(len(self.a), 1)], dim=1)

    @property
    def has_one_row_each(self) -> bool:
        """Whether row i is the one row of sample i."""
        return torch.equal(self.owner, torch.arange(self.n_samples))

    def by_sample(self, rows: Tensor) -> Sequence[Tensor]:
        """Cut rows [R, width] into those of each sample, in their order."""
        order = torch.argsort(self.owner, stable=True)
        counts = torch.bincount(self.owner, minlength=self.n_samples).tolist()
        return rows[sent(order, rows.device)].split(counts)

    def samples(self, start: int, stop: int) -> LayerFactors:
        """Give the gradients of samples start to stop - 1."""
        if start == 0 and stop == self.n_samples:
            return self
        rows = ((self.owner >= start) & (self.owner < stop)).nonzero()[:, 0]
        there = sent(rows, self.delta.device)
        return dataclasses.replace(
            self,
            delta=self.delta[there],
            a=self.a[there],
            owner=self.owner[rows] - start,
            n_samples=stop - start,
        )

    def placed(self, places: Tensor, n_samples: int) -> LayerFactors:
        """Give the same gradients as those of the samples at `places` [B] among more."""
        return dataclasses.replace(self, owner=places[self.owner], n_samples=n_samples)

    def materialise(self) -> Tensor:
        """Give G in full, [B, m, n1]; the bias is the last column of each row."""
        G = self.delta.new_zeros(self.n_samples, *self.shape)
        rows = self.delta[:, :, None] * self.inputs[:, None, :]
        return G.index_add_(0, sent(self.owner, G.device), rows)


def concatenate(parts: Sequence[LayerFactors]) -> LayerFactors:
    """Join factors of one layer and the same samples; owners keep their meaning."""
    return dataclasses.replace(
        parts[0],
        delta=torch.cat([part.delta for part in parts]),
        a=torch.cat([part.a for part in parts]),
        owner=torch.cat([part.owner for part in parts]),
    )


def unit_rows(rows: Tensor) -> Tensor:
    """L2-normalise rows; an all-zero row stays zero.

    Divided by their largest entry first: squares of small gradients underflow, and an absolute
    epsilon would change directions.
    """
    largest = rows.abs().amax(-1, keepdim=True)
    scaled = rows / largest.where(largest > 0, 1)
    norm = scaled.norm(dim=-1, keepdim=True)
    return scaled / norm.where(norm > 0, 1)


def compress(factors: LayerFactors, rank: int) -> tuple[Tensor, Tensor]:
    """Keep each sample's leading `rank` singular terms, scaled to a gradient of unit norm.

    Formula: with Delta^T = Q1 R1 and A^T = Q2 R2, G = Q1 (R1 R2^T) Q2^T; the terms are the
    singular triplets of the small product. Exact when a sample has at most `rank` rows. Gives
    [B, r (m + n1)]: r vectors of length m, then r of length n1, zero-padded; and [B], the share of
    the squared norm that was dropped.
    """
    delta, inputs = factors.delta, factors.inputs
    n, (m, n1) = factors.n_samples, factors.shape
    packed = delta.new_zeros(n, rank * (m + n1))
    if factors.has_one_row_each:
        live = (delta != 0).any(-1, keepdim=True)
        packed[:, :m] = unit_rows(delta)
        packed[:, rank * m : rank * m + n1] = unit_rows(inputs) * live
    if factors.has_one_row_each or not len(delta):  # without rows all gradients are zero
        return packed, delta.new_zeros(n)
    left, right = (  # [B, R, m], [B, R, n1], with zero rows where a sample has fewer than R
        torch.nn.utils.rnn.pad_sequence(list(factors.by_sample(rows)), batch_first=True)
        for rows in (delta, inputs)
    )
    # A common scale per sample changes nothing after normalisation and keeps squares in range.
    scale = left.abs().amax((1, 2), keepdim=True)
    left = left / scale.where(scale > 0, 1)
    q1, r1 = torch.linalg.qr(left.double().transpose(1, 2))
    q2, r2 = torch.linalg.qr(right.double().transpose(1, 2))
    u, s, vh = torch.linalg.svd(r1 @ r2.transpose(1, 2), full_matrices=False)
    kept = min(rank, s.shape[1])
    energy = s.square().sum(-1)
    lost = s[:, kept:].square().sum(-1) / energy.where(energy > 0, 1)
    s = s[:, :kept] / s[:, :kept].norm(dim=-1, keepdim=True).where(energy[:, None] > 0, 1)
    d_terms = (q1 @ u[:, :, :kept]).transpose(1, 2) * s[:, :, None].sqrt()  # [B, r, m]
    a_terms = (q2 @ vh.transpose(1, 2)[:, :, :kept]).transpose(1, 2) * s[:, :, None].sqrt()
    sign = d_terms.gather(2, d_terms.abs().argmax(2, keepdim=True)).sign()
    packed[:, : kept * m] = (d_terms * sign).flatten(1).to(delta.dtype)
    packed[:, rank * m : rank * m + kept * n1] = (a_terms * sign).flatten(1).to(delta.dtype)
    return packed, lost.to(delta.dtype)


def exact_cosines(first: LayerFactors, second: LayerFactors) -> Float32Array:
    """Give the cosines of exact gradients, without a sketch.

    Formula: <G_i, G_j> = sum over rows r of i and s of j of <delta_r, delta_s> <a_r, a_s>, in
    float64; 0 where a gradient is zero. Gives [B, B'] for two records of one layer.
    """
    device = first.delta.device
    table = first.delta.new_zeros(first.n_samples, second.n_samples, dtype=torch.float64)
    owners = sent(first.owner, device), sent(second.owner, device)
    delta, inputs = second.delta.double(), second.inputs.double()
    step = max(1, (1 << 24) // max(1, len(second.owner)))
    for start in range(0, len(first.owner), step):
        part = slice(start, start + step)
        products = (first.delta[part].double() @ delta.T) * (first.inputs[part].double() @ inputs.T)
        summed = products.new_zeros(len(products), second.n_samples)
        summed.index_add_(1, owners[1], products)
        table.index_add_(0, owners[0][part], summed)
    scale = _norms(first)[:, None] * _norms(second)[None]
    return (table / scale.where(scale > 0, 1)).float().cpu().numpy()


def _norms(factors: LayerFactors) -> Tensor:
    """Give the norm of every sample's gradient, [B] float64."""
    norms = factors.delta.new_zeros(factors.n_samples, dtype=torch.float64)
    for start in range(0, factors.n_samples, _SAMPLES):
        stop = min(start + _SAMPLES, factors.n_samples)
        part = factors.samples(start, stop)
        part = dataclasses.replace(part, delta=part.delta.double(), a=part.a.double())
        norms[start:stop] = part.materialise().flatten(1).norm(dim=1)
    return norms
