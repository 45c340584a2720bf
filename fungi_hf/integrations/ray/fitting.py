"""A fit in parts over a cluster: parts of a bounded size come back, and the driver learns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from fungi_hf.checks import check_choice, check_integer
from fungi_hf.errors import ConfigError, FungiError, InputError, ShardError
from fungi_hf.extraction.part_files import packed, unpacked
from fungi_hf.integrations.ray.cluster import (
    Actors,
    Attempts,
    Carried,
    cluster,
    gpu_device,
    loaded,
    raised,
    told_of,
)
from fungi_hf.integrations.ray.files import files_source
from fungi_hf.seeding import derive_each

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from fungi_hf.extraction.fit_part import FitPart
    from fungi_hf.extractor import FungiExtractor
    from fungi_hf.integrations.ray.batches import OnError
    from fungi_hf.integrations.ray.cluster import Extractor
    from fungi_hf.shards.base import Source

ROWS: Final = 20_000
"""Of a part."""
_WHOLE: Final = 1 << 63  # digests are smaller


def fit(  # noqa: PLR0913  (a user names them)
    inputs: Any,
    extractor: Extractor,
    column: str | None = None,
    *,
    max_rows: int = 1_000_000,
    workers: int | None = None,
    num_gpus: float = 0,
    num_cpus: float = 1,
    on_error: OnError = "raise",
    prompt_name: str | None = None,
    prompt: str | None = None,
) -> FungiExtractor:
    """Learn what the config asks for on all machines of a cluster; give the fitted extractor.

    It learns what `FungiExtractor.fit` learns: the same draw, means and whitening to the rounding
    of float64. Every stage of `FungiExtractor.fit_stages` reads the inputs once.

    Args:
        inputs: A .txt, .jsonl, .csv or .parquet file, several Parquet files or a URL of them, that
            all nodes see; or a `ray.data.Dataset`.
        extractor: A folder or Hub id that every node can load, or an extractor, which is fitted
            itself.
        column: Of the inputs; None takes the first of text, image, img, audio ("text" of a data
            set).
        max_rows: Of more rows a sample of about so many is taken, by seeded digests of contents, so
            that neither order nor machines matter. A million suffices for covariances.
        workers: Actors that hold a model each; None takes all GPUs, or all CPUs but one.
        num_gpus: GPUs of each actor.
        num_cpus: CPUs of each actor, and torch's threads in it.
        on_error: "raise", or "skip" to leave unusable inputs out.
        prompt_name: As in a call of the extractor, and so is `prompt`.
        prompt: The text itself.

    Raises:
        ConfigError: If the config learns nothing, or is not fitted in parts; if the actors would
            take every CPU.
        FingerprintMismatchError: If a node has another version of the extractor.
        InputError: If an input is unusable, or none is usable.
        ShardError: If parts are lost: their actors died again and again.
    """
    check_integer("max_rows", max_rows)
    check_choice("on_error", on_error, ("raise", "skip"))
    whole = loaded(extractor)
    if not whole.fit_stages:
        raise ConfigError("this config learns nothing: there is nothing to fit")
    actors = Actors(number=workers, num_cpus=num_cpus, num_gpus=num_gpus)
    how = {"on_error": on_error, "prompt_name": prompt_name, "prompt": prompt}
    with cluster() as ray:
        is_dataset = isinstance(inputs, ray.data.Dataset)
        source = None if is_dataset else files_source(inputs, column)
        n_rows = inputs.count() if source is None else source.n_rows
        if not n_rows:
            raise InputError("fit needs at least one input; got none")
        for stage in whole.fit_stages:
            task = _Task(
                carried=Carried.of(ray, whole, whole.fingerprint),
                stage=stage,
                column=column or "text",
                source=source,
                share=min(1.0, max_rows / n_rows),
                how=how,
                threads=actors.threads,
                device=gpu_device(num_gpus),
                attempts=Attempts.counted(ray),
            )
            number = actors.fitting(ray)
            told = _told(ray, inputs, task, actors.options(ray, number))
            whole.fit_merge(list(_parts(told)), stage)
    return whole


@dataclass(frozen=True, kw_only=True)
class _Task:
    """All that an actor needs for a stage."""

    carried: Carried
    stage: str
    column: str
    source: Source | None
    share: float  # of the inputs that is taken
    how: dict[str, Any]
    threads: int
    device: str | None
    attempts: Any


class PartMaker:
    """An actor: places of rows, or the rows themselves, in; a part of the fit out, as bytes.

    Errors are told and not raised, as by `fungi_hf.integrations.ray.files.ShardWriter`.
    """

    def __init__(self, task: _Task) -> None:
        self._task, self._refusal = task, ("", "")
        try:
            self._extractor = task.carried.build(task.device, task.threads)
        except Exception as error:  # Ray would begin again for ever
            self._refusal = told_of(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Give the part of a batch."""
        part, error, message = b"", *self._refusal
        if not error:
            try:
                part = packed(self._part(batch))
            except Exception as refused:  # goes to the driver, whatever it is
                error, message = told_of(refused)
        return {"part": [part], "error": [error], "message": [message]}

    def _part(self, batch: dict[str, Any]) -> FitPart:
        task, name, start = self._task, None, None
        if task.source is None:
            raws = list(batch[task.column])
        else:
            start, stop = int(batch["start"][0]), int(batch["stop"][0])
            raws, name = task.source.read(start, stop), f"{start:015d}"
            # Batches of a data set have no name by which an attempt could be known again.
            gone = Attempts.exhausted(task.attempts, name)
            if gone:
                raise ShardError(f"a part of {len(raws)} rows is lost: {gone}")
        chosen = dict(enumerate(raws)) if task.share >= 1 else dict(self._sample(raws))
        try:
            found = list(chosen.values())
            return self._extractor.fit_part(found, task.stage, name=name, **task.how)
        except FungiError:
            if start is not None:
                for place, raw in chosen.items():  # raises with the row of the whole input
                    self._extractor.encoder.check(raw, start + place)
            raise

    def _sample(self, raws: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        encoder, limit = self._extractor.encoder, int(self._task.share * _WHOLE)
        seed = self._extractor.config.seed
        for place, raw in enumerate(raws):
            try:
                contents = encoder.contents([encoder.check(raw, place)])
            except FungiError:
                yield place, raw  # fit_part raises or skips it
                continue
            if derive_each(seed, ("sample",), contents)[0] < limit:
                yield place, raw


def _parts(told: Iterable[dict[str, Any]]) -> Iterator[FitPart]:
    for one in told:
        if one["error"]:
            raise raised(one["error"], one["message"])
        yield unpacked(one["part"])


def _told(ray: Any, inputs: Any, task: _Task, options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    from fungi_hf.integrations.ray.files import told

    if task.source is None:
        dataset, size = inputs.select_columns([task.column]), ROWS
    else:
        n_rows, size = task.source.n_rows, 1
        starts = range(0, n_rows, ROWS)
        places = [{"start": start, "stop": min(start + ROWS, n_rows)} for start in starts]
        dataset = ray.data.from_items(places, override_num_blocks=len(places))
    return told(ray, dataset, PartMaker, task, size, options)
