"""Reading a label out of a model's answer: a status, and never a guess.

The first rule that decides wins: an empty answer; a label as it is; a label after peeling quotes,
fences, lead-ins and JSON; exactly one label named, with no denial around it; else invalid.
"""

from __future__ import annotations

import itertools
import json
import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

from fungi_hf.errors import InputTypeError, LabelError

Status = Literal["ok", "empty", "ambiguous", "invalid"]

_GLUE = re.compile(r"[\s_\-]+")
_FENCE = re.compile(r"\A```[\w+-]*[ \t]*\n?(.*?)\n?```\Z", re.DOTALL)
# Opening and closing marks, in the same places.
_PAIRS = (("**", "**"), *zip("\"'`*[({<“\u2018«„", "\"'`*])}>”\u2019»“", strict=True))
_LEAD_IN = re.compile(
    r"""\A[*_]*(?:(?:the|my|final|predicted|correct|best|most\ likely)\s+)*
        (?:label|answer|intent|class|category|classification|output|prediction)
        [*_]*\s*(?:[:=]|\bis\b:?)[*_]*\s*(?=\S)""",
    re.IGNORECASE | re.VERBOSE,
)
# Words that may deny a label; "don't", "isn't" and the like end in "n't".
_DENIAL = re.compile(
    r"""(?<!\w)(?:not|never|neither|nor|cannot|except|rather\ than|instead\ of|no|none|non|nothing
        |without|hardly|opposite|(?:other|different)\ than|(?:any|every)thing\ but|all\ but
        |far\ from
        |un(?:like|likely|related|sure|true)|wrong|incorrect|false|doubt\w*|exclud\w+|reject\w*
        |rul(?:e|es|ed|ing)\ out|isnt|arent|wasnt|doesnt|dont|cant|wont)(?!\w)|n't(?!\w)""",
    re.VERBOSE,
)


def key(text: str) -> str:
    """Return the text without regard to case, Unicode form, and the glue between words."""
    return _GLUE.sub(" ", _folded(text)).strip()


def bare(text: str) -> str:
    """Return `key(text)` without trailing `. , ; : ! ?`."""
    return key(text).rstrip(".,;:!? ")


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).replace("\u2019", "'").casefold()


@dataclass(frozen=True, slots=True)
class Answer:
    """What an answer says."""

    # "ok", "empty", "ambiguous" (several labels) or "invalid" (none, or a denied one)
    status: Status
    label: int | None = None  # the label id if the status is "ok", else None
    reason: str = ""  # what a model should be told about an answer that is not ok; "" if it is


class AnswerParser:
    """Reads answers against a fixed list of surfaces, which have to be distinct under both keys.

    Args:
        names: The labels, for messages.
        surfaces: Their surface forms, in id order.
    """

    def __init__(self, names: tuple[str, ...], surfaces: tuple[str, ...]) -> None:
        _refuse_alike(names, surfaces)
        self._exact = {surface.strip(): label for label, surface in enumerate(surfaces)}
        self._keys = {key(surface): label for label, surface in enumerate(surfaces)}
        self._bare = {bare(surface): label for label, surface in enumerate(surfaces)}
        self._surfaces = surfaces
        self._patterns = [_whole_words(surface) for surface in surfaces]

    def parse(self, answer: str | None) -> Answer:
        """Apply the rules in order to what the model said; None stands for nothing.

        Raises:
            InputTypeError: If the answer is neither a text nor None.
        """
        if answer is not None and not isinstance(answer, str):
            raise InputTypeError(f"answer is {type(answer).__name__}; a text or None is needed")
        text = (answer or "").strip()
        if not text:
            return Answer("empty", reason="the answer is empty")
        if text in self._exact:
            return Answer("ok", self._exact[text])
        core = self._peeled(text)
        if isinstance(core, Answer):
            return core
        if not self._is_usable(_stated_label(core, is_all=False)):
            return Answer("invalid", reason="the JSON in the answer states no known label")
        return self._search(core)

    def _peeled(self, text: str) -> Answer | str:
        """Return the answer if a layer of the text is a label, else the core of the text."""
        seen: set[str] = set()
        while text not in seen:  # each pass peels one layer; a text that stays is the core
            seen.add(text)
            found = self._lookup(text)
            if found is not None:
                return Answer("ok", found)
            peeled = _peel(text)
            if peeled is None:
                return Answer("invalid", reason="the JSON answer has no single text under 'label'")
            text = peeled or text
        return text

    def _is_usable(self, stated: str | bool | None) -> bool:
        """Return whether JSON within other words states no label, or a known one."""
        return stated is False or (isinstance(stated, str) and self._lookup(stated) is not None)

    def _lookup(self, text: str) -> int | None:
        found = self._exact.get(text)
        if found is None:
            found = self._keys.get(key(text))
        return self._bare.get(bare(text)) if found is None else found

    def _search(self, text: str) -> Answer:
        """Return the one label named as whole words, if nothing outside its words denies it."""
        folded = _folded(text)
        spans = [
            (match.start(), match.end(), label)
            for label, pattern in enumerate(self._patterns)
            for match in pattern.finditer(folded)
        ]
        # A label inside a longer one was not said: "exchange rate" in "wrong exchange rate".
        outer = [span for span in spans if not any(_inside(span, other) for other in spans)]
        labels = sorted({label for _, _, label in outer})
        if not labels:
            return Answer("invalid", reason=f"{text[:80]!r} names none of the labels")
        if len(labels) > 1:
            names = ", ".join(repr(self._surfaces[label]) for label in labels[:5])
            return Answer("ambiguous", reason=f"the answer names {len(labels)} labels: {names}")
        rest = list(folded)
        for start, end, _ in outer:
            rest[start:end] = "|" * (end - start)
        denial = _DENIAL.search(re.sub(r"\s+", " ", "".join(rest)))
        if denial:
            name = self._surfaces[labels[0]]
            return Answer("invalid", reason=f"{denial.group()!r} stands beside {name!r}")
        return Answer("ok", labels[0])


def _refuse_alike(names: tuple[str, ...], surfaces: tuple[str, ...]) -> None:
    # None may be empty or span lines, no two may be equal under one of the keys.
    for name, surface in zip(names, surfaces, strict=True):
        if not bare(surface):
            raise LabelError(f"the surface of {name!r} is {surface!r}: empty but for punctuation")
        if len(surface.splitlines()) > 1:
            raise LabelError(f"the surface of {name!r} spans several lines: {surface!r}")
    pairs: dict[tuple[str, str], None] = {}
    for fold in (key, bare):
        groups: dict[str, list[int]] = {}
        for label, surface in enumerate(surfaces):
            groups.setdefault(fold(surface), []).append(label)
        for group in groups.values():
            for a, b in itertools.combinations(group, 2):
                pairs[surfaces[a], surfaces[b]] = None
    if pairs:
        shown = "; ".join(f"{a!r} and {b!r}" for a, b in list(pairs)[:10])
        more = f" and {len(pairs) - 10} more" if len(pairs) > 10 else ""
        raise LabelError(f"labels that no parser can tell apart: {shown}{more}")


def _inside(span: tuple[int, int, int], other: tuple[int, int, int]) -> bool:
    longer = other[1] - other[0] > span[1] - span[0]
    return longer and other[0] <= span[0] and span[1] <= other[1]


def _whole_words(surface: str) -> re.Pattern[str]:
    """Return a pattern of the surface's words, with any glue between, outside longer names."""
    words = bare(surface).split(" ")
    return re.compile(
        r"(?<!\w)(?<!\w-)" + r"[\s_\-]+".join(map(re.escape, words)) + r"(?!\w)(?!-\w)"
    )


def _peel(text: str) -> str | None:
    """Return the text less one layer; None if it is JSON with an unusable label."""
    if text.startswith("{"):
        stated = _stated_label(text, is_all=True)
        if stated is not False:
            return stated if isinstance(stated, str) else None
    fence = _FENCE.match(text)
    if fence and "```" not in fence.group(1):
        return fence.group(1).strip()
    for before, after in _PAIRS:
        inner = text[len(before) : -len(after)]
        is_pair = text.startswith(before) and text.endswith(after) and inner
        if is_pair and before not in inner and after not in inner:
            return inner.strip()
    lead_in = _LEAD_IN.match(text)
    if lead_in:
        return text[lead_in.end() :].strip()
    return text.rstrip(".,; ")


def _stated_label(text: str, *, is_all: bool) -> str | bool | None:
    """Return the text under "label" of a JSON object, None if unusable, False if there is none.

    The object is all of the text, or the first within other words.
    """
    start = text.find("{")
    try:
        value, end = json.JSONDecoder(object_pairs_hook=_Pairs).raw_decode(text, max(start, 0))
    except (ValueError, RecursionError):
        return False
    stated = [v for name, v in value if name == "label"] if isinstance(value, _Pairs) else []
    if not stated or (is_all and text[end:].strip()):
        return False
    return stated[0] if len(stated) == 1 and isinstance(stated[0], str) else None


class _Pairs(list[tuple[str, object]]):
    """The members of a JSON object, repeated names included."""
