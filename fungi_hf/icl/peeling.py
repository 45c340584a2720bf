"""Taking off what stands around an answer: thoughts, fences, quotes, lead-ins, JSON.

One place for labels and free answers, so that both are read alike.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# Thoughts in front of an answer. A chat template may hold the opening mark itself.
THOUGHTS = re.compile(
    r"\A.*(?:</(?:think|thinking|thought|reasoning|reflection)>|\[/THINK\]"
    r"|<\|channel\|>final<\|message\|>|<\|end_of_thought\|>|</?\|?final\|?>)",
    re.DOTALL | re.IGNORECASE,
)
FENCE = re.compile(r"\A```[\w+-]*[ \t]*\n?(.*?)\n?```\Z", re.DOTALL)
# Opening and closing marks, in the same places.
PAIRS = (("**", "**"), *zip("\"'`*[({<“\u2018«„", "\"'`*])}>”\u2019»“", strict=True))
LEAD_IN = re.compile(
    r"""\A[*_]*(?:(?:the|my|final|predicted|correct|best|most\ likely)\s+)*
        (?:label|answer|intent|class|category|classification|output|prediction)
        [*_]*\s*(?:[:=]|\bis\b:?)[*_]*\s*(?=\S)""",
    re.IGNORECASE | re.VERBOSE,
)
_QUOTES = tuple(pair for pair in PAIRS if pair[0] not in "[({<")
# All of the text, or what other words lead to.
_OBJECT = re.compile(r'\{\s*"answer"\s*:.*', re.DOTALL)
_NEXT = re.compile(r"\n\s*Text: ")  # the model goes on with the prompt


def plain(text: str) -> str:
    """Return a free answer without thoughts, fences, quotes, lead-ins and JSON; "" if none is left.

    Of several lines the last alone is the answer if it begins with a lead-in, as "Answer: ".
    """
    core, seen = THOUGHTS.sub("", text).strip(), set[str]()
    while core not in seen:  # each pass peels one layer
        seen.add(core)
        core = _NEXT.split(core)[0].rstrip()
        last = core.rpartition("\n")[2].strip().lstrip("#>-* ")
        if "\n" in core and LEAD_IN.match(last):
            core = last
        stated = _json_answer(core)
        core = (_inner(core, _QUOTES) or core if stated is None else stated).strip()
    return core


def _json_answer(text: str) -> str | None:
    """Return the text or number that JSON states, an object under "answer"; None without one."""
    found = _OBJECT.search(text) if text.endswith("}") else None
    if found is None and not text.startswith('"'):
        return None
    try:
        value = json.loads(found[0] if found else text, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return None
    value = value.get("answer") if isinstance(value, dict) else value
    return value if isinstance(value, str) else None


def peel(text: str) -> str | None:
    """Return the text less one layer; None if it is JSON with an unusable label."""
    if text.startswith("{"):
        stated = stated_label(text, is_all=True)
        if stated is not False:
            return stated if isinstance(stated, str) else None
    inner = _inner(text, PAIRS)
    return text.rstrip(".,; ") if inner is None else inner


def _inner(text: str, pairs: Iterable[tuple[str, str]]) -> str | None:
    """Return the text without its outer fence, pair of marks or lead-in; None if it has none."""
    fence = FENCE.match(text)
    if fence and "```" not in fence.group(1):
        return fence.group(1).strip()
    for before, after in pairs:
        inner = text[len(before) : -len(after)]
        is_pair = text.startswith(before) and text.endswith(after) and inner
        if is_pair and before not in inner and after not in inner:
            return inner.strip()
    lead_in = LEAD_IN.match(text)
    return text[lead_in.end() :].strip() if lead_in else None


def stated_label(text: str, *, is_all: bool) -> str | bool | None:
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
