"""The one orchestrator: raw inputs to FUNGI features, with or without fitted state.

Invariant: a vector is a function of its input, the config, the encoder and the fitted state;
batch, order, padding, chunk and process change nothing but the last bits of rounding.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self
from warnings import warn

from fungi_hf.config import FungiConfig
from fungi_hf.encoders.base import require_encoder
from fungi_hf.encoders.dtypes import warn_of_slow_dtype
from fungi_hf.encoders.loading import encoder_digest
from fungi_hf.encoders.prompts import prompt_text, prompted
from fungi_hf.encoders.source import Source
from fungi_hf.encoders.weights import STALE, check_weights
from fungi_hf.errors import ConfigError, EncoderError, LabelError, NotFittedError, choices
from fungi_hf.extraction.calibration import Calibrated
from fungi_hf.extraction.finish import Finisher, extract, finish_all
from fungi_hf.extraction.inputs import InputReader, warn_of
from fungi_hf.extraction.learning import LearningExtractor
from fungi_hf.extraction.plan import Plan
from fungi_hf.extraction.state import fingerprint_of
from fungi_hf.features import FungiFeatures
from fungi_hf.hub.saved import SavedExtractor
from fungi_hf.neighbors.labels import encode_labels
from fungi_hf.shards.methods import LargeInputs

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable

    from torch import Tensor

    from fungi_hf.encoders.base import Encoder
    from fungi_hf.extraction.parts import DenseStream
    from fungi_hf.extraction.state import FittedState
    from fungi_hf.neighbors.labels import Labels
    from fungi_hf.tuning import TuningSearch
    from fungi_hf.tuning.report import TuningReport
    from fungi_hf.types import Float32Array, Int64Array


# What an encoder is built from, apart from its model.
_AUDIO = ("audio_statistics", "audio_frontend", "audio_context")
_TEXT = ("max_length", "prompts", "default_prompt_name")
_OF_ENCODER = ("pooling", "target_layer", "image_size", "dense", *_TEXT, *_AUDIO)


class FungiExtractor(LearningExtractor, LargeInputs, Calibrated, SavedExtractor):
    """Extracts FUNGI features with one encoder and one config, by default the default config.

    An encoder that does not conform to `fungi_hf.encoders.base.Encoder` is an EncoderError; its
    source is written into saved folders. Nothing is encoded at construction.

    Attributes:
        budget: Limits of batches and groups, by device; they change speed and memory, not features.
            `calibrate` finds others.
        sketch: Of all gradient blocks; None without gradients or with exact factors.
        tuning: Evidence for this config with this state, where `tune` chose it.

    Example:
        >>> extractor = FungiExtractor.from_pretrained("folder-or-hub-id")
        >>> features = extractor(["a text", "another"])
        >>> features.array.shape, list(features.layout)
    """

    def __init__(
        self, encoder: Encoder, config: FungiConfig | None = None, *, source: Source | None = None
    ) -> None:
        if not hasattr(encoder, "layer_path"):
            raise EncoderError(
                f"FungiExtractor takes an encoder; got {type(encoder).__name__}: use "
                "FungiExtractor.from_pretrained for a model, a folder or a Hub id"
            )
        require_encoder(encoder)
        if config is not None and not isinstance(config, FungiConfig):
            raise ConfigError(f"config must be a FungiConfig or None; got {type(config).__name__}")
        warn_of_slow_dtype(encoder.model)
        self.encoder = encoder
        self.config = config or FungiConfig()
        self.source = source or Source()
        self._plan = plan = Plan.of(encoder, self.config)
        self.budget = plan.budget
        self._reader = InputReader(plan.encoder, self.config)
        self._finisher = Finisher(self.config, plan.widths, plan.factor_shapes)
        self._missing = self.state.missing(self.config)
        self.tuning: TuningReport | None = None
        self._weights: tuple[object, str] = (None, "")  # versions of the parameters, digest
        self._fingerprint = ""
        self._dense: FungiExtractor | None = None  # where this config says nothing of parts
        self._identify()

    @property
    def state(self) -> FittedState:
        """What `fit` learned, or `restore` took back."""
        return self._finisher.state

    def digests(self) -> dict[str, str]:
        """Give a digest of every random object that was drawn at construction."""
        return self._plan.digests()

    def restore(self, state: FittedState, tuning: TuningReport | None = None) -> None:
        """Load fitted state and its evidence; without, `tuning` stays if the state is the same."""
        if tuning is not None or state.digest() != self.state.digest():
            self.tuning = tuning
        self._plan.load_state(state.objectives)
        self._finisher.load(state)
        if state.encoder:
            self.encoder.load_state(state.encoder)
        self._missing = state.missing(self.config)
        self._fingerprint = ""
        self._identify()

    @property
    def is_fitted(self) -> bool:
        """Whether everything that the config wants from `fit` is there."""
        return not self._missing

    @property
    def layout(self) -> dict[str, slice]:
        """Ordered block name -> slice of the columns."""
        return self._finisher.layout

    @property
    def width(self) -> int:
        """F, the columns of a feature."""
        return self._finisher.width

    @property
    def fingerprint(self) -> str:
        """Digest of config, encoder (weights, preprocessor, layer, pooling, length) and state."""
        return self._identify()

    def _identify(self, *, stale: bool = True) -> str:
        """Check weights that changed, digest what did; `stale` warns of state of other weights."""
        weights = list(self.encoder.model.parameters())
        # Edits through `.data`, as of merged adapters, leave versions alone: a number is read, too.
        versions = [(p.data_ptr(), p.is_inference() or p._version) for p in weights]
        here = (p for p in weights if p.dim() == 2 and p.device.type == "cpu")
        seen = (versions, [float(p.detach()[-1, -1]) for p in here])
        if self._weights[0] != seen:
            check_weights(self.encoder.model, self.config.dtype, self.encoder.layer)
            before, self._weights = self._weights[1], (seen, encoder_digest(self.encoder))
            self._fingerprint = ""
            if stale and before not in ("", self._weights[1]) and self.state.to_tensors():
                warn(STALE, stacklevel=4)
        if not self._fingerprint:
            digest = self._weights[1]
            self._fingerprint = fingerprint_of(self.config, self.encoder, digest, self.state)
        return self._fingerprint

    def _digest_weights(self) -> str:
        self._identify(stale=False)
        return self._weights[1]

    def _reader_of(self, name: str | None, prompt: str | None) -> InputReader:
        if name is None and prompt is None:
            return self._reader
        return self._reader.prompted(prompt_text(self.encoder, name, prompt))

    def with_config(self, config: FungiConfig) -> Self:
        """Give an unfitted extractor of the same model with another config of the same dtype."""
        encoder = self.encoder
        kept = all(getattr(config, name) == getattr(self.config, name) for name in _OF_ENCODER)
        if not kept or config.audio_statistics == "fit":  # what is learned is not shared
            encoder = encoder.rebuilt(config)
        made = type(self)(encoder, config, source=self.source)
        made.budget = replace(made.budget, batch_size=self.budget.batch_size)
        return made

    def tune(
        self,
        inputs: Iterable[Any],
        labels: Labels,
        *,
        judge: str | None = None,
        groups: Labels | None = None,
        search: TuningSearch | None = None,
        progress: bool = False,
    ) -> FungiExtractor:
        """Choose a config from labelled training data, as `fungi_hf.tuning.tune` says.

        Args:
            inputs: N training inputs.
            labels: N class labels.
            judge: What the features are for: "neighbors" (kNN, retrieval, demonstrations) or
                "linear" (a linear probe); None is what the search says.
            groups: N names of groups (speakers, sources) that are left out together.
            search: What may be chosen; None is `TuningSearch()`.
            progress: Say before what it will cost, and show bars.

        Returns:
            A new extractor with the chosen config, fitted on all inputs; `.tuning` is the
            evidence, which `save_pretrained` writes, too. This extractor is not changed.
        """
        from fungi_hf.tuning import tune

        return tune(
            self, inputs, labels, judge=judge, groups=groups, search=search, progress=progress
        )

    def __call__(
        self,
        inputs: Iterable[Any],
        batch_size: int | None = None,
        *,
        progress: bool = False,
        on_error: str = "raise",
        prompt_name: str | None = None,
        prompt: str | None = None,
    ) -> FungiFeatures:
        """Extract features.

        Args:
            inputs: A list, generator, array or data set column of raw inputs. Generators are
                read in chunks; memory grows with the output alone.
            batch_size: Most inputs of one forward pass; None lets the token budget decide.
                It does not change the features.
            progress: Show a bar.
            on_error: "raise", or "skip" to leave unusable inputs out and list them in
                `.failures`.
            prompt_name: Name of the prompt in front of every input, one of the config's or of
                the encoder's folder ("query", "document"); None is the default prompt.
            prompt: The prompt itself, in place of a name; "" is none.

        Returns:
            Features in the inputs' order, [N, F] float32. Named prompts share a fingerprint, so
            that queries meet documents; another prompt has one of its own.

        Raises:
            NotFittedError: If the config needs `fit` first.
            ConfigError: If `batch_size`, `on_error` or the prompt is not allowed.
            InputError: If an input is unusable.
            InputTypeError: If an input, or `inputs` itself, has the wrong type.
        """
        features, notes = self.collect(
            inputs,
            batch_size,
            progress=progress,
            on_error=on_error,
            prompt_name=prompt_name,
            prompt=prompt,
        )
        if notes:
            warn_of(notes, self.encoder)
        return features

    def collect(
        self,
        inputs: Iterable[Any],
        batch_size: int | None = None,
        *,
        progress: bool = False,
        on_error: str = "raise",
        first: int = 0,
        prompt_name: str | None = None,
        prompt: str | None = None,
    ) -> tuple[FungiFeatures, Counter[str]]:
        """Extract features as a call does, but count what was special in place of warning.

        Gives, beside the features, name of a note -> number of inputs, for `inputs.warn_of`.
        Inputs that continue others say by `first` how many came before.

        Raises:
            ConfigError: If an argument is none of the choices, or the model's dtype has changed.
            EncoderError: If the model was quantised, or its target layer replaced.
            NotFittedError: If the config needs `fit` first.
        """
        self._refuse_dense()
        reader = self._ready(on_error, prompt_name, prompt)
        budget = self.budget if batch_size is None else replace(self.budget, batch_size=batch_size)
        reading = reader.read(inputs, skip=on_error == "skip", first=first)
        array, dropped = extract(reading, self._plan, self._finisher, budget, progress=progress)
        features = self._features(array, reader.prompt, *dropped)
        failures = sorted(reading.failures, key=lambda failure: failure.index)
        return replace(features, failures=tuple(failures)), reading.notes

    def dense(
        self,
        inputs: Iterable[Any],
        *,
        progress: bool = False,
        on_error: str = "raise",
        prompt_name: str | None = None,
        prompt: str | None = None,
    ) -> DenseStream:
        """Give features of parts: of an image's patches, a text's words, a sound's frames.

        The arguments are those of a call. Nothing is computed before the iterator is read; then
        one `DenseFeatures` comes after the other, in order, each a function of its input alone.
        Special inputs are warned of at the end. A config without objectives (plain tokens) or with
        activations alone needs no `dense=True`, unless something is learned from training inputs.

        Raises:
            ConfigError: If an objective has one loss an input, such as KL.
            NotFittedError: If the config needs `fit` first.
            EncoderError: If the encoder's tokens cannot be told apart.
        """
        from fungi_hf.extraction.parts import DenseStream, dense_features

        if not self.config.dense:
            return self._as_dense().dense(
                inputs, progress=progress, on_error=on_error, prompt_name=prompt_name, prompt=prompt
            )
        reader = self._ready(on_error, prompt_name, prompt)
        reading = reader.read(inputs, skip=on_error == "skip")
        fingerprint = self._fingerprint_of(reader.prompt)
        found = dense_features(
            reading, self._plan, self._finisher, self.budget, fingerprint, progress=progress
        )
        return DenseStream(found, reading)

    def _as_dense(self) -> FungiExtractor:
        if self._dense is None:
            config = self.config.replace(dense=True)  # refuses what has one loss an input
            if config.needs_fit:
                raise ConfigError(
                    "dense features learn from parts what this config learns from whole inputs; "
                    "set dense=True and call fit again"
                )
            self._dense = self.with_config(config)
        return self._dense

    def _codes_of(self, labels: Labels | None) -> Int64Array | None:
        if not self.config.discriminant:
            return None
        if labels is None:
            raise LabelError(
                f"discriminant={self.config.discriminant:g} learns from labels: call fit(inputs, "
                "labels), with one label an input, or set discriminant=0"
            )
        return encode_labels(labels, "labels")[1]

    def _refuse_dense(self) -> None:
        if self.config.dense:
            raise ConfigError(
                "this config gives a vector for every patch, word or frame: call "
                "extractor.dense(inputs); for one vector an input set dense=False and leave "
                "objectives of tokens (dense_infonce) out"
            )

    def _ready(self, on_error: str, prompt_name: str | None, prompt: str | None) -> InputReader:
        # What every extraction checks before the first input is read.
        if on_error not in ("raise", "skip"):
            raise ConfigError(f"on_error is {choices(on_error, ('raise', 'skip'))}")
        if self._missing:
            raise NotFittedError(
                f"the config needs training inputs for {', '.join(self._missing)}; "
                "call extractor.fit(training_inputs) first"
            )
        self._identify()
        return self._reader_of(prompt_name, prompt)

    def _fingerprint_of(self, prompt: str) -> str:
        if prompt == self.encoder.default_prompt:
            return self._fingerprint
        return prompted(self._fingerprint, self.encoder, prompt)

    def _features(self, array: Float32Array, prompt: str, *notes: str) -> FungiFeatures:
        layout, shapes = dict(self.layout), self._plan.factor_shapes
        notes = (*self._finisher.notes, *notes)
        return FungiFeatures(array, self._fingerprint_of(prompt), layout, shapes, notes=notes)

    def _finished(self, blocks: list[dict[str, Tensor]], prompt: str) -> FungiFeatures:
        return self._features(finish_all(self._finisher, blocks), prompt)
