"""Tiny causal models with random weights, and a byte-level tokenizer trained on the spot."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

CHAT = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def tiny_tokenizer(corpus, *, chat=False, vocabulary=600):
    """A byte-level BPE tokenizer; with `chat`, one with a chat template."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(corpus, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>")
    if chat:
        tokenizer.chat_template = CHAT
    return tokenizer


def tiny_model(kind="llama", *, vocabulary=600, width=32, layers=2, positions=4096, seed=0):
    """A causal model with random weights, large enough to prefer something."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "llama":
            config = LlamaConfig(
                vocab_size=vocabulary, hidden_size=width, intermediate_size=2 * width,
                num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2,
                max_position_embeddings=positions, initializer_range=0.3,
            )  # fmt: skip
            model = LlamaForCausalLM(config)
        else:
            config = GPT2Config(
                vocab_size=vocabulary, n_embd=width, n_layer=layers, n_head=4,
                n_positions=positions, initializer_range=0.3,
            )  # fmt: skip
            model = GPT2LMHeadModel(config)
    return model.eval()


def training_prompts(selector, builder, *, n=64):
    """Prompts for the first n training texts, which do not see themselves."""
    queries = selector.pool.take(range(min(n, len(selector.pool))))
    demos = selector.select(queries)
    return [builder.build(content, demos[i], row=i) for i, content in enumerate(queries.contents)]
