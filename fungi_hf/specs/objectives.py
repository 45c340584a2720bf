"""The options of every objective in the package, and of the reduction."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from fungi_hf.checks import check_fields, check_flag, check_integer, check_known
from fungi_hf.errors import ConfigError, choices
from fungi_hf.specs.base import (
    BLOCK_NUMBER,
    OBJECTIVE_SPECS,
    REGISTERED_OBJECTIVES,
    ObjectiveSpec,
    ViewsSpec,
    check_factors,
    check_options,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence


@dataclass(frozen=True, kw_only=True)
class KL(ObjectiveSpec, kind="kl", home="fungi_hf.objectives.kl:KLObjective"):
    """Divergence of the uniform distribution from the latent softmax of the untouched input.

    Attributes:
        temperature: Divides the logits; hardly matters above 1.
        latent_dim: L, the width of the random head.
    """

    passed: ClassVar[tuple[str, ...]] = ("temperature", "latent_dim")
    words: ClassVar[str] = "KL divergence from uniform of {latent_dim} latents at {temperature:g}"
    takes_views: ClassVar[bool] = False
    temperature: float = 15.0
    latent_dim: int = 768

    def check(self) -> None:
        """Check ranges."""
        check_factors(self, "temperature")
        check_fields(self, ["latent_dim"], check_integer)


@dataclass(frozen=True, kw_only=True)
class SimCLR(ViewsSpec, kind="simclr", home="fungi_hf.objectives.simclr:SimCLRObjective"):
    """InfoNCE between V views of one input against a fixed bank of negatives.

    Attributes:
        n_views: V, at least 2.
        temperature: Divides the similarities.
        logsumexp_temperature: Divides them inside the log-sum-exp; None means `temperature`
            (the published vision code), 1.0 leaves that term untempered (published text, audio).
        latent_dim: L, the width of the random head.
        n_negatives: Training inputs whose views form the negative bank.
        negative_views: Views of each of them.
    """

    passed: ClassVar[tuple[str, ...]] = (
        *("n_views", "temperature", "logsumexp_temperature", "latent_dim"),
    )
    words: ClassVar[str] = (
        "InfoNCE of {n_views} views ({views}) against {n_negatives} training inputs at temperature "
        "{temperature:g}"
    )
    n_views: int = 12
    temperature: float = 0.07
    logsumexp_temperature: float | None = None
    latent_dim: int = 256
    n_negatives: int = 256
    negative_views: int = 2

    def check(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: If a field is out of range.
        """
        super().check()
        if self.n_views < 2:
            raise ConfigError(f"SimCLR compares views: n_views must be >= 2; got {self.n_views}")
        check_factors(self, "temperature")
        check_factors(self, "logsumexp_temperature", optional=True)
        check_fields(self, ("latent_dim", "n_negatives", "negative_views"), check_integer)

    @property
    def n_training(self) -> int:
        """The negative bank comes from training inputs."""
        return self.n_negatives

    @property
    def training_views(self) -> int:
        """As the user said."""
        return self.negative_views

    def variants(self, others: Sequence[ObjectiveSpec]) -> tuple[ObjectiveSpec, ...]:
        """Give the other temper with a head of its own, unless one of the others has it."""
        untempered = self.logsumexp_temperature != 1.0
        same = [one for one in others if isinstance(one, SimCLR)]
        if any((one.logsumexp_temperature == 1.0) == untempered for one in same):
            return ()
        name = f"{self.name}_{'un' if untempered else ''}tempered"
        while name in {one.name for one in others}:
            name += "_tuned"
        temperature = 1.0 if untempered else None
        return (dataclasses.replace(self, logsumexp_temperature=temperature, name=name),)


@dataclass(frozen=True, kw_only=True)
class Activation(ObjectiveSpec, kind="activation"):
    """A Linear layer's pooled input: no loss, no backward; the control of every gradient.

    Attributes:
        name: The block's, by default "activation", and "activation_3" with a layer of block 3.
            Several layers are as many activations: "activation_3_output", say.
    """

    words: ClassVar[str] = "pooled input of {where}, no gradient"
    has_gradient: ClassVar[bool] = False
    takes_views: ClassVar[bool] = False

    def default_name(self) -> str:
        """Name the block after the layer's block, or after the whole path."""
        if not isinstance(self.layer, str):
            return self.kind
        numbers = BLOCK_NUMBER.findall(self.layer)
        return f"{self.kind}_{numbers[0] if numbers else self.layer.replace('.', '_')}"

    @property
    def blocks(self) -> dict[str, str | None]:
        """The name alone of a single layer, which it has in it by default."""
        return super().blocks if len(self.layers) > 1 else {self.name: self.layers[0]}

    def split(self) -> tuple[ObjectiveSpec, ...]:
        """Give an activation for each layer; they share one forward pass."""
        return tuple(
            dataclasses.replace(self, layer=path, name=name) for name, path in self.blocks.items()
        )


@dataclass(frozen=True, kw_only=True)
class Custom(ViewsSpec, kind="custom"):
    """A registered third-party objective.

    Attributes:
        objective: Its name in the registry.
        options: Keyword arguments of its constructor beside `width` and `seed`.
        n_fit: Training inputs that `fit` passes to the objective; 0 when it learns nothing.
    """

    words: ClassVar[str] = "third-party objective `{objective}`"
    objective: str
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    n_fit: int = 0

    def default_name(self) -> str:
        """Take the objective's registered name."""
        return self.objective

    def check(self) -> None:
        """Check that the objective is registered.

        Raises:
            ConfigError: If it is not, or a field is out of range.
        """
        if self.objective not in REGISTERED_OBJECTIVES:
            known = [*REGISTERED_OBJECTIVES, *_by_name()]
            raise ConfigError(
                f"no objective is registered as {choices(self.objective, known)}, "
                "or call fungi_hf.register_objective first"
            )
        check_fields(self, ["n_fit"], check_integer, 0)
        super().check()
        check_options(self, "options")

    @property
    def n_training(self) -> int:
        """As the user said."""
        return self.n_fit

    @property
    def stream(self) -> str:
        """The objective's registered name."""
        return self.objective

    def arguments(self) -> dict[str, Any]:
        """Give the user's options."""
        return self.options

    def factory(self) -> Callable[..., object]:
        """Give what was registered."""
        return REGISTERED_OBJECTIVES[self.objective]


@dataclass(frozen=True, kw_only=True)
class PCA:
    """Principal components of the concatenated features, fitted on the training rows.

    Attributes:
        n_components: Width afterwards; skipped (and recorded as skipped) unless smaller than
            both the feature width and the number of training rows.
        normalize: L2-normalise the reduced vectors.
    """

    n_components: int = 512
    normalize: bool = True

    def __post_init__(self) -> None:
        check_fields(self, ["n_components"], check_integer)
        check_fields(self, ["normalize"], check_flag)


def parse_objectives(items: Iterable[object]) -> tuple[ObjectiveSpec, ...]:
    """Read objectives one after the other; activations of several layers become as many."""
    return tuple(one for item in items for one in parse_objective(item).split())


def parse_objective(item: object) -> ObjectiveSpec:
    """Read an objective from a name, a spec object or its JSON form.

    Raises:
        ConfigError: If the name or a field is unknown.
    """
    if isinstance(item, ObjectiveSpec):
        return item
    if isinstance(item, dict):
        return _objective_from_dict(item)
    if not isinstance(item, str):
        classes = ", ".join(spec.__name__ for spec in OBJECTIVE_SPECS.values())
        raise ConfigError(f"an objective must be a name or one of {classes}; got {item!r}")
    if item in REGISTERED_OBJECTIVES:
        return Custom(objective=item)
    if item in _by_name():
        return OBJECTIVE_SPECS[item]()
    raise ConfigError(f"unknown objective {choices(item, [*_by_name(), *REGISTERED_OBJECTIVES])}")


def _by_name() -> list[str]:
    """Give the kinds that need no option."""
    return [kind for kind, spec in OBJECTIVE_SPECS.items() if not _needed(spec)]


def _needed(spec: type[ObjectiveSpec]) -> list[str]:
    """Give the fields without a default."""
    nothing = (dataclasses.MISSING, dataclasses.MISSING)
    every = dataclasses.fields(spec)
    return [item.name for item in every if (item.default, item.default_factory) == nothing]


def _objective_from_dict(data: dict[str, Any]) -> ObjectiveSpec:
    values = dict(data)
    kind = values.pop("kind", None)
    if not isinstance(kind, str) or kind not in OBJECTIVE_SPECS:
        raise ConfigError(f"objective kind is {choices(kind, OBJECTIVE_SPECS)}")
    spec = OBJECTIVE_SPECS[kind]
    check_known(f"objective {kind!r}", values, spec.__dataclass_fields__)
    for key in _needed(spec):
        if key not in values:
            raise ConfigError(f"objective {kind!r} needs the field {key!r}; got {data!r}")
    return spec(**values)
