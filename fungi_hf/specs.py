"""Objectives and reductions as frozen data: what to compute, not how.

A spec names its block and holds its options; `fungi_hf.objectives` builds the torch side.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, TypeAlias

from fungi_hf.checks import check_fields, check_flag, check_integer, check_number
from fungi_hf.errors import ConfigError, choices

BLOCK_NUMBER: Final = re.compile(r"(?<=\.)\d+(?=\.)|^\d+(?=\.)")
"""The numbers in a layer's dotted path, the block's first."""
_LARGEST_FACTOR: Final = 1e9  # of a weight or temperature
REGISTERED_OBJECTIVES: Final[dict[str, object]] = {}
"""Factories of third-party objectives by name; `register_objective` fills it."""


@dataclass(frozen=True, kw_only=True)
class _Spec:
    """What every block has: a name, a weight, a number of views and how deep they go."""

    kind: ClassVar[str]
    n_views: int = 1
    late_views: int | None = None
    weight: float = 1.0
    name: str = ""

    def __post_init__(self) -> None:
        """Fill in the name and check the fields.

        Raises:
            ConfigError: If a field is not allowed.
        """
        if not self.name:
            object.__setattr__(self, "name", self.default_name())
        if not isinstance(self.name, str) or not self.name.replace("_", "").isalnum():
            raise ConfigError(
                f"an objective's name must be letters, digits and underscores; got {self.name!r}"
            )
        _check_factors(self, "weight")
        check_fields(self, ["n_views"], check_integer)
        self.check()
        self._check_late_views()

    def _check_late_views(self) -> None:
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

    def default_name(self) -> str:
        """Give the block name used when none was given."""
        return self.kind

    def check(self) -> None:
        """Check the fields of the subclass."""

    @property
    def needs_fit(self) -> bool:
        """Whether the objective learns something from training inputs."""
        return False

    def to_dict(self) -> dict[str, Any]:
        """Give plain JSON data, the kind included."""
        return {"kind": self.kind, **dataclasses.asdict(self)}


@dataclass(frozen=True, kw_only=True)
class KL(_Spec):
    """Divergence of the uniform distribution from the latent softmax of the untouched input.

    Attributes:
        temperature: Divides the logits; hardly matters above 1.
        latent_dim: L, the width of the random head.
        weight: Factor of the normalised block.
    """

    kind: ClassVar[str] = "kl"
    temperature: float = 15.0
    latent_dim: int = 768

    def check(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: If there is more than one view.
        """
        _check_factors(self, "temperature")
        check_fields(self, ["latent_dim"], check_integer)
        if self.n_views != 1:
            raise ConfigError(f"KL uses the untouched input: n_views must be 1; got {self.n_views}")


@dataclass(frozen=True, kw_only=True)
class SimCLR(_Spec):
    """InfoNCE between V views of one input against a fixed bank of negatives.

    Attributes:
        n_views: V, at least 2.
        temperature: Divides the similarities.
        logsumexp_temperature: Divides them inside the log-sum-exp; None means `temperature`
            (the published vision code), 1.0 leaves that term untempered (published text, audio).
        latent_dim: L, the width of the random head.
        views: Name of the view generator; "auto" is the encoder's default.
        view_options: Options of the view generator.
        late_views: k, to drop words (of audio: frames or patches) in the last k blocks only, so
            that a view costs k blocks; None makes views of the raw input (`encoders.late.stack`).
        n_negatives: Training inputs whose views form the negative bank.
        negative_views: Views of each of them.
        weight: Factor of the normalised block.
    """

    kind: ClassVar[str] = "simclr"
    n_views: int = 12
    temperature: float = 0.07
    logsumexp_temperature: float | None = None
    latent_dim: int = 256
    views: str = "auto"
    view_options: dict[str, Any] = field(default_factory=dict, hash=False)
    n_negatives: int = 256
    negative_views: int = 2

    def check(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: If a field is out of range.
        """
        if self.n_views < 2:
            raise ConfigError(f"SimCLR compares views: n_views must be >= 2; got {self.n_views}")
        _check_factors(self, "temperature")
        _check_factors(self, "logsumexp_temperature", optional=True)
        check_fields(self, ("latent_dim", "n_negatives", "negative_views"), check_integer)
        _check_views(self.views)
        _check_options(self, "view_options")

    @property
    def needs_fit(self) -> bool:
        """The negative bank comes from training inputs."""
        return True


@dataclass(frozen=True, kw_only=True)
class Activation(_Spec):
    """A Linear layer's pooled input: no loss, no backward; the control of every gradient.

    Attributes:
        layer: Dotted path of an `nn.Linear`, in any block; None means the target layer. Several
            activations share one forward pass.
        weight: Factor of the normalised block.
        name: By default "activation", and "activation_3" with a layer of block 3.
    """

    kind: ClassVar[str] = "activation"
    layer: str | None = None

    def default_name(self) -> str:
        """Name the block after the layer's block, or after the whole path."""
        if not isinstance(self.layer, str):
            return self.kind
        numbers = BLOCK_NUMBER.findall(self.layer)
        return f"{self.kind}_{numbers[0] if numbers else self.layer.replace('.', '_')}"

    def check(self) -> None:
        """Check layer and views.

        Raises:
            ConfigError: If the layer is no path, or there is more than one view.
        """
        is_path = isinstance(self.layer, str) and self.layer not in ("", "auto")
        if self.layer is not None and not is_path:
            raise ConfigError(
                "Activation.layer must be None (the target layer, which may be 'auto') or a dotted "
                f"path; got {self.layer!r}"
            )
        if self.n_views != 1:
            raise ConfigError(f"activation has one view; got n_views={self.n_views}")


@dataclass(frozen=True, kw_only=True)
class Custom(_Spec):
    """A registered third-party objective.

    Attributes:
        objective: Its name in the registry.
        options: Keyword arguments of its constructor beside `width` and `seed`.
        n_views: V; 1 means the untouched input.
        views: Name of the view generator; "auto" is the encoder's default.
        view_options: Options of the view generator.
        late_views: k, to drop words (of audio: frames or patches) in the last k blocks only, so
            that a view costs k blocks; None makes views of the raw input (`encoders.late.stack`).
        n_fit: Training inputs that `fit` passes to the objective; 0 when it learns nothing.
        weight: Factor of the normalised block.
    """

    kind: ClassVar[str] = "custom"
    objective: str
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    views: str = "auto"
    view_options: dict[str, Any] = field(default_factory=dict, hash=False)
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
            known = [*REGISTERED_OBJECTIVES, *OBJECTIVE_SPECS]
            raise ConfigError(
                f"no objective is registered as {choices(self.objective, known)}, "
                "or call fungi_hf.register_objective first"
            )
        check_fields(self, ["n_fit"], check_integer, 0)
        _check_views(self.views)
        _check_options(self, "options")
        _check_options(self, "view_options")

    @property
    def needs_fit(self) -> bool:
        """As the user said."""
        return self.n_fit > 0


ObjectiveSpec: TypeAlias = KL | SimCLR | Activation | Custom
OBJECTIVE_SPECS: Final[dict[str, type[KL] | type[SimCLR] | type[Activation]]] = {
    "kl": KL,
    "simclr": SimCLR,
    "activation": Activation,
}


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
        """Check the fields.

        Raises:
            ConfigError: If one is not allowed.
        """
        check_fields(self, ["n_components"], check_integer)
        check_fields(self, ["normalize"], check_flag)


def parse_objective(item: object) -> ObjectiveSpec:
    """Read an objective from a name, a spec object or its JSON form.

    Raises:
        ConfigError: If the name or a field is unknown.
    """
    if isinstance(item, (KL, SimCLR, Activation, Custom)):
        return item
    if isinstance(item, str):
        if item in OBJECTIVE_SPECS:
            return OBJECTIVE_SPECS[item]()
        if item in REGISTERED_OBJECTIVES:
            return Custom(objective=item)
        known = [*OBJECTIVE_SPECS, *REGISTERED_OBJECTIVES]
        raise ConfigError(f"unknown objective {choices(item, known)}")
    if isinstance(item, dict):
        return _objective_from_dict(item)
    raise ConfigError(
        f"an objective must be a name or one of KL, SimCLR, Activation, Custom; got {item!r}"
    )


def _objective_from_dict(data: dict[str, Any]) -> ObjectiveSpec:
    values = dict(data)
    kind = values.pop("kind", None)
    kinds: dict[str, Any] = {**OBJECTIVE_SPECS, "custom": Custom}
    if not isinstance(kind, str) or kind not in kinds:
        raise ConfigError(f"objective kind is {choices(kind, kinds)}")
    known = [item.name for item in dataclasses.fields(kinds[kind])]
    for key in values:
        if key not in known:
            raise ConfigError(f"objective {kind!r} has no field {choices(key, known)}")
    if kind == "custom" and "objective" not in values:
        raise ConfigError("objective 'custom' needs its registered name in the field 'objective'")
    spec: ObjectiveSpec = kinds[kind](**values)
    return spec


def _check_factors(owner: object, *names: str, optional: bool = False) -> None:
    """Refuse anything but a number above 0 that float32 holds with room to spare."""
    check_fields(
        owner, names, check_number, 0, _LARGEST_FACTOR, inclusive="neither", optional=optional
    )


def _check_views(views: object) -> None:
    if not isinstance(views, str) or not views:
        raise ConfigError(f"views must be the name of a view generator or 'auto'; got {views!r}")


def _check_options(owner: object, name: str) -> None:
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
