"""A classifier of raw inputs by scikit-learn's conventions: FUNGI features and a head on them.

Invariant: a prediction is a function of one input; batch, order and what stands beside it change
nothing but the last bits of rounding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, cast, get_args

import numpy as np

from fungi_hf.checks import check_choice, check_flag, check_integer
from fungi_hf.classifier import labels
from fungi_hf.classifier.calls import best_of, is_one
from fungi_hf.classifier.evidence import TRAINING, TrainingRows, Voting
from fungi_hf.classifier.features import PlainEmbedding, open_extractor, ready
from fungi_hf.classifier.fitted import STRENGTH, Fitted, fit_head, record_of
from fungi_hf.classifier.heads import HeadName
from fungi_hf.classifier.kept import KeptClassifier
from fungi_hf.errors import InputError, InputTypeError, NotFittedError, OptionalDependencyError
from fungi_hf.extraction.inputs import iterate
from fungi_hf.neighbors.classifier import Weights
from fungi_hf.neighbors.labels import as_list
from fungi_hf.tuning import TuningSearch
from fungi_hf.tuning.sample import read_groups

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.exceptions import NotFittedError as TheirNotFittedError
except ImportError as error:
    raise OptionalDependencyError("sklearn", "sklearn") from error

if TYPE_CHECKING:
    from fungi_hf.classifier.calls import Best
    from fungi_hf.classifier.evidence import Measured
    from fungi_hf.classifier.folders import Record
    from fungi_hf.classifier.heads import Head
    from fungi_hf.classifier.labels import ClassArray
    from fungi_hf.extractor import FungiExtractor
    from fungi_hf.features import FungiFeatures
    from fungi_hf.types import Float64Array


class UnfittedError(NotFittedError, TheirNotFittedError):
    """The classifier needs `fit`; scikit-learn's error and ours."""


class FungiClassifier(KeptClassifier, ClassifierMixin, BaseEstimator):
    """Texts, sounds or pictures go in, labels come out.

    Args:
        model: What `FungiExtractor.from_pretrained` takes, or an extractor. An extractor and a
            saved one are used as they are; one that needs `fit` learns from the training rows, in
            a copy.
        config: What to compute. None tunes on the training rows, unless the model brings a config.
        head: "neighbors" votes; "linear" is multinomial logistic regression, whose strength is
            chosen on training rows.
        n_neighbors: K of the votes; at most half of the training rows vote.
        weights: Of the votes: "uniform", or "similarity", as of `KNNClassifier`.
        search: What tuning may choose from; an extractor with a search is tuned, too. None is the
            default, with `n_neighbors`.
        batch_size: Most inputs of one forward pass; None lets the token budget decide.
        device: Of a model that is loaded here.
        progress: Show bars.

    Attributes:
        classes_: [C] labels, sorted, of the type that they were given in.
        extractor_: The extractor, fitted.
        head_: What is fitted on its features.
        results_: What was measured on which rows, see `Measured`; made when first asked for.

    Example:
        >>> classifier = FungiClassifier("folder-or-hub-id").fit(texts, labels)
        >>> classifier("where is my card?")
    """

    classes_: ClassArray

    def __init__(  # noqa: PLR0913  (scikit-learn's convention: one argument a parameter)
        self,
        model: Any = None,
        config: Any = None,
        *,
        head: str = "neighbors",
        n_neighbors: int = 20,
        weights: str = "uniform",
        search: Any = None,
        batch_size: int | None = None,
        device: Any = None,
        progress: bool = False,
    ) -> None:
        self.model = model
        self.config = config
        self.head = head
        self.n_neighbors = n_neighbors
        self.weights = weights
        self.search = search
        self.batch_size = batch_size
        self.device = device
        self.progress = progress

    def __sklearn_clone__(self) -> FungiClassifier:
        """Clone without copying a model object."""
        return type(self)(**self.get_params(deep=False))

    def __sklearn_tags__(self) -> Any:
        """Say that the input is a sequence of raw inputs."""
        tags = super().__sklearn_tags__()
        tags.input_tags.string, tags.input_tags.one_d_array = True, True
        tags.input_tags.two_d_array = False
        tags.no_validation = True
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        """Whether `fit` was called, or a saved classifier loaded."""
        return hasattr(self, "head_")

    def fit(self, X: Any, y: Any, groups: Any = None) -> Self:
        """Choose or take features, and fit the head on them.

        Args:
            X: N raw inputs, as an extractor takes them.
            y: N labels, of one kind: texts, whole numbers or any other hashable value.
            groups: N groups (speakers, sources) that new inputs will not come from; tuning, the
                choice of a strength and the figures never judge a row by its own group.

        Raises:
            ConfigError: If a parameter is none of the choices, or two contradict each other.
            InputError: If there is no input, or not one label each.
            LabelError: If labels are missing, of mixed kinds, or of one class.
        """
        head = cast("HeadName", check_choice("head", self.head, get_args(HeadName)))
        weights = cast("Weights", check_choice("weights", self.weights, get_args(Weights)))
        n_neighbors = check_integer("n_neighbors", self.n_neighbors)
        check_flag("progress", self.progress)
        if self.batch_size is not None:
            check_integer("batch_size", self.batch_size)
        items = _inputs(X)
        classes, codes = labels.encode(y, len(items))
        groups = None if groups is None else as_list(groups, "groups")
        numbers, n_groups = read_groups(groups, len(items))
        given, is_tuned = open_extractor(self.model, self.config, self.search, self.device)
        extractor = given
        if is_tuned:
            names = labels.tunable(classes)
            search = self.search or TuningSearch(n_neighbors=n_neighbors)
            extractor = given.tune(
                items,
                [names[code] for code in codes],
                judge=head,
                groups=groups,
                search=search,
                progress=self.progress,
            )
        used, features = ready(extractor, items, self.batch_size, progress=self.progress)
        plain = PlainEmbedding(given, used)
        embedding = plain.rows(features, items)
        training = TrainingRows(
            features=features.array, embedding=embedding, codes=codes, groups=numbers
        )
        voting = Voting(n_neighbors=min(n_neighbors, max(1, len(codes) // 2)), weights=weights)
        fitted_head, chosen, notes = fit_head(head, training, voting)
        strength = 0.0 if head == "neighbors" else STRENGTH if chosen is None else chosen.strength
        facts = {"n_neighbors": n_neighbors, "n_groups": n_groups, "notes": notes}
        record = record_of(
            head, voting, classes, training, features.fingerprint, strength=strength, **facts
        )
        return self._take(
            Fitted(
                extractor=used,
                head=fitted_head,
                record=record,
                training=training,
                plain=plain,
                chosen=chosen,
            )
        )

    def predict(self, X: Any) -> Any:
        """Give the label of each input, [n], of the type that labels were given in.

        Raises:
            NotFittedError: Before `fit`; it is scikit-learn's error, too.
            FingerprintMismatchError: If the model changed since.
            InputError: If there is no input, or one is unusable.
        """
        self._fitted()
        return self.labels_of(self._features(_inputs(X)))

    def predict_proba(self, X: Any) -> Float64Array:
        """Give the probability of each class, [n, C] in the order of `classes_`.

        Of neighbours it is the share of the votes. Errors are those of `predict`.
        """
        self._fitted()
        return self.shares_of(self._features(_inputs(X)))

    def labels_of(self, features: FungiFeatures) -> Any:
        """Give the label of each row of the extractor's features, [n].

        Features of another extractor, or of a model that changed since, are a
        FingerprintMismatchError.
        """
        fitted = self._fitted()
        return self.classes_[fitted.codes(features)]

    def shares_of(self, features: FungiFeatures) -> Float64Array:
        """Give the probability of each class for rows of features, [n, C]; see `labels_of`."""
        return self._fitted().shares(features)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Give the share of inputs whose label is predicted; a label unseen in `fit` is wrong.

        Raises:
            LabelError: If labels are missing, or of another kind than those of `fit`.
            InputError: If there is not one label each.
        """
        fitted, items = self._fitted(), _inputs(X)
        truth = labels.codes_of(labels.read_targets(y, len(items)), self.classes_)
        right = fitted.codes(self._features(items)) == truth
        return float(np.average(right, weights=sample_weight))

    def __call__(
        self, inputs: Any, *, top_k: int | Best | None = "best", batch_size: int | None = None
    ) -> Any:
        """Classify as transformers' `pipeline("text-classification")` does.

        Args:
            inputs: One input, or many.
            top_k: How many labels an input gets, likeliest first; None is all of them.
            batch_size: Most inputs of one forward pass.

        Returns:
            {"label": ..., "score": ...}, one for each of many inputs, a list of one for one input;
            with `top_k` a list of such, one list for each of many inputs. Scores are those of
            `predict_proba`.

        Raises:
            ConfigError: If `top_k` is no whole number from 1 on.
        """
        fitted = self._fitted()
        if top_k is not None and top_k != "best":
            check_integer("top_k", top_k)
        alone = is_one(inputs)
        items = [inputs] if alone else list(iterate(inputs))
        if not items:
            return []
        features = self._features(items, batch_size)
        names, shares = labels.plain(self.classes_), fitted.shares(features)
        found = best_of(names, shares, fitted.codes(features), top_k)
        return found[0] if alone and top_k != "best" else found

    def evaluate(self, X: Any, y: Any, *, name: str = "held-out rows") -> tuple[Measured, ...]:
        """Judge the classifier, and the baselines, on rows that `fit` has not seen.

        The figures join `results_`, so that the card shows them under this name. Rows that equal a
        training row are counted. A loaded classifier has no baselines: they need embeddings of the
        training rows, which are not saved.

        Raises:
            LabelError: If labels are missing, or of another kind than those of `fit`.
            InputError: If there is not one label each, or the name is that of the training rows.
        """
        fitted, items = self._fitted(), _inputs(X)
        if not isinstance(name, str) or not name.strip() or name == TRAINING:
            raise InputError(f"name must say which rows were held out; got {name!r}")
        truth = labels.codes_of(labels.read_targets(y, len(items)), self.classes_)
        return fitted.evaluate(items, self._features(items), truth, name)

    @property
    def results_(self) -> tuple[Measured, ...]:
        """What was measured on which rows."""
        return self._fitted().results()

    def record(self) -> Record:
        """Give everything of a fitted classifier but extractor and arrays."""
        return self._fitted().described()

    @classmethod
    def restored(cls, extractor: FungiExtractor, head: Head, record: Record) -> Self:
        """Make a fitted classifier of what was saved."""
        made = cls(
            extractor, head=record.head, n_neighbors=record.n_neighbors, weights=record.weights
        )
        measured = record.results
        return made._take(Fitted(extractor=extractor, head=head, record=record, measured=measured))

    def _take(self, fitted: Fitted) -> Self:
        self._fit, self.classes_ = fitted, fitted.record.classes
        self.extractor_, self.head_ = fitted.extractor, fitted.head
        return self

    def _fitted(self) -> Fitted:
        if not self.__sklearn_is_fitted__():
            raise UnfittedError(
                "this FungiClassifier is not fitted; call fit(X, y) first, or load one with "
                "FungiClassifier.from_pretrained"
            )
        return self._fit

    def _features(self, items: list[Any], batch_size: int | None = None) -> FungiFeatures:
        fitted = self._fitted()
        if batch_size is None:
            batch_size = self.batch_size
        return fitted.extractor(items, batch_size, progress=self.progress)


def _inputs(X: Any) -> list[Any]:
    shape = getattr(X, "shape", (0,))
    if len(shape) == 2:
        raise InputTypeError(
            f"X must be one column of inputs; got shape {tuple(shape)}: pass X['column'] or X[:, 0]"
        )
    items = list(iterate(X))
    if not items:
        raise InputError("X holds no input; at least 1 is needed")
    return items
