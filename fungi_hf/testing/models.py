"""Tiny encoders with random weights and tiny tokenizers, made from config objects, offline."""

from __future__ import annotations

import functools
import string
from typing import TYPE_CHECKING, Any, Final

import torch

from fungi_hf.errors import ConfigError, choices
from fungi_hf.seeding import torch_generator

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

_WORDS: Final = (
    *("the", "a", "it", "my", "me", "you", "not", "do", "does", "is", "was", "what", "how"),
    *("please", "help", "pay", "paid", "lost", "new", "old", "card", "money", "bank", "account"),
)
_MAX_TOKENS: Final = 128
_POSITIONS: Final = "max_position_embeddings"
# Names of the width, the blocks, the heads and the MLP's width; and of the positions.
_HEADS: Final = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
_SIZES: Final = (*_HEADS, _POSITIONS)
_DISTILBERT: Final = ("dim", "n_layers", "n_heads", "hidden_dim", _POSITIONS)
_EAGER_ONLY: Final = ("MPNet", "DebertaV2")


def tiny_text_model(
    family: str,
    *,
    dtype: torch.dtype = torch.float64,
    attention: str = "sdpa",
    seed: int = 0,
    n_layers: int = 3,
) -> tuple[nn.Module, Any]:
    """Build a tiny text encoder of one family, in eval mode, and its tokenizer.

    Width 16, two heads, random weights large enough that attention is far from uniform. The
    attention is "sdpa" or "eager"; families without sdpa use eager whatever is asked. No global
    generator is moved.

    Raises:
        ConfigError: If the family is unknown.
    """
    if family not in _FAMILIES:
        raise ConfigError(f"no tiny model of family {choices(family, _FAMILIES)}")
    tokenizer = _FAMILIES[family][1]()
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        model = _FAMILIES[family][0](tokenizer, n_layers, attention)
    model = model.to(dtype).eval()
    randomise(model, seed=seed)
    return model, tokenizer


def randomise(model: nn.Module, *, seed: int = 0) -> None:
    """Overwrite parameters by normal numbers seeded by their names; weights of norms are near 1."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            generator = torch_generator(seed, "tiny", name)
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            near_one = parameter.dim() == 1 and name.endswith("weight")
            parameter.copy_(1 + 0.2 * noise if near_one else 0.3 * noise)


def _model(
    name: str,
    kind: str = "Model",
    sizes: tuple[str, ...] = _SIZES,
    tokens: tuple[str, ...] = ("pad",),
    **extra: Any,
) -> Callable[[Any, int, str], nn.Module]:
    """Give what builds a model from its tokenizer, number of blocks and kind of attention."""

    def build(tokenizer: Any, n_layers: int, attention: str) -> nn.Module:
        import transformers

        ids = {f"{token}_token_id": getattr(tokenizer, f"{token}_token_id") for token in tokens}
        shape = dict(zip(sizes, (16, n_layers, 2, 24, _MAX_TOKENS + 2), strict=False))
        kwargs = {"vocab_size": len(tokenizer), **ids, **shape, **extra}
        config = getattr(transformers, f"{name}Config")(**kwargs)
        config._attn_implementation = "eager" if name in _EAGER_ONLY else attention
        model: nn.Module = getattr(transformers, f"{name}{kind}")(config)
        return model

    return build


def _word_piece(cls: str = "[CLS]", pad: str = "[PAD]", sep: str = "[SEP]") -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    # MPNet's code has the padding index 1 built in, and BERT's tokenizer the index 0.
    first = [cls, pad] if pad == "<pad>" else [pad, cls]
    characters = [*string.ascii_lowercase, *string.digits]
    pieces = [*first, sep, "[UNK]", "[MASK]", *string.punctuation, *characters]
    pieces += [*(f"##{c}" for c in characters), *_WORDS]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))  # noqa: S106
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return _wrap(tokenizer, f"{cls} $A {sep}", (pad, "[UNK]", cls, sep, "[MASK]"))


def _byte_pairs() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers

    special = ("<pad>", "<unk>", "<s>", "</s>", "<mask>")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("c", "a"), ("r", "d"), ("ca", "rd"), ("Ġ", "m")]
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *alphabet, *map("".join, merges)]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return _wrap(tokenizer, "<s> $A </s>", special)


def _unigram(template: str, special: tuple[str, ...]) -> Callable[[], Any]:
    def build() -> Any:
        from tokenizers import Tokenizer, models, pre_tokenizers

        pieces = [(piece, 0.0) for piece in special if piece]
        pieces += [(f"▁{word}", -2.0 - 0.1 * i) for i, word in enumerate(_WORDS)]
        pieces += [(c, -8.0) for c in ("▁", *string.ascii_letters, *string.digits)]
        pieces += [(c, -9.0) for c in string.punctuation]
        unknown = [piece for piece, _ in pieces].index(special[1])
        tokenizer = Tokenizer(models.Unigram(pieces, unk_id=unknown))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        return _wrap(tokenizer, template, special)

    return build


def _wrap(tokenizer: Any, template: str, special: tuple[str, ...]) -> Any:
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    markers = [(m, tokenizer.token_to_id(m)) for m in template.split() if m != "$A"]
    tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=markers)
    pad, unk, cls, sep, mask = special
    named = {"pad_token": pad, "unk_token": unk, "mask_token": mask}
    named |= {"cls_token": cls, "bos_token": cls, "sep_token": sep, "eos_token": sep}
    given: dict[str, Any] = {name: token for name, token in named.items() if token}
    given |= {"tokenizer_object": tokenizer, "model_max_length": _MAX_TOKENS}
    return PreTrainedTokenizerFast(**given)


_DEBERTA: Final[dict[str, Any]] = {
    "relative_attention": True,
    "position_biased_input": False,
    "pos_att_type": ["p2c", "c2p"],
    "max_relative_positions": 16,
    "position_buckets": 8,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "type_vocab_size": 0,
}
_T5: Final[dict[str, Any]] = {
    "kind": "EncoderModel",
    "tokens": ("pad", "eos"),
    "sizes": ("d_model", "num_layers", "num_heads", "d_ff"),
    "d_kv": 8,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 16,
}
_T5_PIECES = _unigram("$A </s>", ("<pad>", "<unk>", "", "</s>", ""))
_FAMILIES: Final[dict[str, tuple[Callable[[Any, int, str], nn.Module], Callable[[], Any]]]] = {
    "bert": (_model("Bert"), _word_piece),
    "roberta": (_model("Roberta"), _byte_pairs),
    "distilbert": (_model("DistilBert", sizes=_DISTILBERT), _word_piece),
    "mpnet": (_model("MPNet"), functools.partial(_word_piece, "<s>", "<pad>", "</s>")),
    "modernbert": (
        _model("ModernBert", tokens=("pad", "bos", "eos", "cls", "sep"), local_attention=8),
        _byte_pairs,
    ),
    "deberta-v2": (
        _model("DebertaV2", **_DEBERTA),
        _unigram("[CLS] $A [SEP]", ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")),
    ),
    "electra": (_model("Electra", embedding_size=8), _word_piece),
    "t5": (_model("T5", **_T5), _T5_PIECES),
    "mt5": (_model("MT5", **_T5), _T5_PIECES),
}
TEXT_FAMILIES: Final = tuple(_FAMILIES)
