"""What a tuning will cost, said before: passes of the encoder by stage, and seconds of a trial."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from fungi_hf.tuning.scan import scan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fungi_hf.config import FungiConfig
    from fungi_hf.encoders.base import Encoder
    from fungi_hf.extraction.batches import Budget
    from fungi_hf.tuning.search import Space, TuningSearch

TRIAL_ROWS: Final = 24
# What a gradient adds to a plain pass: the pass back, and a layer's sketch (docs/cost.md).
_BACK: Final = 0.6
_LAYER: Final = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What is about to be computed.

    Attributes:
        passes: Stage -> plain forward passes of the rows that judge.
        seconds_a_pass: Of all these rows, from a trial of a few; reading them included.
    """

    passes: Mapping[str, float]
    seconds_a_pass: float

    def __str__(self) -> str:
        total = sum(self.passes.values())
        parts = ", ".join(f"{stage} {count:.1f}" for stage, count in self.passes.items())
        seconds = max(1, round(total * self.seconds_a_pass))
        return (
            f"tuning takes about {total:.1f} forward passes of the rows ({parts}), about "
            f"{seconds} s here, and the votes"
        )


def forecast(
    encoder: Encoder,
    items: Sequence[Any],
    n_poolings: int,
    space: Space,
    search: TuningSearch,
    budget: Budget,
) -> Forecast:
    """Time a plain pass over a few of the rows, in canonical form, and count the stages."""
    few = items[:: max(1, len(items) // TRIAL_ROWS)][:TRIAL_ROWS]
    scan(encoder, few[:2], [], budget)
    start = time.perf_counter()
    scan(encoder, few, [], budget)
    seconds = (time.perf_counter() - start) / len(few) * len(items)
    passes = {"embeddings and activations": float(n_poolings)}
    if space.gradients:
        passes["gradients"] = 1 + _BACK + _LAYER * len(space.gradients)
    views = [spec.n_views for spec in space.specs if spec.has_gradient and spec.n_views > 1]
    if views:
        share = min(1.0, search.pilot_rows / len(items))
        passes["gradients of views, on a part first"] = share * (1 + _BACK) * sum(views)
    return Forecast(passes=passes, seconds_a_pass=seconds)


def affordable_rows(preset: FungiConfig, n_rows: int, space: Space) -> int:
    """Give how many rows a preset may be judged on for a quarter of what tuning itself costs."""
    losses = preset.losses.values()
    views = sum(spec.n_views for spec in losses if spec.n_views > 1)
    training = sum(spec.n_training * spec.training_views for spec in losses)
    own = n_rows * (2 + bool(space.gradients) * (1 + _BACK + _LAYER * len(space.gradients)))
    return max(0, int((own / 4 - training) / (1 + views)))
