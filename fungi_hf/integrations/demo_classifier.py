"""A classifier of new texts: similar labelled texts are shown to a language model.

Invariant: what is saved holds no key; a loaded classifier shows the same demonstrations.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from fungi_hf.checks import check_choice
from fungi_hf.errors import (
    ConfigError,
    InputError,
    InputTypeError,
    LLMError,
    OptionalDependencyError,
    StorageError,
)
from fungi_hf.extractor import FungiExtractor
from fungi_hf.icl.chat import ChatLLM
from fungi_hf.icl.examples import Examples
from fungi_hf.icl.labels import LabelSpace
from fungi_hf.icl.leaks import LeakGuard
from fungi_hf.icl.plan import make_plan
from fungi_hf.icl.prompt import PromptBuilder
from fungi_hf.icl.run import Run, run_here
from fungi_hf.icl.sampling import Sampling
from fungi_hf.icl.selector import DemoSelector
from fungi_hf.storage.files import replace_file, replacing
from fungi_hf.storage.sharing import PushOptions, push_folder
from fungi_hf.tables import Vectors, read_features, read_rows

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils.validation import check_is_fitted
except ImportError as error:
    raise OptionalDependencyError("sklearn", "sklearn") from error

if TYPE_CHECKING:
    from fungi_hf.icl.model import LLM
    from fungi_hf.icl.results import EvalResult

_SETTINGS, _POOL, _VECTORS = "fungi_demos.json", "fungi_demos.jsonl", "fungi_demos.safetensors"
_FORMAT: Final = "fungi-hf-demos"


class DemoClassifier(ClassifierMixin, BaseEstimator):
    """Texts go in, labels come out; features are computed by the extractor that it holds.

    Args:
        extractor: A `FungiExtractor`, or what its `from_pretrained` takes; None for a strategy
            without features ("bm25", "random"). One that needs `fit` learns from the pool.
        llm: A `ChatLLM`, a `LocalLLM`, or an own `LLM`.
        strategy: As of `DemoSelector`.
        k: Demonstrations of each text; fewer where the pool is smaller.
        order: As of `DemoSelector`.
        leaks: What becomes of pool rows that equal a text: "keep" shows them, as is right for new
            texts; "drop" leaves them out, as in an evaluation.
        style: As of `PromptBuilder`.
        instruction: As of `PromptBuilder`.
        max_input_tokens: As of `PromptBuilder`.
        verbalizers: Label -> the words shown for it, as of `LabelSpace`.
        on_missing: What becomes of a text whose answer has no label: "vote" takes the majority of
            its demonstrations, with a warning that counts such texts; "error" raises.

    Attributes:
        classes_: The distinct labels, sorted, [C].
        pool_: The labelled texts.
        result_: Of the latest prediction: answers, statuses, tokens.

    Example:
        >>> classifier = DemoClassifier(extractor, ChatLLM("gpt-4o-mini")).fit(texts, labels)
        >>> classifier.predict(["where is my card?"])
    """

    def __init__(  # noqa: PLR0913  (scikit-learn's convention: one argument a parameter)
        self,
        extractor: Any = None,
        llm: LLM | None = None,
        *,
        strategy: Any = "knn",
        k: int = 20,
        order: str = "nearest_last",
        leaks: str = "keep",
        style: str = "multiturn",
        instruction: str | None = None,
        max_input_tokens: int | None = None,
        verbalizers: Any = None,
        on_missing: str = "vote",
    ) -> None:
        self.extractor = extractor
        self.llm = llm
        self.strategy = strategy
        self.k = k
        self.order = order
        self.leaks = leaks
        self.style = style
        self.instruction = instruction
        self.max_input_tokens = max_input_tokens
        self.verbalizers = verbalizers
        self.on_missing = on_missing

    def __sklearn_clone__(self) -> DemoClassifier:
        """Clone without copying a model or a client."""
        return type(self)(**self.get_params(deep=False))

    def __sklearn_tags__(self) -> Any:
        """Say that the input is a sequence of texts."""
        tags = super().__sklearn_tags__()
        tags.input_tags.string, tags.input_tags.one_d_array = True, True
        tags.input_tags.two_d_array = False
        tags.no_validation = True
        return tags

    def fit(self, X: Any, y: Any) -> Self:
        """Take labelled texts as the pool.

        Raises:
            InputError: If there are not as many labels as texts, or fewer than two labels.
            ConfigError: If a parameter is none of the choices.
        """
        texts, labels = _texts(X), _labels(y)
        check_choice("on_missing", self.on_missing, ("vote", "error"))
        if len(texts) != len(labels):
            raise InputError(f"{len(texts)} texts have {len(labels)} labels; one each is needed")
        self.extractor_ = self._loaded()
        features = None
        if self.extractor_ is not None:
            ready = self.extractor_.is_fitted
            features = (self.extractor_ if ready else self.extractor_.fit_transform)(texts)
        return self._take(_examples(features, texts, labels))

    def add(self, X: Any, y: Any) -> Self:
        """Add labelled texts to the pool; nothing is fitted again, known texts are not extracted.

        Labels may be new.

        Raises:
            InputError: If there are not as many labels as texts.
        """
        check_is_fitted(self, "pool_")
        texts, labels = _texts(X), _labels(y)
        if len(texts) != len(labels):
            raise InputError(f"{len(texts)} texts have {len(labels)} labels; one each is needed")
        pool, features = self.pool_, None
        if self.extractor_ is not None:
            found = self.extractor_(texts)
            held: Any = pool.features
            features = Vectors(np.concatenate([held, found.array]), found.fingerprint)
        contents, targets = [*(pool.contents or ()), *texts], [*(pool.targets or ()), *labels]
        return self._take(_examples(features, contents, targets))

    def predict(self, X: Any) -> Any:
        """Give a label for each text, [n]; works inside a running event loop, too.

        Raises:
            LLMError: If the model stopped the run, or an answer has no label and
                `on_missing="error"`; `partial` holds what was answered.
        """
        return self._labels_of(run_here(Run(self._plan(X))))

    async def apredict(self, X: Any) -> Any:
        """Do what `predict` does, in the running event loop."""
        return self._labels_of(await Run(self._plan(X)).finish())

    def predict_proba(self, X: Any) -> Any:
        """Give the probability of each class, [n, C], from the model's scores of the labels.

        Raises:
            ConfigError: If the model gives no scores.
        """
        result = run_here(Run(self._plan(X)))
        scores = [row.label_scores for row in result.rows]
        if any(one is None for one in scores):
            raise ConfigError(
                "the model gives no label scores; use a LocalLLM, or ChatLLM(output='text', "
                "sampling=Sampling(top_logprobs=20)) with labels that start differently"
            )
        logits = np.array(scores, dtype=np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        shares = np.exp(logits)
        return shares / shares.sum(axis=1, keepdims=True)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write extractor, pool, settings and how the model is reached; no key, no weights.

        Raises:
            ConfigError: If a setting is an object that JSON cannot hold.
            StorageError: If the folder cannot be written.
        """
        check_is_fitted(self, "pool_")
        target, names = Path(folder), self._saved_settings()
        settings = {name: getattr(self, name) for name in names}
        record = {"format": _FORMAT, "settings": settings, "llm": _described(self.llm)}
        try:
            text = json.dumps(record, indent=2, sort_keys=True)
        except TypeError as error:
            raise ConfigError(f"the settings cannot be saved: {error}; use names") from None
        try:
            target.mkdir(parents=True, exist_ok=True)
            if self.extractor_ is not None:
                self.extractor_.save_pretrained(target)
                held: Any = self.pool_.features
                features = Vectors(held, self.pool_.fingerprint or "")
                with replacing(target / _VECTORS) as part:
                    _write_vectors(part, features)
            rows = zip(self.pool_.contents or (), self.pool_.targets or (), strict=True)
            lines = "".join(json.dumps({"text": t, "label": y}) + "\n" for t, y in rows)
            replace_file(target / _POOL, lines.encode("ascii"))
            replace_file(target / _SETTINGS, text.encode("ascii"))
        except OSError as error:
            raise StorageError(f"cannot write to {folder}: {error}") from None

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, token: Any = None) -> str:
        """Push what `save_pretrained` writes, and give the commit's address."""
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            options = PushOptions("Upload a FUNGI demonstration classifier", private, token, None)
            return push_folder(folder, repo_id, options, own=(_SETTINGS, _POOL, _VECTORS))

    @classmethod
    def from_pretrained(
        cls,
        place: str | Path,
        *,
        llm: LLM | None = None,
        model: Any = None,
        revision: str | None = None,
        token: str | bool | None = None,
        base_url: str | None = None,
    ) -> DemoClassifier:
        """Load what `save_pretrained` wrote, from a folder or the Hub.

        Args:
            place: The folder or repository.
            llm: The language model; None makes the `ChatLLM` that was saved, with the
                environment's key.
            model: The encoder, where it is not where it was.
            revision: Of a repository.
            token: Of the Hub.
            base_url: Another endpoint than the saved one.

        Raises:
            StorageError: If there is no saved classifier, or a file of it is missing.
            ConfigError: If the saved model was no `ChatLLM`, and none is given.
        """
        from fungi_hf.storage.files import HubOptions, find_file

        hub = HubOptions(revision, token)
        settings, pool, vectors = (find_file(place, n, hub) for n in (_SETTINGS, _POOL, _VECTORS))
        if settings is None or pool is None:
            raise StorageError(f"{str(place)!r} holds no saved DemoClassifier ({_SETTINGS})")
        record = json.loads(settings.read_text(encoding="utf-8"))
        if record.get("format") != _FORMAT:
            raise StorageError(f"{str(place)!r}: format is {record.get('format')!r}")
        made = cls(None, llm or _reached(record["llm"], base_url), **record["settings"])
        rows, features = read_rows(pool), None
        if vectors is not None:
            made.extractor = FungiExtractor.from_pretrained(
                place, model=model, revision=revision, token=token
            )
            features = read_features(vectors)
            if features.fingerprint != made.extractor.fingerprint:
                raise StorageError(f"{str(place)!r}: the pool's features are of another extractor")
        made.extractor_ = made.extractor
        texts, labels = ([row[name] for row in rows] for name in ("text", "label"))
        return made._take(_examples(features, texts, labels))

    def _saved_settings(self) -> list[str]:
        return [name for name in self.get_params(deep=False) if name not in ("extractor", "llm")]

    def _loaded(self) -> FungiExtractor | None:
        if self.extractor is None or isinstance(self.extractor, FungiExtractor):
            return self.extractor
        return FungiExtractor.from_pretrained(self.extractor)

    def _take(self, pool: Examples) -> Self:
        self.pool_ = pool
        self.classes_ = np.array(sorted(set(pool.targets or ())))
        self._space = LabelSpace([str(label) for label in self.classes_], self.verbalizers)
        index = {label: code for code, label in enumerate(self.classes_.tolist())}
        codes = [index[label] for label in pool.targets or ()]
        shown = dataclasses.replace(pool, targets=tuple(codes))
        distinct = LeakGuard().distinct(shown)  # of equal texts one is shown
        k = min(self.k, len(shown) if distinct is None else len(distinct))
        order: Any = self.order
        selector = DemoSelector(self.strategy, k, order=order, leaks=self.leaks)
        self.selector_ = selector.fit(shown)
        return self

    def _plan(self, X: Any) -> Any:
        check_is_fitted(self, "pool_")
        if self.llm is None:
            raise ConfigError("llm is None; give a ChatLLM, a LocalLLM or an own LLM")
        texts = _texts(X)
        features = None if self.extractor_ is None else self.extractor_(texts)
        style: Any = self.style
        builder = PromptBuilder(
            self._space,
            style=style,
            instruction=self.instruction,
            max_input_tokens=self.max_input_tokens,
        )
        # Targets are asked of an evaluation only; nothing reads these.
        queries = _examples(features, texts, [0] * len(texts))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".* without demonstrations in the pool")
            return make_plan(self.selector_, builder, self.llm, queries)

    def _labels_of(self, result: EvalResult) -> Any:
        self.result_ = result
        names = dict(zip(self._space.names, self.classes_, strict=True))
        missing = [row for row in result.rows if row.label is None]
        if missing:
            words = ", ".join(f"{n} {status}" for status, n in result.statuses.items())
            told = f"{len(missing)} of {len(result.rows)} texts have no label ({words})"
            if self.on_missing == "error":
                error = LLMError(f"{told}; on_missing='vote' takes their demonstrations' majority")
                error.partial = result
                raise error
            warnings.warn(f"{told}; their demonstrations' majority is taken", stacklevel=3)
        found = [row.vote if row.label is None else row.label for row in result.rows]
        return np.array([names[str(one)] for one in found], dtype=self.classes_.dtype)


def _examples(features: Any, contents: Any, targets: Any) -> Examples:
    return Examples(features=features, contents=contents, targets=targets)


def _texts(X: Any) -> list[str]:
    if isinstance(X, str) or not hasattr(X, "__iter__"):
        raise InputTypeError(f"X must be a sequence of texts; got one {type(X).__name__}")
    texts = list(X)
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputTypeError(f"text {index} is {type(text).__name__}: {text!r:.60}")
    if not texts:
        raise InputError("there is no text")
    return [str(text) for text in texts]


def _labels(y: Any) -> list[Any]:
    labels = [label.item() if hasattr(label, "item") else label for label in y]
    kinds = {type(label) for label in labels}
    if kinds - {str, int}:
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise InputTypeError(
            f"labels are texts or whole numbers; got {names}; answers that are free texts take "
            "fungi_hf.icl.evaluate with FreeAnswers"
        )
    if len(kinds) > 1:
        raise InputTypeError("labels are texts and numbers; use one kind")
    return labels


def _described(llm: LLM | None) -> dict[str, Any]:
    if not isinstance(llm, ChatLLM):
        return {"kind": "none" if llm is None else type(llm).__name__}
    return {
        "kind": "chat",
        "model": llm.model,
        "base_url": llm.base_url,
        "output": llm.output,
        "query": llm.query,
        "sampling": dataclasses.asdict(llm.sampling),
    }


def _reached(described: dict[str, Any], base_url: str | None) -> LLM | None:
    kind, fields = described.get("kind"), dict(described)
    if base_url is not None:
        fields["base_url"] = base_url
    if kind == "none":
        return None
    if kind != "chat":
        raise ConfigError(f"the classifier was saved with a {kind}; pass llm=")
    del fields["kind"]
    sampling = Sampling(**fields.pop("sampling"))
    return ChatLLM(fields.pop("model"), sampling=sampling, **fields)


def _write_vectors(path: Path, vectors: Vectors) -> None:
    from safetensors.numpy import save_file

    save_file({"features": np.ascontiguousarray(vectors.array)}, path, vectors.header())
