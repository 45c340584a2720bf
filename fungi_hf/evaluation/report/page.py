"""The pieces of an HTML page that stands alone: no script, no request, readable on a phone."""

from __future__ import annotations

import base64
import html
from typing import TYPE_CHECKING

from fungi_hf.evaluation.report.wording import visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_NO_CHANGE = ("+0.0", "-0.0")
_STYLE = """
:root { color-scheme: light dark; --ink: #1d2530; --soft: #5d6875; --line: #d9dee5;
  --paper: #ffffff; --ground: #f4f6f9; --mark: #eaf3ee; --good: #1b7837; --bad: #b2182b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaf0; --soft: #9aa5b4; --line: #333c49;
  --paper: #1a2029; --ground: #12161c; --mark: #1f3328; --good: #6fce8d; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { background: var(--ground); color: var(--ink); font: 16px/1.55 system-ui, -apple-system,
  "Segoe UI", Roboto, sans-serif; margin: 0; }
main { margin: 0 auto; max-width: 68rem; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 0 0 .8rem; }
section { background: var(--paper); border: 1px solid var(--line); border-radius: .6rem;
  margin-top: 1.2rem; padding: 1.1rem 1.2rem; }
nav { display: flex; flex-wrap: wrap; gap: .3rem .9rem; margin-top: .8rem; font-size: .9rem; }
a { color: inherit; text-decoration-color: var(--soft); text-underline-offset: .2em; }
.lead { font-size: 1.02rem; margin: 0 0 .9rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .84rem; font-variant-numeric: tabular-nums;
  min-width: 100%; }
th, td { border-bottom: 1px solid var(--line); padding: .38rem .7rem; text-align: right;
  white-space: nowrap; }
th { color: var(--soft); font-weight: 600; }
tbody tr:last-child td { border-bottom: 0; }
th:first-child, td:first-child { background: var(--paper); left: 0; padding-left: 0;
  position: sticky; text-align: left; }
tr.best td { background: var(--mark); font-weight: 600; }
.up { color: var(--good); } .down { color: var(--bad); }
.note { color: var(--soft); font-size: .8rem; margin: .35rem 0 0; overflow-wrap: anywhere; }
details { margin-top: .8rem; } summary { color: var(--soft); cursor: pointer; font-size: .85rem; }
.figures { align-items: start; display: grid; gap: 1.2rem; margin-top: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 27rem), 1fr)); }
figure { margin: 0; min-width: 0; }
figcaption { color: var(--soft); font-size: .85rem; margin-top: .3rem; }
img { background: #fff; border-radius: .4rem; display: block; height: auto; max-width: 100%;
  width: 100%; }
@media (max-width: 30rem) {
  main { padding: 1rem .6rem 3rem; } section { padding: .9rem .8rem; }
  th:first-child, td:first-child { min-width: 6.6rem; white-space: normal; }
}
"""


def page(title: str, subtitle: str, sections: Sequence[tuple[str, str]]) -> str:
    """Give the whole document.

    Args:
        title: Plain text.
        subtitle: Plain text below it; may be empty.
        sections: Heading in plain text, and HTML below it.

    Returns:
        HTML without external resources or scripts.
    """
    name = _text(title)
    links = "".join(
        f'<a href="#s{place}">{_text(heading)}</a>' for place, (heading, _) in enumerate(sections)
    )
    body = "\n".join(
        f'<section id="s{place}"><h2>{_text(heading)}</h2>\n{content}</section>'
        for place, (heading, content) in enumerate(sections)
    )
    below = f'<p class="note">{_text(subtitle)}</p>' if subtitle else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{name}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n<header><h1>{name}</h1>{below}\n<nav>{links}</nav></header>\n"
        f"{body}\n</main>\n</body>\n</html>\n"
    )


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    best: Iterable[int] = (),
    signed: Iterable[int] = (),
) -> str:
    """Give a table that scrolls within itself where the screen is narrow.

    Args:
        head: Plain texts.
        rows: Plain texts.
        best: Numbers of the rows to mark.
        signed: Columns whose text shows its sign in colour.
    """
    marked, coloured = set(best), set(signed)
    header = "".join(f"<th>{_text(cell)}</th>" for cell in head)
    lines = []
    for place, cells in enumerate(rows):
        mark = ' class="best"' if place in marked else ""
        shown = [_cell(cell, sign=column in coloured) for column, cell in enumerate(cells)]
        lines.append(f"<tr{mark}>{''.join(shown)}</tr>")
    return (
        f'<div class="wide"><table><thead><tr>{header}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>\n"
    )


def figures(drawn: Sequence[tuple[bytes, str]]) -> str:
    """Give images within the page, SVG and caption each, side by side where there is room."""
    parts = []
    for svg, caption in drawn:
        data = base64.b64encode(svg).decode("ascii")
        text = _text(caption)
        parts.append(
            f'<figure><img alt="{text}" src="data:image/svg+xml;base64,{data}">'
            f"<figcaption>{text}</figcaption></figure>\n"
        )
    return f'<div class="figures">{"".join(parts)}</div>\n' if parts else ""


def notes(facts: Iterable[str], summary: str) -> str:
    """Give facts that fold away."""
    lines = "".join(f'<p class="note">{_text(fact)}</p>' for fact in facts if fact)
    return f"<details><summary>{_text(summary)}</summary>{lines}</details>\n" if lines else ""


def lead(text: str) -> str:
    """Give the sentence that a section is read for."""
    return f'<p class="lead">{_text(text)}</p>\n'


def _text(plain: str) -> str:
    return html.escape(visible(plain, kept="\n\t"))


def _cell(text: str, *, sign: bool) -> str:
    shown = _text(text)
    if text[:1].isalpha():  # the name of a combination may break after a plus, a number may not
        shown = shown.replace("+", "+<wbr>")
    kind = {"+": "up", "-": "down"}.get(text[:1]) if sign and text not in _NO_CHANGE else None
    return f'<td class="{kind}">{shown}</td>' if kind else f"<td>{shown}</td>"
