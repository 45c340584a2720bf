"""Sums over rows that add up over parts: what means, whitening and components are learned from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from fungi_hf.errors import ShapeError, StateError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """Sums over y = x - centre of rows x [n, width], float64; q is y . y."""

    n: int
    centre: Tensor  # [width], near the mean, so that nothing cancels
    y: Tensor  # [width]
    yy: Tensor  # [width, width]; [0, 0] where no products are kept, and the last three are 0 then
    qy: Tensor  # [width]
    q: Tensor  # []
    qq: Tensor  # []

    @classmethod
    def of(cls, rows: Tensor, centre: Tensor | None = None, *, products: bool) -> Sums:
        """Sum up rows, at least one, by default about their mean, or zero without products.

        The mean is rounded to float32: sums of such numbers are exact in float64 but for extremes,
        and a mean has the same bits then, whatever the order and the parts.
        """
        exact = rows.double()
        if centre is None:
            centre = exact.mean(0).float().double() * products
        y = exact - centre
        n, width = y.shape
        zero = y.new_zeros(())
        if not products:
            return cls(n, centre, y.sum(0), y.new_zeros(0, 0), y.new_zeros(width), zero, zero)
        q = y.square().sum(1)
        return cls(n, centre, y.sum(0), y.T @ y, q @ y, q.sum(), q.square().sum())

    def about(self, centre: Tensor) -> Sums:
        """Give the sums about another centre: y + d, d = the way from the new one to the old."""
        d = self.centre - centre
        size, along, n = d @ d, d @ self.y, self.n
        moved = replace(self, centre=centre, y=self.y + n * d)
        if not self.yy.numel():
            return moved
        cross = torch.outer(self.y, d)
        pushed = self.yy @ d
        q = self.q + 2 * along + n * size
        qq = self.qq + 4 * (d @ self.qy) + 2 * size * self.q + 4 * (d @ pushed)
        return replace(
            moved,
            yy=self.yy + cross + cross.T + n * torch.outer(d, d),
            qy=self.qy + 2 * pushed + size * self.y + q * d,
            q=q,
            qq=qq + 4 * size * along + n * size.square(),
        )

    def __add__(self, other: Sums) -> Sums:
        """Give the sums over both sets of rows, about the first one's centre."""
        same = other if other.centre is self.centre else other.about(self.centre)
        each = {name: getattr(self, name) + getattr(same, name) for name in _ADDED}
        return replace(self, **each)


_ADDED = ("n", "y", "yy", "qy", "q", "qq")


class Moments:
    """What rows [n, width] teach, whatever their number: it grows by `add` and by `merged`.

    With `products` (for covariances) rows are held as they are while they are fewer than columns,
    since they are smaller then; from there on sums are held alone.
    """

    def __init__(self, width: int, *, products: bool) -> None:
        self.width, self.products = width, products
        self._sums: Sums | None = None
        self._rows: list[Tensor] = []
        self._n_rows = 0

    @classmethod
    def of(cls, rows: Tensor, *, products: bool) -> Moments:
        """Take rows [n, width]."""
        found = cls(rows.shape[1], products=products)
        found.add(rows)
        return found

    @property
    def n(self) -> int:
        """How many rows there were."""
        return self._n_rows + (0 if self._sums is None else self._sums.n)

    def add(self, rows: Tensor) -> None:
        """Take rows [n, width]; they are not changed, but held.

        Raises:
            ShapeError: If they have another width.
        """
        if rows.dim() != 2 or rows.shape[1] != self.width:
            raise ShapeError(f"rows have shape {list(rows.shape)}; [N, {self.width}] is needed")
        if not len(rows):
            return
        self._rows.append(rows)
        self._n_rows += len(rows)
        if not self.products or self._n_rows >= self.width:
            self._sums, self._rows, self._n_rows = self.sums(), [], 0

    def merged(self, other: Moments) -> Moments:
        """Give what both sets of rows teach; neither is changed.

        Raises:
            ShapeError: If the other is of another width or keeps other sums.
        """
        if (other.width, other.products) != (self.width, self.products):
            raise ShapeError(
                f"moments of {other.width} columns (products: {other.products}) do not add up with "
                f"moments of {self.width} (products: {self.products})"
            )
        found = Moments(self.width, products=self.products)
        sums = [one._sums for one in (self, other) if one._sums is not None]
        found._sums = sums[0] + sums[1] if len(sums) == 2 else next(iter(sums), None)
        for rows in (*self._rows, *other._rows):
            found.add(rows)
        return found

    @property
    def rows(self) -> Tensor | None:
        """All rows, in the order in which they came, where they are held."""
        return torch.cat(self._rows) if self._sums is None and self._rows else None

    def sums(self) -> Sums:
        """Give the sums over all rows.

        Raises:
            StateError: If there was no row.
        """
        if not self.n:
            raise StateError("there are no rows to learn from")
        if not self._rows:
            return self._sums  # type: ignore[return-value]
        centre = None if self._sums is None else self._sums.centre
        here = Sums.of(torch.cat(self._rows), centre, products=self.products)
        return here if self._sums is None else self._sums + here

    def mean(self) -> Tensor:
        """Give [width] float64."""
        sums = self.sums()
        return (sums.n * sums.centre + sums.y) / sums.n

    def to_tensors(self) -> dict[str, Tensor]:
        """Give plain tensors, the held rows among them."""
        found = {"shape": torch.tensor([self.width, self.products])}
        if self._rows:
            found["rows"] = torch.cat(self._rows)
        if self._sums is not None:
            found |= {name: torch.as_tensor(getattr(self._sums, name)) for name in _FIELDS}
        return found

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Moments:
        """Read what `to_tensors` gave.

        Raises:
            StateError: If it is anything else.
        """
        try:
            width, products = tensors["shape"].tolist()
            found = cls(width, products=bool(products))
            if "n" in tensors:
                values: dict[str, Any] = {name: tensors[name] for name in _FIELDS}
                found._sums = Sums(**values | {"n": int(values["n"])})
            if "rows" in tensors:
                found.add(tensors["rows"])
        except (KeyError, ValueError) as error:
            raise StateError(f"the stored moments lack or spoil a tensor: {error}") from None
        return found


_FIELDS = ("centre", *_ADDED)
