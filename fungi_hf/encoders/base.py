"""What the engine asks of an encoder: raw inputs to model inputs, model inputs to one embedding.

No objective is known here, and no modality is known to the engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch

if TYPE_CHECKING:
    import random
    from collections.abc import Collection, Sequence
    from contextlib import AbstractContextManager

    from torch import Tensor, nn

    from fungi_hf.views.base import ViewGenerator

Batch = Mapping[str, Any]
"""Tensors on the model's device, ready for `Encoder.embed`."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """One input as the model takes it, not yet padded.

    Attributes:
        data: Whatever the encoder's `collate` needs.
        cost: Tokens; batches are cut by the sum of padded costs.
        key: Content; inputs of one sample with equal keys are encoded once.
        notes: Names from the encoder's `NOTES`: usable, but the user should know.
        late: Last blocks that this view of an original runs through; None for a whole pass. Its
            `data` are then the positions [T'] of the original's tokens that stay, increasing.
    """

    data: Any
    cost: int
    key: bytes
    notes: tuple[str, ...] = ()
    late: int | None = None


@runtime_checkable
class Encoder(Protocol):
    """A frozen model, its preprocessing, its pooling and its target layer.

    Attributes:
        NOTES: Messages, with `{n}` and `{limit}`, for the names in `Prepared.notes`.
        chunk_size: Inputs prepared at a time; bounds memory.
        max_length: The longest input in the unit of `cost`, shown in messages.
        model: The module whose flags and hooks the engine borrows and gives back.
        layer: The target layer, and `layer_path`, its dotted name.
        width: D.
        pooling: The resolved pooling, e.g. "mean".
    """

    chunk_size: int
    max_length: int
    model: nn.Module
    layer: nn.Linear
    layer_path: str
    width: int
    pooling: str

    @property
    def NOTES(self) -> Mapping[str, str]:  # noqa: N802  (a constant of the class)
        """What `Prepared.notes` mean."""

    def check(self, raw: object, index: int) -> Any:
        """Give the raw input in canonical form, or raise naming its position."""

    def content(self, raw: Any) -> bytes:
        """Give the bytes that identify a canonical raw input; they seed its views."""

    def prepare(self, raws: Sequence[Any]) -> list[Prepared]:
        """Turn canonical raw inputs, or views of them, into model inputs."""

    def collate(self, items: Sequence[Prepared]) -> Batch:
        """Pad and stack on the model's device."""

    def embed(self, batch: Batch) -> Tensor:
        """Run the model and pool: [N, D]. Called with the engine's hook on the target layer."""

    def pool_activation(self, a: Tensor, batch: Batch) -> Tensor:
        """Pool the target layer's inputs [N, T, n] as the embedding is pooled: [N, n]."""

    def views(self, name: str, n_views: int, options: Mapping[str, Any]) -> ViewGenerator:
        """Give the view generator of that name, "auto" being the modality's default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LateBatch:
    """Late views of one batch of originals.

    Attributes:
        blocks: k.
        hidden: [M, T, D] state of the M originals before the last k blocks, padded.
        inputs: Model inputs of the originals.
        source: [N] original of each view.
        kept: [N, T] bool, the tokens that stay; at least one per view.
    """

    blocks: int
    hidden: Tensor
    inputs: Mapping[str, Any]
    source: Tensor
    kept: Tensor

    def gathered(self) -> tuple[Tensor, Tensor, Tensor]:
        """Give what stays, moved together: states [N, T', D], positions [N, T'], mask [N, T']."""
        counts = self.kept.sum(1)
        longest = int(counts.max())
        order = self.kept.logical_not().to(torch.uint8).argsort(dim=1, stable=True)[:, :longest]
        mask = torch.arange(longest, device=order.device) < counts[:, None]
        return self.hidden[self.source[:, None], order], order, mask


class LateViews(Protocol):
    """Random views that drop tokens of a hidden state."""

    def __call__(
        self,
        raws: Sequence[Any],
        originals: Sequence[Prepared],
        generators: Sequence[random.Random],
    ) -> list[list[Prepared]]:
        """Give V views of every canonical raw input, each with `late` set, or the original itself.

        Args:
            raws: The inputs.
            originals: What `prepare` gave for them.
            generators: One per input, the only randomness allowed.
        """


@runtime_checkable
class LateEncoder(Encoder, Protocol):
    """An encoder whose last blocks can be run alone, on a part of the tokens."""

    def late_views(
        self, name: str, n_views: int, options: Mapping[str, Any], blocks: int
    ) -> LateViews | None:
        """Give views that act in the last blocks; None where that is the whole encoder.

        With None the views of `views` are meant, which share nothing with their original.
        """

    def watching(self, depths: Collection[int]) -> AbstractContextManager[dict[int, Tensor]]:
        """Note the hidden state [N, T, D] before the last k blocks during `embed`, by k."""

    def embed_late(self, batch: LateBatch) -> Tensor:
        """Run the last blocks on the tokens that stay, and pool: [N, D]."""
