"""What an extractor does to learn: from all inputs at once, or from parts on several machines."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final, Self

from fungi_hf.checks import check_choice
from fungi_hf.errors import ConfigError, EncoderError, InputTypeError, NotFittedError
from fungi_hf.extraction.classes import refuse_parts
from fungi_hf.extraction.fit_part import FitPart, Origin
from fungi_hf.extraction.inputs import readable_twice, warn_of
from fungi_hf.extraction.learner import Learner
from fungi_hf.extraction.stages import (
    COMPONENTS,
    DRAW,
    MOMENTS,
    foundation,
    learns_alone,
    missing,
    stages_of,
)
from fungi_hf.extraction.state import identity_of

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable

    from fungi_hf.config import FungiConfig
    from fungi_hf.encoders.base import Encoder
    from fungi_hf.extraction.batches import Budget
    from fungi_hf.extraction.inputs import InputReader
    from fungi_hf.extraction.plan import Plan
    from fungi_hf.extraction.state import FittedState
    from fungi_hf.features import FungiFeatures
    from fungi_hf.types import Int64Array

_FIT_BYTES: Final = 1 << 27
"""Raw blocks that `fit` keeps between its two extractions; of more rows it extracts twice."""
_TRANSFORM_BYTES: Final = 1 << 30
"""Raw blocks that `fit_transform` keeps to make features of."""
_MOST_COLUMNS: Final = 4096
"""Of a covariance in a part, which has 134 MB then."""


class LearningExtractor(ABC):
    """The part of `fungi_hf.extractor.FungiExtractor` that learns; the others are asked below."""

    encoder: Encoder
    config: FungiConfig
    budget: Budget
    tuning: Any
    _plan: Plan
    _reader: InputReader

    @property
    @abstractmethod
    def state(self) -> FittedState:
        """What was learned so far."""

    @abstractmethod
    def restore(self, state: FittedState, tuning: Any = None) -> None:
        """Load fitted state."""

    @abstractmethod
    def collect(
        self, inputs: Iterable[Any], *, progress: bool = False, prompt: str | None = None
    ) -> tuple[FungiFeatures, Counter[str]]:
        """Extract features and count what was special."""

    @abstractmethod
    def _digest_weights(self) -> str: ...

    @abstractmethod
    def _reader_of(self, name: str | None, prompt: str | None) -> InputReader: ...

    @abstractmethod
    def _codes_of(self, labels: Any) -> Int64Array | None: ...

    @abstractmethod
    def _refuse_dense(self) -> None: ...

    @abstractmethod
    def _finished(self, blocks: list[dict[str, Any]], prompt: str) -> FungiFeatures: ...

    def fit(
        self,
        inputs: Iterable[Any],
        labels: Any = None,
        *,
        progress: bool = False,
        prompt_name: str | None = None,
        prompt: str | None = None,
    ) -> Self:
        """Learn what the config asks for: negative banks, means, whitening, a PCA; give itself.

        Without a `discriminant` it is `fit_merge([fit_part(inputs, stage)], stage)` for every
        stage of `fit_stages`; a failure on the way leaves the state as it was.

        Args:
            inputs: Training inputs. Their order changes the rounding of means and covariances,
                and with it the fingerprint, alone. They are read one by one, once a stage; of them
                only the drawn negatives are held, and sums of their blocks. A generator is held as
                it came (paths, not samples) where there are several stages.
            labels: One an input, where the config has a `discriminant`; else ignored.
            progress: Show a bar.
            prompt_name: As in a call, and so is `prompt`.
            prompt: The text itself.

        No input, or one that is unusable, is an InputError; labels that are missing or unusable
        are a LabelError, another number of them than of inputs a ShapeError.
        """
        codes = self._codes_of(labels)
        self._digest_weights()
        reader = self._reader_of(prompt_name, prompt)
        if self.config.dense:
            from fungi_hf.extraction.parts_fit import learn_parts

            self.restore(learn_parts(reader, self._plan, inputs, self.budget, progress=progress)[0])
            return self
        is_again = {MOMENTS, COMPONENTS} <= set(self.fit_stages)
        most = _FIT_BYTES if is_again else 0
        learner = Learner(
            reader, self._plan, self.budget, progress=progress, most_bytes=most, codes=codes
        )
        self._learn(learner, inputs, reader.prompt)
        return self

    def fit_transform(
        self,
        inputs: Iterable[Any],
        labels: Any = None,
        *,
        progress: bool = False,
        prompt_name: str | None = None,
        prompt: str | None = None,
    ) -> FungiFeatures:
        """Do what `fit` does, and give the features of its inputs with one extraction less.

        Where their raw blocks take more than 1 GB, they are extracted as after `fit`.
        """
        codes = self._codes_of(labels)
        self._refuse_dense()
        self._digest_weights()
        items = readable_twice(inputs)
        reader = self._reader_of(prompt_name, prompt)
        most = _TRANSFORM_BYTES
        learner = Learner(
            reader, self._plan, self.budget, progress=progress, most_bytes=most, codes=codes
        )
        self._learn(learner, items, reader.prompt)
        if learner.blocks is None:
            features, notes = self.collect(items, progress=progress, prompt=reader.prompt)
        else:
            features, notes = self._finished(learner.blocks, reader.prompt), learner.notes
        warn_of(notes, self.encoder)
        return features

    def _learn(self, learner: Learner, inputs: Iterable[Any], prompt: str) -> None:
        # All stages; what nothing is learned from is read and checked.
        before, tuning = self.state, self.tuning
        stages = learner.stages or (DRAW,)
        items = readable_twice(inputs) if len(stages) > 1 else inputs
        try:
            for stage in stages:
                origin = self._origin(stage, prompt)
                part = learner.part(items, stage, self.state, origin, name="all", digested=False)
                self.restore(learner.learn(part, self.state))
        except BaseException:
            self.restore(before, tuning)
            raise
        if self.state.digest() == before.digest():
            self.tuning = tuning

    @property
    def fit_stages(self) -> tuple[str, ...]:
        """Stages of a fit in parts, in their order; empty where nothing is learned.

        "draw" (training inputs of objectives, statistics of the encoder), "latents" (where an
        objective of all inputs waits for those statistics), "moments" (means and whitening) and
        "components" (a PCA), as the config needs them.
        """
        return stages_of(self.config, self.encoder)

    def fit_part(
        self,
        inputs: Iterable[Any],
        stage: str,
        *,
        name: str | None = None,
        on_error: str = "raise",
        progress: bool = False,
        prompt_name: str | None = None,
        prompt: str | None = None,
    ) -> FitPart:
        """Compute what a part of the training inputs gives to one stage of a fit.

        A part is small, can be pickled and saved (`fungi_hf.extraction.part_files`), and may be
        empty. What the stages before have learned must be here, as `fit_merge` leaves it or a
        saved folder brings it; nothing is changed.

        Args:
            inputs: Of this part, read once.
            stage: One of `fit_stages`.
            name: Of the part. A part that is given twice counts once, and is known by its name;
                by default that is a digest of its inputs, so that parts which equal each other to
                the last input need names.
            on_error: "raise", or "skip" to leave unusable inputs out and list them in
                `.failures`.
            progress: Show a bar.
            prompt_name: As in a call, and so is `prompt`.
            prompt: The text itself.

        Raises:
            ConfigError: If an argument is none of the choices, the config is dense, or a
                covariance of more than 4,096 columns is wanted.
            EncoderError: If the encoder learns from all inputs at once.
            NotFittedError: If what an earlier stage gives is missing.
            InputError: If an input is unusable.
        """
        self._check_stage(stage)
        check_choice("on_error", on_error, ("raise", "skip"))
        if name is not None and (not isinstance(name, str) or not name):
            raise ConfigError(f"name must be a text or None; got {name!r}")
        self._digest_weights()
        lacking = missing(stage, self.config, self.state)
        if lacking:
            raise NotFittedError(
                f"stage {stage!r} builds on {', '.join(lacking)}, which earlier stages learn: call "
                f"fit_merge for each of {', '.join(self.fit_stages)} in this order first, or load "
                "a folder that was saved after them"
            )
        reader = self._reader_of(prompt_name, prompt)
        learner = Learner(
            reader, self._plan, self.budget, progress=progress, skip=on_error == "skip"
        )
        columns = learner.covariance_columns(stage)
        if columns > _MOST_COLUMNS:
            raise ConfigError(
                f"stage {stage!r} has a covariance of {columns} columns, {columns**2 * 8 >> 20} MB "
                f"in every part; up to {_MOST_COLUMNS} are merged: choose a smaller sketch_dim or "
                "fewer blocks, or call fit on a sample"
            )
        origin = self._origin(stage, reader.prompt)
        return learner.part(inputs, stage, self.state, origin, name=name)

    def fit_merge(self, parts: Iterable[FitPart], stage: str) -> Self:
        """Learn what a stage gives from all its parts; give itself.

        Parts may come in any order and be merged before (`FitPart.merged`); one that is given
        twice counts once. What later stages have learned is forgotten. A failure leaves the state
        as it was.

        Raises:
            FingerprintMismatchError: If a part is of another stage, config, encoder, prompt or
                state.
            ConfigError: If the config has no such stage.
            InputError: If there is no part or no usable input, or if merged parts overlap.
            InputTypeError: If something is no part.
        """
        self._check_stage(stage)
        self._digest_weights()
        self._take(list(parts), stage)
        return self

    def _take(self, parts: list[FitPart], stage: str) -> None:
        for part in parts:
            if not isinstance(part, FitPart):
                raise InputTypeError(
                    f"parts must be what fit_part gave; got {type(part).__name__}: pass a list"
                )
            part.check(stage, self._origin(stage, part.origin.prompt))
        before, tuning = self.state, self.tuning
        try:
            part = FitPart.merged(parts)
            learner = Learner(self._reader.prompted(part.origin.prompt), self._plan, self.budget)
            self.restore(learner.learn(part, self.state))
        except BaseException:
            self.restore(before, tuning)
            raise

    def _check_stage(self, stage: str) -> None:
        refuse_parts(self.config)
        if self.config.dense:
            raise ConfigError(
                "dense features are not fitted in parts: a bounded number of patches, words or "
                "frames is drawn, so call fit"
            )
        if not self.fit_stages:
            raise ConfigError("this config learns nothing: there is no stage to fit")
        check_choice("stage", stage, self.fit_stages)
        if learns_alone(self.encoder):
            raise EncoderError(
                f"{type(self.encoder).__name__} learns from all inputs at once; call fit, or write "
                "the members of fungi_hf.encoders.base.SummingEncoder"
            )

    def _origin(self, stage: str, prompt: str) -> Origin:
        encoder = identity_of(self.encoder, self._digest_weights())
        state = foundation(stage, self.state).digest()
        return Origin(self.config.fingerprint(), encoder, prompt, state)
