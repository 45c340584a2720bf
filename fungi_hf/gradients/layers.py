"""Which Linear layer the gradient is taken at, found on the loaded module, never guessed."""

from __future__ import annotations

from typing import Final

from torch import nn

from fungi_hf.errors import LayerNotFoundError, LayerUseError
from fungi_hf.specs import BLOCK_NUMBER

# Output projections of self-attention inside one block, by family. Order decides when two fit.
ATTENTION_OUTPUTS: Final = (
    "attention.output.dense",  # BERT, RoBERTa, ELECTRA, DeBERTa, version-4 ViT
    "attention.attn.o",  # MPNet
    "attention.out_lin",  # DistilBERT
    "attn.Wo",  # ModernBERT
    "SelfAttention.o",  # T5, mT5
    "attention.o_proj",  # ViT, DeiT, AST, DINOv2, DINOv3
    "attention.out_proj",  # wav2vec2, HuBERT, WavLM
    "self_attn.out_proj",  # Whisper, CLIP, SigLIP
    "self_attn.o_proj",  # Llama-like
    "self_attn.projection",  # BLIP
    "attention.projection_layer",  # InternVL
    "attn.proj",  # timm
)

_ADAPTED: Final = "base_layer"  # where peft keeps the layer that an adapter stands beside


def resolve_layer(model: nn.Module, target: str = "auto") -> tuple[str, nn.Linear]:
    """Give the path and layer of a target; "auto" is the last attention output projection.

    Raises:
        LayerNotFoundError: If nothing fits; the message lists the last block's Linear layers.
        LayerUseError: If the layer's weight is tied, or its attention never calls it.
    """
    path = _last_attention_output(model) if target == "auto" else target
    modules = dict(model.named_modules())
    if f"{path}.{_ADAPTED}" in modules:
        path = f"{path}.{_ADAPTED}"
    layer = modules.get(path)
    if not isinstance(layer, nn.Linear):
        found = f"is a {type(layer).__name__}, not a Linear"
        raise LayerNotFoundError(
            f"layer {path!r} {f'is not in {type(model).__name__}' if layer is None else found}; "
            f"linear layers of the last block: {_last_block_layers(model)}"
        )
    if refusal := _refusal(model, path, layer):
        raise LayerUseError(f"layer {path!r} {refusal}")
    return path, layer


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """Give every Linear layer that `resolve_layer` would not refuse, in the order of the model."""
    return {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and not _refusal(model, path, module)
    }


def block_number(path: str) -> int | None:
    """Give the number of the block that a layer is in, e.g. 11 for `encoder.layer.11.output`."""
    return next(iter(_numbers(path)), None)


def _last_attention_output(model: nn.Module) -> str:
    modules = dict(model.named_modules())
    names = [name for name, module in modules.items() if isinstance(module, nn.Linear)]
    # A pooling head of nn.MultiheadAttention (SigLIP's) never calls its projection.
    whole = {name for name, module in modules.items() if isinstance(module, nn.MultiheadAttention)}
    names = [name for name in names if name.rpartition(".")[0] not in whole] or names
    for suffix in ATTENTION_OUTPUTS:
        bare = [(name, name.removesuffix(f".{_ADAPTED}")) for name in names]
        found = [name for name, own in bare if own == suffix or own.endswith("." + suffix)]
        if found:
            return max(found, key=_numbers)
    if not names:
        has_conv1d = any(type(module).__name__ == "Conv1D" for module in model.modules())
        made = " (its projections are transformers' Conv1D, as in GPT-2)" if has_conv1d else ""
        raise LayerNotFoundError(
            f"{type(model).__name__} has no nn.Linear layer{made}, and gradients are taken at "
            "nn.Linear layers only; use an encoder that has them, such as BERT, T5 or Llama"
        )
    raise LayerNotFoundError(
        f"{type(model).__name__} has no attention output projection with a known name; "
        f"pass target_layer, e.g. one of {_last_block_layers(model)}"
    )


def _numbers(name: str) -> tuple[int, ...]:
    """Order by block numbers as numbers: layer 11 comes after layer 9."""
    return tuple(int(number) for number in BLOCK_NUMBER.findall(name))


def _last_block_layers(model: nn.Module) -> str:
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not names:
        return "none at all"
    numbered = [name for name in names if _numbers(name)]
    if numbered:
        top = max(_numbers(name)[0] for name in numbered)
        names = [name for name in numbered if _numbers(name)[0] == top]
    shown = ", ".join(names[:10])
    return shown if len(names) <= 10 else f"{shown} and {len(names) - 10} more"


def _refusal(model: nn.Module, path: str, layer: nn.Linear) -> str:
    """Say why no gradient can be taken at a layer; empty where it can."""
    aliases = [
        name
        for name, module in model.named_modules(remove_duplicate=False)
        if name != path
        and (
            module is layer or any(own is layer.weight for own in module.parameters(recurse=False))
        )
    ]
    if aliases:
        return (
            f"is tied: its weight is also used by {', '.join(aliases[:10])}; "
            "a gradient at one of them is only a part: choose an untied target_layer"
        )
    parent = dict(model.named_modules()).get(path.rpartition(".")[0])
    if isinstance(parent, nn.MultiheadAttention):
        return (
            "belongs to nn.MultiheadAttention, which never calls it as a module; "
            "choose another target_layer, or a Hugging Face implementation of this model"
        )
    return ""
