"""Weights that the package can take gradients through: one dtype, not quantised, in their model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

from fungi_hf.errors import ConfigError, EncoderError

if TYPE_CHECKING:
    from torch import nn

# Libraries whose layers or tensors hold quantised weights, by the start of a class's module.
_QUANTISERS: Final = (
    *("bitsandbytes", "torchao", "gptqmodel", "auto_gptq", "awq", "hqq", "eetq", "aqlm"),
    *("optimum.quanto", "quanto", "compressed_tensors", "fbgemm_gpu", "vptq", "spqr_quant"),
    *("torch.ao.nn", "transformers.integrations"),
)

STALE: Final = (
    "the encoder's weights changed after fit: what was learned (negatives, means, whitening) is of "
    "the old weights; call fit again"
)
_DTYPES: Final = ("float32", "float64", "bfloat16")


def check_weights(model: nn.Module, dtype: str, layer: nn.Module | None = None) -> None:
    """Refuse weights whose gradients would be another thing than the config says, or none.

    `dtype` is the config's name of one, `layer` the target layer where it is known. A bfloat16
    model may keep some weights in float32, as T5 does.

    Raises:
        ConfigError: If the weights have another dtype.
        EncoderError: If weights are quantised, or the layer is no longer a part of the model.
    """
    if found := _quantised(model):
        raise EncoderError(
            f"{type(model).__name__} is quantised ({found}); the gradients of quantised weights "
            f"are not defined: load the model without quantisation, in {dtype}"
        )
    names = {str(p.dtype).removeprefix("torch.") for p in model.parameters()}
    allowed = {dtype, "float32"} if dtype == "bfloat16" else {dtype}
    if names - allowed or dtype not in names:
        got = ", ".join(sorted(names - allowed or names))
        other = f"set dtype={got!r} in the config, or " if got in _DTYPES else ""
        raise ConfigError(
            f"the model is {got}, the config says dtype={dtype!r}; {other}load the model in the "
            f"other dtype, or convert it: model.to(torch.{dtype})"
        )
    if layer is not None and not any(module is layer for module in model.modules()):
        raise EncoderError(
            f"the target layer is no longer a part of this {type(model).__name__}: a module was "
            "replaced after the extractor was made; make the extractor again from the model as "
            "it is now"
        )


def _quantised(model: nn.Module) -> str:
    """Name the first layer that is quantised, and by whom; empty where none is."""
    for path, module in model.named_modules():
        weight: Any = getattr(module, "weight", None)
        for one in (module, weight):
            home = type(one).__module__
            if home.startswith(_QUANTISERS) and "Linear" in type(one).__name__ + _kind(one):
                return f"{path} is a {home.partition('.')[0]} {type(one).__name__}"
        packed = getattr(module, "qweight", weight)
        if isinstance(packed, torch.Tensor) and not packed.dtype.is_floating_point:
            kind = str(packed.dtype).removeprefix("torch.")
            return f"{path} is a {type(module).__name__} with {kind} weights"
    return ""


def _kind(one: object) -> str:
    # A tensor class of a quantiser stands for a Linear weight whatever its name is.
    return "Linear" if isinstance(one, torch.Tensor) else ""
