"""The options of objectives whose views predict a target: a teacher's distribution, a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from fungi_hf.checks import check_fields, check_flag, check_integer, check_number
from fungi_hf.errors import ConfigError
from fungi_hf.specs.base import ViewsSpec, check_factors

_TEMPERATURES = ("temperature", "teacher_temperature")


@dataclass(frozen=True, kw_only=True)
class DINO(ViewsSpec, kind="dino", home="fungi_hf.objectives.dino:DINOObjective"):
    """Cross-entropy of all views under a student head with the global views under a teacher's.

    Attributes:
        n_views: V; the first `n_global` are the global ones. More than 1.
        n_global: Views that the teacher sees; of images, the large crops of "multi_crop", which
            has an option of that name.
        latent_dim: L, the width of both random heads.
        temperature: Divides the student's logits.
        teacher_temperature: Divides the teacher's.
        shared_heads: Whether the teacher's head is the student's; the published heads are two.
    """

    passed: ClassVar[tuple[str, ...]] = (
        *("n_views", "n_global", "latent_dim", "temperature", "teacher_temperature"),
        "shared_heads",
    )
    words: ClassVar[str] = (
        "self-distillation (DINO) of {n_views} views ({views}), {n_global} of them global, between "
        "two random heads of {latent_dim} latents"
    )
    n_views: int = 12
    n_global: int = 2
    latent_dim: int = 2048
    temperature: float = 0.1
    teacher_temperature: float = 0.07
    shared_heads: bool = False

    def check(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: If a field is out of range.
        """
        super().check()
        if self.n_views < 2:
            raise ConfigError(f"DINO compares views: n_views must be >= 2; got {self.n_views}")
        check_fields(self, ["n_global"], check_integer, 1, self.n_views)
        check_fields(self, ["shared_heads"], check_flag)
        check_fields(self, ["latent_dim"], check_integer)
        check_factors(self, *_TEMPERATURES)


@dataclass(frozen=True, kw_only=True)
class DeepCluster(
    ViewsSpec, kind="deepcluster", home="fungi_hf.objectives.deepcluster:DeepClusterObjective"
):
    """Cross-entropy of all views with the cluster of one of the first two, for several clusterings.

    Attributes:
        n_views: V, at least 2; the first two are clustered.
        prototypes: Clusters of each clustering; at most the number of training inputs.
        latent_dim: L, the width of the random projection that is clustered.
        temperature: Divides the similarities to the centroids.
        iterations: Of k-means.
        n_fit: Training inputs that are clustered, drawn by content; None takes all, in one pass
            that keeps two latents of each.
    """

    passed: ClassVar[tuple[str, ...]] = (
        *("n_views", "prototypes", "latent_dim", "temperature", "iterations"),
    )
    words: ClassVar[str] = (
        "DeepCluster: {n_views} views ({views}) predict their cluster among {prototypes}"
    )
    n_views: int = 8
    prototypes: tuple[int, ...] = (3000, 3000, 3000)
    latent_dim: int = 128
    temperature: float = 0.1
    iterations: int = 10
    n_fit: int | None = None

    def check(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: If a field is out of range.
        """
        super().check()
        if self.n_views < 2:
            raise ConfigError(
                f"DeepCluster clusters two views: n_views must be >= 2; got {self.n_views}"
            )
        given: Any = self.prototypes
        if not isinstance(given, (tuple, list)) or not given:
            raise ConfigError(
                f"DeepCluster.prototypes must be a tuple of numbers of clusters; got {given!r}"
            )
        found = (check_integer(f"prototypes[{h}]", one, 2) for h, one in enumerate(given))
        object.__setattr__(self, "prototypes", tuple(found))
        check_fields(self, ("latent_dim", "iterations"), check_integer)
        check_fields(self, ["n_fit"], check_integer, max(self.prototypes), optional=True)
        check_factors(self, "temperature")

    @property
    def n_training(self) -> int:
        """As the user said."""
        return self.n_fit or 0

    @property
    def learns_from_all(self) -> bool:
        """Unless a number was said."""
        return self.n_fit is None

    @property
    def training_views(self) -> int:
        """The first two of V."""
        return 2

    def to_dict(self) -> dict[str, Any]:
        """Give plain JSON data, the kind included."""
        return super().to_dict() | {"prototypes": list(self.prototypes)}


@dataclass(frozen=True, kw_only=True)
class IBOT(ViewsSpec, kind="ibot", home="fungi_hf.objectives.ibot:IBOTObjective"):
    """Cross-entropy of a masked input with the same input, for the embedding and masked tokens.

    The encoder must give its tokens (`encoders.base.TokenEncoder`). Share and slots are first
    guesses.

    Attributes:
        slots: S, the masked tokens that enter the loss; each stands there several times where
            fewer are masked.
        mask_ratio: Share of the tokens that is masked, at least one; None is .3 of patches and
            frames and .15 of word pieces.
        n_views: Follows from `slots`: 2 (1 + S) rows of embedding and tokens, masked and plain.
        latent_dim: L, the width of both random heads.
        temperature: Divides the student's logits.
        teacher_temperature: Divides the teacher's.
        view_options: {"mask_token": "..."} for a tokenizer that names none.
    """

    passed: ClassVar[tuple[str, ...]] = (
        *("n_views", "latent_dim", "temperature", "teacher_temperature"),
    )
    words: ClassVar[str] = (
        "masked self-distillation (iBOT, our definition) of the embedding and {slots} masked "
        "tokens, between two random heads of {latent_dim} latents"
    )
    reads_tokens: ClassVar[bool] = True
    slots: int = 32
    mask_ratio: float | None = None
    n_views: int = 0
    latent_dim: int = 2048
    temperature: float = 0.1
    teacher_temperature: float = 0.07

    def __post_init__(self) -> None:
        check_fields(self, ["slots"], check_integer)
        if self.n_views == 0:
            object.__setattr__(self, "n_views", 2 * (1 + self.slots))
        super().__post_init__()

    def check(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: If a field is out of range.
        """
        super().check()
        if self.n_views != 2 * (1 + self.slots):
            raise ConfigError(
                f"IBOT.n_views is 2 (1 + slots), {2 * (1 + self.slots)} for slots={self.slots}; "
                f"got {self.n_views}: leave it out"
            )
        if self.views not in ("auto", "masked_tokens"):
            raise ConfigError(
                f"IBOT masks tokens: views must be 'masked_tokens' or 'auto'; got {self.views!r}"
            )
        if self.late_views is not None:
            raise ConfigError(
                "IBOT reads tokens, which late views drop: set late_views=None; got "
                f"{self.late_views!r}"
            )
        check_fields(self, ["latent_dim"], check_integer)
        check_fields(self, ["mask_ratio"], check_number, 0, 1, inclusive="high", optional=True)
        check_factors(self, *_TEMPERATURES)

    @property
    def view_generator(self) -> tuple[str, dict[str, Any]]:
        """Masked tokens, with the share and the user's options."""
        share = {} if self.mask_ratio is None else {"mask_ratio": self.mask_ratio}
        return "masked_tokens", share | self.view_options
