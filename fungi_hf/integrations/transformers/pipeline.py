"""transformers' pipeline for FUNGI features: task "fungi-feature-extraction".

Invariant: the vectors are the extractor's, whatever the way in (one input, list, generator, data
set), the batch size and the number of workers. As in transformers' own feature extraction, each
input gives a leading axis of one: a nested list [1][F], or a tensor [1, F].
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from transformers import Pipeline

from fungi_hf.checks import check_choice, check_flag, check_known
from fungi_hf.encoders.prompts import prompt_text
from fungi_hf.errors import ConfigError, InputTypeError
from fungi_hf.extraction.inputs import is_clip, warn_of
from fungi_hf.integrations.transformers.folders import ModelByName, build_extractor, save_pipeline
from fungi_hf.storage.files import HubOptions
from fungi_hf.storage.sharing import PushOptions, push_folder

if TYPE_CHECKING:
    from pathlib import Path

    from fungi_hf.config import FungiConfig
    from fungi_hf.extractor import FungiExtractor
    from fungi_hf.features import Failure

__all__ = ["FungiPipeline", "ModelByName"]

_ARGUMENTS: Final = (
    *("fungi_config", "return_tensors", "on_error", "prompt_name", "prompt"),
    *("batch_size", "num_workers", "device", "dtype"),
)


@dataclass(slots=True)
class _Progress:
    """What one lazy pass over inputs has seen so far."""

    seen: int = 0
    notes: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)


class PipelineOutputs(list[Any]):
    """The outputs of the usable inputs under `on_error="skip"`, and which were left out, why."""

    def __init__(self, outputs: list[Any], failures: tuple[Failure, ...]) -> None:
        super().__init__(outputs)
        self.failures = failures


class FungiPipeline(Pipeline):
    """Raw inputs to FUNGI features, by transformers' conventions.

    Example:
        >>> import fungi_hf
        >>> from transformers import pipeline
        >>> pipe = pipeline("fungi-feature-extraction", model="folder-or-hub-id")
        >>> pipe("a text", return_tensors=True).shape
    """

    # Preprocessors are loaded with the encoder, where a missing one is an error that names it.
    _load_tokenizer = _load_feature_extractor = _load_image_processor = False
    _load_processor = _load_video_processor = False

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        feature_extractor: Any = None,
        image_processor: Any = None,
        processor: Any = None,
        *,
        fungi_config: FungiConfig | dict[str, Any] | str | Path | None = None,
        dtype: Any = "auto",
        **host: Any,
    ) -> None:
        """Load or wrap the encoder; called by `transformers.pipeline`.

        The model is what `ModelByName` gave for a name, or loaded, and then not changed but for
        its device. A preprocessor that is not given is loaded with the model. `fungi_config` is a
        config; its dictionary; or a folder or repository with a config and, perhaps, fitted state;
        None is what the model's folder says, else the default. `dtype` is that of the forward
        pass; "auto" is the config's. The rest are transformers' own arguments: task, device,
        batch_size, num_workers, return_tensors.

        Raises:
            ConfigError: If an argument is unknown or without effect, or the config does not fit.
        """
        hub = HubOptions(local_files_only=bool(host.pop("local_files_only", False)))
        host.pop("torch_dtype", None)
        if host.pop("video_processor", None) is not None:
            raise ConfigError("video_processor has no use here; leave it out")
        given = processor or tokenizer or feature_extractor or image_processor
        self.extractor = build_extractor(model, given, fungi_config, dtype=dtype, hub=hub)
        encoder = self.extractor.encoder
        kind = "image_processor" if encoder.modality == "vision" else "feature_extractor"
        super().__init__(encoder.model, encoder.tokenizer, **{kind: encoder.processor}, **host)

    @property
    def fungi_config(self) -> FungiConfig:
        """What is computed."""
        return self.extractor.config

    def _sanitize_parameters(
        self,
        return_tensors: bool | None = None,
        on_error: str | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        **unknown: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        check_known("the pipeline", unknown, _ARGUMENTS, noun="argument")
        forward, post = {}, {}
        if (prompt_name, prompt) != (None, None):
            text = prompt_text(self.extractor.encoder, prompt_name, prompt)
            forward["prompt"] = text
        if on_error is not None:
            forward["on_error"] = check_choice("on_error", on_error, ("raise", "skip"))
        if return_tensors is not None:
            post["return_tensors"] = check_flag("return_tensors", return_tensors)
        return {}, forward, post

    def fit(self, inputs: Iterable[Any], labels: Any = None) -> FungiPipeline:
        """Learn what the config asks for, as `FungiExtractor.fit` does, and give the pipeline."""
        self.extractor.fit(inputs, labels)
        return self

    def __call__(
        self,
        inputs: Any,
        *,
        num_workers: int | None = None,
        batch_size: int | None = None,
        **options: Any,
    ) -> Any:
        """Give features.

        Args:
            inputs: One input (a pair (samples, Hz) is one clip); many (list, tuple, array of
                texts, `datasets` column), for which all is computed at once; or a lazy source
                (generator, torch data set, `KeyDataset`, streaming column), which gives a lazy
                iterator.
            num_workers: Processes that read a lazy source.
            batch_size: Inputs of one forward pass. For a lazy source also how many are read
                ahead, 1 unless said here or at construction. It does not change the features.
            options: return_tensors: tensors in place of nested lists. on_error: "raise", or
                "skip" to leave unusable inputs out of many and list them in `.failures` of what
                is returned; a lone unusable input is always raised. prompt_name, prompt: as of
                the extractor's call.

        Returns:
            For one input a list [1][F] or a tensor [1, F]; for many a list of these; for a lazy
            source an iterator over these, whose `.failures` grow as it is read.

        The errors are those of the extractor's call; an unknown argument is a ConfigError.
        """
        _, forward, post = self._sanitize_parameters(**options)
        post = {**self._postprocess_params, **post}
        forward = {**self._forward_params, **forward}
        on_error, prompt = forward.get("on_error", "raise"), forward.get("prompt")
        size = batch_size if batch_size is not None else self._batch_size
        kind = _kind(inputs)
        if kind == "lazy":
            workers = num_workers if num_workers is not None else self._num_workers
            progress = _Progress()
            forward = {"progress": progress, "on_error": on_error, "prompt": prompt}
            source = self.get_iterator(inputs, workers or 0, size or 1, {}, forward, post)
            return _Lazy(source, progress, self.extractor)
        many = list(inputs) if kind == "many" else [inputs]
        skips = on_error == "skip" and kind == "many"
        on_error = "skip" if skips else "raise"
        features = self.extractor(many, size, on_error=on_error, prompt=prompt)
        rows = torch.from_numpy(features.array)
        outputs = [self.postprocess({"features": row[None]}, **post) for row in rows]
        if skips:
            return PipelineOutputs(outputs, features.failures)
        return outputs if kind == "many" else outputs[0]

    def preprocess(self, item: Any) -> dict[str, list[Any]]:
        """Pass the raw input on: lists go through transformers' collation untouched."""
        return {"raw": [item]}

    def _forward(
        self,
        model_inputs: dict[str, Any],
        progress: _Progress | None = None,
        on_error: str = "raise",
        prompt: str | None = None,
    ) -> dict[str, Any]:
        raw = [item[0] if isinstance(item, list) else item for item in model_inputs["raw"]]
        progress = progress or _Progress()
        first = progress.seen
        features, notes = self.extractor.collect(
            raw, len(raw), on_error=on_error, first=first, prompt=prompt
        )
        progress.seen += len(raw)
        progress.notes.update(notes)
        progress.failures += features.failures
        lost = {failure.index - first for failure in features.failures}
        # transformers splits a batch by the rows of its tensors: what failed keeps its row.
        kept = torch.tensor([row not in lost for row in range(len(raw))])
        rows = torch.zeros(len(raw), features.shape[1])
        rows[kept] = torch.from_numpy(features.array)
        return {"features": rows, "kept": kept}

    def postprocess(self, model_outputs: dict[str, Any], return_tensors: bool = False) -> Any:
        """Give a tensor [1, F] or a nested list [1][F]; None for an input that was skipped."""
        features: torch.Tensor = model_outputs["features"]
        if not model_outputs.get("kept", torch.ones(1)).all():
            return None
        return features if return_tensors else features.tolist()

    def save_pretrained(
        self, save_directory: str | Path, *, custom_code: bool = False, **options: Any
    ) -> None:
        """Write encoder, preprocessor, config and fitted state: a folder that loads again.

        The folder is made if missing; one that holds another model, or cannot be written, is a
        StorageError. With `custom_code` a one-line module is written, too, so that users who have
        this package but do not import it load the folder with `trust_remote_code=True`;
        transformers then wants that argument from everybody who asks for the task by name. The
        options are those of the model's own `save_pretrained` (max_shard_size, ...).
        """
        save_pipeline(self.extractor, save_directory, custom_code=custom_code, options=options)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        private: bool | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        custom_code: bool = False,
    ) -> str:
        """Upload what `save_pretrained` writes, as `FungiConfig.push_to_hub` does.

        A repository that holds another model, or cannot be written, is a StorageError. Gives the
        commit's address.
        """
        options = PushOptions(commit_message, private, token, revision, create_pr)
        with tempfile.TemporaryDirectory() as folder:
            save_pipeline(self.extractor, folder, custom_code=custom_code)
            return push_folder(folder, repo_id, options, with_model=True)


class _Lazy(Iterator[Any]):
    """transformers' iterator, with its length, one warning at its end, and `failures` so far."""

    def __init__(self, source: Any, progress: _Progress, extractor: FungiExtractor) -> None:
        self._source, self._iterator = source, iter(source)
        self._notes, self._extractor = progress.notes, extractor
        self.failures = progress.failures

    def __next__(self) -> Any:
        try:
            while (output := next(self._iterator)) is None:
                pass
        except StopIteration:
            warn_of(self._notes, self._extractor.encoder)
            self._notes.clear()
            raise
        return output

    def __len__(self) -> int:
        return len(self._source)


def _kind(inputs: Any) -> str:
    # Inputs are "one", "many" at hand, or a "lazy" source.
    if isinstance(inputs, (str, bytes, bytearray, dict)) or inputs is None or is_clip(inputs):
        return "one"
    if hasattr(inputs, "column_names") and hasattr(inputs, "features"):
        raise InputTypeError(
            f"inputs are a {type(inputs).__name__} with columns {list(inputs.column_names or [])}; "
            "pass one of its columns: dataset['text']"
        )
    if isinstance(inputs, torch.utils.data.Dataset):
        return "lazy"
    if isinstance(inputs, np.ndarray):
        return "many" if inputs.ndim == 1 and inputs.dtype.kind in "UO" else "one"
    if isinstance(inputs, Sequence) or type(inputs).__name__ in ("Series", "Index"):
        return "many"
    is_source = isinstance(inputs, Iterable) and not isinstance(inputs, torch.Tensor)
    return "lazy" if is_source and not hasattr(inputs, "read") else "one"
