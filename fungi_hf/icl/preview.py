"""A prompt as people read it: who says what, what was left out, what it costs."""

from __future__ import annotations

import base64
import io
import wave
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fungi_hf.icl.prompt import Prompt


def preview(prompt: Prompt) -> str:
    """Return the messages, the rows kept and dropped, and the tokens, as text."""
    if prompt.is_overflow:
        return f"(no messages: the query alone is over the budget)\n{_tokens(prompt)}"
    blocks = [f"[{m['role']}]\n{_content(m['content'])}" for m in prompt.messages]
    rows = ", ".join(map(str, prompt.kept)) or "none"
    lines = [f"demonstrations: {len(prompt.kept)} kept, pool rows in prompt order: {rows}"]
    if prompt.dropped:
        drops = ", ".join(f"{drop.row} ({drop.reason})" for drop in prompt.dropped)
        lines.append(f"dropped: {len(prompt.dropped)}, nearest first: {drops}")
    if prompt.audio_s:
        lines.append(f"audio: {prompt.audio_s:.1f} s")
    return "\n".join([*blocks, "", *lines, _tokens(prompt)])


def _tokens(prompt: Prompt) -> str:
    budget = "no budget" if prompt.budget is None else f"budget {prompt.budget}"
    kind = "counted" if prompt.exact_count else "estimated"
    return f"tokens: {prompt.input_tokens} {kind}, {budget}"


def _content(content: object) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    return "\n".join(map(_part, parts))


def _part(part: object) -> str:
    if isinstance(part, dict) and part.get("type") == "input_audio":
        data = base64.b64decode(part["input_audio"]["data"])
        with wave.open(io.BytesIO(data)) as file:
            seconds = file.getnframes() / file.getframerate()
            return f"<audio {seconds:.2f} s at {file.getframerate()} Hz>"
    return str(part)
