"""What an extractor does with inputs that are too many for memory."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, cast

from fungi_hf.checks import check_integer
from fungi_hf.errors import InputTypeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from fungi_hf.features import FungiFeatures
    from fungi_hf.shards.extract import Extractor
    from fungi_hf.shards.store import Manifest


class LargeInputs:
    """The methods of `fungi_hf.extractor.FungiExtractor` for streams and files."""

    def stream(
        self, inputs: Iterable[Any], *, chunk: int = 1000, **options: Any
    ) -> Iterator[FungiFeatures]:
        """Give the features of an iterable, chunk by chunk, as they are asked for.

        `options` are those of `collect`; errors and failures number inputs from the stream's
        begin. What was special in a chunk is not warned of.

        Raises:
            ConfigError: If `chunk` is no number of inputs.
            InputTypeError: If `inputs` is one input.
            InputError: If an input is unusable.
        """
        check_integer("chunk", chunk)
        if isinstance(inputs, str | bytes | dict) or not hasattr(inputs, "__iter__"):
            raise InputTypeError(
                f"inputs must be a list or another iterable; got one {type(inputs).__name__}: pass "
                "a list"
            )
        return self._streamed(iter(inputs), chunk, options)

    def _streamed(
        self, inputs: Iterator[Any], chunk: int, options: dict[str, Any]
    ) -> Iterator[FungiFeatures]:
        first = 0
        while part := list(itertools.islice(inputs, chunk)):
            features, _ = cast("Extractor", self).collect(part, first=first, **options)
            first += len(part)
            yield features

    def extract_to(
        self,
        folder: str | Path,
        inputs: Iterable[Any] | str | Path,
        *,
        column: str | None = None,
        progress: bool = False,
        **options: Any,
    ) -> Manifest:
        """Write the features of large inputs to a folder of shards; `fungi-hf extract` calls this.

        The same call goes on where an earlier one stopped; several processes may work on one
        folder. `options` are the fields of `fungi_hf.shards.ShardOptions`, and
        `fungi_hf.shards.extract_to` says the rest. An unknown option is a ConfigError.
        """
        from fungi_hf.checks import check_known
        from fungi_hf.shards.extract import ShardOptions, extract_to

        check_known("extract_to", options, ShardOptions.__dataclass_fields__)
        how = ShardOptions(**options)
        extractor = cast("Extractor", self)
        return extract_to(extractor, folder, inputs, column=column, options=how, progress=progress)
