"""Scripts that write words without blanks, and marks that belong to a letter, as regex classes."""

from __future__ import annotations

from typing import Final

# Thai and Lao, Burmese, Khmer, kana, Chinese characters.
UNSPACED: Final = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\U00020000-\U0003ffff"
)
# Beside them Hangul, whose particles touch the word.
JOINED: Final = UNSPACED + "\u1100-\u11ff\u3130-\u318f\uac00-\ud7af"
# Combining accents, Hebrew points, Arabic vowels, Indic vowel signs: no letters of their own.
MARKS: Final = (
    "\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0670\u0900-\u0dff\u1ab0-\u1aff\u20d0-\u20ff"
)
