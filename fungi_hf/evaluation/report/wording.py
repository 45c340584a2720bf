"""Names that users give, as texts that a figure or page can show."""

from __future__ import annotations

import re

# What XML and UTF-8 cannot hold, and what would move the line: controls, halves of pairs, and two
# code points that are no characters.
_HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def visible(name: object, *, kept: str = "") -> str:
    r"""Give a name with its control characters, but those kept, written out, such as \x01."""

    def shown(found: re.Match[str]) -> str:
        return found[0] if found[0] in kept else found[0].encode("unicode_escape").decode("ascii")

    return _HIDDEN.sub(shown, str(name))


def literal(name: object) -> str:
    """Give a name as matplotlib draws it letter by letter: no formulas, no control characters."""
    return visible(name).replace("$", r"\$")
