"""What the package asks of an encoder: raw inputs to model inputs, model inputs to one embedding.

An encoder knows no objective, and the extraction knows no modality.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, runtime_checkable

import torch

from fungi_hf.devices import sent
from fungi_hf.errors import EncoderError, StateError
from fungi_hf.views.base import make_views

if TYPE_CHECKING:
    import random
    from collections.abc import Collection, Iterable, Sequence
    from contextlib import AbstractContextManager

    from torch import Tensor, nn

    from fungi_hf.config import FungiConfig
    from fungi_hf.encoders.regions import Regions
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
        late: Number of last blocks to run for this view; None runs the whole model. The `data` of
            such a view are the positions [T'] of the original's tokens that stay, increasing.
        slot: What is read of the output: 0 the embedding, 1 + t token t. No part of `key`.
    """

    data: Any
    cost: int
    key: bytes
    notes: tuple[str, ...] = ()
    late: int | None = None
    slot: int = 0


@runtime_checkable
class Encoder(Protocol):
    """A frozen model, its preprocessing, its pooling and its target layer.

    The package asks an encoder for every member of this class and for nothing else. A subclass
    writes the abstract methods, sets the attributes without a default, and inherits the rest. A
    class that does not subclass `Encoder` needs every member.

    Attributes:
        model: The module whose flags and hooks the engine borrows and gives back.
        layer: The target layer, and `layer_path`, its dotted name.
        width: D.
        pooling: The resolved pooling, e.g. "mean".
        max_length: The longest input in the unit of `cost`, shown in messages.
        chunk_size: Inputs prepared at a time; bounds memory.
        modality: What the inputs are: "text", "audio" or another noun.
        tokenizer: The model's tokenizer, if it has one; saved and digested with the model.
        processor: Its feature extractor or image processor, if it has one; likewise.
        sampling_rate: Hz of bare arrays, where inputs are sounds.
        prompts: Name -> text that may stand in front of an input, where inputs are texts.
        default_prompt: The text in front of an input for which no prompt is named.
        reads_first_token: Whether the embedding depends on one or two tokens of the last hidden
            state alone, so that a gradient has as few rows.
        uses_short_last_block: Whether `embed` computes the last block for the pooled tokens only.
        NOTES: Messages, with `{n}` and `{limit}`, for the names in `Prepared.notes`.
    """

    model: nn.Module
    layer: nn.Linear
    layer_path: str
    width: int
    pooling: str
    max_length: int
    chunk_size: int = 1024
    modality: str = "text"
    tokenizer: Any = None
    processor: Any = None
    sampling_rate: int | None = None
    prompts: Mapping[str, str] = MappingProxyType({})
    default_prompt: str = ""
    reads_first_token: bool = False
    uses_short_last_block: bool = False
    NOTES: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def check(self, raw: object, index: int) -> Any:
        """Give the raw input in canonical form, or raise naming its position."""

    def describe(self, raw: object) -> str:
        """Give any raw input, usable or not, in a few words for messages."""
        text = repr(raw[:80] if isinstance(raw, (str, bytes)) else raw)
        return text if len(text) <= 80 else f"{text[:77]}..."

    @abstractmethod
    def content(self, raw: Any) -> bytes:
        """Give the bytes that identify a canonical raw input; they seed its views."""

    def contents(self, raws: Sequence[Any]) -> list[bytes]:
        """Give the `content` of each; a class that writes this keeps both alike."""
        return list(map(self.content, raws))

    @abstractmethod
    def prepare(self, raws: Sequence[Any]) -> list[Prepared]:
        """Turn canonical raw inputs and views of them, a chunk's in one call, into model inputs."""

    @abstractmethod
    def collate(self, items: Sequence[Prepared]) -> Batch:
        """Pad and stack on the model's device."""

    @abstractmethod
    def embed(self, batch: Batch) -> Tensor:
        """Run the model and pool: [N, D]. Called with the engine's hook on the target layer."""

    @abstractmethod
    def pool_activation(self, a: Tensor, batch: Batch) -> Tensor:
        """Pool the target layer's inputs [N, T, n] as the embedding is pooled: [N, n]."""

    def views(self, name: str, n_views: int, options: Mapping[str, Any]) -> ViewGenerator:
        """Give the view generator of that name, "auto" being the modality's default.

        An unknown name or option is a ConfigError. By default only what
        `fungi_hf.views.register_views` knows is offered.
        """
        return make_views(name, n_views, options, {})

    def fit(self, items: Iterable[Any]) -> None:
        """Learn from canonical training inputs, read once; by default nothing."""
        del items

    def state(self) -> dict[str, Tensor]:
        """Give what `fit` learned, by name; by default nothing."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave.

        Raises:
            StateError: If there is anything in it, since nothing is learned by default.
        """
        if state:
            raise StateError(
                f"{type(self).__name__} learns nothing, but the stored state holds "
                f"{', '.join(map(repr, state))}: it belongs to another encoder"
            )

    def with_full_last_block(self) -> Self:
        """Give an encoder over the same model that computes its last block for all tokens."""
        return self

    def rebuilt(self, config: FungiConfig) -> Encoder:
        """Give an encoder over the same model and preprocessor that follows another config.

        Neither this encoder nor the model is changed. The config is of the model's own dtype.

        Raises:
            EncoderError: If this class cannot do so, as by default.
        """
        raise EncoderError(
            f"{type(self).__name__} cannot be rebuilt with pooling={config.pooling!r} and "
            f"target_layer={config.target_layer!r}; write its rebuilt(config), or keep its pooling "
            "and layer"
        )


def require_encoder(encoder: object) -> None:
    """Refuse an object that lacks members of `Encoder`.

    Raises:
        EncoderError: Naming what is missing, and the remedy.
    """
    names = {*Encoder.__annotations__, *(n for n in vars(Encoder) if not n.startswith("_"))}
    missing = sorted(name for name in names if not hasattr(encoder, name))
    if missing:
        raise EncoderError(
            f"{type(encoder).__name__} lacks {', '.join(missing)}; subclass "
            "fungi_hf.encoders.base.Encoder, which has a default for most of its members"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LateBatch:
    """Late views of one batch of originals."""

    blocks: int  # k
    hidden: Tensor  # [M, T, D] state of the M originals before the last k blocks, padded
    inputs: Mapping[str, Any]  # model inputs of the originals
    source: Tensor  # [N] original of each view, on the CPU
    kept: Tensor  # [N, T] bool, the tokens that stay, on the CPU; at least one per view

    @property
    def is_even(self) -> bool:
        """Whether as many tokens stay in every view, so that nothing is padded."""
        counts = self.kept.sum(1)
        return torch.equal(counts, counts[:1].expand_as(counts))

    @property
    def sources(self) -> Tensor:
        """[N] original of each view, where the states are."""
        return sent(self.source, self.hidden.device)

    def gathered(self) -> tuple[Tensor, Tensor, Tensor]:
        """Give what stays, moved together: states [N, T', D], positions [N, T'], mask [N, T']."""
        counts = self.kept.sum(1)
        longest = int(counts.max())
        order = self.kept.logical_not().to(torch.uint8).argsort(dim=1, stable=True)[:, :longest]
        mask = torch.arange(longest) < counts[:, None]
        order, mask = (sent(part.contiguous(), self.hidden.device) for part in (order, mask))
        return self.hidden[self.sources[:, None], order], order, mask


class PreparedViews(Protocol):
    """Random views made of prepared inputs: without some tokens, or with masked ones."""

    def __call__(
        self,
        raws: Sequence[Any],
        originals: Sequence[Prepared],
        generators: Sequence[random.Random],
    ) -> list[list[Prepared]]:
        """Give V views of every canonical raw input.

        Each has `late` set, or is a masked or plain input with a `slot`, or the original itself.
        The originals are what `prepare` gave; a generator per input is the only randomness allowed.
        """


@runtime_checkable
class LateEncoder(Encoder, Protocol):
    """An encoder whose last blocks can be run alone, on a part of the tokens."""

    def late_views(
        self, name: str, n_views: int, options: Mapping[str, Any], blocks: int
    ) -> PreparedViews | None:
        """Give views that act in the last blocks; None where that is the whole encoder.

        With None the views of `views` are meant, which share nothing with their original.
        """

    def watching(self, depths: Collection[int]) -> AbstractContextManager[dict[int, Tensor]]:
        """Note the hidden state [N, T, D] before the last k blocks during `embed`, by k."""

    def embed_late(self, batch: LateBatch) -> Tensor:
        """Run the last blocks on the tokens that stay, and pool: [N, D]."""


@runtime_checkable
class TokenEncoder(Encoder, Protocol):
    """An encoder that gives its tokens beside the embedding; objectives of tokens need one."""

    def embed_tokens(self, batch: Batch) -> Tensor:
        """Run the model with a full last block: [N, 1 + T, D], the embedding, then the tokens.

        Tokens are what the embedding is pooled from (class tokens and registers left out), so that
        they have its width; those of padding may hold anything.
        """

    def masked_views(self, n_views: int, options: Mapping[str, Any]) -> PreparedViews:
        """Give views as `fungi_hf.encoders.masking.MaskedTokens` does."""


@runtime_checkable
class DenseEncoder(TokenEncoder, Protocol):
    """An encoder that says which of its tokens are patches, words or frames.

    Attributes:
        first_token: Place in the layers' inputs [N, T', n] of the first of the tokens.
    """

    first_token: int

    def regions(self, raws: Sequence[Any], items: Sequence[Prepared]) -> list[Regions]:
        """Give the parts of canonical raw inputs, which `prepare` made the items of."""


@runtime_checkable
class SummingEncoder(Encoder, Protocol):
    """An encoder whose `fit` needs sums over its inputs alone, so that a fit can go in parts."""

    def sums(self, items: Iterable[Any]) -> dict[str, Tensor]:
        """Give sums over canonical training inputs, float64, by name; nothing if none are wanted.

        Items are read once; those of several parts add up.
        """

    def fit_sums(self, sums: Mapping[str, Tensor]) -> None:
        """Learn from the sums over all parts what `fit` learns from the inputs."""
