"""From an iterable of raw inputs to samples: check, prepare, make views, count what is special."""

from __future__ import annotations

import itertools
import numbers
import warnings
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from fungi_hf.encoders.base import LateEncoder
from fungi_hf.errors import ConfigError, FeatureError, FungiError, InputTypeError
from fungi_hf.extraction.batches import Sample
from fungi_hf.features import Failure
from fungi_hf.seeding import sample_generator

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from random import Random

    from fungi_hf.config import FungiConfig
    from fungi_hf.encoders.base import Encoder, LateViews, Prepared
    from fungi_hf.specs import ObjectiveSpec
    from fungi_hf.views.base import ViewGenerator


class InputReader:
    """Prepares inputs for one encoder and one config; views are keyed by content alone."""

    def __init__(self, encoder: Encoder, config: FungiConfig) -> None:
        """Build the view generators that the config names."""
        self._encoder, self._seed = encoder, config.seed
        self._late = {
            spec.name: late
            for spec in config.objectives
            if (late := _late_views(encoder, spec, spec.n_views)) is not None
        }
        self._views: dict[str, ViewGenerator] = {
            spec.name: _views(encoder, spec, spec.n_views)
            for spec in config.objectives
            if spec.n_views > 1 and spec.name not in self._late
        }
        self._streams = {spec.name: spec.stream for spec in config.objectives}

    def checked(self, inputs: Iterable[Any]) -> Iterator[Any]:
        """Give one input after the other in canonical form; only the current one is held.

        Raises:
            InputError: If one is unusable.
            InputTypeError: If one, or `inputs` itself, has the wrong type.
        """
        for index, raw in enumerate(iterate(inputs)):
            yield self._encoder.check(raw, index)

    def training_samples(self, raws: Sequence[Any], spec: ObjectiveSpec) -> list[Sample]:
        """Prepare inputs with the views that an objective's `fit` wants."""
        if (late := _late_views(self._encoder, spec, spec.training_views)) is not None:
            prepared = self._encoder.prepare(raws)
            of_samples = late(raws, prepared, self._generators(raws, spec.stream))
            return [
                Sample(i, item, {spec.name: views})
                for i, (item, views) in enumerate(zip(prepared, of_samples, strict=True))
            ]
        views = _views(self._encoder, spec, spec.training_views)
        made = [self._make_views(raw, views, spec.stream) for raw in raws]
        items = iter(self._encoder.prepare([view for of_sample in made for view in of_sample]))
        return [
            Sample(i, item, {spec.name: list(itertools.islice(items, len(of_sample)))})
            for i, (item, of_sample) in enumerate(
                zip(self._encoder.prepare(raws), made, strict=True)
            )
        ]

    def read(self, inputs: Iterable[Any], *, skip: bool = False, first: int = 0) -> Reading:
        """Give an iterator over chunks of samples that remembers what it met."""
        return Reading(self, enumerate(iterate(inputs), first), self._encoder, skip=skip)

    def samples(self, raws: list[Any], prepared: list[Prepared]) -> list[Sample]:
        """Join checked inputs, their prepared form and their views, prepared in one go."""
        content = self._encoder.content
        made = {
            name: [self._make_views(raw, views, self._streams[name]) for raw in raws]
            for name, views in self._views.items()
        }
        keys = {
            name: [[content(view) for view in views] for views in of_samples]
            for name, of_samples in made.items()
        }
        distinct = {
            key: view
            for name, of_samples in made.items()
            for views, their_keys in zip(of_samples, keys[name], strict=True)
            for key, view in zip(their_keys, views, strict=True)
        }
        items = dict(zip(distinct, self._encoder.prepare(list(distinct.values())), strict=True))
        late = {
            name: views(raws, prepared, self._generators(raws, self._streams[name]))
            for name, views in self._late.items()
        }
        return [
            Sample(
                place,
                item,
                {
                    name: [items[key] for key in of_samples[place]]
                    for name, of_samples in keys.items()
                }
                | {name: of_samples[place] for name, of_samples in late.items()},
            )
            for place, item in enumerate(prepared)
        ]

    def _make_views(self, raw: Any, views: ViewGenerator, stream: str) -> list[Any]:
        (generator,) = self._generators([raw], stream)
        return list(views(raw, generator))

    def _generators(self, raws: Sequence[Any], stream: str) -> list[Random]:
        content = self._encoder.content
        return [sample_generator(self._seed, f"views/{stream}", content(raw)) for raw in raws]


class Reading:
    """One pass over the inputs.

    Attributes:
        failures: Inputs that were left out.
        n_read: Inputs met so far.
        notes: What was special -> number of inputs.
    """

    def __init__(
        self,
        reader: InputReader,
        source: Iterator[tuple[int, Any]],
        encoder: Encoder,
        *,
        skip: bool,
    ) -> None:
        """Begin; nothing is read yet."""
        self._reader, self._source, self._encoder = reader, source, encoder
        self._skip = skip
        self._chunk: dict[int, Any] = {}
        self._places: list[int] = []  # of the chunk's samples among all inputs
        self.notes: Counter[str] = Counter()
        self.failures: list[Failure] = []
        self.n_read = 0

    def __iter__(self) -> Iterator[list[Sample]]:
        """Give non-empty chunks of samples, in order."""
        while chunk := list(itertools.islice(self._source, self._encoder.chunk_size)):
            self.n_read += len(chunk)
            self._chunk = dict(chunk)
            raws, prepared = self._prepared(chunk)
            for item in prepared:
                self.notes.update(item.notes)
            if prepared:
                yield self._reader.samples(raws, prepared)

    def _prepared(self, chunk: list[tuple[int, Any]]) -> tuple[list[Any], list[Prepared]]:
        """Check and prepare a chunk; an unusable input is decoded once, also when skipped.

        Raises:
            FungiError: If an input is unusable and nothing may be skipped.
        """
        self._places = places = []
        raws: list[Any] = []
        for index, raw in chunk:
            try:
                raws.append(self._encoder.check(raw, index))
                places.append(index)
            except FungiError as error:
                self._leave_out(index, raw, error)
        try:
            return raws, self._encoder.prepare(raws)
        except FungiError:
            if not self._skip:
                raise
        kept, prepared = [], []
        self._places = []
        for index, raw in zip(places, raws, strict=True):
            try:
                prepared += self._encoder.prepare([raw])
                kept.append(raw)
                self._places.append(index)
            except FungiError as error:
                self._leave_out(index, raw, error)
        return kept, prepared

    def leave_out(self, rows: Iterable[int], why: str) -> None:
        """Count samples of the current chunk among the failures, by their places in it."""
        for row in rows:
            index = self._places[row]
            self._leave_out(index, self._chunk[index], FeatureError(f"input {index}: {why}"))

    def _leave_out(self, index: int, raw: Any, error: FungiError) -> None:
        """Remember a failure, or raise it where nothing may be skipped.

        Raises:
            FungiError: The failure itself.
        """
        if not self._skip:
            raise error
        source = self._encoder.describe(raw)
        self.failures.append(Failure(index=index, source=source, error=str(error)))


def warn_of(notes: Counter[str], encoder: Encoder) -> None:
    """Warn once per kind of special input, with a count."""
    for name, count in notes.items():
        message = encoder.NOTES[name].format(n=count, limit=encoder.max_length)
        warnings.warn(message, stacklevel=3)


def _views(encoder: Encoder, spec: ObjectiveSpec, n_views: int) -> ViewGenerator:
    name, options = spec.view_generator
    return encoder.views(name, n_views, options)


def _late_views(encoder: Encoder, spec: ObjectiveSpec, n_views: int) -> LateViews | None:
    """Give the late views of an objective, or None where it wants whole ones.

    Raises:
        ConfigError: If the encoder offers none.
    """
    if spec.late_views is None:
        return None
    if not isinstance(encoder, LateEncoder):
        raise ConfigError(
            f"{type(encoder).__name__} offers no late views; set late_views=None, or write the "
            "members of fungi_hf.encoders.base.LateEncoder"
        )
    name, options = spec.view_generator
    return encoder.late_views(name, n_views, options, spec.late_views)


def iterate(inputs: Any) -> Iterator[Any]:
    """Iterate over inputs, refusing what only looks like many.

    Raises:
        InputTypeError: If `inputs` is one input, a dict, a table, or not iterable.
    """
    kind = type(inputs).__name__
    if isinstance(inputs, (str, bytes, bytearray, dict)) or getattr(inputs, "shape", None) == ():
        raise InputTypeError(
            f"inputs must be a list or another iterable; got one {kind}: pass a list"
        )
    if is_clip(inputs):
        raise InputTypeError("inputs are one clip (samples, Hz); pass a list of such pairs")
    if hasattr(inputs, "columns"):  # iterating over a data frame gives its column names
        raise InputTypeError(f"inputs must be a list or one column; got a table ({kind})")
    if not hasattr(inputs, "__iter__"):
        if hasattr(inputs, "__getitem__") and hasattr(inputs, "__len__"):  # torch's data sets
            return (inputs[i] for i in range(len(inputs)))
        raise InputTypeError(
            f"inputs must be a list or another iterable; got one {kind}: pass a list"
        )
    return iter(inputs)


def is_clip(inputs: object) -> bool:
    """Whether this is one clip as a pair (samples, sampling rate), not two inputs."""
    if not isinstance(inputs, tuple) or len(inputs) != 2:
        return False
    samples, rate = inputs
    is_rate = isinstance(rate, (numbers.Real, np.number)) and not isinstance(rate, bool)
    return is_rate and (hasattr(samples, "shape") or isinstance(samples, list))
