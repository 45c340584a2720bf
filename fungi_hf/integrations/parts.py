"""An extractor as plain data, so that it travels to other processes and into its hosts' pickles."""

from __future__ import annotations

from fungi_hf.config import FungiConfig
from fungi_hf.encoders.loading import load_encoder
from fungi_hf.extraction.state import FittedState
from fungi_hf.extractor import FungiExtractor
from fungi_hf.hub.folders import resolved


class ExtractorParts:
    """What an extractor is made of; its heads and sketch are drawn again by name."""

    def __init__(self, extractor: FungiExtractor) -> None:
        """Take an extractor apart; nothing is copied."""
        encoder = extractor.encoder
        self.model = encoder.model
        self.processor = encoder.processor if encoder.tokenizer is None else encoder.tokenizer
        self.config = extractor.config.to_dict()
        self.resolved = resolved(encoder)
        self.state = extractor.state.to_tensors()
        self.source, self.tuning = extractor.source, extractor.tuning

    def build(self) -> FungiExtractor:
        """Give an extractor with the same features and fingerprint."""
        config = FungiConfig.from_dict(self.config)
        found = config.replace(**self.resolved)
        encoder, _ = load_encoder(self.model, found, processor=self.processor)
        extractor = FungiExtractor(encoder, config, source=self.source)
        extractor.restore(FittedState.from_tensors(self.state), self.tuning)
        return extractor
