"""The view generator's contract and its registry; views know no objective and no model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

from fungi_hf.errors import ConfigError

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

REGISTERED_VIEWS: Final[dict[str, Callable[..., ViewGenerator]]] = {}


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


def register_views(name: str, factory: Callable[..., ViewGenerator]) -> None:
    """Make a view generator usable by name in a config, e.g. `SimCLR(views=name)`.

    Args:
        name: Its name.
        factory: Called with `n_views=V` and the spec's `view_options`.

    Raises:
        ConfigError: If the name is taken by another factory, or not an identifier.
    """
    if not isinstance(name, str) or not name.isidentifier() or name == "auto":
        raise ConfigError(f"a view generator's name must be an identifier; got {name!r}")
    if REGISTERED_VIEWS.get(name) not in (None, factory):
        raise ConfigError(f"the view generator name {name!r} is taken; choose another")
    REGISTERED_VIEWS[name] = factory
