"""From a name, folder or model object to an encoder; `trust_remote_code` is never set here."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import logging
import warnings
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn

from fungi_hf.encoders.source import lowercased, read_source, source_of
from fungi_hf.encoders.text import TextEncoder
from fungi_hf.encoders.weights import check_weights
from fungi_hf.errors import ConfigError, EncoderError, choices
from fungi_hf.storage.files import HubOptions, explain, find_file, patiently, tensor_digest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fungi_hf.config import FungiConfig
    from fungi_hf.encoders.base import Encoder
    from fungi_hf.encoders.source import Source

_EXTRACTOR: Final = ("feature extractor", "AutoFeatureExtractor", ("preprocessor_config.json",))
# What decides tokens and is no rule of a tokenizer's backend, and the usual value.
_BESIDE: Final = {"split_special_tokens": False, "truncation_side": "right"}
# A model's main input: its preprocessor, who loads it, the files that say so.
_PREPROCESSORS: Final = {
    "input_ids": ("tokenizer", "AutoTokenizer", ("tokenizer_config.json", "tokenizer.json")),
    "input_values": _EXTRACTOR,
    "input_features": _EXTRACTOR,
    "pixel_values": ("image processor", "", ()),  # its settings are read, no class is called
}


def load_encoder(
    model: str | Path | nn.Module,
    config: FungiConfig,
    *,
    processor: Any = None,
    device: str | torch.device | None = None,
    hub: HubOptions | None = None,
) -> tuple[Encoder, Source]:
    """Give an encoder for a repository id, a folder, or a loaded model, which is never changed.

    The processor (tokenizer, feature extractor or image processor) is loaded if None. The device is
    for a model that is loaded here, and must be None for a model object.

    Raises:
        EncoderError: If the model or its preprocessor is unusable.
        ConfigError: If the config asks for another dtype than the model object has.
    """
    hub = hub or HubOptions()
    if isinstance(model, nn.Module):
        if device is not None:
            raise ConfigError("device is only for models loaded by name; move the model yourself")
        module = unwrap(model)
        source = source_of(module)
    else:
        module = _load_model(str(model), config, hub)
        source = read_source(str(model), module, hub)
        try:
            module = module if device is None else module.to(device)
        except (RuntimeError, AssertionError) as error:  # torch has no exception of its own for it
            reason = str(error).partition("\n")[0]
            raise ConfigError(f"cannot use device={str(device)!r}: {reason}") from None
    _check_model(module, config)
    if processor is None:
        name = source.name or str(getattr(module, "name_or_path", ""))
        processor = _load_processor(module, name, hub)
    if module.main_input_name != "input_ids":
        return _of_signals(module, processor, config), source
    if source.unusable and config.pooling in ("auto", source.pooling):
        raise EncoderError(
            f"{source.name!r} {source.unusable}, so its embedding cannot be computed here: pass "
            "the transformer inside it as a model object, saved to a folder of its own, to do "
            "without"
        )
    if source.lowercase:
        processor = lowercased(processor)
    encoder = TextEncoder(
        module,
        processor,
        config,
        trained_pooling=source.pooling,
        trained_length=source.max_length,
        trained_prompts=source.prompts,
        trained_prompt_name=source.default_prompt_name,
    )
    return encoder, source


def _of_signals(module: nn.Module, processor: Any, config: FungiConfig) -> Encoder:
    """Give the encoder of sounds or images.

    Raises:
        ConfigError: If the config has prompts, or does not fit the model.
    """
    if config.prompts or config.default_prompt_name:
        taken = "images" if module.main_input_name == "pixel_values" else "sounds"
        raise ConfigError(f"prompts belong to texts; this encoder takes {taken}: leave them out")
    if module.main_input_name == "pixel_values":
        from fungi_hf.encoders.vision.encoder import VisionEncoder

        return VisionEncoder(module, processor, config)
    from fungi_hf.encoders.audio.encoder import AudioEncoder

    return AudioEncoder(module, processor, config)


def unwrap(model: nn.Module) -> nn.Module:
    """Give the encoder inside a compiled, parallel, adapted, encoder-decoder or task model.

    `torch.compile`'s wrapper is taken off: hooks registered on it never fire. Adapters stay where
    they are in the model. The weights are shared, nothing is copied.

    Raises:
        EncoderError: If the adapter is a learned prompt, which is no part of the model.
    """
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        model = model.module
    model = getattr(model, "_orig_mod", model)
    if callable(adapted := getattr(model, "get_base_model", None)):
        active: Any = getattr(model, "active_peft_config", None)
        if getattr(active, "is_prompt_learning", False):
            raise EncoderError(
                f"{type(model).__name__} has learned prompts, which this package would leave out; "
                "pass a model whose adapter changes weights, as LoRA does, or none"
            )
        model = adapted()
    config = getattr(model, "config", None)
    get_encoder: Any = getattr(model, "get_encoder", None)
    if getattr(config, "is_encoder_decoder", False) and callable(get_encoder):
        return get_encoder()
    base = getattr(model, "base_model", model)
    if hasattr(model, "visual_projection") or not isinstance(base, nn.Module):
        return model  # a projected embedding is another one
    return base if _takes_inputs(base) else model


def _takes_inputs(model: nn.Module) -> bool:
    """Whether a model takes what it says; a DINOv3's base is its blocks alone."""
    main = str(getattr(model, "main_input_name", "input_ids"))
    return main != "pixel_values" or main in inspect.signature(model.forward).parameters


def _load_model(name: str, config: FungiConfig, hub: HubOptions) -> nn.Module:
    # In the config's dtype, encoder-decoders as encoder only.
    from transformers import AutoConfig

    reach = asdict(hub)
    try:
        if find_file(name, "config.json", hub) is None:
            _refuse_adapter(name, hub)
        settings = patiently(lambda: AutoConfig.from_pretrained(name, **reach))
        loader, chosen = _loader_of(name, settings, config)
        reach |= {"dtype": getattr(torch, config.dtype), "output_loading_info": True, **chosen}
        with _without_report():
            model, report = patiently(lambda: loader.from_pretrained(name, **reach))
    except EncoderError:
        raise
    except (OSError, ValueError, KeyError, ImportError) as error:
        if "trust_remote_code" in str(error):
            raise EncoderError(
                f"{name!r} needs code of its own repository, which this package never runs: load "
                "it yourself with AutoModel.from_pretrained(..., trust_remote_code=True) and pass "
                "the model object with processor="
            ) from None
        raise EncoderError(f"cannot load an encoder from {name!r}: {explain(error)}") from None
    missing = sorted(report.get("missing_keys", ()))
    if config.pooling != "model":
        if any(key.startswith("pooler.") for key in missing):
            model.pooler = None  # random, so that no two loads had one digest
        missing = [key for key in missing if "pooler" not in key]
    if missing:
        shown = ", ".join(missing[:5])
        raise EncoderError(
            f"{name!r} lacks {len(missing)} of the model's weights (they would be random): {shown}"
        )
    return unwrap(model.eval())


@contextlib.contextmanager
def _without_report() -> Iterator[None]:
    """Leave out transformers' table of missing weights: those that matter here are an error."""

    def other(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in str(record.msg)

    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(other)
    try:
        yield
    finally:
        logger.removeFilter(other)


def _loader_of(name: str, settings: Any, config: FungiConfig) -> tuple[Any, dict[str, Any]]:
    """Give the class that loads a model, and what it is told beside the model's place.

    Raises:
        EncoderError: If the model is known not to work, or is two of which none is asked for.
    """
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING

    from fungi_hf.encoders.vision.families import refuse_family

    architecture = (getattr(settings, "architectures", None) or [""])[0] or ""
    refuse_family(str(settings.model_type), repr(name))
    towers = hasattr(settings, "text_config")
    vision = getattr(settings, "vision_config", getattr(settings, "image_config", None))
    if towers and vision is not None:
        if config.modality != "vision":
            raise EncoderError(
                f"{name!r} holds a text and a vision model ({type(settings).__name__}): set "
                "modality='vision' in the config for the vision model, or pass the text model as "
                "an object with its tokenizer"
            )
        refuse_family(str(vision.model_type), repr(name))
    chosen = {"config": vision} if towers and vision is not None else {}
    if config.pooling == "projection":
        return transformers.CLIPVisionModelWithProjection, chosen
    if type(settings) in MODEL_FOR_TEXT_ENCODING_MAPPING:
        return transformers.AutoModelForTextEncoding, chosen
    if architecture.endswith("Encoder") and hasattr(transformers, architecture):
        return getattr(transformers, architecture), chosen
    if architecture == "WhisperEncoder":
        from transformers.models.whisper import modeling_whisper

        return modeling_whisper.WhisperEncoder, chosen
    return transformers.AutoModel, chosen


def _refuse_adapter(name: str, hub: HubOptions) -> None:
    if (path := find_file(name, "adapter_config.json", hub)) is not None:
        base = json.loads(path.read_text(encoding="utf-8")).get("base_model_name_or_path")
        raise EncoderError(
            f"{name!r} holds an adapter and no model; pass the model object of "
            f"PeftModel.from_pretrained(AutoModel.from_pretrained({base!r}), {name!r}) with its "
            "processor="
        )


def _load_processor(model: nn.Module, name: str, hub: HubOptions) -> Any:
    import transformers

    kind, loader, files = _PREPROCESSORS[str(model.main_input_name)]
    if not name:
        raise EncoderError(f"{type(model).__name__} needs its {kind}: pass processor=")
    if kind == "image processor":
        from fungi_hf.encoders.vision.pixels import load_pixel_settings

        return load_pixel_settings(name, hub)
    try:
        with warnings.catch_warnings():
            # One of AST's 128 mel filters is empty, in training as well.
            warnings.filterwarnings("ignore", module="transformers.audio_utils")
            # transformers takes a file that it cannot get for one that is not there.
            for file in files:
                find_file(name, file, hub)
            load = getattr(transformers, loader).from_pretrained
            processor = patiently(lambda: load(name, **asdict(hub)))
    except (OSError, ValueError, KeyError, ImportError, TypeError) as error:
        raise EncoderError(
            f"{type(model).__name__} needs its {kind}, which {name!r} does not give: "
            f"{explain(error)}; pass processor="
        ) from None
    if kind == "tokenizer" and len(processor) <= len(set(processor.all_special_ids)):
        # Without its files transformers makes a tokenizer that knows no word.
        raise EncoderError(
            f"{type(model).__name__} needs its tokenizer, which {name!r} does not hold (the one "
            "that was loaded knows special tokens only); pass processor="
        )
    return processor


def _check_model(model: nn.Module, config: FungiConfig) -> None:
    check_weights(model, config.dtype)
    main = str(getattr(model, "main_input_name", ""))
    if main not in _PREPROCESSORS:
        raise EncoderError(
            f"{type(model).__name__} takes {main or 'an unknown input'}; this package encodes "
            f"{choices(main, _PREPROCESSORS)} (for a two-tower model pass its text or vision model)"
        )
    settings = getattr(model, "config", None)
    if hasattr(settings, "vision_config") and hasattr(settings, "text_config"):
        raise EncoderError(
            f"{type(model).__name__} is a text and a vision model: pass one of them, as of "
            "CLIPVisionModel.from_pretrained(...), with its processor="
        )
    found = {"input_ids": "text", "pixel_values": "vision"}.get(main, "audio")
    if config.modality not in (None, found):
        raise ConfigError(
            f"the config says modality={config.modality!r}; {type(model).__name__} is an encoder "
            f"of {found}"
        )


def encoder_digest(encoder: Encoder) -> str:
    """Digest of the weights and of the preprocessor, whatever they were loaded from."""
    digest = hashlib.sha256(tensor_digest(dict(encoder.model.named_parameters())).encode())
    for preprocessor in (encoder.tokenizer, encoder.processor):
        if preprocessor is not None:
            digest.update(_preprocessor_text(preprocessor).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:16]


def _preprocessor_text(preprocessor: Any) -> str:
    backend = getattr(preprocessor, "backend_tokenizer", None)
    if backend is not None:
        rules = json.loads(backend.to_str())
        kept = {k: v for k, v in rules.items() if k not in ("truncation", "padding")}
        for name, usual in _BESIDE.items():
            if (value := getattr(preprocessor, name, usual)) != usual:
                kept[name] = value
        return json.dumps(kept)
    if hasattr(preprocessor, "get_vocab"):
        return json.dumps(preprocessor.get_vocab(), sort_keys=True)
    to_dict = getattr(preprocessor, "to_dict", None)
    return json.dumps(to_dict(), sort_keys=True, default=str) if callable(to_dict) else ""
