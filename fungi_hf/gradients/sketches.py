"""Random projections of a gradient to P numbers: linear in G, unbiased, seeded by name.

Every sketch takes factors and never needs G in full unless it is a dense one, which then forms
it for a bounded block of samples and draws its own matrix in row blocks.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Final, Protocol

import torch

from fungi_hf.errors import ConfigError, ShapeError, choices
from fungi_hf.seeding import normal, numpy_generator, torch_generator, uniform

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from fungi_hf.gradients.tape import LayerFactors

_BLOCK_BYTES: Final = 128 * 2**20  # of one block of matrix rows, and of one block of gradients


class Sketch(Protocol):
    """A fixed random linear map of per-sample gradients.

    `E<sketch(G), sketch(G')> = <G, G'>` over the seeds.
    """

    width: int

    def __call__(self, factors: LayerFactors) -> Tensor:
        """Give [B, width], in the factors' dtype."""

    def digest(self) -> str:
        """Give a digest of the random numbers, equal wherever the features are."""


def make_sketch(
    kind: str, m: int, n1: int, width: int, *, seed: int, rank: int = 4, published: bool = False
) -> Sketch:
    """Build a sketch by name.

    Args:
        kind: "khatri_rao", "rademacher", "gaussian" or "sparse".
        m: Rows of G.
        n1: Columns of G, the bias column included.
        width: P.
        seed: Root seed; the kind's name separates the streams.
        rank: Terms s of `khatri_rao`.
        published: The published code's sign stream (only "rademacher").

    Returns:
        The sketch.

    Raises:
        ConfigError: If the kind is unknown.
    """
    if kind == "khatri_rao":
        return KhatriRao(m, n1, width, rank=rank, seed=seed)
    if kind in DenseSketch.KINDS:
        return DenseSketch(kind, m, n1, width, seed=seed, published=published)
    raise ConfigError(f"sketch is {choices(kind, ('khatri_rao', *DenseSketch.KINDS))}")


class KhatriRao:
    """Sums of products of two sign projections; costs s R P (m + n1), never forms G.

    Formula: y_k = (P s)^-1/2 sum_{j<s} sum_rows (delta . U_kj) ([a;1] . W_kj), with U, W of +-1.
    Variance of ||y||^2: at most (2 + 6 rho / s) / P of ||G||^4.
    """

    def __init__(self, m: int, n1: int, width: int, *, rank: int, seed: int) -> None:
        """Draw U [m, P s] and W [n1, P s]."""
        self.width, self.rank = width, rank
        self.U = _signs(m, width * rank, seed, "khatri_rao/U")
        self.W = _signs(n1, width * rank, seed, "khatri_rao/W")

    def __call__(self, factors: LayerFactors) -> Tensor:
        """Give [B, P]."""
        delta, a = factors.delta, factors.a
        U, W = self._matrices(delta)
        _check_shape(factors, len(U), len(W))
        product = delta @ U  # [R, P s]
        if factors.bias:
            product *= torch.addmm(W[-1], a, W[:-1])
        else:
            product *= a @ W
        if len(product) != factors.n_samples or not _is_range(factors.owner):
            summed = product.new_zeros(factors.n_samples, product.shape[1])
            product = summed.index_add_(0, factors.owner, product)
        y = product.view(factors.n_samples, self.width, self.rank).sum(-1)
        return y.mul_(1 / math.sqrt(self.width * self.rank))

    def _matrices(self, like: Tensor) -> tuple[Tensor, Tensor]:
        if self.U.dtype != like.dtype or self.U.device != like.device:
            self.U, self.W = self.U.to(like), self.W.to(like)
        return self.U, self.W

    def digest(self) -> str:
        """Digest of both sign matrices."""
        return _digest(self.U, self.W)


class DenseSketch:
    """A dense random matrix of P rows against vec(G), drawn and applied in row blocks.

    Attributes:
        KINDS: "rademacher" (+-1), "gaussian", "sparse" (sqrt 3 x {+1, 0, -1} with probabilities
            1/6, 2/3, 1/6; Achlioptas).
    """

    KINDS: Final = ("rademacher", "gaussian", "sparse")

    def __init__(
        self, kind: str, m: int, n1: int, width: int, *, seed: int, published: bool = False
    ) -> None:
        """Remember the shape and the stream; nothing is drawn yet."""
        self.kind, self.width, self.seed, self.published = kind, width, seed, published
        self._m, self._n1 = m, n1
        self._matrix: Tensor | None = None

    def materialise(self) -> Tensor:
        """Draw the matrix [P, m n1] whole and keep it: faster, P m n1 x 4 bytes."""
        if self._matrix is None:
            self._matrix = torch.cat(list(self._rows()))
        return self._matrix

    def _rows(self) -> Iterator[Tensor]:
        """Give blocks of consecutive rows, [c, m n1] float32."""
        if self._matrix is not None:
            yield self._matrix
            return
        columns = self._m * self._n1
        step = max(1, _BLOCK_BYTES // (4 * columns))
        stream = torch.Generator().manual_seed(self.seed) if self.published else None
        for start in range(0, self.width, step):
            n_rows = min(step, self.width - start)
            if stream is not None:  # one stream: row blocks continue it exactly
                block = uniform(stream, n_rows, columns)
                yield (block > 0.5).to(block.dtype).mul_(2).sub_(1)
            else:
                yield torch.stack([self._row(start + k, columns) for k in range(n_rows)])

    def _row(self, k: int, columns: int) -> Tensor:
        name = f"{self.kind}/{k}"
        if self.kind == "gaussian":
            return normal(numpy_generator(self.seed, name), columns)
        draw = uniform(torch_generator(self.seed, name), columns)
        if self.kind == "rademacher":
            return (draw > 0.5).to(draw.dtype).mul_(2).sub_(1)
        signs = (draw < 1 / 6).to(draw.dtype) - (draw >= 5 / 6).to(draw.dtype)
        return signs.mul_(math.sqrt(3))

    def __call__(self, factors: LayerFactors) -> Tensor:
        """Give [B, P] in one pass over the matrix; G is formed again for each of its row blocks."""
        _check_shape(factors, self._m, self._n1)
        step = max(1, _BLOCK_BYTES // (4 * self._m * self._n1))
        blocks = [
            (start, _sample_range(factors, start, min(start + step, factors.n_samples)))
            for start in range(0, factors.n_samples, step)
        ]
        y = factors.delta.new_empty(factors.n_samples, self.width)
        column = 0
        for rows in self._rows():
            matrix = rows.to(y)
            for start, block in blocks:
                part = y[start : start + block.n_samples, column : column + len(matrix)]
                part.copy_(_gradients(block) @ matrix.T)
            column += len(matrix)
        return y.mul_(1 / math.sqrt(self.width))

    def digest(self) -> str:
        """Digest of the first block's first row and of the kind: the stream's fingerprint."""
        first = self._first_row()
        return f"{self.kind}:{_digest(first)}"

    def _first_row(self) -> Tensor:
        columns = self._m * self._n1
        if not self.published:
            return self._row(0, columns)
        stream = torch.Generator().manual_seed(self.seed)
        return (uniform(stream, 1, columns) > 0.5).float().mul_(2).sub_(1)[0]


def _gradients(factors: LayerFactors) -> Tensor:
    """Give vec(G) [B, m n1] by one matmul per sample with several rows, else an outer product."""
    inputs, delta, owner = factors.inputs, factors.delta, factors.owner
    if len(owner) == factors.n_samples and _is_range(owner):
        return (delta[:, :, None] * inputs[:, None, :]).flatten(1)
    order = torch.argsort(owner, stable=True)
    counts = torch.bincount(owner, minlength=factors.n_samples).tolist()
    deltas, rows = delta[order].split(counts), inputs[order].split(counts)
    return torch.stack([(d.T @ r).flatten() for d, r in zip(deltas, rows, strict=True)])


def _sample_range(factors: LayerFactors, start: int, stop: int) -> LayerFactors:
    from fungi_hf.gradients.tape import LayerFactors

    if start == 0 and stop == factors.n_samples:
        return factors
    rows = ((factors.owner >= start) & (factors.owner < stop)).nonzero()[:, 0]
    return LayerFactors(
        delta=factors.delta[rows],
        a=factors.a[rows],
        owner=factors.owner[rows] - start,
        n_samples=stop - start,
        bias=factors.bias,
    )


def _is_range(owner: Tensor) -> bool:
    return bool(torch.equal(owner, torch.arange(len(owner), device=owner.device)))


def _check_shape(factors: LayerFactors, m: int, n1: int) -> None:
    got = (factors.delta.shape[1], factors.a.shape[1] + factors.bias)
    if got != (m, n1):
        raise ShapeError(f"the sketch was drawn for gradients of shape {(m, n1)}; got {got}")


def _signs(rows: int, columns: int, seed: int, name: str) -> Tensor:
    draw = uniform(torch_generator(seed, name), rows, columns)
    return (draw > 0.5).to(draw.dtype).mul_(2).sub_(1)


def _digest(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(str(tuple(tensor.shape)).encode())
        data = tensor.detach().to("cpu", torch.float32).contiguous()
        digest.update(data.numpy().tobytes())
    return digest.hexdigest()[:16]
