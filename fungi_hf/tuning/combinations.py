"""Which blocks are tried together, and with what weights."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from fungi_hf.tuning.candidates import EMBEDDING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fungi_hf.specs import ObjectiveSpec
    from fungi_hf.tuning.candidates import Weights
    from fungi_hf.tuning.search import Space, TuningSearch

_ALONE: Weights = ((EMBEDDING, 1.0),)


def cheap(search: TuningSearch, space: Space) -> list[Weights]:
    """Give the embedding; each activation and each stack of them, without and with it.

    A linear classifier weighs blocks itself: for it the stacks are enough.
    """
    some = _stacks(search, space)
    if search.judge == "neighbors" or not some:
        some = [(name,) for name in space.activations.values()] + some
    named = [_equal(names) for names in some]
    return [_ALONE, *named, *((*_ALONE, *weights) for weights in named)]


def with_gradients(search: TuningSearch, space: Space) -> list[Weights]:
    """Give combinations of gradients of untouched inputs with what costs no gradient."""
    return _beside(search, space, space.losses(views=False))


def with_views(search: TuningSearch, space: Space) -> list[Weights]:
    """Give those with gradients of views, alone or beside one of the untouched input."""
    names = set(space.views)
    every = _beside(search, space, [*space.losses(views=False), *space.losses(views=True)])
    return [some for some in every if names & {name for name, _ in some}]


def _beside(
    search: TuningSearch, space: Space, gradients: Sequence[ObjectiveSpec]
) -> list[Weights]:
    if search.judge == "linear":
        return _linear(search, space, gradients)
    return list(dict.fromkeys(_main(search, space, gradients) + _inner(search, space, gradients)))


def _main(search: TuningSearch, space: Space, gradients: Sequence[ObjectiveSpec]) -> list[Weights]:
    """Give one or two gradients of one temper at their main layers.

    With the embedding at every weight, without and with the target layer's activation, and with the
    embedding and each stack.
    """
    own = space.activations[space.layer]
    found: list[Weights] = []
    for size in (1, 2):
        for some in itertools.combinations(gradients, size):
            if len({spec.kind for spec in some}) < size:
                continue
            names = _equal(space.main(spec) for spec in some)
            for weight, active in itertools.product(search.embedding_weights, ((), (own,))):
                first: Weights = ((EMBEDDING, float(weight)),) if weight > 0 else ()
                found.append((*first, *names, *_equal(active)))
            stacks = (_equal(stack) for stack in _stacks(search, space))
            found += [(*_ALONE, *names, *stack) for stack in stacks]
    return found


def _inner(search: TuningSearch, space: Space, gradients: Sequence[ObjectiveSpec]) -> list[Weights]:
    """Give each other layer of an objective, and all of them, without and with the embedding.

    Each beside nothing and beside all activations; all of them beside every stack, and beside the
    main layer.
    """
    found: list[Weights] = []
    stacks = _stacks(search, space)
    for spec in gradients:
        main = space.main(spec)
        inner = tuple(block for block in spec.blocks if block != main)
        if not inner:
            continue
        groups = [*((block,) for block in inner), *([inner] if len(inner) > 1 else [])]
        sets = [(*group, *stack) for group in groups for stack in ((), *stacks[-1:])]
        sets += [(*inner, *stack) for stack in stacks[:-1]]
        sets.append((*inner, main))
        for names in map(_equal, sets):
            found += [names, (*_ALONE, *names)]
    return found


def _linear(
    search: TuningSearch, space: Space, gradients: Sequence[ObjectiveSpec]
) -> list[Weights]:
    """Give each objective, at its main layer and at all, without and with all activations."""
    whole = _stacks(search, space)[-1:] or [tuple(space.activations.values())]
    return [
        (*_ALONE, *_equal((*names, *stack)))
        for spec in gradients
        for names in dict.fromkeys([(space.main(spec),), tuple(spec.blocks)])
        for stack in ((), *whole)
    ]


def _stacks(search: TuningSearch, space: Space) -> list[tuple[str, ...]]:
    """Give the activations that are tried together: the last few, and all."""
    names = tuple(space.activations.values())
    counts = sorted({*search.layer_counts, len(names)})
    return [names[-n:] for n in counts if 1 < n <= len(names)]


def _equal(names: Iterable[str]) -> Weights:
    return tuple((name, 1.0) for name in names)
