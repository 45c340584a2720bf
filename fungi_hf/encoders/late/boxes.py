"""Late views of images: a rectangle of the grid of patches stays in the last blocks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from fungi_hf.checks import check_known, check_number
from fungi_hf.encoders.base import Prepared
from fungi_hf.encoders.late.sound import LateTokens
from fungi_hf.errors import ConfigError

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping, Sequence

    from fungi_hf.encoders.base import PreparedViews


class LateBoxes:
    """Views that keep the patches of one random rectangle of the grid, and all prefix tokens.

    The late twin of a random crop: the rectangle's share of the patches is uniform in `scale`, its
    aspect log-uniform from 3:4 to 4:3 of the grid's, its place uniform. Patches keep the positions
    that they were embedded with. With k = L a view is the full computation on a part of the
    patches, as masked autoencoders are trained.
    """

    def __init__(
        self,
        n_views: int,
        options: Mapping[str, Any],
        blocks: int,
        *,
        grid: tuple[int, int],
        prefix: int,
    ) -> None:
        """Remember the option "scale", by default (0.25, 1).

        Raises:
            ConfigError: If it is no range of shares, or there is another option.
        """
        check_known("the view 'box'", options, ("scale",), noun="option")
        scale = options.get("scale", (0.25, 1.0))
        if not isinstance(scale, (tuple, list)) or len(scale) != 2 or scale[0] > scale[1]:
            raise ConfigError(f"scale must be a pair (lowest, highest) of areas; got {scale!r}")
        low, high = (check_number(f"scale[{i}]", item, 1e-4, 1) for i, item in enumerate(scale))
        self._scale, self._n_views, self._blocks = (low, high), n_views, blocks
        self._grid, self._prefix = grid, prefix

    def __call__(
        self,
        raws: Sequence[Any],
        originals: Sequence[Prepared],
        generators: Sequence[random.Random],
    ) -> list[list[Prepared]]:
        """Give V views of every picture."""
        del raws
        return [
            [self._view(original, generator) for _ in range(self._n_views)]
            for original, generator in zip(originals, generators, strict=True)
        ]

    def _view(self, original: Prepared, generator: random.Random) -> Prepared:
        rows, columns = self._grid
        share = generator.uniform(*self._scale)
        bend = math.exp(generator.uniform(math.log(3 / 4), math.log(4 / 3)))
        height = min(rows, max(1, round(rows * math.sqrt(share / bend))))
        width = min(columns, max(1, round(columns * math.sqrt(share * bend))))
        top = generator.randint(0, rows - height)
        left = generator.randint(0, columns - width)
        if (height, width) == self._grid:
            return original
        kept = np.zeros(self._grid, dtype=np.bool_)
        kept[top : top + height, left : left + width] = True
        patches = kept.ravel().nonzero()[0] + self._prefix
        positions = np.concatenate([np.arange(self._prefix), patches])
        key = b"late%d:" % self._blocks + positions.tobytes()
        return Prepared(positions, len(positions), key, late=self._blocks)


def late_boxes(
    name: str,
    n_views: int,
    options: Mapping[str, Any],
    blocks: int,
    *,
    grid: tuple[int, int],
    prefix: int,
) -> PreparedViews:
    """Give late views of a grid by name: "box" (also "auto") or "token_drop".

    Raises:
        ConfigError: If the name or an option is unknown.
    """
    if name in ("auto", "box"):
        return LateBoxes(n_views, options, blocks, grid=grid, prefix=prefix)
    if name == "token_drop":
        n_tokens = prefix + grid[0] * grid[1]
        return LateTokens(lambda _: (prefix, n_tokens), n_views, options, blocks, span=1)
    raise ConfigError(
        f"late_views drops patches from the hidden state: views must be 'box', 'token_drop' or "
        f"'auto'; got {name!r}"
    )
