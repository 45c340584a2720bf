"""FUNGI features as a scikit-learn transformer.

Invariant: within a process a text is extracted once per encoder, config and fitted state, whatever
folds, clones and weights a search goes through.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fungi_hf.checks import check_known
from fungi_hf.config import FungiConfig
from fungi_hf.encoders.loading import encoder_digest
from fungi_hf.errors import ConfigError, InputTypeError, OptionalDependencyError, StateError
from fungi_hf.extraction.state import FittedState
from fungi_hf.extractor import FungiExtractor

try:
    from sklearn.base import BaseEstimator, TransformerMixin
    from sklearn.utils.validation import check_is_fitted
except ImportError as error:
    raise OptionalDependencyError("sklearn", "sklearn") from error

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fungi_hf.types import Float32Array

_ROWS: Final[OrderedDict[tuple[str, bytes], Float32Array]] = OrderedDict()


class FungiTransformer(TransformerMixin, BaseEstimator):
    """Texts (or clips) to feature vectors, in pipelines and searches.

    Searching over `blocks` and `weights` costs one extraction; over `objectives` or `config` one
    for each value.

    Args:
        model: What `FungiExtractor.from_pretrained` takes, or an extractor, which is shared by
            clones and not copied.
        config: What to compute; None is the default, or a saved extractor's own.
        objectives: Replaces the config's objectives.
        blocks: Which blocks to keep, e.g. ("embedding", "kl"); None is all.
        weights: Block name -> factor, on top of the config's.
        batch_size: Most inputs of one forward pass.
        prompt_name: Name of the prompt in front of every text; None is the default prompt.
        cache_rows: Vectors kept in memory for all transformers of the process; 0 keeps none.
    """

    def __init__(  # noqa: PLR0913  (scikit-learn's convention: one argument a parameter)
        self,
        model: Any = None,
        *,
        config: FungiConfig | None = None,
        objectives: tuple[Any, ...] | None = None,
        blocks: tuple[str, ...] | None = None,
        weights: Mapping[str, float] | None = None,
        batch_size: int | None = None,
        prompt_name: str | None = None,
        cache_rows: int = 20_000,
    ) -> None:
        self.model = model
        self.config = config
        self.objectives = objectives
        self.blocks = blocks
        self.weights = weights
        self.batch_size = batch_size
        self.prompt_name = prompt_name
        self.cache_rows = cache_rows

    def __sklearn_clone__(self) -> FungiTransformer:
        """Clone without copying a model object."""
        return type(self)(**self.get_params(deep=False))

    def __sklearn_tags__(self) -> Any:
        """Say that the input is a sequence of texts."""
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        tags.input_tags.one_d_array = True
        tags.no_validation = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        # Parameters and fitted tensors; an encoder that has a name is not copied.
        state = dict(super().__getstate__())
        extractor: FungiExtractor | None = state.pop("extractor_", None)
        if extractor is not None:
            digest = encoder_digest(extractor.encoder)
            state["_fitted"] = (extractor.state.to_tensors(), digest, extractor.tuning)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        # The encoder is loaded again; other weights than those of the pickle are a StateError.
        fitted = state.pop("_fitted", None)
        super().__setstate__(state)
        if fitted is None:
            return
        tensors, digest, tuning = fitted
        extractor = _fresh(self._build())
        if encoder_digest(extractor.encoder) != digest:
            raise StateError(
                f"the encoder {self.model!r} has other weights than when the transformer was "
                "pickled; features would not be comparable"
            )
        extractor.restore(FittedState.from_tensors(tensors), tuning)
        self.extractor_ = extractor

    def fit(self, X: Any, y: Any = None) -> FungiTransformer:
        """Load the encoder and learn what the config asks for from a list, array or column.

        A config with a `discriminant` learns from labels y; others ignore them. Any other X is an
        InputTypeError, a parameter that is none of the choices a ConfigError.
        """
        inputs = _inputs(X)
        extractor = self._build()
        if extractor.config.needs_fit and not isinstance(self.model, FungiExtractor):
            extractor = _fresh(extractor).fit(inputs, y, prompt_name=self.prompt_name)
        elif not extractor.is_fitted:
            extractor.fit(inputs, y, prompt_name=self.prompt_name)
        else:
            for index, item in enumerate(inputs):
                extractor.encoder.check(item, index)
        self.extractor_ = extractor
        self._factors()
        return self

    def transform(self, X: Any) -> Any:
        """Give the vectors of a list, array or column, in its order, [N, F] float32."""
        check_is_fitted(self, "extractor_")
        inputs, factors = _inputs(X), self._factors()
        rows = self._rows(inputs)
        layout = self.extractor_.layout
        parts = [rows[:, layout[name]] * np.float32(factor) for name, factor in factors.items()]
        return np.concatenate(parts, axis=1)

    def get_feature_names_out(self, input_features: Any = None) -> Any:
        """Give "<block>_<column>" for every column, [F] objects; the argument is ignored."""
        del input_features
        check_is_fitted(self, "extractor_")
        kept = {name: self.extractor_.layout[name] for name in self._factors()}
        names = [f"{name}_{i}" for name, it in kept.items() for i in range(it.stop - it.start)]
        return np.asarray(names, dtype=object)

    def _build(self) -> FungiExtractor:
        if self.model is None:
            raise ConfigError("model is None; give a Hub id, a folder, a model or an extractor")
        if isinstance(self.model, FungiExtractor):
            if self.config is not None or self.objectives is not None:
                raise ConfigError("the extractor brings its config; leave config, objectives None")
            return self.model
        config = self.config
        if self.objectives is not None:
            config = (config or FungiConfig()).replace(objectives=self.objectives)
        if not isinstance(self.model, (str, Path)):
            return FungiExtractor.from_pretrained(self.model, config)
        return _load(str(self.model), config)

    def _factors(self) -> dict[str, float]:
        layout = self.extractor_.layout
        names = list(layout) if self.blocks is None else list(self.blocks)
        check_known("the layout", (*names, *(self.weights or {})), layout, noun="block")
        return {name: float((self.weights or {}).get(name, 1.0)) for name in names}

    def _rows(self, inputs: list[Any]) -> Float32Array:
        extractor, prompt = self.extractor_, self.prompt_name
        extract = functools.partial(extractor, batch_size=self.batch_size, prompt_name=prompt)
        if self.cache_rows < 1:
            return extract(inputs).array
        fingerprint = f"{extractor.fingerprint} {prompt or ''}"
        items = [extractor.encoder.check(item, i) for i, item in enumerate(inputs)]
        keys = [(fingerprint, extractor.encoder.content(item)) for item in items]
        found = {key: _ROWS[key] for key in keys if key in _ROWS}
        wanted = {key: item for key, item in zip(keys, items, strict=True) if key not in found}
        array = extract(list(wanted.values())).array
        found.update(zip(wanted, array, strict=True))
        if not keys:
            return array
        for key in wanted:
            _ROWS[key] = found[key].copy()
        while len(_ROWS) > self.cache_rows:
            _ROWS.popitem(last=False)
        return np.stack([found[key] for key in keys])


@functools.lru_cache(maxsize=4)
def _load(name: str, config: FungiConfig | None) -> FungiExtractor:
    return FungiExtractor.from_pretrained(name, config)


def _fresh(extractor: FungiExtractor) -> FungiExtractor:
    """Share the encoder, not the fitted state."""
    return FungiExtractor(extractor.encoder, extractor.config, source=extractor.source)


def _inputs(X: Any) -> list[Any]:
    if isinstance(X, (str, bytes, dict)) or not hasattr(X, "__iter__"):
        raise InputTypeError(f"X must be a sequence of inputs; got one {type(X).__name__}")
    shape = getattr(X, "shape", (0,))
    if len(shape) != 1:
        raise InputTypeError(
            f"X must be one column of inputs; got shape {tuple(shape)}: pass X['column'] or X[:, 0]"
        )
    return list(X)
