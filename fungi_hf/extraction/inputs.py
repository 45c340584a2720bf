"""From an iterable of raw inputs to samples: check, prepare, make views, count what is special."""

from __future__ import annotations

import copy
import itertools
import json
import numbers
import warnings
from collections import Counter
from collections.abc import Sized
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeAlias, cast

import numpy as np
import torch

from fungi_hf.encoders.base import LateEncoder
from fungi_hf.errors import ConfigError, FeatureError, FungiError, InputTypeError
from fungi_hf.extraction.batches import Sample
from fungi_hf.features import Failure
from fungi_hf.seeding import sample_generators
from fungi_hf.views.base import BatchViews

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from random import Random

    from torch import Tensor

    from fungi_hf.config import FungiConfig
    from fungi_hf.encoders.base import (
        DenseEncoder,
        Encoder,
        Prepared,
        PreparedViews,
        TokenEncoder,
    )
    from fungi_hf.specs import ObjectiveSpec
    from fungi_hf.views.base import ViewGenerator

    # Objectives that see the same views, their random stream, and what makes the views.
    _Whole: TypeAlias = tuple[list[str], str, ViewGenerator]
    # Beside these the views of prepared inputs, late or masked, by objective.
    _Views: TypeAlias = tuple[list[_Whole], dict[str, tuple[str, PreparedViews]]]


class InputReader:
    """Prepares inputs for one encoder and one config; views are keyed by content alone."""

    def __init__(self, encoder: Encoder, config: FungiConfig) -> None:
        self.encoder, self.config, self.prompt = encoder, config, encoder.default_prompt
        losses = config.losses.values()
        self._views = self._generators((spec, spec.n_views) for spec in losses if spec.n_views > 1)

    def _generators(self, wanted: Iterable[tuple[ObjectiveSpec, int]]) -> _Views:
        # Of whole views and of prepared inputs', V views for each objective.
        whole: dict[tuple[object, ...], _Whole] = {}
        late: dict[str, tuple[str, PreparedViews]] = {}
        for spec, n_views in wanted:
            (name, options), found = spec.view_generator, None
            if spec.reads_tokens:
                found = cast("TokenEncoder", self.encoder).masked_views(n_views, options)
            elif spec.late_views is not None:
                if not isinstance(self.encoder, LateEncoder):
                    raise ConfigError(
                        f"{type(self.encoder).__name__} offers no late views; set late_views=None, "
                        "or write the members of fungi_hf.encoders.base.LateEncoder"
                    )
                found = self.encoder.late_views(name, n_views, options, spec.late_views)
            if found is not None:
                late[spec.name] = spec.stream, found
                continue
            key = (spec.stream, name, json.dumps(options, sort_keys=True), n_views)
            if key not in whole:
                whole[key] = [], spec.stream, self.encoder.views(name, n_views, options)
            whole[key][0].append(spec.name)
        return list(whole.values()), late

    def training_samples(self, raws: Sequence[Any], spec: ObjectiveSpec) -> list[Sample]:
        """Prepare inputs with the views that an objective's `fit` wants."""
        return self.samples(raws, self._generators([(spec, spec.training_views)]))

    def prompted(self, prompt: str) -> Self:
        """Give a reader that puts another text in front of every input."""
        made = copy.copy(self)
        made.prompt = prompt
        return made

    def read(
        self,
        inputs: Iterable[Any],
        *,
        skip: bool = False,
        first: int = 0,
        each: Callable[[list[Any]], None] | None = None,
    ) -> Reading:
        """Give an iterator over chunks of samples that remembers what it met.

        `each` is called with the checked inputs of every chunk.
        """
        return Reading(self, inputs, skip=skip, first=first, each=each)

    def samples(self, raws: Sequence[Any], generators: _Views | None = None) -> list[Sample]:
        """Prepare checked inputs and views, by default the config's, in one call of the encoder."""
        whole, late = generators or self._views
        contents = self.encoder.contents(raws) if whole or late else []
        random = partial(sample_generators, self.config.seed, contents=contents)
        made = [_made(views, raws, random(f"views/{stream}")) for _, stream, views in whole]
        flat = [view for of_samples in made for some in of_samples for view in some]
        prepared = iter(self.encoder.prepare([*raws, *flat]))
        originals = list(itertools.islice(prepared, len(raws)))
        found: dict[str, list[list[Prepared]]] = {}
        for (names, _, _), of_samples in zip(whole, made, strict=True):
            items = [list(itertools.islice(prepared, len(some))) for some in of_samples]
            found |= dict.fromkeys(names, items)
        for name, (stream, late_views) in late.items():
            found[name] = late_views(raws, originals, random(f"views/{stream}"))
        if self.config.dense:
            return self._dense_samples(raws, originals)
        return [
            Sample(place, item, {name: of_samples[place] for name, of_samples in found.items()})
            for place, item in enumerate(originals)
        ]

    def _dense_samples(self, raws: Sequence[Any], originals: Sequence[Prepared]) -> list[Sample]:
        parts = cast("DenseEncoder", self.encoder).regions(raws, originals)
        each = zip(originals, parts, self.encoder.contents(raws), strict=True)
        return [
            Sample(place, item, {}, regions.without(len(self.prompt)), content)
            for place, (item, regions, content) in enumerate(each)
        ]


def _made(views: ViewGenerator, raws: Sequence[Any], generators: list[Random]) -> list[list[Any]]:
    if isinstance(views, BatchViews):
        return views.many(raws, generators)
    return [list(views(*pair)) for pair in zip(raws, generators, strict=True)]


class Reading:
    """One pass over the inputs; with `skip` unusable ones are left out."""

    def __init__(
        self,
        reader: InputReader,
        inputs: Iterable[Any],
        *,
        skip: bool,
        first: int,
        each: Callable[[list[Any]], None] | None = None,
    ) -> None:
        self._each = each
        self._reader, self.encoder, self.skips, self.first = reader, reader.encoder, skip, first
        self._source = enumerate(iterate(inputs), first)  # with the number of each input
        self.n_inputs = len(inputs) if isinstance(inputs, Sized) else None
        self._chunk = _Chunk([])
        self.notes: Counter[str] = Counter()  # what was special -> number of inputs
        self.failures: list[Failure] = []  # inputs that were left out
        self.n_read = 0

    def __iter__(self) -> Iterator[list[Sample]]:
        """Give non-empty chunks of samples, in order; the next one is prepared meanwhile.

        Inputs are taken from their source in the caller's thread, and prepared in another one.
        What goes wrong is raised when its chunk's turn comes.
        """
        taken = self._take()
        chunk = self._prepared(taken) if isinstance(taken, list) else None
        with ExitStack() as stack:
            pool = None
            while isinstance(taken, list) and taken:
                following, ahead = self._take(), None
                if following and isinstance(following, list):
                    pool = pool or stack.enter_context(ThreadPoolExecutor(1, "fungi-reading"))
                    ahead = pool.submit(copy_context().run, self._prepared, following)
                if chunk is not None:
                    self.n_read += len(taken)
                    self._chunk = chunk
                    self.failures += chunk.failures
                    for sample in chunk.samples:
                        self.notes.update(sample.original.notes)
                    if chunk.samples:
                        yield chunk.samples
                taken, chunk = following, None if ahead is None else ahead.result()
        if isinstance(taken, Exception):
            raise taken

    def _take(self) -> list[tuple[int, Any]] | Exception:
        # What breaks the source must not take the chunk before it along.
        taken: list[tuple[int, Any]] = []
        try:
            taken.extend(itertools.islice(self._source, self.encoder.chunk_size))
        except Exception as error:  # whatever the caller's iterator raises
            return error
        return taken

    def _prepared(self, taken: list[tuple[int, Any]]) -> _Chunk:
        # An unusable input is decoded once, also when skipped.
        chunk, prompt, raws = _Chunk(taken), self._reader.prompt, list[Any]()
        for index, raw in taken:
            try:
                checked = self.encoder.check(raw, index)
                raws.append(prompt + checked if prompt else checked)
                chunk.places.append(index)
            except FungiError as error:
                chunk.failures.append(self._failure(index, raw, error))
        if self._each is not None:
            self._each(raws)
        try:
            chunk.samples = self._reader.samples(raws)
        except FungiError:
            if not self.skips:
                raise
        else:
            return chunk
        places, chunk.places = chunk.places, []
        for index, raw in zip(places, raws, strict=True):
            try:
                (sample,) = self._reader.samples([raw])
            except FungiError as error:
                chunk.failures.append(self._failure(index, raw, error))
            else:
                chunk.samples.append(replace(sample, index=len(chunk.samples)))
                chunk.places.append(index)
        return chunk

    def finite(self, blocks: dict[str, Tensor]) -> dict[str, Tensor]:
        """Leave out samples of the current chunk whose numbers overflowed in the model."""
        good = torch.stack([block.isfinite().all(-1) for block in blocks.values()]).all(0)
        if good.all():
            return blocks
        for row in (~good).nonzero()[:, 0].tolist():
            index = self._chunk.places[row]
            error = f"input {index}: the features hold NaN or Inf; check weights and dtype"
            self._leave_out(index, FeatureError(error))
        return {name: block[good] for name, block in blocks.items()}

    def number(self, sample: Sample) -> int:
        """Give the place among all inputs of a sample of the current chunk."""
        return self._chunk.places[sample.index]

    def source(self, sample: Sample) -> str:
        """Give a short name of a sample of the current chunk."""
        return self.encoder.describe(self._chunk.raw(self.number(sample)))

    def leave_out(self, sample: Sample, error: FungiError) -> None:
        """Raise the error, or leave a sample of the current chunk out."""
        self._leave_out(self.number(sample), error)

    def _leave_out(self, index: int, error: FungiError) -> None:
        self.failures.append(self._failure(index, self._chunk.raw(index), error))

    def _failure(self, index: int, raw: Any, error: FungiError) -> Failure:
        if not self.skips:
            raise error
        return Failure(index=index, source=self.encoder.describe(raw), error=str(error))


@dataclass(slots=True)
class _Chunk:
    """Inputs with their numbers, and what became of them."""

    taken: list[tuple[int, Any]]
    samples: list[Sample] = field(default_factory=list)
    places: list[int] = field(default_factory=list)  # of the samples among all inputs
    failures: list[Failure] = field(default_factory=list)  # inputs that were left out

    def raw(self, index: int) -> Any:
        """Give the input of that number."""
        return self.taken[index - self.taken[0][0]][1]


def iterate(inputs: Any) -> Iterator[Any]:
    """Iterate over inputs; refuse a single input where a sequence is expected.

    Raises:
        InputTypeError: If `inputs` is one input, a dict, a table, or not iterable.
    """
    kind = type(inputs).__name__
    is_indexed = hasattr(inputs, "__getitem__") and hasattr(inputs, "__len__")  # torch's data sets
    is_one = isinstance(inputs, (str, bytes, bytearray, dict)) or not (
        is_indexed or hasattr(inputs, "__iter__")
    )
    if is_one or getattr(inputs, "shape", None) == ():
        raise InputTypeError(
            f"inputs must be a list or another iterable; got one {kind}: pass a list"
        )
    if is_clip(inputs):
        raise InputTypeError("inputs are one clip (samples, Hz); pass a list of such pairs")
    if getattr(inputs, "ndim", 0) == 3:  # each of its rows would be taken for a grey image
        raise InputTypeError(
            f"inputs are one array of shape {tuple(inputs.shape)}; pass a list of images, [array], "
            "or list(batch) of an array of four axes"
        )
    if hasattr(inputs, "columns"):  # iterating over a data frame gives its column names
        raise InputTypeError(f"inputs must be a list or one column; got a table ({kind})")
    if hasattr(inputs, "to_pylist"):  # pyarrow's arrays give scalars of their own
        return iter(inputs.to_pylist())
    if hasattr(inputs, "__iter__"):
        return iter(inputs)
    return (inputs[i] for i in range(len(inputs)))


def warn_of(notes: Counter[str], encoder: Encoder) -> None:
    """Warn once per kind of special input, with a count."""
    for name, count in notes.items():
        message = encoder.NOTES[name].format(n=count, limit=encoder.max_length)
        warnings.warn(message, stacklevel=3)


def readable_twice(inputs: Iterable[Any]) -> Iterable[Any]:
    """Give inputs that can be read again: generators as lists, all else as it is."""
    source = iterate(inputs)
    return list(source) if source is inputs else inputs


def is_clip(inputs: object) -> bool:
    """Whether this is one clip as a pair (samples, sampling rate), not two inputs."""
    if not isinstance(inputs, tuple) or len(inputs) != 2:
        return False
    samples, rate = inputs
    is_rate = isinstance(rate, (numbers.Real, np.number)) and not isinstance(rate, bool)
    return is_rate and (hasattr(samples, "shape") or isinstance(samples, list))
