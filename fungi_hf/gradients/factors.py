"""Exact gradients kept as a few factor pairs instead of a sketch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

from fungi_hf.features import unit_rows
from fungi_hf.gradients.tape import LayerFactors

if TYPE_CHECKING:
    from torch import Tensor

    from fungi_hf.types import Float32Array

_SAMPLES: Final = 64  # whose gradients are formed in full at a time


def compress(factors: LayerFactors, rank: int) -> tuple[Tensor, Tensor]:
    """Keep each sample's leading `rank` singular terms, scaled to a gradient of unit norm.

    Formula: with Delta^T = Q1 R1 and A^T = Q2 R2, G = Q1 (R1 R2^T) Q2^T; the terms are the
    singular triplets of the small product. Exact when a sample has at most `rank` rows.

    Args:
        factors: B samples.
        rank: r.

    Returns:
        [B, r (m + n1)]: r vectors of length m, then r of length n1, zero-padded; and [B], the
        share of the squared norm that was dropped.
    """
    delta, inputs = factors.delta, factors.inputs
    n, m, n1 = factors.n_samples, delta.shape[1], inputs.shape[1]
    if len(factors.owner) == n and torch.equal(
        factors.owner, torch.arange(n, device=factors.owner.device)
    ):
        packed = delta.new_zeros(n, rank * (m + n1))
        live = (delta != 0).any(-1, keepdim=True)
        packed[:, :m] = unit_rows(delta)
        packed[:, rank * m : rank * m + n1] = unit_rows(inputs) * live
        return packed, delta.new_zeros(n)
    if not len(delta):  # all gradients are zero
        return delta.new_zeros(n, rank * (m + n1)), delta.new_zeros(n)
    left, right = _padded(factors, delta), _padded(factors, inputs)  # [B, R, m], [B, R, n1]
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
    packed = delta.new_zeros(n, rank * (m + n1))
    packed[:, : kept * m] = (d_terms * sign).flatten(1).to(delta.dtype)
    packed[:, rank * m : rank * m + kept * n1] = (a_terms * sign).flatten(1).to(delta.dtype)
    return packed, lost.to(delta.dtype)


def _padded(factors: LayerFactors, rows: Tensor) -> Tensor:
    """Give [B, R, width] with zero rows where a sample has fewer than R."""
    order = torch.argsort(factors.owner, stable=True)
    counts = torch.bincount(factors.owner, minlength=factors.n_samples).tolist()
    return torch.nn.utils.rnn.pad_sequence(rows[order].split(counts), batch_first=True)


def exact_cosines(first: LayerFactors, second: LayerFactors) -> Float32Array:
    """Give the cosines of exact gradients, without a sketch.

    Formula: <G_i, G_j> = sum over rows r of i and s of j of <delta_r, delta_s> <a_r, a_s>, in
    float64; 0 where a gradient is zero.

    Args:
        first: Gradients of B samples of one layer.
        second: Of B' samples of the same layer.

    Returns:
        [B, B'].
    """
    table = torch.zeros(first.n_samples, second.n_samples, dtype=torch.float64)
    delta, inputs = second.delta.double(), second.inputs.double()
    step = max(1, (1 << 24) // max(1, len(second.owner)))
    for start in range(0, len(first.owner), step):
        part = slice(start, start + step)
        products = (first.delta[part].double() @ delta.T) * (first.inputs[part].double() @ inputs.T)
        summed = torch.zeros(len(products), second.n_samples, dtype=torch.float64)
        summed.index_add_(1, second.owner, products)
        table.index_add_(0, first.owner[part], summed)
    scale = _norms(first)[:, None] * _norms(second)[None]
    cosines: Float32Array = (table / scale.where(scale > 0, 1)).float().numpy()
    return cosines


def _norms(factors: LayerFactors) -> Tensor:
    """Give the norm of every sample's gradient, [B] float64."""
    norms = torch.zeros(factors.n_samples, dtype=torch.float64)
    for start in range(0, factors.n_samples, _SAMPLES):
        stop = min(start + _SAMPLES, factors.n_samples)
        rows = ((factors.owner >= start) & (factors.owner < stop)).nonzero()[:, 0]
        part = LayerFactors(
            delta=factors.delta[rows].double(),
            a=factors.a[rows].double(),
            owner=factors.owner[rows] - start,
            n_samples=stop - start,
            bias=factors.bias,
        )
        norms[start:stop] = part.materialise().flatten(1).norm(dim=1)
    return norms
