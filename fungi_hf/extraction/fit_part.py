"""What one part of the training inputs gives to a fit, and how parts become one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self, TypeVar

from fungi_hf.errors import FingerprintMismatchError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

    from fungi_hf.encoders.base import Encoder
    from fungi_hf.extraction.draws import Draw
    from fungi_hf.extraction.latents import Latents
    from fungi_hf.extraction.moments import Moments
    from fungi_hf.features import Failure


class Origin(NamedTuple):
    """What computed a part: parts of another are not merged.

    Attributes:
        config: Fingerprint of the config.
        encoder: Digest of the encoder: weights, preprocessor, layer, pooling, length, prompts.
        prompt: The text in front of every input.
        state: Digest of what earlier stages learned.
    """

    config: str
    encoder: str
    prompt: str
    state: str


_WORDS = {
    "config": "with another config",
    "encoder": "by another encoder",
    "prompt": "with another prompt",
    "state": "from another state of the earlier stages",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class FitPart:
    """What a part of the training inputs gives to one stage of a fit: plain data of bounded size.

    `FungiExtractor.fit_part` makes parts, `merged` joins some, `FungiExtractor.fit_merge` learns
    from all; they can be pickled, and `fungi_hf.extraction.part_files` writes them.

    Attributes:
        stage: One of `FungiExtractor.fit_stages`.
        origin: What computed it.
        names: Name -> digest of the inputs, of every part in it; by them a part that is given
            twice is known. A part without a usable input has none.
        n_inputs: Usable inputs.
        failures: Inputs that were left out, numbered within their own part.
        sums: What the encoder sums up.
        draws: Objective -> inputs drawn for it.
        latents: Objective -> what it keeps of every input.
        moments: Block -> moments of its rows, or "features" -> those of finished rows.
    """

    stage: str
    origin: Origin
    names: Mapping[str, str]
    n_inputs: int
    failures: tuple[Failure, ...] = ()
    sums: dict[str, Tensor] = field(default_factory=dict)
    draws: dict[str, Draw] = field(default_factory=dict)
    latents: dict[str, Latents] = field(default_factory=dict)
    moments: dict[str, Moments] = field(default_factory=dict)

    @classmethod
    def merged(cls, parts: Iterable[FitPart]) -> FitPart:
        """Give one part for several, the same whatever their order.

        A part that is given twice, also inside of others, counts once. Merging is associative;
        sums differ in the last bits with the shape of the tree.

        Raises:
            InputError: If there is no part; if some overlap without one holding the other, so that
                sums cannot be told apart; or if two of one name hold other inputs.
            FingerprintMismatchError: If they are of several stages or origins.
        """
        given = list(parts)
        if not given:
            raise InputError("there are no parts to merge; at least one is needed")
        for part in given:
            part.check(given[0].stage, given[0].origin)
        digests: dict[str, str] = {}
        for name, digest in (pair for part in given for pair in part.names.items()):
            if digests.setdefault(name, digest) != digest:
                raise InputError(f"two parts named {name!r} hold other inputs; name them apart")
        seen: set[str] = set()
        empty = [part for part in given if not part.names]
        kept: list[FitPart] = []
        for part in sorted(given, key=lambda part: (-len(part.names), sorted(part.names))):
            again = seen & part.names.keys()
            if len(again) == len(part.names):
                continue
            if again and (part.sums or part.moments):
                raise InputError(
                    f"merged parts overlap in {len(again)} of {len(part.names)} parts "
                    f"({', '.join(sorted(again)[:3])}), whose sums cannot be told apart; merge "
                    "every part once"
                )
            seen |= part.names.keys()
            kept.append(part)
        kept.sort(key=lambda part: sorted(part.names))
        result = kept[0] if kept else empty[0]
        for part in kept[1:]:
            result = result._joined(part)
        left_out = (*result.failures, *(one for part in empty for one in part.failures))
        return replace(result, failures=tuple(dict.fromkeys(left_out)))

    def _joined(self, other: Self) -> FitPart:
        return FitPart(
            stage=self.stage,
            origin=self.origin,
            names={**self.names, **other.names},
            n_inputs=self.n_inputs + other.n_inputs,
            failures=(*self.failures, *other.failures),
            sums={name: mine + other.sums[name] for name, mine in self.sums.items()},
            draws=_each(self.draws, other.draws),
            latents=_each(self.latents, other.latents),
            moments=_each(self.moments, other.moments),
        )

    def check(self, stage: str, origin: Origin) -> None:
        """Refuse to be of another stage or origin.

        Raises:
            FingerprintMismatchError: Naming what differs.
        """
        if self.stage != stage:
            raise FingerprintMismatchError(
                f"a part of stage {self.stage!r} was given for stage {stage!r}; merge the parts of "
                "each stage apart"
            )
        for name, mine, wanted in zip(Origin._fields, self.origin, origin, strict=True):
            if mine != wanted:
                raise FingerprintMismatchError(
                    f"a part of stage {stage!r} was computed {_WORDS[name]} ({mine!r}, not "
                    f"{wanted!r}); compute it again with this extractor"
                )


class Tally:
    """Counts inputs and takes their digest, in their order; a part is known by it.

    Attributes:
        n: Inputs so far.
    """

    def __init__(self, encoder: Encoder | None) -> None:
        """Begin; without an encoder inputs are counted alone."""
        self.n, self._digest, self._encoder = 0, hashlib.sha256(), encoder

    def add(self, chunk: list[Any]) -> None:
        """Take inputs in canonical form."""
        self.n += len(chunk)
        for content in self._encoder.contents(chunk) if self._encoder and chunk else ():
            self._digest.update(len(content).to_bytes(8, "little"))
            self._digest.update(content)

    def digest(self) -> str:
        """Give 32 hexadecimal digits."""
        return self._digest.hexdigest()[:32]


class _Mergeable(Protocol):
    def merged(self, other: Any) -> Any: ...


M = TypeVar("M", bound=_Mergeable)


def _each(mine: Mapping[str, M], other: Mapping[str, M]) -> dict[str, M]:
    # An objective has no latents where its part had no input.
    both = {**other, **mine}
    return {
        name: one.merged(other[name]) if name in mine and name in other else one
        for name, one in both.items()
    }
