"""What `fit` learned: objectives, block means, whitening, a PCA; as tensors and back."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from fungi_hf.errors import StateError
from fungi_hf.extraction.reduction import PrincipalComponents
from fungi_hf.storage.files import tensor_digest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from fungi_hf.config import FungiConfig
    from fungi_hf.encoders.base import Encoder


@dataclass(frozen=True, slots=True, eq=False)
class FittedState:
    """Everything a feature depends on beside config and encoder.

    Attributes:
        objectives: Block name -> tensors of its objective.
        means: Block name -> [width] training mean of the raw block.
        components: The fitted PCA.
        encoder: Tensors that the encoder learned (e.g. spectrogram statistics).
        whitening: Block name -> [width, width] matrix that follows the mean's subtraction.
        skipped: (N, F) of the training features, where `fit` found a PCA unnecessary.
    """

    objectives: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    means: dict[str, Tensor] = field(default_factory=dict)
    components: PrincipalComponents | None = None
    encoder: dict[str, Tensor] = field(default_factory=dict)
    skipped: tuple[int, int] | None = None
    whitening: dict[str, Tensor] = field(default_factory=dict)

    def missing(self, config: FungiConfig) -> list[str]:
        """Name what the config wants from `fit` and what is not here."""
        needs = {
            s.name: bool(self.objectives.get(s.name)) for s in config.objectives if s.needs_fit
        }
        if config.center:
            needs["center"] = bool(self.means)
        if config.whitening > 0:
            needs["whitening"] = bool(self.whitening)
        if config.reduction is not None:
            needs["reduction"] = self.components is not None or self.skipped is not None
        if config.audio_statistics == "fit":
            needs["audio_statistics"] = bool(self.encoder)
        return [name for name, is_here in needs.items() if not is_here]

    def to_tensors(self) -> dict[str, Tensor]:
        """Give a flat dictionary with path-like names."""
        flat = {
            f"objective/{name}/{key}": tensor
            for name, state in self.objectives.items()
            for key, tensor in state.items()
        }
        flat |= {f"mean/{name}": mean for name, mean in self.means.items()}
        flat |= {f"whitening/{name}": matrix for name, matrix in self.whitening.items()}
        flat |= {f"encoder/{name}": tensor for name, tensor in self.encoder.items()}
        if self.components is not None:
            flat["pca/mean"] = self.components.mean
            flat["pca/components"] = self.components.components
        if self.skipped is not None:
            flat["pca/skipped"] = torch.tensor(self.skipped)
        return flat

    @classmethod
    def from_tensors(cls, flat: Mapping[str, Tensor]) -> FittedState:
        """Read what `to_tensors` gave.

        Raises:
            StateError: If a name is not one that `to_tensors` writes.
        """
        objectives: dict[str, dict[str, Tensor]] = {}
        rooms: dict[str, dict[str, Tensor]] = {r: {} for r in ("mean", "whitening", "encoder")}
        pca: dict[str, Tensor] = {}
        for path, tensor in flat.items():
            room, _, name = path.partition("/")
            block, _, key = name.partition("/")
            if room == "objective" and key:
                objectives.setdefault(block, {})[key] = tensor
            elif room in rooms and name:
                rooms[room][name] = tensor
            elif room == "pca" and name in ("mean", "components", "skipped"):
                pca[name] = tensor
            else:
                raise StateError(f"the stored state has an unknown tensor {path!r}")
        shape = pca.pop("skipped", None)
        if len(pca) == 1:
            raise StateError("the stored state has half a PCA: both mean and components are needed")
        components = PrincipalComponents(pca["mean"], pca["components"]) if pca else None
        skipped = None if shape is None else (int(shape[0]), int(shape[1]))
        mean, whitening, encoder = rooms.values()
        return cls(objectives, mean, components, encoder, skipped, whitening)

    def digest(self) -> str:
        """Digest of all names, shapes and values."""
        return tensor_digest(self.to_tensors())


def fingerprint_of(
    config: FungiConfig, encoder: Encoder, encoder_digest: str, state: FittedState
) -> str:
    """Digest of config, encoder (weights, preprocessor, layer, pooling, length) and state."""
    known = _described(encoder, encoder_digest)
    text = f"{config.fingerprint()}|{known}|{state.digest()}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def identity_of(encoder: Encoder, encoder_digest: str) -> str:
    """Digest of an encoder alone: weights, preprocessor, layer, pooling, length, prompts."""
    return hashlib.sha256(_described(encoder, encoder_digest).encode()).hexdigest()[:16]


def _described(encoder: Encoder, encoder_digest: str) -> str:
    where = f"{encoder.layer_path}|{encoder.pooling}|{encoder.max_length}"
    prompts = {name: text for name, text in encoder.prompts.items() if text}
    if prompts or encoder.default_prompt:
        where += json.dumps([prompts, encoder.default_prompt], sort_keys=True)
    return f"{encoder_digest}|{where}"
