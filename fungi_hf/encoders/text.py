"""Text encoders: a Hugging Face model, its tokenizer, its pooling, its last block made cheap."""

from __future__ import annotations

import functools
import unicodedata
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
import torch

from fungi_hf.encoders.base import Prepared
from fungi_hf.encoders.blocks import BlockEncoder, masked_mean
from fungi_hf.encoders.late.shared_block import shared_last_block
from fungi_hf.encoders.late.words import LateWords
from fungi_hf.encoders.masking import MaskedTokens
from fungi_hf.encoders.padding import TextBatch, broad_mask, padded, takes_broad_mask
from fungi_hf.encoders.prompts import named_prompt
from fungi_hf.encoders.regions import text_regions
from fungi_hf.errors import ConfigError, EncoderError, InputError, InputTypeError
from fungi_hf.gradients.layers import resolve_layer
from fungi_hf.views.base import make_views
from fungi_hf.views.text import TOKENIZING, PublishedDeletion, WordDeletion, word_spans

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from fungi_hf.config import FungiConfig
    from fungi_hf.encoders.base import Batch, LateBatch, PreparedViews
    from fungi_hf.encoders.regions import Regions
    from fungi_hf.views.base import ViewGenerator

POOLINGS: Final = ("cls", "first", "last", "mean", "model")
_REPLACEMENT: Final = "\ufffd"


class TextEncoder(BlockEncoder):
    """A tokenizer and a text model, pooled to one embedding."""

    chunk_size = 4096
    NOTES: ClassVar[Mapping[str, str]] = {
        "truncated": "{n} of the texts are longer than {limit} tokens and were truncated",
        "empty": "{n} of the texts are empty, blank or nothing that the tokenizer keeps; they "
        "share the features of the empty sequence",
        "control": "{n} of the texts hold NUL, other control or invisible characters that the "
        "tokenizer drops; the encoder cannot tell them from the texts without them",
        "special": "{n} of the texts spell a special token of the tokenizer, as in '[SEP]'; it is "
        "read as that token, as transformers does",
        "unknown": "{n} of the texts hold tokens that the tokenizer does not know; the encoder "
        "cannot tell texts apart that differ only there",
    }

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        config: FungiConfig,
        *,
        trained_pooling: str | None = None,
        trained_length: int | None = None,
        trained_prompts: Mapping[str, str] | None = None,
        trained_prompt_name: str | None = None,
    ) -> None:
        """Resolve layer, pooling, length and prompts; nothing of the model is changed.

        The model's forward takes `input_ids` and gives `last_hidden_state`. What the encoder's
        folder says of its training, pooling, length in tokens, prompts and the name of the default
        prompt, holds where the config is silent.

        Raises:
            ConfigError: If the default prompt has no text.
            EncoderError: If the tokenizer is missing, or the model does not say its width.
        """
        if tokenizer is None or not callable(tokenizer):
            raise EncoderError(
                f"{type(model).__name__} needs its tokenizer; got {tokenizer!r}: pass tokenizer="
            )
        self.model, self.tokenizer = model, tokenizer
        self._trained = {
            "trained_pooling": trained_pooling,
            "trained_length": trained_length,
            "trained_prompts": trained_prompts,
            "trained_prompt_name": trained_prompt_name,
        }
        own = config.prompts if config.prompts is not None else trained_prompts or {}
        name = config.default_prompt_name
        if name is None and config.prompts is None:
            name = trained_prompt_name
        self.prompts, self.default_prompt = own, named_prompt(own, name) if name else ""
        self._special_ids = frozenset(getattr(tokenizer, "all_special_ids", ()))
        self._unknown_id = getattr(tokenizer, "unk_token_id", None)  # slow to look up
        self.layer_path, self.layer = resolve_layer(model, config.target_layer)
        self._n_rows = _rows_short_of(model, tokenizer)
        self._empty_ids = self._tokenise([""])[0]
        self._dropped: dict[str, bool] = {}
        self.pooling = self._resolve_pooling(config.pooling, trained_pooling)
        self.max_length = self._resolve_length(config.max_length, trained_length)
        widths = [getattr(model.config, name, None) for name in ("hidden_size", "d_model", "dim")]
        self.width = next((width for width in widths if isinstance(width, int)), 0)
        if not self.width:
            raise EncoderError(f"{type(model).__name__} does not say its width (hidden_size)")
        self.reads_first_token = self.pooling in ("cls", "first")
        if self.reads_first_token:
            self.shorten_last_block()
        # Late views share the last block if none of them loses a token that is pooled.
        if self._starts_with_class_token() if self.reads_first_token else self.pooling != "model":
            first = self.reads_first_token
            self.shared_block = shared_last_block(model, self.layer, first_token=first)

    def rebuilt(self, config: FungiConfig) -> TextEncoder:
        """Give an encoder over the same model and tokenizer that follows another config."""
        trained: dict[str, Any] = self._trained
        return type(self)(self.model, self.tokenizer, config, **trained)

    def _resolve_pooling(self, asked: str, trained: str | None) -> str:
        pooling = (trained or "mean") if asked == "auto" else asked
        if pooling not in POOLINGS:
            raise ConfigError(
                f"the encoder's folder says pooling {pooling!r}, which is not offered; set pooling "
                f"to one of {', '.join(map(repr, POOLINGS))}"
            )
        if pooling == "cls" and not self._starts_with_class_token():
            raise ConfigError(
                f"pooling='cls' needs a class token at position 0, which the tokenizer of "
                f"{type(self.model).__name__} does not put there; use 'first' or 'mean'"
            )
        if pooling == "model" and getattr(self.model, "pooler", None) is None:
            raise ConfigError(
                f"pooling='model' needs a pooler, which this {type(self.model).__name__} does not "
                "have; use 'cls', 'first' or 'mean'"
            )
        return pooling

    def _starts_with_class_token(self) -> bool:
        cls_id = getattr(self.tokenizer, "cls_token_id", None)
        return cls_id is not None and self._empty_ids[:1] == [cls_id]

    def _resolve_length(self, asked: int | None, trained: int | None) -> int:
        limit = int(min(getattr(self.tokenizer, "model_max_length", 10**9), trained or 10**9))
        config = self.model.config
        positions = getattr(config, "max_position_embeddings", None)
        relative = getattr(config, "relative_attention", False)
        absolute = not relative or getattr(config, "position_biased_input", True)
        if isinstance(positions, int) and positions > 0 and absolute:
            limit = min(limit, positions - self._position_offset())
        if asked is not None and asked > limit:
            raise ConfigError(
                f"max_length={asked} is more than the encoder's limit of {limit} tokens"
            )
        limit = asked or limit
        special = len(self._empty_ids)
        if limit <= special:
            raise ConfigError(f"max_length={limit} leaves no room beside {special} special tokens")
        return limit

    def _position_offset(self) -> int:
        # RoBERTa-like tables begin after the padding index.
        tables = (getattr(one, "position_embeddings", None) for one in self.model.modules())
        embeddings = (table for table in tables if isinstance(table, torch.nn.Embedding))
        return next((t.padding_idx + 1 for t in embeddings if t.padding_idx is not None), 0)

    def check(self, raw: object, index: int) -> str:
        """Give the text, or say what is wrong with it.

        Raises:
            InputTypeError: If it is not a string.
            InputError: If it is not valid Unicode.
        """
        if not isinstance(raw, str):
            raise InputTypeError(
                f"input {index} must be a text (str); got {type(raw).__name__}: "
                f"{self.describe(raw)}"
            )
        try:
            raw.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"input {index} has a lone surrogate at character {error.start}, which is not "
                "valid Unicode; decode the source again, or use "
                "text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')"
            ) from None
        return str(raw)

    def content(self, raw: str) -> bytes:
        """Give the text in UTF-8."""
        return raw.encode()

    def contents(self, raws: Sequence[str]) -> list[bytes]:
        """Give the texts in UTF-8."""
        return [raw.encode() for raw in raws]

    def prepare(self, raws: Sequence[str]) -> list[Prepared]:
        """Tokenise, truncate and note what was special, once per distinct text; padding is later.

        Raises:
            InputError: If a text has no tokens at all, not even special ones, or one that the
                model does not know.
        """
        if not raws:
            return []
        distinct = list(dict.fromkeys(raws))
        with TOKENIZING:
            encoded = self.tokenizer(
                distinct,
                add_special_tokens=True,
                truncation=True,
                max_length=self.max_length,
                return_attention_mask=False,
                return_token_type_ids=False,
            )["input_ids"]
        pairs = zip(distinct, encoded, strict=True)
        items = {raw: self._prepared(raw, ids) for raw, ids in pairs}
        return [items[raw] for raw in raws]

    def _prepared(self, raw: str, ids: list[int]) -> Prepared:
        if not ids:
            raise InputError(f"the text {self.describe(raw)} has no tokens under this tokenizer")
        if self._n_rows is not None and max(ids) >= self._n_rows:
            raise InputError(
                f"the text {self.describe(raw)} has token {max(ids)}, and the model has "
                f"{self._n_rows} tokens: the tokenizer was given tokens that the model does not "
                "know; call model.resize_token_embeddings(len(tokenizer)), or use the model's own "
                "tokenizer"
            )
        array = np.asarray(ids, dtype=np.int64)
        notes = []
        if ids == self._empty_ids or not raw.strip():
            notes.append("empty")
        elif len(ids) >= self.max_length and len(self._tokenise([raw])[0]) > self.max_length:
            notes.append("truncated")
        if "empty" not in notes and self._drops_any(raw):
            notes.append("control")
        if "empty" not in notes and self._spells_special(ids):
            notes.append("special")
        if not notes and self._unknown_id in ids:
            notes.append("unknown")
        return Prepared(array, len(ids), array.tobytes(), tuple(notes))

    def _spells_special(self, ids: list[int]) -> bool:
        # More special tokens than the tokenizer itself puts around a text.
        special = sum(token in self._special_ids for token in ids if token != self._unknown_id)
        return special > len(self._empty_ids)

    def _tokenise(self, raws: list[str]) -> list[list[int]]:
        # The ids with special tokens, not truncated.
        with TOKENIZING:
            encoded = self.tokenizer(raws, add_special_tokens=True, truncation=False, verbose=False)
        try:
            return encoded["input_ids"]
        except (KeyError, TypeError, IndexError):
            raise EncoderError(
                f"{type(self.tokenizer).__name__} gives no 'input_ids' but "
                f"{self.describe(encoded)}; pass the Hugging Face tokenizer that belongs to the "
                "model"
            ) from None

    def _drops_any(self, raw: str) -> bool:
        if raw.isprintable() and _REPLACEMENT not in raw:
            return False
        return any(self._drops(character) for character in set(raw) if _is_invisible(character))

    def _drops(self, character: str) -> bool:
        # Whether words with the character inside get the ids of a text without it.
        if character not in self._dropped:
            ids, *without = self._tokenise([f"a{character}a", "aa", "a a"])
            self._dropped[character] = ids in without
        return self._dropped[character]

    def collate(self, items: Sequence[Prepared]) -> Batch:
        """Pad on the right to the longest item: `input_ids`, `attention_mask` [N, T]."""
        longest = max(item.cost for item in items)
        device = next(self.model.parameters()).device
        if device.type != "cpu":
            longest = min(-(-longest // 8) * 8, self.max_length)
        padding = getattr(self.tokenizer, "pad_token_id", None)
        ids = [item.data for item in items]
        return padded(ids, longest, padding or 0, device)

    def embed(self, batch: Batch) -> Tensor:
        """Give pooled embeddings [N, D] in the model's dtype."""
        with self.short_block():
            output = self._run(batch)
        if self.pooling == "model":
            return output.pooler_output
        return self._pool(output.last_hidden_state, batch["attention_mask"])

    def _run(self, batch: Batch) -> Any:
        mask = batch["attention_mask"]
        if mask.device.type != "cpu" and takes_broad_mask(self.model):
            is_even = isinstance(batch, TextBatch) and batch.is_even
            batch = {**batch, "attention_mask": None if is_even else broad_mask(mask)}
        return self.model(**batch, return_dict=True)

    def pool_activation(self, a: Tensor, batch: Batch) -> Tensor:
        """Give the layer's inputs [N, T, n] pooled like the embedding, [N, n]."""
        return self._pool(a, batch["attention_mask"])

    def _pool(self, tokens: Tensor, mask: Tensor) -> Tensor:
        if tokens.shape[1] == 1 or self.pooling in ("cls", "first", "model"):
            return tokens[:, 0]
        if self.pooling == "last":
            return tokens[torch.arange(len(tokens), device=tokens.device), mask.sum(1) - 1]
        return masked_mean(tokens, mask)

    def views(self, name: str, n_views: int, options: Mapping[str, Any]) -> ViewGenerator:
        """Build views: "word_deletion" (default), "nlpaug_deletion" or registered ones."""
        own: Any = {"word_deletion": self._word_deletion, "nlpaug_deletion": PublishedDeletion}
        return make_views("word_deletion" if name == "auto" else name, n_views, options, own)

    def late_views(
        self, name: str, n_views: int, options: Mapping[str, Any], blocks: int
    ) -> PreparedViews | None:
        """Give views that lose words in the last blocks; None with all blocks.

        Raises:
            ConfigError: If the views delete no whole words, or the blocks do not allow them.
        """
        if name not in ("auto", "word_deletion"):
            raise ConfigError(
                f"late_views drops words from the hidden state: views must be 'word_deletion' or "
                f"'auto'; got {name!r}"
            )
        self.blocks.check(blocks)
        deletion = self.views(name, n_views, options)
        if blocks == self.blocks.n_blocks or not isinstance(deletion, WordDeletion):
            return None
        one_row = blocks == 1 and self.shared_block is not None and self.reads_first_token
        return LateWords(deletion, self.tokenizer, self.max_length, blocks, one_row=one_row)

    def embed_tokens(self, batch: Batch) -> Tensor:
        """Give [N, 1 + T, D]: the embedding, and the last hidden state, special tokens included."""
        output = self._run(batch)
        tokens = output.last_hidden_state
        model = self.pooling == "model"
        pooled = output.pooler_output if model else self._pool(tokens, batch["attention_mask"])
        return torch.cat([pooled[:, None], tokens], dim=1)

    first_token = 0

    def regions(self, raws: Sequence[str], items: Sequence[Prepared]) -> list[Regions]:
        """Give the words, as far as a text is not truncated."""
        del items
        return text_regions(self.tokenizer, raws, self.max_length)

    def masked_views(self, n_views: int, options: Mapping[str, Any]) -> PreparedViews:
        """Give texts whose word pieces are the mask token in places.

        Raises:
            ConfigError: If the tokenizer has no mask token, and the options name none.
        """
        token = options.get("mask_token") or getattr(self.tokenizer, "mask_token", None)
        mask_id = None if token is None else self.tokenizer.convert_tokens_to_ids(token)
        if mask_id is None or (mask_id == self._unknown_id and token != self.tokenizer.unk_token):
            raise ConfigError(
                f"{type(self.tokenizer).__name__} has no mask token {token or ''!r}: name one of "
                "its tokens in view_options={'mask_token': ...}"
            )

        def maskable(item: Prepared) -> list[int]:
            return [t for t, piece in enumerate(item.data.tolist()) if piece not in special]

        def masked(item: Prepared, places: list[int]) -> Any:
            ids = item.data.copy()
            ids[places] = mask_id
            return ids

        special, known = self._special_ids - {self._unknown_id}, ("mask_ratio", "mask_token")
        return MaskedTokens(
            n_views, options, share=0.15, maskable=maskable, masked=masked, known=known
        )

    def embed_late(self, batch: LateBatch) -> Tensor:
        """Run the last blocks on the tokens that stay, and pool: [N, D] in the model's dtype."""
        if batch.blocks == 1 and self.shared_block is not None:
            return self._pool(*self.shared_block(batch))
        hidden, positions, mask = batch.gathered()
        ids = batch.inputs["input_ids"][batch.sources[:, None], positions]
        ids = ids.masked_fill(~mask, getattr(self.tokenizer, "pad_token_id", None) or 0)
        with self.blocks.entered(batch.blocks, hidden):
            return self.embed(TextBatch(ids, mask.long(), is_even=batch.is_even))

    def _word_deletion(self, n_views: int, probability: float = 0.1) -> WordDeletion:
        spans = functools.partial(word_spans, tokenizer=self.tokenizer)
        return WordDeletion(n_views, probability, spans=spans)


def _rows_short_of(model: Any, tokenizer: Any) -> int | None:
    """Give how many tokens a model knows, where its tokenizer may give others; else None."""
    table = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    n_rows: int | None = getattr(table, "num_embeddings", None)
    grown = n_rows is not None and hasattr(tokenizer, "__len__") and len(tokenizer) > n_rows
    return n_rows if grown else None


def _is_invisible(character: str) -> bool:
    """Whether it is of the kinds that tokenizers clean away (BERT's: all of category C)."""
    is_other = unicodedata.category(character).startswith("C") and not character.isspace()
    return is_other or character == _REPLACEMENT
