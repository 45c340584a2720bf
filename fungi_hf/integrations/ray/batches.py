"""What an actor of `map_batches` does: an Arrow table in, the table with features out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from fungi_hf.checks import check_choices, check_integer
from fungi_hf.errors import (
    ConfigError,
    FungiError,
    NotFittedError,
    OptionalDependencyError,
    choices,
)
from fungi_hf.extraction.inputs import warn_of
from fungi_hf.integrations.ray.cluster import Carried, imported, loaded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fungi_hf.features import FungiFeatures
    from fungi_hf.integrations.ray.cluster import Extractor
    from fungi_hf.types import Float32Array

OnError = Literal["raise", "skip"]
Output = Literal["list", "variable_list", "tensor"]


def names_of(columns: str | Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    """Give input column -> new column, by default `<name>_fungi`.

    Raises:
        ConfigError: If there is none.
    """
    if isinstance(columns, str):
        columns = [columns]
    if isinstance(columns, Mapping):
        found = dict(columns)
    else:
        found = {name: f"{name}_fungi" for name in columns}
    if not found:
        raise ConfigError("columns must name at least one column of inputs; got none")
    return found


class FungiBatches:
    """A callable class for `Dataset.map_batches(..., batch_format="pyarrow")`.

    It adds a column of features [n, F] for each input column, as fixed-size lists of float32 or as
    Ray's tensors. Rows stay as they are, in number and order: with `on_error="skip"` the features
    of an unusable input are null, and `<column>_error` says why. The field's metadata hold the
    fingerprint and the layout, which not every operator of Ray keeps.
    """

    def __init__(
        self,
        extractor: Extractor | Carried,
        columns: str | Sequence[str] | Mapping[str, str] = "text",
        *,
        device: str | None = None,
        threads: int | None = None,
        on_error: OnError = "raise",
        output: Output = "list",
    ) -> None:
        """Load the extractor; in an actor that is once.

        Args:
            extractor: A folder, a Hub id, or a fitted extractor. The last is pickled with every
                operator; `extract_dataset` sends it once.
            columns: An input column, several, or a mapping from input to new column.
            device: Where the model runs; None leaves it where it is.
            threads: Of torch; None changes nothing.
            on_error: "raise" or "skip".
            output: "list", "variable_list" (Spark knows no fixed size), or "tensor".

        Raises:
            ConfigError: If an argument is none of the choices.
            NotFittedError: If the extractor still needs `fit`.
            FingerprintMismatchError: If it is another one than the driver's.
        """
        self._names, self._on_error, self._output = names_of(columns), on_error, output
        check_choices(self, {"_on_error": OnError, "_output": Output})
        if threads is not None:
            check_integer("threads", threads)
        if isinstance(extractor, Carried):
            self.extractor = extractor.build(device, threads)
        else:
            if threads is not None:
                torch.set_num_threads(threads)
            self.extractor = loaded(extractor, device)
        if not self.extractor.is_fitted:
            raise NotFittedError("fit the extractor first: extractor.fit(training_inputs)")

    def __call__(self, table: Any) -> Any:
        """Give an Arrow table with the new columns.

        Raises:
            ConfigError: If a column is missing or taken.
            InputError: If an input is unusable, by the number in a column "row", if there is one.
        """
        pa = _arrow()
        for old, new in self._names.items():
            if old not in table.column_names:
                raise ConfigError(f"the table has no column {choices(old, table.column_names)}")
            if new in table.column_names:
                raise ConfigError(f"the table has a column {new!r} already; map {old!r} to another")
            rows = table["row"].to_pylist() if "row" in table.column_names else range(len(table))
            features, reasons = self._extract(table[old].to_pylist(), rows)
            field, column = self._column(pa, features, reasons)
            table = table.append_column(pa.field(new, column.type, metadata=field), column)
            if self._on_error == "skip":
                table = table.append_column(f"{old}_error", pa.array(reasons, pa.string()))
        return table

    def _extract(
        self, inputs: list[Any], rows: Sequence[int]
    ) -> tuple[FungiFeatures, list[str | None]]:
        # Of all usable inputs; and why others are not.
        reasons: list[str | None] = [None] * len(inputs)
        places, usable = [], []
        for place, (raw, row) in enumerate(zip(inputs, rows, strict=True)):
            try:
                usable.append(self.extractor.encoder.check(raw, row))
                places.append(place)
            except FungiError as error:
                if self._on_error == "raise":
                    raise
                reasons[place] = str(error)
        features, notes = self.extractor.collect(usable, on_error=self._on_error)
        for failure in features.failures:
            reasons[places[failure.index]] = failure.error
        if notes:
            warn_of(notes, self.extractor.encoder)
        return features, reasons

    def _column(
        self, pa: Any, features: FungiFeatures, reasons: list[str | None]
    ) -> tuple[dict[str, str], Any]:
        width, keep = features.array.shape[1], np.array([r is None for r in reasons], dtype=bool)
        whole = np.full((len(reasons), width), np.nan, np.float32)
        whole[keep] = features.array
        layout = {name: [part.start, part.stop] for name, part in features.layout.items()}
        facts = {"fungi_fingerprint": features.fingerprint, "fungi_layout": json.dumps(layout)}
        if self._output == "tensor":
            return facts, _tensors(whole)
        flat = pa.array(whole.reshape(-1), pa.float32())
        mask = None if keep.all() else pa.array(~keep)
        lists = pa.FixedSizeListArray.from_arrays(flat, width, mask=mask)
        if self._output == "variable_list":
            lists = lists.cast(pa.list_(pa.float32()))
        return facts, lists


def _tensors(rows: Float32Array) -> Any:
    # Rows without features are NaN: Ray's tensors have no null.
    imported()
    from ray.data.extensions import ArrowTensorArray

    return ArrowTensorArray.from_numpy(rows)


def _arrow() -> Any:
    try:
        import pyarrow as pa
    except ImportError as error:
        raise OptionalDependencyError("pyarrow", "ray") from error
    return pa
