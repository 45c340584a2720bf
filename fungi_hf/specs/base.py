"""What all objectives' options have in common, and where their kinds are known.

A spec names its block, holds its options, and answers what other rooms ask: how many views, what
`fit` draws, which class computes the loss, what a card says. That class, in `fungi_hf.objectives`,
holds all the rest.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final

from fungi_hf.checks import check_fields, check_integer, check_number
from fungi_hf.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence

OBJECTIVE_SPECS: Final[dict[str, type[ObjectiveSpec]]] = {}
"""Spec classes by kind; a class enters when it is defined."""
REGISTERED_OBJECTIVES: Final[dict[str, Callable[..., object]]] = {}
"""Factories of third-party objectives by name; `register_objective` fills it."""
BLOCK_NUMBER: Final = re.compile(r"(?<=\.)\d+(?=\.)|^\d+(?=\.)")
"""The numbers in a layer's dotted path, the block's first."""
TARGET: Final = "auto"
"""The name of the target layer among several."""


@dataclass(frozen=True, kw_only=True)
class ObjectiveSpec:
    """One objective's options; a field, or a kind, that is not allowed is a ConfigError.

    Configs know a `class MySpec(ObjectiveSpec, kind="mine", home="module:Class")` by its kind. A
    class variable of it answers for all its specs, a property for one.

    Attributes:
        kind: Name in JSON.
        home: Where the objective's class is; it takes `width`, `seed` and `arguments`.
        passed: Fields that the objective's class takes.
        words: What the block holds, for a card; may name fields, and `{where}` for the layer.
        has_gradient: Whether there is a loss.
        takes_views: Whether there may be more than the untouched input.
        reads_tokens: Whether its views are tokens, masked and plain.
        per_token: Whether it is a loss of all tokens of an input, with a gradient for each.
        n_views: V; 1 means the untouched input.
        late_views: k, to drop words (of audio: frames or patches) in the last k blocks only, so
            that a view costs k blocks; None makes views of the raw input (`encoders.late.stack`).
        layer: Where the gradient is taken (of an activation: what is read): the dotted path of an
            `nn.Linear` in any block, "auto" or None for the target layer, or several of these.
        weight: Factor of each normalised block.
        name: Keys the random head, and is the block's name; of a layer beside the target layer the
            block's name goes on with the layer's, as in "kl_4_attention_output". Objectives of one
            name are one loss at several layers.
    """

    kind: ClassVar[str]
    home: ClassVar[str]
    passed: ClassVar[tuple[str, ...]] = ()
    words: ClassVar[str] = "objective `{name}`"
    has_gradient: ClassVar[bool] = True
    takes_views: ClassVar[bool] = True
    reads_tokens: ClassVar[bool] = False
    per_token: ClassVar[bool] = False
    n_views: int = 1
    late_views: int | None = None
    layer: str | tuple[str, ...] | None = None
    weight: float = 1.0
    name: str = ""

    def __init_subclass__(cls, *, kind: str = "", home: str = "") -> None:
        if not kind:  # a base of several specs
            return
        taken = OBJECTIVE_SPECS.get(kind, cls)
        names = ("embedding", *REGISTERED_OBJECTIVES)
        if kind in names or taken.__qualname__ != cls.__qualname__:
            raise ConfigError(f"the objective kind {kind!r} is taken; choose another")
        cls.kind, cls.home = kind, home
        OBJECTIVE_SPECS[kind] = cls

    def __post_init__(self) -> None:
        self._settle_layer()
        if not self.name:
            object.__setattr__(self, "name", self.default_name())
        if not isinstance(self.name, str) or not self.name.replace("_", "").isalnum():
            raise ConfigError(
                f"an objective's name must be letters, digits and underscores; got {self.name!r}"
            )
        check_factors(self, "weight")
        check_fields(self, ["n_views"], check_integer)
        if not self.takes_views and self.n_views != 1:
            raise ConfigError(
                f"{self.kind} uses the untouched input: n_views must be 1; got {self.n_views}"
            )
        self.check()
        k = self.late_views
        if k is None:
            return
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise ConfigError(
                f"{type(self).__name__}.late_views must be None (views of the raw input) or the "
                f"number of last blocks, an integer >= 1; got {k!r}"
            )
        if self.n_views == 1:
            raise ConfigError(
                f"objective {self.name!r} has one view, the untouched input, so there is nothing "
                f"to make late: set late_views=None; got {k}"
            )

    def _settle_layer(self) -> None:
        given: Any = self.layer
        paths = tuple(given) if isinstance(given, (tuple, list)) else (given,)
        named = bool(paths) and all(isinstance(path, str) and path for path in paths)
        if given is not None and (not named or len(set(paths)) < len(paths)):
            raise ConfigError(
                f"{type(self).__name__}.layer must be None or 'auto' (the target layer), a dotted "
                f"path, or several of these, each once; got {given!r}"
            )
        one = None if paths[0] == TARGET else paths[0]
        object.__setattr__(self, "layer", one if len(paths) == 1 else paths)
        if len({layer_label(path) for path in paths if path}) < len(paths) > 1:
            raise ConfigError(
                f"the layers {', '.join(map(repr, paths))} would share a block's name; give them "
                "objectives of their own, with names"
            )

    def default_name(self) -> str:
        """Give the block name used when none was given."""
        return self.kind

    @property
    def layers(self) -> tuple[str | None, ...]:
        """Dotted paths; None is the target layer."""
        paths = self.layer if isinstance(self.layer, tuple) else (self.layer,)
        return tuple(None if path == TARGET else path for path in paths)

    @property
    def blocks(self) -> dict[str, str | None]:
        """Block name -> dotted path of its layer, None for the target layer."""
        named = [f"{self.name}_{layer_label(path)}" if path else self.name for path in self.layers]
        return dict(zip(named, self.layers, strict=True))

    def split(self) -> tuple[ObjectiveSpec, ...]:
        """Give the specs that a config holds in place of this one."""
        return (self,)

    def loss(self) -> ObjectiveSpec:
        """Give what is alike in all objectives that share one loss: all but layer and weight."""
        return dataclasses.replace(self, layer=None, weight=1.0)

    def only(self, names: Container[str]) -> ObjectiveSpec | None:
        """Give this objective with those of its blocks that are named; None without any."""
        kept = tuple(path or TARGET for block, path in self.blocks.items() if block in names)
        return dataclasses.replace(self, layer=kept) if kept else None

    def check(self) -> None:
        """Check the fields of the subclass."""

    @property
    def n_training(self) -> int:
        """Training inputs that `fit` draws; 0 where nothing is learned."""
        return 0

    @property
    def training_views(self) -> int:
        """Views of each of them."""
        return self.n_views

    @property
    def learns_from_all(self) -> bool:
        """Whether `fit` takes every training input; its class has `latents` and `fit_latents`."""
        return False

    @property
    def n_training_tokens(self) -> int:
        """Tokens of training inputs that `fit` draws."""
        return 0

    @property
    def needs_fit(self) -> bool:
        """Whether the objective learns something from training inputs."""
        return self.n_training > 0 or self.learns_from_all

    @property
    def view_generator(self) -> tuple[str, dict[str, Any]]:
        """Name and options of the view generator; "auto" is the encoder's default."""
        return "auto", {}

    @property
    def stream(self) -> str:
        """Name of the views' random stream: variants of one objective see the same views."""
        return self.kind

    def title(self, target_layer: str, block: str = "") -> str:
        """Say what a block holds, by default the first, for a card."""
        path = self.blocks[block or next(iter(self.blocks))]
        where = f"`{path}`" if path else f"target layer `{target_layer}`"
        said = self.words.format(**vars(self), where=where)
        return said if path is None or "{where}" in self.words else f"{said}, gradient at {where}"

    def variants(self, others: Sequence[ObjectiveSpec]) -> tuple[ObjectiveSpec, ...]:
        """Give what `tune` tries beside this objective and the others."""
        del others
        return ()

    def arguments(self) -> dict[str, Any]:
        """Give what the objective's class takes beside `width` and `seed`."""
        return {"name": self.name} | {name: getattr(self, name) for name in self.passed}

    def factory(self) -> Callable[..., object]:
        """Import the objective's class."""
        module, _, name = self.home.partition(":")
        found: Callable[..., object] = getattr(importlib.import_module(module), name)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Give plain JSON data, the kind included."""
        data = {"kind": self.kind, **dataclasses.asdict(self)}
        if isinstance(self.layer, tuple):
            data["layer"] = list(self.layer)
        return data


@dataclass(frozen=True, kw_only=True)
class ViewsSpec(ObjectiveSpec):
    """What every objective of views has, beside their number.

    Attributes:
        views: Name of the view generator; "auto" is the encoder's default.
        view_options: Options of the view generator.
    """

    views: str = "auto"
    view_options: dict[str, Any] = field(default_factory=dict, hash=False)

    def check(self) -> None:
        """Check the views.

        Raises:
            ConfigError: If one is no text, or the options are no JSON.
        """
        if not isinstance(self.views, str) or not self.views:
            raise ConfigError(
                f"views must be the name of a view generator or 'auto'; got {self.views!r}"
            )
        check_options(self, "view_options")

    @property
    def view_generator(self) -> tuple[str, dict[str, Any]]:
        """As the user said."""
        return self.views, self.view_options


def layer_label(path: str) -> str:
    """Give a layer's name in a block's: what follows the block's number, and the number.

    "encoder.layer.4.attention.output.dense" is "4_attention_output".
    """
    number = BLOCK_NUMBER.search(path)
    own = path[number.start() :] if number else path
    shorter = own.removesuffix(".base_layer").removesuffix(".dense")
    return re.sub(r"[^0-9A-Za-z]+", "_", shorter).strip("_")


def check_factors(owner: object, *names: str, optional: bool = False) -> None:
    """Refuse anything but a number above 0 that float32 holds with room to spare."""
    check_fields(owner, names, check_number, 0, 1e9, inclusive="neither", optional=optional)


def check_options(owner: object, name: str) -> None:
    """Refuse anything but a dictionary that JSON gives back as it is.

    Raises:
        ConfigError: Naming owner, field and value.
    """
    value = getattr(owner, name)
    try:
        same = isinstance(value, dict) and json.loads(json.dumps(value)) == value
    except (TypeError, ValueError):
        same = False
    if not same:
        raise ConfigError(
            f"{type(owner).__name__}.{name} must be a dict of JSON values with texts as keys; "
            f"got {value!r}"
        )
