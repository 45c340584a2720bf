"""Contracts as functions: a check returns nothing when they hold, else says what broke."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from fungi_hf.checks import check_integer
from fungi_hf.encoders.base import require_encoder
from fungi_hf.errors import EncoderError, FungiError, ObjectiveError, ViewError
from fungi_hf.extraction.batches import Budget, Sample
from fungi_hf.extraction.group import Group
from fungi_hf.extraction.plan import Plan
from fungi_hf.gradients.tape import reference_gradient, untouched
from fungi_hf.objectives.kl import KLObjective
from fungi_hf.seeding import torch_generator

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn

    from fungi_hf.encoders.base import Encoder, Prepared
    from fungi_hf.objectives.base import Objective
    from fungi_hf.views.base import ViewGenerator


def rng_states() -> tuple[Any, ...]:
    """Give the states of Python's, numpy's and torch's global generators, comparable by `==`."""
    name, keys, *rest = cast("tuple[Any, ...]", np.random.get_state())  # noqa: NPY002
    numpy_state = (name, keys.tobytes(), *rest)
    return random.getstate(), numpy_state, torch.get_rng_state().numpy().tobytes()


def model_state(model: nn.Module) -> dict[str, Any]:
    """Give everything that an extraction must leave as it was, comparable by `==`.

    Parameters and buffers bit for bit, `requires_grad`, `.grad`, train mode, hooks and instance
    attributes of every module.
    """
    state: dict[str, Any] = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        grad = None if tensor.grad is None else _bytes(tensor.grad)
        state[f"tensor/{name}"] = (id(tensor), tensor.requires_grad, grad, _bytes(tensor))
    for name, module in model.named_modules():
        own = vars(module)
        hooks = [len(hooks) for key, hooks in sorted(own.items()) if key.endswith("_hooks")]
        state[f"module/{name}"] = (module.training, hooks, sorted(own))
    return state


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def check_objective(
    objective: Objective | Callable[..., Objective], width: int = 16, *, n_samples: int = 6
) -> None:
    """Prove that an objective's samples do not interact and that it is a function of its input.

    Compares loss and gradient of every row alone, in a batch, and in a permuted batch; looks for
    reduction, state that changes between calls, changed inputs, and global randomness. Takes an
    objective, or a factory called with `width=D` and `seed=` (as registered). An objective with
    `fit` is fitted to random embeddings first.

    Raises:
        ObjectiveError: Saying what broke.
    """
    before = rng_states()
    made = _make_objective(objective, width)
    n_views = check_integer("n_views", getattr(made, "n_views", None), error=ObjectiveError)
    generator = torch_generator(0, "check_objective")
    E = torch.randn(n_samples, n_views, width, generator=generator, dtype=torch.float64)
    if hasattr(made, "fit"):
        bank = torch.randn(8, max(n_views, 2), width, generator=generator, dtype=torch.float64)
        made.fit(bank if n_views > 1 else bank[:, :1])
    losses, gradient = _loss_and_gradient(made, E)
    again, gradient_again = _loss_and_gradient(made, E)
    if not (torch.equal(losses, again) and torch.equal(gradient, gradient_again)):
        raise ObjectiveError(
            "two calls with the same embeddings differ: the objective keeps state between calls, "
            "or draws random numbers in loss"
        )
    if rng_states() != before:
        raise ObjectiveError(
            "the objective moved a global random generator; draw from torch.Generator seeded "
            "with the constructor's seed"
        )
    _check_independence(made, E, losses, gradient)
    _check_seeded(objective, made, E)


def _make_objective(objective: Any, width: int) -> Objective:
    if hasattr(objective, "loss") and not isinstance(objective, type):
        return cast("Objective", objective)
    if not callable(objective):
        raise ObjectiveError(f"an objective has a loss method; got {objective!r}")
    made = objective(width=width, seed=0)
    if not hasattr(made, "loss"):
        raise ObjectiveError(f"the factory must give an object with a loss method; got {made!r}")
    return cast("Objective", made)


def _loss_and_gradient(objective: Objective, E: Tensor) -> tuple[Tensor, Tensor]:
    leaf = E.clone().requires_grad_(True)
    given = leaf * 1  # an inner node: writing to it in place shows, and does not raise
    version = given._version
    losses = objective.loss(given)
    if given._version != version:
        raise ObjectiveError("loss must not modify the embeddings in place")
    if not isinstance(losses, Tensor) or losses.shape != (len(E),):
        got = list(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
        raise ObjectiveError(
            f"loss must give one number per sample, shape [{len(E)}], never reduced; got {got}"
        )
    if not losses.requires_grad:
        raise ObjectiveError("the loss has no gradient with respect to the embeddings")
    (gradient,) = torch.autograd.grad(losses.sum(), leaf)
    if not (losses.isfinite().all() and gradient.isfinite().all()):
        raise ObjectiveError("loss or gradient is NaN or infinite for ordinary embeddings")
    return losses.detach(), gradient


def _check_independence(objective: Objective, E: Tensor, losses: Tensor, gradient: Tensor) -> None:
    order = torch.arange(len(E)).flip(0).roll(1)
    permuted, gradient_permuted = _loss_and_gradient(objective, E[order])
    for b in range(len(E)):
        loss, alone = _loss_and_gradient(objective, E[b : b + 1])
        if not (_close(loss[0], losses[b]) and _close(alone[0], gradient[b])):
            raise ObjectiveError(
                f"samples interact: row {b} alone has another loss or gradient than in a batch of "
                f"{len(E)}; use no batch statistics and no other row as a negative"
            )
    if not (_close(permuted, losses[order]) and _close(gradient_permuted, gradient[order])):
        raise ObjectiveError("samples interact: a permuted batch gives other losses or gradients")


def _check_seeded(objective: Any, made: Objective, E: Tensor) -> None:
    # A second one, built from another global seed, must be equal, fitted state included.
    if made is objective:
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        other = _make_objective(objective, E.shape[-1])
    if hasattr(made, "state") and hasattr(other, "load_state"):
        other.load_state(made.state())
    elif hasattr(other, "fit"):
        return
    if not _close(other.loss(E).detach(), made.loss(E).detach()):
        raise ObjectiveError(
            "a second object with the same seed and state gives other losses: its random numbers "
            "must come from the seed alone, and state() must hold all that fit learned"
        )


def _close(one: Tensor, two: Tensor, tolerance: float = 1e-9) -> bool:
    scale = float(two.double().norm())
    return float((one.double() - two.double()).norm()) <= tolerance * max(scale, 1e-300)


def check_views(
    generator: ViewGenerator, inputs: Sequence[Any], *, encoder: Encoder | None = None
) -> None:
    """Prove that views of a few canonical raw inputs depend on input and given generator only.

    If there is an encoder, its `check` must accept every view.

    Raises:
        ViewError: Saying what broke.
    """
    for place, raw in enumerate(inputs):
        copy, before = _frozen(raw), rng_states()
        first = generator(raw, random.Random(place))
        if rng_states() != before:
            raise ViewError("the generator moved a global random generator; use the one passed in")
        if _frozen(raw) != copy:
            raise ViewError(f"the generator changed input {place} in place")
        if not isinstance(first, list) or len(first) != generator.n_views:
            got = len(first) if isinstance(first, list) else type(first).__name__
            raise ViewError(f"input {place} has {got} views; n_views says {generator.n_views}")
        kept = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
        try:
            random.seed(99)
            np.random.seed(99)  # noqa: NPY002
            torch.manual_seed(99)
            second = generator(raw, random.Random(place))
        finally:
            random.setstate(kept[0])
            np.random.set_state(kept[1])  # noqa: NPY002
            torch.set_rng_state(kept[2])
        if [_frozen(view) for view in first] != [_frozen(view) for view in second]:
            raise ViewError(
                f"input {place} has other views for an equal generator: views must depend on the "
                "input and the generator passed in, and on nothing else"
            )
        for view in first:
            _check_accepted(view, generator, encoder, place)


def _check_accepted(
    view: Any, generator: ViewGenerator, encoder: Encoder | None, place: int
) -> None:
    try:
        if encoder is not None:
            encoder.check(view, place)
        generator(view, random.Random(0))
    except (FungiError, TypeError, ValueError, IndexError) as error:
        raise ViewError(f"a view of input {place} is no usable input itself: {error}") from error


def _frozen(value: Any) -> object:
    """Give something comparable by `==` for texts, arrays, tensors and containers of them."""
    if isinstance(value, Tensor):
        return str(value.dtype), tuple(value.shape), _bytes(value)
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, value.tobytes()
    if isinstance(value, dict):
        return {key: _frozen(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_frozen(item) for item in value]
    return value


def check_encoder(encoder: Encoder, inputs: Sequence[Any]) -> None:
    """Prove that an encoder fits the engine.

    Checks the protocol; that an input alone has the key, embedding and gradient that it has in a
    batch of others, to a relative 1e-9 for a float64 model, else 2e-4; that the fast gradient of a
    KL loss equals the slow reference; that the model is left as it was. Takes at least two raw
    inputs of different lengths.

    Raises:
        EncoderError: Saying what broke.
    """
    together = _check_preparation(encoder, inputs)
    tolerance = 1e-9 if next(encoder.model.parameters()).dtype == torch.float64 else 2e-4
    before = model_state(encoder.model)
    samples = [Sample(i, item, {"kl": [item]}) for i, item in enumerate(together)]
    objective = KLObjective(width=encoder.width, seed=0)
    e, G = _group(encoder, samples, objective)
    shape = [len(together), encoder.width]
    if list(e.shape) != shape:
        raise EncoderError(f"embed must give {shape}, as width says; got {list(e.shape)}")
    if not (e.isfinite().all() and G.isfinite().all()):
        raise EncoderError("an embedding or gradient is NaN or infinite")
    for i, sample in enumerate(samples):
        alone, G_alone = _group(encoder, [sample], objective)
        if not (_close(alone[0], e[i], tolerance) and _close(G_alone[0], G[i], tolerance)):
            raise EncoderError(
                f"input {i} alone has another embedding or gradient than in a batch: padding "
                "leaks, or inputs interact"
            )
        if not _close(G_alone[0], _reference(encoder, sample, objective), tolerance):
            raise EncoderError(f"the gradient of input {i} is not that of full autograd")
    if model_state(encoder.model) != before:
        raise EncoderError("the model was changed by an extraction")


def _check_preparation(encoder: Encoder, inputs: Sequence[Any]) -> list[Prepared]:
    require_encoder(encoder)
    if len(inputs) < 2:
        raise EncoderError("check_encoder needs at least two inputs")
    raws = [encoder.check(raw, index) for index, raw in enumerate(inputs)]
    together = encoder.prepare(raws)
    if len(together) != len(raws):
        raise EncoderError(f"prepare gave {len(together)} items for {len(raws)} inputs")
    for raw, item in zip(raws, together, strict=True):
        if encoder.prepare([raw])[0].key != item.key:
            raise EncoderError("prepare gives an input another key alone than among others")
        if not isinstance(encoder.content(raw), bytes):
            raise EncoderError("content must give bytes")
    return together


def _group(
    encoder: Encoder, samples: Sequence[Sample], objective: Objective
) -> tuple[Tensor, Tensor]:
    plan = Plan(encoder=encoder, objectives={"kl": objective})
    with untouched(encoder.model):
        group = Group(samples, plan, Budget())
        (factors,) = group.factors("kl").values()
        return group.view_embeddings("kl")[:, 0], factors.materialise()


def _reference(encoder: Encoder, sample: Sample, objective: Objective) -> Tensor:
    def loss() -> Tensor:
        e = encoder.embed(encoder.collate([sample.original]))
        return objective.loss(e[:, None].double()).sum()

    return reference_gradient(encoder.model, encoder.layer, loss)[0]
