"""Features as columns of a `datasets` data set, with a fingerprint that repeats.

Invariant: the same data, extractor and columns give the same fingerprint in every process, so a
second run reads the cache.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from fungi_hf.checks import check_integer, check_known
from fungi_hf.encoders.prompts import prompt_text
from fungi_hf.errors import ConfigError, InputTypeError, NotFittedError, OptionalDependencyError
from fungi_hf.integrations.parts import ExtractorParts

if TYPE_CHECKING:
    from fungi_hf.extractor import FungiExtractor

D = TypeVar("D")


class _Extraction:
    """The function that `map` runs; it travels as parts and is rebuilt once per process."""

    def __init__(self, extractor: FungiExtractor, columns: dict[str, str], prompt: str) -> None:
        self._extractor: FungiExtractor | ExtractorParts = extractor
        self._columns, self._prompt = columns, prompt

    def __getstate__(self) -> dict[str, Any]:
        whole = self._extractor
        parts = whole if isinstance(whole, ExtractorParts) else ExtractorParts(whole)
        return {"_extractor": parts, "_columns": self._columns, "_prompt": self._prompt}

    def __call__(self, batch: dict[str, list[Any]], rows: list[int]) -> dict[str, Any]:
        if isinstance(self._extractor, ExtractorParts):
            import torch

            torch.set_num_threads(1)  # one of several processes
            self._extractor = self._extractor.build()
        extract, check = self._extractor, self._extractor.encoder.check
        added = {}
        for old, new in self._columns.items():
            # Checked here, so that an error names the row of the data set and not of the batch.
            inputs = [check(item, row) for item, row in zip(batch[old], rows, strict=True)]
            added[new] = list(extract(inputs, prompt=self._prompt).array)
        return added


def extract_dataset(
    dataset: D,
    extractor: FungiExtractor,
    columns: str | list[str] | Mapping[str, str] = "text",
    *,
    batch_size: int = 1000,
    num_proc: int | None = None,
    prompt_name: str | None = None,
    prompt: str | None = None,
) -> D:
    """Add a column of features for each input column.

    Args:
        dataset: A `Dataset`, `DatasetDict`, or their streaming forms.
        extractor: Fitted, if its config wants that.
        columns: An input column (texts, `datasets.Audio` or `datasets.Image`), several (the new
            ones are called `<name>_fungi`), or a mapping from input to new column. A single
            "text" gives "text_fungi".
        batch_size: Rows read at a time; it does not change the features.
        num_proc: Processes; not for streaming data.
        prompt_name: As of the extractor's call.
        prompt: As of the extractor's call.

    Returns:
        The data set with columns of fixed-size lists of float32, which `add_faiss_index` takes.

    Raises:
        NotFittedError: If the extractor still needs `fit`.
        ConfigError: If a column does not exist or is taken, or a number does not apply.
        InputTypeError: If `dataset` is no data set, or an input has the wrong type.
        InputError: If an input is unusable; the message names its row.
        OptionalDependencyError: If datasets is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise OptionalDependencyError("datasets", "datasets") from error
    if not extractor.is_fitted:
        raise NotFittedError("fit the extractor first: extractor.fit(training_inputs)")
    check_integer("batch_size", batch_size)
    if num_proc is not None:
        check_integer("num_proc", num_proc)
    data: Any = dataset
    text = prompt_text(extractor.encoder, prompt_name, prompt)
    if isinstance(data, (datasets.DatasetDict, datasets.IterableDatasetDict)):
        same = functools.partial(
            extract_dataset, batch_size=batch_size, num_proc=num_proc, prompt=text
        )
        parts = {name: same(part, extractor, columns) for name, part in data.items()}
        return type(dataset)(parts)  # type: ignore[call-arg]
    if not isinstance(data, (datasets.Dataset, datasets.IterableDataset)):
        raise InputTypeError(f"dataset must be a datasets.Dataset; got {type(dataset).__name__}")
    names = _columns(columns, data.column_names)
    behind = "" if text == extractor.encoder.default_prompt else f"|{text}"
    form = getattr(data, "format", {}).get("type")
    data, encoded = _undecoded(data.with_format(None), names)
    column = datasets.List(datasets.Value("float32"), length=extractor.width)
    added = dict.fromkeys(names.values(), column)
    features = None if data.features is None else datasets.Features({**data.features, **added})
    settings: dict[str, Any] = {}
    if isinstance(data, datasets.Dataset):
        if not len(data):  # `map` adds no column to no rows
            return _without_rows(data, features, encoded)
        whole = f"{data._fingerprint}|{extractor.fingerprint}|{sorted(names.items())!r}{behind}"
        settings = {"num_proc": num_proc, "desc": "FUNGI features"}
        settings["new_fingerprint"] = hashlib.sha256(whole.encode()).hexdigest()[:16]
    elif num_proc is not None:
        raise ConfigError("num_proc is not for streaming data sets; leave it None")
    data = data.map(
        _Extraction(extractor, names, text),
        with_indices=True,
        batched=True,
        batch_size=batch_size,
        features=features,
        **settings,
    )
    for name, feature in encoded.items():
        data = data.cast_column(name, feature)
    return data.with_format(form)


def _undecoded(data: Any, names: Mapping[str, str]) -> tuple[Any, dict[str, Any]]:
    # Sounds and pictures as whole files: datasets decodes sounds with torchcodec only, and loses
    # how a picture is to be turned. Beside it what they were.
    import datasets

    encoded = {
        name: feature
        for name, feature in (data.features or {}).items()
        if name in names
        and isinstance(feature, (datasets.Audio, datasets.Image))
        and feature.decode
    }
    for name, feature in encoded.items():
        data = data.cast_column(name, type(feature)(decode=False))
    return data, encoded


def _without_rows(data: Any, features: Any, encoded: Mapping[str, Any]) -> Any:
    made = type(data).from_dict({name: [] for name in features}, features=features)
    made.info.description, made._split = data.info.description, data.split
    for name, feature in encoded.items():
        made = made.cast_column(name, feature)
    return made


def _columns(asked: Any, there: list[str] | None) -> dict[str, str]:
    if isinstance(asked, str):
        asked = [asked]
    names = dict(asked) if isinstance(asked, Mapping) else {name: f"{name}_fungi" for name in asked}
    if not names:
        raise ConfigError("columns is empty; name at least one input column")
    for old, new in names.items():
        if there is None:
            continue
        check_known("the data set", [old], there, noun="column", error=ConfigError)
        if new in there:
            raise ConfigError(f"the data set has a column {new!r} already; give another name")
    return names
