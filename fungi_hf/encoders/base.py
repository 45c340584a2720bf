"""What the engine asks of an encoder: raw inputs to model inputs, model inputs to one embedding.

No objective is known here, and no modality is known to the engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    """

    data: Any
    cost: int
    key: bytes
    notes: tuple[str, ...] = ()


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
