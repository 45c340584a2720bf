"""An extractor as plain data, so that it travels to other processes and into its hosts' pickles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fungi_hf.config import FungiConfig
from fungi_hf.encoders.loading import load_encoder
from fungi_hf.extraction.state import FittedState
from fungi_hf.extractor import FungiExtractor
from fungi_hf.hub.saving import resolved

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fungi_hf.encoders.loading import Source
    from fungi_hf.tuning.report import TuningReport


@dataclass(frozen=True, slots=True)
class ExtractorParts:
    """What an extractor is made of; its heads and sketch are drawn again by name.

    Attributes:
        model: The encoder's module.
        processor: Its preprocessor.
        config: The config as JSON data.
        resolved: Layer, pooling and length as they were found.
        state: Fitted tensors.
        source: Where the encoder came from.
        tuning: How the config was chosen, where it was.
    """

    model: nn.Module
    processor: Any
    config: dict[str, Any]
    resolved: dict[str, Any]
    state: dict[str, Tensor]
    source: Source
    tuning: TuningReport | None = None

    @classmethod
    def of(cls, extractor: FungiExtractor) -> ExtractorParts:
        """Take an extractor apart; nothing is copied."""
        encoder = extractor.encoder
        return cls(
            encoder.model,
            encoder.processor if encoder.tokenizer is None else encoder.tokenizer,
            extractor.config.to_dict(),
            resolved(encoder),
            extractor.state.to_tensors(),
            extractor.source,
            extractor.tuning,
        )

    def build(self) -> FungiExtractor:
        """Give an extractor with the same features and fingerprint."""
        config = FungiConfig.from_dict(self.config)
        encoder, _ = load_encoder(
            self.model, config.replace(**self.resolved), processor=self.processor
        )
        extractor = FungiExtractor(encoder, config, source=self.source)
        extractor.restore(FittedState.from_tensors(self.state))
        extractor.tuning = self.tuning
        return extractor
