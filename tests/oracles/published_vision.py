"""The published vision algorithm, step by step, written from its description alone.

Per objective: one forward and one backward pass per batch, of a model that is frozen but for the
target layer, every view's gradient formed by summing outer products over its tokens, views summed,
a dense sign matrix; losses one image at a time. Views are boxes, cut and resized by pillow. It
shares nothing with the package: heads, negatives, centroids, boxes and signs are given.

Benchmarks time `gradients` (forward, backward, outer products) and `project`, so neither may do
work that the published code does not do. The losses' slow forms stand in the objectives' tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from tests.oracles.published_text import kl_loss

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn

    from tests.oracles.published_text import LinearHead

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True, slots=True)
class Backbone:
    """A model, the layer whose gradient is taken, and what makes an embedding of its output."""

    model: nn.Module
    layer: nn.Linear
    read: Callable[[Any], Tensor] = lambda out: out.last_hidden_state[:, 0]

    def embed(self, pixels: Tensor) -> Tensor:
        """[N, D] from [N, 3, H, W]."""
        return self.read(self.model(pixel_values=pixels))


def view_pixels(
    image: np.ndarray,
    box: tuple[int, int, int, int],
    *,
    size: int,
    resample: str,
    statistics: tuple[tuple[float, ...], tuple[float, ...]],
    frame: int = 0,
) -> Tensor:
    """Cut (top, left, height, width) of a picture [H, W, 3] uint8 and resize: [3, size, size]."""
    picture = Image.fromarray(image)
    if frame:
        picture = _resized(picture, frame, _FILTERS[resample])
    top, left, height, width = box
    picture = picture.crop((left, top, left + width, top + height))
    picture = _resized(picture, size, _FILTERS[resample])
    values = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1).double() / 255
    mean, deviation = (torch.tensor(one).double()[:, None, None] for one in statistics)
    return (values - mean) / deviation


def _resized(picture: Image.Image, side: int, filter_: Any) -> Image.Image:
    # Columns, then rows, which pillow did by itself until it learned to choose (13).
    return picture.resize((side, picture.height), filter_).resize((side, side), filter_)


def dino_loss(
    embeddings: Tensor, student: LinearHead, teacher: LinearHead, n_global: int = 2
) -> Tensor:
    """Self-distillation of one image's views [V, D], pair by pair, equal views included."""
    e = functional.normalize(embeddings, dim=-1)
    with torch.no_grad():
        targets = functional.softmax(teacher(e[:n_global]) / 0.07, dim=-1)
    predictions = functional.log_softmax(student(e) / 0.1, dim=-1)
    total = torch.zeros((), dtype=e.dtype)
    for target in targets:
        for prediction in predictions:
            total = total - (target * prediction).sum()
    return total / (len(targets) * len(predictions))


def simclr_loss(
    embeddings: Tensor, head: LinearHead, negatives: Tensor, temperature: float, logsumexp: float
) -> Tensor:
    """InfoNCE of one image's views [V, D] by broadcasting over [V, M + V, L]."""
    latents = functional.normalize(head(embeddings), dim=-1)
    n_views, n_negatives = len(latents), len(negatives)
    candidates = torch.cat([functional.normalize(negatives, dim=-1), latents])
    similarities = functional.cosine_similarity(latents[:, None], candidates[None], dim=-1)
    itself = torch.full((n_views,), -1e4, dtype=similarities.dtype)
    similarities = similarities.diagonal_scatter(itself, n_negatives)
    positive = similarities[:, n_negatives:]
    attraction = (positive - positive.diagonal().diag()).sum(1) / (n_views - 1) / temperature
    return ((similarities / logsumexp).logsumexp(1) - attraction).mean()


def deepcluster_loss(embeddings: Tensor, weight: Tensor, centroids: Sequence[Tensor]) -> Tensor:
    """Cross-entropy of one image's views [V, D] with the cluster of view h mod 2, summed."""
    latents = functional.normalize(functional.linear(embeddings, weight), dim=-1)
    total = torch.zeros((), dtype=latents.dtype)
    for h, prototypes in enumerate(centroids):
        scores = functional.linear(latents, prototypes)
        target = scores[h % 2].detach().argmax()
        for of_view in scores:
            total = total + functional.cross_entropy((of_view / 0.1)[None], target[None])
    return total


def gradients(backbone: Backbone, pixels: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """Give every input's gradient of the layer [N, m, n1]; [N, 3, H, W], a loss of [N, D].

    All parameters but the layer's are frozen, so that autograd does not run below it.
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
            loss(backbone.embed(pixels)).backward()
    finally:
        handle.remove()
        backbone.model.zero_grad(set_to_none=True)
        for parameter, was_trainable in trainable.items():
            parameter.requires_grad_(was_trainable)
    products = torch.einsum("ntm,ntk->nmk", seen["delta"], seen["a"])
    if backbone.layer.bias is None:
        return products
    return torch.cat([products, seen["delta"].sum(1)[:, :, None]], dim=2)


def kl_gradients(
    backbone: Backbone, pixels: Tensor, head: LinearHead, temperature: float
) -> Tensor:
    """[B, m, n1] of images [B, 3, H, W], up to a common factor."""
    return gradients(backbone, pixels, lambda e: kl_loss(e, head, temperature))


def view_gradients(backbone: Backbone, views: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """[B, m, n1] of the views [B, V, 3, H, W] of B images, up to a common factor."""
    n_views = views.shape[1]

    def of_all(embeddings: Tensor) -> Tensor:
        return torch.stack([loss(e) for e in embeddings.split(n_views)]).mean()

    flat = gradients(backbone, views.flatten(0, 1), of_all)
    return flat.unflatten(0, (-1, n_views)).sum(1)
