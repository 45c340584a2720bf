"""What a feature is, as frozen data: JSON in and out, every default written, no unknown key.

Only the standard library is imported (the Hub's client when it is asked), so a config can be read
anywhere.
"""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from fungi_hf.checks import (
    check_choices,
    check_fields,
    check_flag,
    check_integer,
    check_known,
    check_number,
)
from fungi_hf.errors import ConfigError, choices
from fungi_hf.specs import KL, OBJECTIVE_SPECS, PCA, Activation, Custom, SimCLR, parse_objectives
from fungi_hf.specs.paper import PAPER
from fungi_hf.storage.files import HubOptions, json_digest
from fungi_hf.storage.sharing import PushOptions, push_config, read_config, write_config

if TYPE_CHECKING:
    from pathlib import Path

    from fungi_hf.specs import ObjectiveSpec

CONFIG_VERSION: Final = 1

Pooling: TypeAlias = Literal["auto", "cls", "first", "last", "mean", "model", "projection"]
SketchKind: TypeAlias = Literal["khatri_rao", "rademacher", "gaussian", "sparse", "none"]
Dtype: TypeAlias = Literal["float32", "float64", "bfloat16"]
Tokens: TypeAlias = Literal["all", "first"]
Statistics: TypeAlias = Literal["processor", "audioset", "esc50", "speech_commands", "fit"]
Frontend: TypeAlias = Literal["torch", "torchaudio"]
Context: TypeAlias = Literal["clip", "full"]
Modality: TypeAlias = Literal["text", "audio", "vision"]
# Younger than the first digests; None, False or 0 counts for nothing.
_LATER = {"prompts", "default_prompt_name", "image_size", "modality", "dense", "discriminant"}
_CHOICES = {"pooling": Pooling, "gradient_tokens": Tokens, "sketch": SketchKind, "dtype": Dtype}
_AUDIO = {"audio_statistics": Statistics, "audio_frontend": Frontend, "audio_context": Context}
__all__ = [
    "CONFIG_VERSION",
    "KL",
    "OBJECTIVE_SPECS",
    "PCA",
    "Activation",
    "Custom",
    "FungiConfig",
    "SimCLR",
]


@dataclass(frozen=True, kw_only=True)
class FungiConfig:
    """The choices that decide a feature vector, apart from the encoder's weights.

    A value that is not allowed, alone or beside the others, is a ConfigError.

    Attributes:
        objectives: Gradient blocks in order: names ("kl", "simclr", "dino", "deepcluster", "ibot",
            "dense_infonce", "activation", a registered name) or spec objects
            (`KL(temperature=15)`). May be empty: the embedding alone.
        embedding_weight: Factor of the L2-normalised embedding; 0 leaves the embedding out.
        target_layer: Dotted path of an `nn.Linear`, or "auto": the last block's attention
            output projection.
        pooling: How tokens become one embedding. "auto" is what the encoder's folder says it was
            trained with (a sentence-transformers pooling file), else the masked mean.
        gradient_tokens: Which tokens' outer products are summed: "all", or "first" as in the
            published audio code.
        sketch: How a gradient becomes P numbers; "none" keeps exact low-rank factors.
        sketch_dim: P; None means the embedding width D.
        sketch_rank: Terms of the Khatri-Rao sketch, or of the exact factors with "none". None is
            4, and 2 for a Khatri-Rao sketch under a pooling that reads every token, where each
            term costs one product per token and buys little (recipes/ABLATIONS.md).
        published_signs: Draw the Rademacher matrix as the published code does (one float32
            stream, seeded with `seed`) instead of by name.
        round_sketch: Round sketched gradients to bfloat16 as the published code does.
        center: Subtract each block's training mean (learned by `fit`) before normalising.
        whitening: How far each block is whitened by its training covariance (learned by `fit`,
            with the mean): 0 not at all, 1 to equal variance in every direction, 0.5 half-way.
        discriminant: Whiten by the covariance within classes, and stretch the directions between
            their means this much (3 is good; 1 only whitens); learned by `fit(inputs, labels)`.
        reduction: None, a number of principal components, or `PCA(...)`.
        max_length: Tokens (or seconds-derived frames) per input; None is the encoder's limit.
        prompts: Name -> text in front of an input, e.g. {"query": "query: ", "document":
            "passage: "}; None takes those that the encoder's folder was saved with.
        default_prompt_name: The prompt of inputs for which none is named; "" is no prompt, None
            what the encoder's folder says.
        image_size: Height and width in pixels of what an image encoder sees, or one number for
            both; a multiple of its patch. None is what its processor's settings say.
        modality: "text", "audio" or "vision" is refused where the encoder is of another; a folder
            with a text and a vision model gives its vision model to "vision" alone.
        audio_statistics: Source of the spectrogram mean and deviation; "processor" is the
            encoder's own preprocessor, "fit" estimates them from the training set.
        audio_frontend: Who computes AST's log-mel: "torch" (ours) or "torchaudio"; same numbers.
        audio_context: How much of its 30-s window a Whisper encoder sees: "clip", the clip and
            2 s of silence, or "full".
        dense: One vector for every part of an input (patch, word, frame) by `extractor.dense`,
            in place of one for the input. Set by itself where an objective gives nothing else;
            activations alone may stand beside it. Images are resized whole, whatever their shape,
            and never cropped, so that the patches share them out.
        dtype: Floating type of the encoder's forward pass; heads and losses use float64.
        seed: Root of every named random object.
    """

    objectives: tuple[ObjectiveSpec, ...] = ("kl",)  # type: ignore[assignment]
    embedding_weight: float = 1.0
    target_layer: str = "auto"
    pooling: Pooling = "auto"
    gradient_tokens: Tokens = "all"
    sketch: SketchKind = "khatri_rao"
    sketch_dim: int | None = None
    sketch_rank: int | None = None
    published_signs: bool = False
    round_sketch: bool = False
    center: bool = False
    whitening: float = 0.0
    discriminant: float = 0.0
    reduction: PCA | None = None
    max_length: int | None = None
    prompts: Mapping[str, str] | None = field(default=None, hash=False)
    default_prompt_name: str | None = None
    image_size: int | tuple[int, int] | None = None
    modality: Modality | None = None
    audio_statistics: Statistics = "processor"
    audio_frontend: Frontend = "torch"
    audio_context: Context = "clip"
    dense: bool = False
    dtype: Dtype = "float32"
    seed: int = 42
    version: int = CONFIG_VERSION

    def __post_init__(self) -> None:
        given: Any = self.objectives
        if not isinstance(given, (tuple, list)):
            raise ConfigError(f"objectives must be a tuple of names or specs; got {given!r}")
        object.__setattr__(self, "objectives", parse_objectives(given))
        reduction: Any = self.reduction
        if isinstance(reduction, int) and not isinstance(reduction, bool):
            object.__setattr__(self, "reduction", PCA(n_components=reduction))
        elif reduction is not None and not isinstance(reduction, PCA):
            raise ConfigError(f"reduction must be None, an integer or PCA(...); got {reduction!r}")
        check_choices(self, _CHOICES | _AUDIO)
        check_fields(self, ("published_signs", "round_sketch", "center", "dense"), check_flag)
        if any(spec.per_token for spec in self.objectives):
            object.__setattr__(self, "dense", True)
        whole = ("sketch_dim", "sketch_rank", "max_length")
        check_fields(self, whole, check_integer, optional=True)
        check_fields(self, ["version"], check_integer)
        check_fields(self, ["embedding_weight", "discriminant"], check_number, 0, 1e9)
        check_fields(self, ["whitening"], check_number, 0, 1)
        if self.discriminant and (self.dense or not self.whitening):
            raise ConfigError(
                f"discriminant={self.discriminant:g} needs whitening above 0 and dense=False; got "
                f"whitening={self.whitening:g} and dense={self.dense}"
            )
        if not isinstance(self.target_layer, str) or not self.target_layer:
            raise ConfigError(
                f"target_layer must be 'auto' or a dotted path; got {self.target_layer!r}"
            )
        seed = self.seed
        if isinstance(seed, bool) or not isinstance(seed, int) or not -(2**63) <= seed < 2**63:
            raise ConfigError(f"seed must be an integer of 64 bits; got {seed!r}")
        if self.modality is not None:
            check_choices(self, {"modality": Modality})
        self._check_image_size()
        self._check_prompts()
        self._check_together()

    def _check_image_size(self) -> None:
        size: Any = self.image_size
        size = tuple(size) if isinstance(size, list) else size
        object.__setattr__(self, "image_size", size)
        sides = size if isinstance(size, tuple) and len(size) == 2 else (size,)
        whole = all(isinstance(side, int) and not isinstance(side, bool) for side in sides)
        if size is not None and not (whole and min(sides) > 0):
            raise ConfigError(
                f"image_size must be None, a side in pixels or (height, width); got {size!r}"
            )

    def _check_prompts(self) -> None:
        given, name = self.prompts, self.default_prompt_name
        pairs = list(given.items()) if isinstance(given, Mapping) else []
        texts = all(isinstance(one, str) for pair in pairs for one in pair)
        if given is not None and not (isinstance(given, Mapping) and texts):
            raise ConfigError(f"prompts must be None or a dictionary name -> text; got {given!r}")
        if given is not None:
            object.__setattr__(self, "prompts", dict(given))  # the caller's may change
        if name is not None and not isinstance(name, str):
            raise ConfigError(f"default_prompt_name must be None or a name; got {name!r}")
        if given is not None and name and name not in given:
            raise ConfigError(f"default_prompt_name is {choices(name, given)}")

    def _check_together(self) -> None:
        names = [block for spec in self.objectives for block in spec.blocks]
        if self.base_block in names or "embedding" in names or len(set(names)) != len(names):
            raise ConfigError(
                f"objective names must be unique and not {self.base_block!r}; got {names}; "
                "give one of them another name=..."
            )
        for spec in self.objectives:
            if spec.has_gradient and spec.loss() != self.losses[spec.name].loss():
                raise ConfigError(
                    f"two objectives are named {spec.name!r} and differ in more than layer and "
                    "weight, so that they are not one loss; give one of them another name=..."
                )
        whole = [s.name for s in self.objectives if s.has_gradient and not s.per_token]
        if self.dense and whole:
            raise ConfigError(
                f"dense features are of every token, and {', '.join(whole)} has one loss an input; "
                "leave it out, or extract it apart: DenseInfoNCE and Activation give a vector for "
                "each token"
            )
        if self.dense and self.gradient_tokens == "first":
            raise ConfigError(
                "gradient_tokens='first' keeps one token's gradient and dense=True wants each; set "
                "gradient_tokens='all'"
            )
        late = [spec.name for spec in self.objectives if spec.late_views is not None]
        tokens = [spec.name for spec in self.objectives if spec.reads_tokens]
        if late and tokens:
            raise ConfigError(
                f"late views ({', '.join(late)}) and tokens ({', '.join(tokens)}) are not offered "
                "in one extractor; set late_views=None, or extract them apart"
            )
        if not names and self.embedding_weight == 0:
            raise ConfigError("objectives is empty and embedding_weight is 0: nothing to extract")
        if self.sketch == "none" and self.learns_from_blocks:
            raise ConfigError(
                "sketch='none' keeps exact factors, which cannot be centred, whitened or "
                "PCA-reduced; set center=False, whitening=0 and reduction=None, or choose a sketch"
            )
        if self.published_signs and self.sketch != "rademacher":
            raise ConfigError(
                f"published_signs needs sketch='rademacher'; got sketch={self.sketch!r}"
            )

    @property
    def needs_fit(self) -> bool:
        """Whether features can only be computed after `fit`."""
        fitted = any(spec.needs_fit for spec in self.objectives)
        return fitted or self.learns_from_blocks or self.audio_statistics == "fit"

    @property
    def losses(self) -> dict[str, ObjectiveSpec]:
        """Name -> objective with a gradient; of those that are one loss at several layers, one."""
        return {spec.name: spec for spec in self.objectives if spec.has_gradient}

    @property
    def blocks(self) -> dict[str, ObjectiveSpec]:
        """Name of every block beside the base block -> its objective, in the features' order."""
        return {block: spec for spec in self.objectives for block in spec.blocks}

    @property
    def base_block(self) -> str:
        """Name of the block that is no objective's."""
        return "tokens" if self.dense else "embedding"

    @property
    def learns_from_blocks(self) -> bool:
        """Whether `fit` extracts the training inputs: for means, whitening or a PCA."""
        return self.center or self.whitening > 0 or self.reduction is not None

    @classmethod
    def paper(cls, modality: str) -> FungiConfig:
        """Give the published code's choices for a modality, its quirks included.

        "text", "audio", "vision" and "segmentation" (dense features) are those of the
        experiments; "fungivision" are the defaults of the authors' library of that name: KL at
        temperature 1, SimCLR untempered against 64 images, no embedding.

        Head weights, negatives and views follow the published distributions; their draws cannot
        be reproduced, since the published code does not seed them apart.

        Raises:
            ConfigError: If the modality is unknown.

        Reference: Simoncini et al. 2024; the job scripts of the published code.
        """
        if modality not in PAPER:
            raise ConfigError(f"no paper preset for {choices(modality, PAPER)}")
        return cls(**PAPER[modality])

    def replace(self, **changes: Any) -> FungiConfig:
        """Give a copy with some fields changed, checked again; an unknown one is a ConfigError."""
        check_known("FungiConfig", changes, self.__dataclass_fields__)
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Give plain JSON data with every default written out."""
        objectives = [spec.to_dict() for spec in self.objectives]
        return dataclasses.asdict(self) | {"objectives": objectives}

    def to_json(self) -> str:
        """Give the JSON text that `from_json` reads."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> FungiConfig:
        """Read what `to_dict` wrote; a missing field takes its default.

        Raises:
            ConfigError: If a key is unknown or a value is not allowed.
        """
        if not isinstance(data, dict):
            raise ConfigError(f"a config must be a JSON object; got {type(data).__name__}")
        values = dict(data)
        version = check_integer("version", values.pop("version", CONFIG_VERSION))
        if version > CONFIG_VERSION:
            warnings.warn(
                f"this config has version {version}, the package knows {CONFIG_VERSION}; "
                "fields may have changed their meaning: upgrade fungi-hf",
                stacklevel=2,
            )
        check_known("FungiConfig", values, cls.__dataclass_fields__)
        if isinstance(values.get("reduction"), dict):
            check_known("PCA", values["reduction"], PCA.__dataclass_fields__)
            values["reduction"] = PCA(**values["reduction"])
        return cls(**values)

    @classmethod
    def from_json(cls, text: str) -> FungiConfig:
        """Read what `to_json` wrote.

        Raises:
            ConfigError: If the text is not JSON or holds an unknown key or value.
        """
        try:
            data = json.loads(text)
        except ValueError as error:
            raise ConfigError(f"the config is not JSON: {error}") from None
        return cls.from_dict(data)

    @classmethod
    def from_pretrained(
        cls,
        place: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> FungiConfig:
        """Read the config of a folder, of a repository of the Hub, or of a JSON file.

        Fitted state is not read. The options are those of `fungi_hf.storage.files.HubOptions`. What
        is not there or cannot be read is a StorageError, an unknown key or value a ConfigError.
        """
        hub = HubOptions(revision, token, cache_dir, local_files_only)
        return cls.from_dict(read_config(place, hub))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the config alone to a folder, made if missing; other files are not touched.

        A folder that holds a saved extractor, or cannot be written, is a StorageError.
        """
        write_config(self.to_dict(), folder)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
    ) -> str:
        """Push what `save_pretrained` writes, in one commit; other files there are not touched.

        The repository, "user/name", is made if missing; one that holds a saved extractor, or
        cannot be written, is a StorageError. The options are those of
        `fungi_hf.storage.sharing.PushOptions`. Gives the address of the commit or pull request.
        """
        options = PushOptions(commit_message, private, token, revision, create_pr)
        return push_config(self.to_dict(), repo_id, options)

    def fingerprint(self) -> str:
        """Give a 16-digit digest of every field; equal configs have equal fingerprints.

        Younger fields that are not set count for nothing, so that older digests hold.
        """
        fields = self.to_dict()
        for name in _LATER:
            if fields[name] in (None, False):
                del fields[name]
        for item in fields["objectives"]:
            if item["layer"] is None and item["kind"] != Activation.kind:
                del item["layer"]
        return json_digest(fields)
