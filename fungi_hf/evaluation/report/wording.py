"""Names that users give, as texts that a figure or page can show."""

from __future__ import annotations

import unicodedata

# What XML and UTF-8 cannot hold, and what would move the line: controls, halves of pairs, and two
# code points that are no characters.
_HIDDEN = ("Cc", "Cs")
_FORBIDDEN = "\ufffe\uffff"


def visible(name: object, *, kept: str = "") -> str:
    r"""Give a name with its control characters written out, such as \x01.

    Args:
        name: Anything; its text is taken.
        kept: Control characters to leave as they are.
    """
    return "".join(_shown(one, kept) for one in str(name))


def literal(name: object) -> str:
    """Give a name as matplotlib draws it letter by letter: no formulas, no control characters."""
    return visible(name).replace("$", r"\$")


def _shown(one: str, kept: str) -> str:
    if one in kept or (unicodedata.category(one) not in _HIDDEN and one not in _FORBIDDEN):
        return one
    return one.encode("unicode_escape").decode("ascii")
