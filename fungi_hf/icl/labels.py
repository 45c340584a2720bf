"""The labels of a classification task: ids, names, and the words that stand for them.

A space is refused if its words could be mistaken for each other, so that reading an answer never
needs a guess.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from fungi_hf.errors import InputTypeError, LabelError
from fungi_hf.icl.answers import AnswerParser, bare, key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import numpy.typing as npt

    from fungi_hf.icl.answers import Answer
    from fungi_hf.icl.examples import Target

    Verbalizers: TypeAlias = Mapping[str, str] | Sequence[str] | Callable[[str], str]


@dataclass(frozen=True, slots=True, init=False, eq=False, repr=False)
class LabelSpace:
    """The closed list of labels; a label's id is its position.

    Attributes:
        names: The labels as the data calls them.
        verbalizers: The surface form of each label, shown in prompts and expected in answers: a
            mapping by name (names left out keep their name), one per label, or a function.
        surfaces: The surface forms, in id order.
    """

    names: tuple[str, ...]
    verbalizers: Verbalizers | None
    surfaces: tuple[str, ...]
    _parser: AnswerParser

    def __init__(self, names: Sequence[str], verbalizers: Verbalizers | None = None) -> None:
        """Check the names and their surface forms.

        Args:
            names: At least two distinct texts.
            verbalizers: See the class.

        Names that are no list of texts are an `InputTypeError`; fewer than two of them, and
        surfaces that are empty or alike, a `LabelError`.
        """
        checked = _checked_names(names)
        surfaces = _surfaces(checked, verbalizers)
        _refuse_alike(checked, surfaces)
        object.__setattr__(self, "names", checked)
        object.__setattr__(self, "verbalizers", verbalizers)
        object.__setattr__(self, "surfaces", surfaces)
        object.__setattr__(self, "_parser", AnswerParser(surfaces))

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"LabelSpace({len(self)} labels: {', '.join(self.surfaces[:3])}, ...)"

    @property
    def digest(self) -> str:
        """Identity of names and surfaces: a sha256 in hexadecimal."""
        words = "\0".join(itertools.chain(self.names, ("\1",), self.surfaces))
        return hashlib.sha256(words.encode("utf-8", "surrogatepass")).hexdigest()

    def id_of(self, target: Target) -> int:
        """Return the id of a label that is stated by id or by name.

        Raises:
            LabelError: If the id is out of range or the name unknown.
        """
        if isinstance(target, str):
            if target in self.names:
                return self.names.index(target)
            raise LabelError(f"label {target!r} is not among the {len(self)} names")
        if float(target).is_integer() and 0 <= target < len(self):
            return int(target)
        raise LabelError(f"label id {target!r} is outside 0..{len(self) - 1}")

    def ids_of(self, targets: Iterable[Target]) -> npt.NDArray[np.int64]:
        """Return the ids [n] of many labels.

        Raises:
            LabelError: If a label is not in the space; the message names its row.
        """
        by_name = {name: label for label, name in enumerate(self.names)}
        ids = []
        for row, target in enumerate(targets):
            known = by_name.get(target) if isinstance(target, str) else None
            try:
                ids.append(self.id_of(target) if known is None else known)
            except LabelError as error:
                raise LabelError(f"{error} (row {row})") from None
        return np.array(ids, dtype=np.int64)

    def surface_of(self, target: Target) -> str:
        """Return the surface form of a label that is stated by id or by name."""
        return self.surfaces[self.id_of(target)]

    def parse(self, answer: str | None) -> Answer:
        """Read the label from a model's answer; a status, and an id only if there is no doubt.

        Args:
            answer: What the model said; None stands for nothing.

        Returns:
            An `Answer` whose status is "ok", "empty", "ambiguous" or "invalid".
        """
        return self._parser.parse(answer)

    def describe(self) -> dict[str, object]:
        """Return what a run folder records about the labels."""
        return {"n_labels": len(self), "digest": self.digest}


def _checked_names(names: object) -> tuple[str, ...]:
    if isinstance(names, (str, bytes)):
        raise InputTypeError("names is one string, pass a list")
    try:
        listed = list(names)  # type: ignore[call-overload]
    except TypeError:
        raise InputTypeError(f"names is {type(names).__name__}, pass a list of texts") from None
    for position, name in enumerate(listed):
        if not isinstance(name, str):
            raise InputTypeError(f"names[{position}] is {type(name).__name__}; names are texts")
    if len(listed) < 2:
        raise LabelError(f"a label space needs at least 2 labels, got {len(listed)}")
    repeats = sorted({name for name in listed if listed.count(name) > 1})
    if repeats:
        raise LabelError(f"names repeat: {', '.join(map(repr, repeats[:10]))}")
    return tuple(str(name) for name in listed)


def _surfaces(names: tuple[str, ...], verbalizers: object) -> tuple[str, ...]:
    if verbalizers is None:
        return names
    if callable(verbalizers):
        surfaces = [verbalizers(name) for name in names]
    elif hasattr(verbalizers, "keys"):
        mapping = dict(verbalizers)  # type: ignore[call-overload]
        unknown = [word for word in mapping if word not in names]
        if unknown:
            raise LabelError(f"verbalizers name unknown labels: {', '.join(map(repr, unknown))}")
        surfaces = [mapping.get(name, name) for name in names]
    else:
        if isinstance(verbalizers, str):
            raise InputTypeError("verbalizers is one string, pass a mapping, a list or a function")
        surfaces = list(verbalizers)  # type: ignore[call-overload]
        if len(surfaces) != len(names):
            raise LabelError(f"{len(surfaces)} verbalizers for {len(names)} names")
    for name, surface in zip(names, surfaces, strict=True):
        if not isinstance(surface, str):
            raise InputTypeError(
                f"the verbalizer of {name!r} is {type(surface).__name__}; a text is needed"
            )
    return tuple(surfaces)


def _refuse_alike(names: tuple[str, ...], surfaces: tuple[str, ...]) -> None:
    """Refuse surfaces that are empty, span lines, or are equal under one of the keys.

    Raises:
        LabelError: If there are some.
    """
    for name, surface in zip(names, surfaces, strict=True):
        if not bare(surface):
            raise LabelError(f"the surface of {name!r} is {surface!r}: empty but for punctuation")
        if len(surface.splitlines()) > 1:
            raise LabelError(f"the surface of {name!r} spans several lines: {surface!r}")
    pairs: dict[tuple[str, str], None] = {}
    for fold in (key, bare):
        groups: dict[str, list[int]] = {}
        for label, surface in enumerate(surfaces):
            groups.setdefault(fold(surface), []).append(label)
        for group in groups.values():
            for a, b in itertools.combinations(group, 2):
                pairs[surfaces[a], surfaces[b]] = None
    if pairs:
        shown = "; ".join(f"{a!r} and {b!r}" for a, b in list(pairs)[:10])
        more = f" and {len(pairs) - 10} more" if len(pairs) > 10 else ""
        raise LabelError(f"labels that no parser can tell apart: {shown}{more}")
