"""The labels of a classification task: ids, names, and the words that stand for them.

A space is refused if its words could be mistaken for each other, so that reading an answer never
needs a guess.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from fungi_hf.errors import InputTypeError, LabelError
from fungi_hf.icl.answers import AnswerParser
from fungi_hf.icl.examples import as_list

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import numpy.typing as npt

    from fungi_hf.icl.answers import Answer
    from fungi_hf.icl.examples import Target

    Verbalizers: TypeAlias = Mapping[str, str] | Sequence[str] | Callable[[str], str]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class LabelSpace:
    """The closed list of labels; a label's id is its position.

    Attributes:
        names: The labels as the data calls them: at least two distinct texts.
        verbalizers: The surface form of each label, shown in prompts and expected in answers: a
            mapping by name (names left out keep their name), one per label, or a function.
        surfaces: The surface forms, in id order.
        parse: Reads the label from a model's answer; see `AnswerParser.parse`.

    Names that are no list of texts are an `InputTypeError`; fewer than two of them, and surfaces
    that are empty or alike, a `LabelError`.
    """

    names: Sequence[str]
    verbalizers: Verbalizers | None = None
    surfaces: tuple[str, ...] = field(init=False)
    parse: Callable[[str | None], Answer] = field(init=False)

    def __post_init__(self) -> None:
        names = _checked_names(self.names)
        surfaces = _surfaces(names, self.verbalizers)
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "surfaces", surfaces)
        object.__setattr__(self, "parse", AnswerParser(names, surfaces).parse)

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

    def surfaces_of(self, targets: Iterable[Target]) -> list[str]:
        """Return the surface forms of labels that are stated by id or by name."""
        return [self.surfaces[self.id_of(target)] for target in targets]

    def describe(self) -> dict[str, object]:
        """Return what a run folder records about the labels."""
        return {"n_labels": len(self), "digest": self.digest}


def _checked_names(names: object) -> tuple[str, ...]:
    listed = as_list(names, "names")
    for position, name in enumerate(listed):
        if not isinstance(name, str):
            raise InputTypeError(f"names[{position}] is {type(name).__name__}; names are texts")
    if len(listed) < 2:
        raise LabelError(f"a label space needs at least 2 labels, got {len(listed)}")
    repeats = sorted({name for name in listed if listed.count(name) > 1})
    if repeats:
        raise LabelError(f"names repeat: {', '.join(map(repr, repeats[:10]))}")
    return tuple(map(str, listed))


def _surfaces(names: tuple[str, ...], verbalizers: object) -> tuple[str, ...]:
    if verbalizers is None:
        return names
    if callable(verbalizers):
        surfaces = [verbalizers(name) for name in names]
    elif isinstance(verbalizers, Mapping):
        unknown = [word for word in verbalizers if word not in names]
        if unknown:
            raise LabelError(f"verbalizers name unknown labels: {', '.join(map(repr, unknown))}")
        surfaces = [verbalizers.get(name, name) for name in names]
    else:
        surfaces = as_list(verbalizers, "verbalizers")
        if len(surfaces) != len(names):
            raise LabelError(f"{len(surfaces)} verbalizers for {len(names)} names")
    for name, surface in zip(names, surfaces, strict=True):
        if not isinstance(surface, str):
            raise InputTypeError(
                f"the verbalizer of {name!r} is {type(surface).__name__}; a text is needed"
            )
    return tuple(surfaces)
