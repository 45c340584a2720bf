"""Features as columns of a Ray data set, lazily."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fungi_hf.checks import check_integer
from fungi_hf.errors import InputTypeError, NotFittedError
from fungi_hf.integrations.ray.batches import FungiBatches, names_of
from fungi_hf.integrations.ray.cluster import Actors, Carried, gpu_device, imported, loaded

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fungi_hf.integrations.ray.batches import OnError, Output
    from fungi_hf.integrations.ray.cluster import Extractor


def extract_dataset(  # noqa: PLR0913  (a user names them)
    dataset: Any,
    extractor: Extractor,
    columns: str | Sequence[str] | Mapping[str, str] = "text",
    *,
    workers: int | None = None,
    batch_size: int = 4096,
    num_gpus: float = 0,
    num_cpus: float = 1,
    on_error: OnError = "raise",
    output: Output = "list",
) -> Any:
    """Add a column of features for each input column; nothing runs before the result is read.

    Ray Data keeps no order and may compute a batch again: rows need a column that names them.

    Args:
        dataset: A `ray.data.Dataset`, of the cluster that is there.
        extractor: A fitted extractor, which is sent once, or a folder or Hub id that every node
            can load, which is cheaper.
        columns: An input column, several (the new ones are called `<name>_fungi`), or a mapping
            from input to new column.
        workers: Actors that hold a model each; None takes all GPUs, or all CPUs but one.
        batch_size: Rows of a call; it does not change the features.
        num_gpus: GPUs of each actor.
        num_cpus: CPUs of each actor, and torch's threads in it.
        on_error: "raise", or "skip": features are null and `<column>_error` says why.
        output: "list", fixed-size lists of float32, "variable_list", or "tensor".

    Returns:
        The data set with the new columns, whose fields name fingerprint and layout.

    Raises:
        ConfigError: If the actors would take every CPU, or an argument is not allowed.
        InputTypeError: If `dataset` is no Ray data set.
        NotFittedError: If the extractor still needs `fit`.
        OptionalDependencyError: If Ray is not installed.
    """
    ray = imported()
    if not isinstance(dataset, ray.data.Dataset):
        raise InputTypeError(
            f"dataset must be a ray.data.Dataset; got {type(dataset).__name__}: "
            "ray.data.read_parquet(...) gives one, fungi_hf.extract_dataset takes those of datasets"
        )
    here = loaded(extractor)
    if not here.is_fitted:
        raise NotFittedError("fit the extractor first: extractor.fit(training_inputs)")
    check_integer("batch_size", batch_size)
    names = names_of(columns)
    actors = Actors(number=workers, num_cpus=num_cpus, num_gpus=num_gpus)
    return dataset.map_batches(
        FungiBatches,
        fn_constructor_args=(Carried.of(ray, extractor, here.fingerprint), names),
        fn_constructor_kwargs={
            "device": gpu_device(num_gpus),
            "threads": actors.threads,
            "on_error": on_error,
            "output": output,
        },
        batch_size=batch_size,
        batch_format="pyarrow",
        **actors.options(ray, actors.fitting(ray)),
    )
