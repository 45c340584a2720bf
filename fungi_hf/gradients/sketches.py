"""Random projections of a gradient to P numbers: linear in G, unbiased, seeded by name.

`E<sketch(G), sketch(G')> = <G, G'>` over the seeds. Every sketch takes factors and never needs G in
full unless it is a dense one, which then forms it for a bounded block of samples and draws its own
matrix in row blocks.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

import torch

from fungi_hf.devices import sent
from fungi_hf.errors import ConfigError, ShapeError, choices
from fungi_hf.gradients.factors import concatenate
from fungi_hf.seeding import normal, numpy_generator, torch_generator, uniform

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from fungi_hf.gradients.factors import LayerFactors

# Of one block of matrix rows, of one block of gradients, and of factors that wait for them.
_BLOCK_BYTES: Final = 128 * 2**20


def make_sketch(
    kind: str, m: int, n1: int, width: int, *, seed: int, rank: int = 4, published: bool = False
) -> Sketch:
    """Build a sketch of gradients [m, n1], the bias column included, to `width` numbers.

    `rank` is the s of "khatri_rao", `published` the published code's sign stream of "rademacher".

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
        self.width, self.rank = width, rank
        # [m, P s] and [n1, P s]
        self.U = _signs(uniform(torch_generator(seed, "khatri_rao/U"), m, width * rank))
        self.W = _signs(uniform(torch_generator(seed, "khatri_rao/W"), n1, width * rank))

    def __call__(self, factors: LayerFactors) -> Tensor:
        """Give [B, P]."""
        _check_shape(factors, len(self.U), len(self.W))
        delta, a = factors.delta, factors.a
        if self.U.dtype != delta.dtype or self.U.device != delta.device:
            self.U, self.W = (sent(M, delta.device).to(delta.dtype) for M in (self.U, self.W))
        W, product = self.W, delta @ self.U  # [R, P s]
        product *= torch.addmm(W[-1], a, W[:-1]) if factors.bias else a @ W
        if not factors.has_one_row_each:
            summed = product.new_zeros(factors.n_samples, product.shape[1])
            product = summed.index_add_(0, sent(factors.owner, delta.device), product)
        y = product.view(factors.n_samples, self.width, self.rank).sum(-1)
        return y.mul_(1 / math.sqrt(self.width * self.rank))

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
        self.kind, self.width, self.seed, self.published = kind, width, seed, published
        self._m, self._n1, self._step = m, n1, max(1, _BLOCK_BYTES // (4 * m * n1))
        self._matrix: Tensor | None = None

    def materialise(self) -> Tensor:
        """Draw the matrix [P, m n1] whole and keep it: faster, P m n1 x 4 bytes."""
        if self._matrix is None:
            self._matrix = torch.cat(list(self._rows(self._step)))
        return self._matrix

    def _rows(self, step: int) -> Iterator[Tensor]:
        """Give blocks of `step` consecutive rows, [step, m n1] float32, or the matrix it keeps."""
        if self._matrix is not None:
            yield self._matrix
            return
        columns = self._m * self._n1
        stream = torch.Generator().manual_seed(self.seed) if self.published else None
        for start in range(0, self.width, step):
            n_rows = min(step, self.width - start)
            if stream is not None:  # one stream: row blocks continue it exactly
                yield _signs(uniform(stream, n_rows, columns))
            else:
                yield torch.stack([self._row(start + k, columns) for k in range(n_rows)])

    def _row(self, k: int, columns: int) -> Tensor:
        name = f"{self.kind}/{k}"
        if self.kind == "gaussian":
            return normal(numpy_generator(self.seed, name), columns)
        draw = uniform(torch_generator(self.seed, name), columns)
        if self.kind == "rademacher":
            return _signs(draw)
        signs = (draw < 1 / 6).to(draw.dtype) - (draw >= 5 / 6).to(draw.dtype)
        return signs.mul_(math.sqrt(3))

    def __call__(self, factors: LayerFactors) -> Tensor:
        """Give [B, P] in one pass over the matrix; G is formed again for each of its row blocks."""
        _check_shape(factors, self._m, self._n1)
        blocks = [
            (start, factors.samples(start, min(start + self._step, factors.n_samples)))
            for start in range(0, factors.n_samples, self._step)
        ]
        y = factors.delta.new_empty(factors.n_samples, self.width)
        column = 0
        for rows in self._rows(self._step):
            matrix = sent(rows, y.device).to(y.dtype)
            for start, block in blocks:
                part = y[start : start + block.n_samples, column : column + len(matrix)]
                part.copy_(_gradients(block) @ matrix.T)
            column += len(matrix)
        return y.mul_(1 / math.sqrt(self.width))

    def digest(self) -> str:
        """Digest of the first block's first row and of the kind: the stream's fingerprint."""
        return f"{self.kind}:{_digest(next(self._rows(1))[0])}"


Sketch: TypeAlias = KhatriRao | DenseSketch


@dataclass(slots=True, eq=False)
class SketchBuffer:
    """Sketches factors into rows of an output; those of a dense sketch wait for one another.

    A dense sketch draws its matrix anew for every call, however many samples it is for.
    """

    sketch: Sketch
    out: Tensor  # [N, P] float32
    rounded: bool = False  # to bfloat16
    _waiting: list[tuple[Tensor, LayerFactors]] = field(default_factory=list, init=False)
    _bytes: int = field(default=0, init=False)

    def add(self, rows: Tensor, factors: LayerFactors) -> None:
        """Take the factors of the samples whose vectors belong at `rows` of the output."""
        if isinstance(self.sketch, KhatriRao):
            self._write(rows, factors)
            return
        self._waiting.append((rows, factors))
        row_bytes = factors.delta.shape[1] + factors.a.shape[1]
        self._bytes += len(factors.owner) * row_bytes * factors.delta.element_size()
        if self._bytes > _BLOCK_BYTES:
            self.flush()

    def flush(self) -> None:
        """Sketch what is waiting."""
        if not self._waiting:
            return
        rows = torch.cat([some for some, _ in self._waiting])
        places = torch.arange(len(rows)).split([len(some) for some, _ in self._waiting])
        parts = zip(self._waiting, places, strict=True)
        moved = [factors.placed(at, len(rows)) for (_, factors), at in parts]
        self._write(rows, concatenate(moved))
        self._waiting, self._bytes = [], 0

    def _write(self, rows: Tensor, factors: LayerFactors) -> None:
        y = self.sketch(factors)
        there = sent(rows, self.out.device)
        self.out[there] = (y.bfloat16() if self.rounded else y).to(self.out)


def _gradients(factors: LayerFactors) -> Tensor:
    """Give vec(G) [B, m n1] by one matmul per sample with several rows, else an outer product."""
    inputs, delta = factors.inputs, factors.delta
    if factors.has_one_row_each:
        return (delta[:, :, None] * inputs[:, None, :]).flatten(1)
    pairs = zip(factors.by_sample(delta), factors.by_sample(inputs), strict=True)
    return torch.stack([(d.T @ a).flatten() for d, a in pairs])


def _check_shape(factors: LayerFactors, m: int, n1: int) -> None:
    got = (factors.delta.shape[1], factors.a.shape[1] + factors.bias)
    if got != (m, n1):
        raise ShapeError(f"the sketch was drawn for gradients of shape {(m, n1)}; got {got}")


def _signs(draw: Tensor) -> Tensor:
    """Turn uniform numbers into +1 and -1."""
    return (draw > 0.5).to(draw.dtype).mul_(2).sub_(1)


def _digest(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(str(tuple(tensor.shape)).encode())
        data = tensor.detach().to("cpu", torch.float32).contiguous()
        digest.update(data.numpy().tobytes())
    return digest.hexdigest()[:16]
