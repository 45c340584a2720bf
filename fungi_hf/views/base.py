"""The view generator's contract and its registry; views know no objective and no model."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, runtime_checkable

from fungi_hf.errors import ConfigError, choices

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping, Sequence

ViewFactory: TypeAlias = "Callable[..., ViewGenerator]"
REGISTERED_VIEWS: Final[dict[str, ViewFactory]] = {}


@runtime_checkable
class ViewGenerator(Protocol):
    """Random views of one input.

    A view is anything that the same encoder's `prepare` takes. The generator passed in is
    seeded by (root seed, objective, content of the input) and is the only randomness allowed:
    batch, order, process and worker count then change nothing.

    Attributes:
        n_views: V, the number of views returned, repeats included.
    """

    n_views: int

    def __call__(self, raw: Any, generator: random.Random) -> list[Any]:
        """Give V views of a canonical raw input."""


@runtime_checkable
class BatchViews(ViewGenerator, Protocol):
    """A view generator that takes many inputs at once; a capability that nobody has to offer."""

    def many(self, raws: Sequence[Any], generators: Sequence[random.Random]) -> list[list[Any]]:
        """Give of each what a call with its generator gives."""


def register_views(name: str, factory: ViewFactory) -> None:
    """Make a view generator usable by name in a config, e.g. `SimCLR(views=name)`.

    The factory is called with `n_views=V` and the spec's `view_options`.

    Raises:
        ConfigError: If the name is taken by another factory, or not an identifier.
    """
    if not isinstance(name, str) or not name.isidentifier() or name == "auto":
        raise ConfigError(f"a view generator's name must be an identifier; got {name!r}")
    if REGISTERED_VIEWS.get(name) not in (None, factory):
        raise ConfigError(f"the view generator name {name!r} is taken; choose another")
    REGISTERED_VIEWS[name] = factory


def make_views(
    name: str, n_views: int, options: Mapping[str, Any], own: Mapping[str, ViewFactory]
) -> ViewGenerator:
    """Build the view generator of that name: one of the encoder's own, or else a registered one.

    Raises:
        ConfigError: If the name or an option is unknown.
    """
    factories = {**REGISTERED_VIEWS, **own}
    if not factories:
        raise ConfigError(
            f"views {name!r} are not offered by this encoder; register a view generator with "
            "fungi_hf.views.register_views, and pass its name"
        )
    if name not in factories:
        raise ConfigError(f"unknown views {choices(name, factories)}")
    try:
        return factories[name](n_views=n_views, **options)
    except TypeError as error:
        known = [p for p in inspect.signature(factories[name]).parameters if p != "n_views"]
        raise ConfigError(
            f"views {name!r} refused its options {dict(options)!r}: {error}; "
            f"it takes {', '.join(known) or 'none'}"
        ) from None
