"""Turn an official patch-based SSAST checkpoint into a transformers AST folder.

Invariant: every weight of the checkpoint's transformer is used exactly once and none is made up;
anything else in the file is known pretraining or fine-tuning machinery, or the file is refused.
"""

from __future__ import annotations

import pickle
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from fungi_hf.checks import check_integer
from fungi_hf.encoders.audio.mel import statistics
from fungi_hf.encoders.audio.patches import SPECIAL, patch_grid, restride
from fungi_hf.errors import CheckpointError, StorageError

if TYPE_CHECKING:
    import os

    from torch import Tensor
    from transformers import ASTConfig, ASTModel

PATCH: Final = 16
SIZES: Final = {192: ("tiny", 3), 384: ("small", 6), 768: ("base", 12)}  # width: name, heads
DROPPED: Final = ("mask_embed", "cpredlayer", "gpredlayer", "mlp_head", "p_input_", "v.head")

_NAMES: Final = {
    "v.cls_token": "embeddings.cls_token",
    "v.dist_token": "embeddings.distillation_token",
    "v.pos_embed": "embeddings.position_embeddings",
    "v.patch_embed.proj": "embeddings.patch_embeddings.projection",
    "v.norm": "layernorm",
}
_BLOCK_NAMES: Final = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.o_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def convert(
    checkpoint: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    stride: int = PATCH,
    frames: int | None = None,
    stats: str = "audioset",
) -> Path:
    """Write a folder with model, feature extractor and card from an official checkpoint.

    Args:
        checkpoint: The `.pth` file of SSAST-{Tiny,Small,Base}-Patch-*; read without running code. A
            file that is not such a checkpoint is a CheckpointError.
        out: Folder to create, and the result; must not exist or be empty.
        stride: Patch stride of the converted model: 16 as in pretraining, or 10, with which
            the published FUNGI audio features were made. Positions are interpolated.
        frames: Length of its input in frames, at least one patch (16), else it is a ConfigError;
            None keeps the checkpoint's (1024).
        stats: Preset of log-mel statistics for the feature extractor.

    Raises:
        StorageError: If the checkpoint cannot be read or the folder is in use.
    """
    preset = statistics(stats)
    if frames is not None:
        check_integer("frames", frames, PATCH)
    target = Path(out)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise StorageError(f"{str(target)!r} is in use; name a folder that is new or empty")
    model = load(checkpoint)
    config = model.config
    if (stride, frames or config.max_length) != (config.time_stride, config.max_length):
        model = restride(model, stride=stride, frames=frames or config.max_length)
    model.save_pretrained(target)
    with warnings.catch_warnings():  # one of 128 filters is empty, in training as well
        warnings.filterwarnings("ignore", module="transformers.audio_utils")
        from transformers import ASTFeatureExtractor

        extractor = ASTFeatureExtractor(
            num_mel_bins=config.num_mel_bins, max_length=model.config.max_length, **asdict(preset)
        )
    extractor.save_pretrained(target)
    (target / "README.md").write_text(_card(Path(checkpoint).name, model.config, stats), "utf-8")
    return target


def load(checkpoint: str | os.PathLike[str]) -> ASTModel:
    """Give the model of an official `.pth` checkpoint: float32, in eval mode, stride 16.

    Raises:
        CheckpointError: If a weight is missing, unknown or of another shape.
    """
    from transformers import ASTModel

    state = _read(Path(checkpoint))
    config = _config(state)
    model = ASTModel(config)
    converted = _rename(state, config.num_hidden_layers)
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in converted.items()}
    differ = [name for name in wanted if found.get(name) != wanted[name]]
    wrong = [f"{name} {found.get(name, 'missing')}, not {wanted[name]}" for name in differ]
    wrong += [f"{n} unknown" for n in found if n not in wanted]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise CheckpointError(
            f"{checkpoint} does not fit an SSAST of width {config.hidden_size}: "
            f"{'; '.join(wrong[:5])}{more}"
        )
    model.load_state_dict({name: value.float() for name, value in converted.items()}, strict=True)
    return model.eval()


def _read(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        reason = error.strerror or error
        raise StorageError(f"checkpoint {str(path)!r} cannot be read: {reason}") from None
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path} holds more than tensors and is not loaded, since that could run code; "
            "expected the state dict of an official SSAST checkpoint"
        ) from None
    except (RuntimeError, EOFError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} is not a torch checkpoint: {error}") from None
    if not isinstance(state, dict) or not all(torch.is_tensor(v) for v in state.values()):
        raise CheckpointError(
            f"{path} holds a {type(state).__name__} that is not a state dict of tensors"
        )
    return {str(name).removeprefix("module."): value for name, value in state.items()}


def _config(state: dict[str, Tensor]) -> ASTConfig:
    from transformers import ASTConfig

    kernel = _need(state, "v.patch_embed.proj.weight")
    if kernel.ndim == 4 and tuple(kernel.shape[2:]) != (PATCH, PATCH):
        raise CheckpointError(
            f"this is a frame-based checkpoint: its patches are {kernel.shape[2]} mel bins x "
            f"{kernel.shape[3]} frames, and a transformers AST has square patches only; "
            "take a patch-based one (SSAST-*-Patch-*)"
        )
    width = kernel.shape[0]
    if width not in SIZES:
        known = ", ".join(f"{w} ({name})" for w, (name, _) in SIZES.items())
        raise CheckpointError(f"the checkpoint's width is {width}; SSAST has {known}")
    if "v.dist_token" not in state:
        raise CheckpointError(
            "the checkpoint has one class token, not two (a variant without distillation token); "
            "a transformers AST needs v.dist_token"
        )
    mels, frames = (int(_need(state, f"p_input_{axis}dim").item()) for axis in "ft")
    grid = patch_grid(mels, frames, (PATCH, PATCH))
    rows = _need(state, "v.pos_embed").shape[1]
    if rows != SPECIAL + grid[0] * grid[1]:
        raise CheckpointError(
            f"v.pos_embed has {rows} rows; {mels} mel bins x {frames} frames need "
            f"{SPECIAL + grid[0] * grid[1]}"
        )
    blocks = {name.split(".")[2] for name in state if name.startswith("v.blocks.")}
    return ASTConfig(
        hidden_size=width,
        num_hidden_layers=len(blocks),
        num_attention_heads=SIZES[width][1],
        intermediate_size=4 * width,
        layer_norm_eps=1e-6,
        patch_size=PATCH,
        frequency_stride=PATCH,
        time_stride=PATCH,
        max_length=frames,
        num_mel_bins=mels,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )


def _need(state: dict[str, Tensor], name: str) -> Tensor:
    if name not in state:
        shown = ", ".join(list(state)[:5]) or "nothing"
        raise CheckpointError(
            f"the checkpoint has no {name!r}, so it is not an SSAST checkpoint; it holds {shown}"
        )
    return state[name]


def _rename(state: dict[str, Tensor], blocks: int) -> dict[str, Tensor]:
    converted: dict[str, Tensor] = {}
    for name in (name for name in state if not name.startswith(DROPPED)):
        if name.startswith("v.blocks."):
            _rename_block(name, state[name], converted)
            continue
        stem, _, kind = name.rpartition(".")
        target = _NAMES.get(name) or (f"{_NAMES[stem]}.{kind}" if stem in _NAMES else None)
        converted[target or name] = state[name]
    if f"layers.{blocks - 1}.layernorm_before.weight" not in converted:
        raise CheckpointError(
            f"the checkpoint's {blocks} blocks are not numbered 0 to {blocks - 1}"
        )
    return converted


def _rename_block(name: str, value: Tensor, converted: dict[str, Tensor]) -> None:
    _, _, number, rest = name.split(".", 3)
    part, _, kind = rest.rpartition(".")
    if part == "attn.qkv":
        for letter, chunk in zip("qkv", value.chunk(3), strict=True):
            converted[f"layers.{number}.attention.{letter}_proj.{kind}"] = chunk.contiguous()
        return
    converted[f"layers.{number}.{_BLOCK_NAMES.get(part, rest)}.{kind}"] = value


def _card(source: str, config: Any, stats: str) -> str:
    size = SIZES[config.hidden_size][0]
    return f"""---
library_name: transformers
license: bsd-3-clause
tags: [audio, self-supervised, ssast, fungi]
---

# SSAST {size}, patch-based, as a transformers AST

Converted from `{source}`, an official checkpoint of SSAST (Gong, Lai, Chung, Glass: *SSAST:
Self-Supervised Audio Spectrogram Transformer*, AAAI 2022; BSD 3-Clause), by
`fungi-hf convert-ssast`. The weights are unchanged; the pretraining heads are left out.

| | |
| --- | --- |
| width | {config.hidden_size} |
| blocks, heads | {config.num_hidden_layers}, {config.num_attention_heads} |
| patches | {config.patch_size} x {config.patch_size}, stride {config.time_stride} |
| input | {config.num_mel_bins} mel bins x {config.max_length} frames, 16 kHz |
| normalisation | `(x - mean) / (2 std)` with the statistics of {stats} |

SSAST's own fine-tuning averages the patch tokens; its pretraining gives the two class tokens no
loss of their own. The published FUNGI features use the class tokens' mean.

```python
from transformers import ASTModel

model = ASTModel.from_pretrained("this-folder")
```
"""
