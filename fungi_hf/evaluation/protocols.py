"""What all protocols share: found by name, fields checked, components fitted on training rows."""

from __future__ import annotations

import importlib
import re
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from fungi_hf.errors import (
    ConfigError,
    InputError,
    InputTypeError,
    OptionalDependencyError,
    choices,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fungi_hf.evaluation.inputs import Combination, LabelledRows
    from fungi_hf.types import Float32Array

AS_INPUT: Final[Mapping[str, Any]] = {"error": InputError, "type_error": InputTypeError}
MOST_SEED: Final = 2**32 - 1  # of scikit-learn
_SHOTS = re.compile(r"-([1-9]\d*)-shot$")
Protocol = TypeVar("Protocol")
Found = TypeVar("Found")


def expect(value: object, kind: type, name: str) -> None:
    """Refuse an argument of another type.

    Raises:
        InputTypeError: If it is of another.
    """
    if not isinstance(value, kind):
        raise InputTypeError(f"{name} is a {type(value).__name__}; it must be a {kind.__name__}")


def check_each(
    name: str, values: Any, check: Callable[..., Any], *bounds: Any, **options: Any
) -> tuple[Any, ...]:
    """Give a tuple whose members pass a check of `fungi_hf.checks`."""
    expect(values, tuple, name)
    return tuple(check(f"{name}: each", one, *bounds, **options) for one in values)


def protocol_named(protocol: Protocol | str, known: Mapping[str, Protocol], task: str) -> Protocol:
    """Give the task's known protocol of a name, see `knn_protocol`.

    Raises:
        ConfigError: If there is no such protocol.
    """
    if isinstance(protocol, type(known["fungi"])):
        return protocol
    name = protocol if isinstance(protocol, str) else ""
    shots = _SHOTS.search(name)
    found: Any = known.get(_SHOTS.sub("-5-shot", name))
    if found is None:
        raise ConfigError(f"unknown {task} protocol {choices(protocol, known)}")
    return replace(found, name=name, n_shots=int(shots[1])) if shots else found


def reduce_or_note(
    known: LabelledRows, other: LabelledRows, some: Combination, n_components: int | None
) -> tuple[tuple[Float32Array, Float32Array] | None, tuple[str, ...]]:
    """Give some blocks of N known and Q other rows on C principal components of the known.

    They are [N, C] and [Q, C], centred, unwhitened; None where nothing is reduced, with a note
    where C is not below both the rows and the width.
    """
    if n_components is None:
        return None, ()
    columns = [known.layout[name] for name in some]
    width = sum(part.stop - part.start for part in columns)
    if n_components >= min(len(known), width):
        return None, (f"PCA to {n_components} skipped: {len(known)} rows, width {width}",)
    from fungi_hf.extraction.reduction import project

    return project(known.take(some), other.take(some), n_components), ()


def reduced(
    known: LabelledRows, other: LabelledRows, some: Combination, n_components: int | None
) -> tuple[Float32Array, Float32Array, tuple[str, ...]]:
    """Give what `reduce_or_note` does, or the columns of the blocks as they are."""
    pair, notes = reduce_or_note(known, other, some, n_components)
    return *(pair or (known.take(some), other.take(some))), notes


def need(module: str) -> Any:
    """Import a module of the `evaluation` extra.

    Raises:
        OptionalDependencyError: If its package is missing.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        raise OptionalDependencyError(module.split(".", maxsplit=1)[0], "evaluation") from None


def converge(fit: Callable[[], Found]) -> tuple[Found, bool]:
    """Run a fit of scikit-learn; say whether it came to an end without its warning."""
    category = need("sklearn.exceptions").ConvergenceWarning
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", category)
        found = fit()
    return found, not any(issubclass(one.category, category) for one in caught)
