"""The published text algorithm, step by step, written from its description alone.

Per objective: one forward and one backward pass per batch, of a model that is frozen but for the
target layer, the outer product of every token stored, token 0 of each kept, a dense sign matrix;
InfoNCE one text at a time, all its views at once. Float32, or bfloat16 by autocast. It shares
nothing with the package: heads, negatives, views and the sign matrix are given as tensors and
texts. `simclr_loss_by_loop` is the slow form of `simclr_loss`.

Benchmarks time `gradients` (forward, backward, outer products) and `project`, so neither may do
work that the published code does not do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Backbone:
    """A model, its tokenizer, and the layer whose gradient is taken; position 0 is embedded."""

    model: nn.Module
    tokenizer: Any
    layer: nn.Linear

    def embed(self, texts: Sequence[str]) -> Tensor:
        """[N, D]: position 0 of the last hidden state, padded to the longest text."""
        batch = self.tokenizer(
            list(texts), padding=True, return_tensors="pt", return_token_type_ids=False
        )
        return self.model(**batch).last_hidden_state[:, 0]


@dataclass(frozen=True, slots=True)
class LinearHead:
    """A random head: [L, D] and [L]."""

    weight: Tensor
    bias: Tensor

    def __call__(self, embeddings: Tensor) -> Tensor:
        return functional.linear(embeddings, self.weight, self.bias)


def kl_loss(embeddings: Tensor, head: LinearHead, temperature: float = 15.0) -> Tensor:
    """Mean over batch and latents of KL(uniform || softmax(latents / temperature)); [N, D]."""
    latents = head(functional.normalize(embeddings, dim=-1))
    uniform = torch.ones_like(latents) / latents.shape[-1]
    total = functional.kl_div(
        functional.log_softmax(latents / temperature, dim=-1),
        functional.softmax(uniform / temperature, dim=-1),
        reduction="sum",
    )
    return total / latents.numel()  # reduction="mean", of whose meaning torch warns


def simclr_loss(
    embeddings: Tensor, head: LinearHead, negatives: Tensor, temperature: float = 0.07
) -> Tensor:
    """InfoNCE of one text, log-sum-exp untempered; [V, D], negatives [M, L].

    Every view is compared with all negatives and views by broadcasting, [V, M + V, L]; a view's
    similarity to itself is set to -1e4, which leaves it out of the log-sum-exp.
    """
    latents = functional.normalize(head(embeddings), dim=-1)
    n_views, n_negatives = len(latents), len(negatives)
    candidates = torch.cat([functional.normalize(negatives, dim=-1), latents])
    similarities = functional.cosine_similarity(latents[:, None], candidates[None], dim=-1)
    itself = torch.full((n_views,), -1e4, dtype=similarities.dtype)
    similarities = similarities.diagonal_scatter(itself, n_negatives)
    positive = similarities[:, n_negatives:]
    attraction = (positive - positive.diagonal().diag()).sum(1) / (n_views - 1) / temperature
    return (similarities.logsumexp(1) - attraction).mean()


def simclr_loss_by_loop(
    embeddings: Tensor, head: LinearHead, negatives: Tensor, temperature: float = 0.07
) -> Tensor:
    """Do what `simclr_loss` does, view by view."""
    latents = head(embeddings)
    n_views = len(latents)
    losses = []
    for v in range(n_views):
        others = torch.cat([latents[:v], latents[v + 1 :]])
        candidates = torch.cat([others, negatives])  # [V - 1 + M, L]
        similarities = functional.cosine_similarity(latents[v][None], candidates, dim=-1)
        attraction = similarities[: n_views - 1].sum() / ((n_views - 1) * temperature)
        losses.append(torch.logsumexp(similarities, dim=0) - attraction)
    return torch.stack(losses).mean()


def gradients(
    backbone: Backbone,
    texts: Sequence[str],
    loss: Callable[[Tensor], Tensor],
    *,
    first_token_only: bool = True,
) -> Tensor:
    """Give per-input gradients of the layer: [N, m, n + 1], or [N, m, n] without a bias.

    All parameters but the layer's are frozen, so that autograd does not run below it. Every
    token's outer product is formed and stored, [N, T, m, n], as the published code does.
    """
    seen: dict[str, Tensor] = {}
    own = {id(parameter) for parameter in backbone.layer.parameters()}
    trainable = {p: p.requires_grad for p in backbone.model.parameters()}
    for parameter in trainable:
        parameter.requires_grad_(id(parameter) in own)

    def keep_input(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        seen["a"] = args[0].detach()
        output.register_hook(lambda grad: seen.__setitem__("delta", grad.detach()))

    handle = backbone.layer.register_forward_hook(keep_input)
    try:
        with torch.enable_grad():
            loss(backbone.embed(texts)).backward()
    finally:
        handle.remove()
        backbone.model.zero_grad(set_to_none=True)
        for parameter, was_trainable in trainable.items():
            parameter.requires_grad_(was_trainable)
    products = torch.einsum("ntm,ntk->ntmk", seen["delta"], seen["a"])  # [N, T, m, n]
    bias = seen["delta"]  # [N, T, m]
    products = products[:, 0] if first_token_only else products.sum(1)
    if backbone.layer.bias is None:
        return products
    bias = bias[:, 0] if first_token_only else bias.sum(1)
    return torch.cat([products, bias[:, :, None]], dim=2)


def kl_gradients(backbone: Backbone, texts: Sequence[str], head: LinearHead) -> Tensor:
    """[B, m, n1]: every text's gradient of the KL loss, up to a common factor."""
    return gradients(backbone, texts, lambda e: kl_loss(e, head))


def simclr_gradients(
    backbone: Backbone, views: Sequence[Sequence[str]], head: LinearHead, negatives: Tensor
) -> Tensor:
    """[B, m, n1] for B lists of V views each, up to a common factor."""
    n_views = len(views[0])

    def loss(embeddings: Tensor) -> Tensor:
        samples = embeddings.split(n_views)
        return torch.stack([simclr_loss(e, head, negatives) for e in samples]).mean()

    flat = [text for sample in views for text in sample]
    return gradients(backbone, flat, loss).unflatten(0, (-1, n_views)).sum(1)


def sign_matrix(width: int, n_entries: int, seed: int = 42) -> Tensor:
    """[P, m n1] of +-1 from one float32 stream."""
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(width, n_entries, generator=generator, dtype=torch.float32)
    return (uniform > 0.5).float() * 2 - 1


def project(gradient: Tensor, matrix: Tensor) -> Tensor:
    """[B, P] from [B, m, n1] by one dense product, scaled by 1 / sqrt(P)."""
    return (matrix @ gradient.flatten(1).T).T / math.sqrt(len(matrix))


@torch.no_grad()
def embeddings(backbone: Backbone, texts: Sequence[str]) -> Tensor:
    """[B, D] by a plain forward pass."""
    return backbone.embed(texts)


@torch.no_grad()
def negative_latents(
    backbone: Backbone, views: Sequence[Sequence[str]], head: LinearHead
) -> Tensor:
    """[M, L]: heads of negative views, one text at a time, detached."""
    return torch.cat([head(backbone.embed(sample)) for sample in views])
