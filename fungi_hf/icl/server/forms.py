"""What other servers send where something is wrong, or said in other words: a table of faults.

Each form is one that a public server, proxy or gateway sends; `FakeOpenAIServer(faults=...)` plays
them. The words stand where a client has to read them, the rest is left out.
"""

from __future__ import annotations

import json
from typing import Any, Final

from fungi_hf.icl.server.fake_server import Fault


def _said(status: int, body: Any) -> Fault:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Fault(status=status, body=data)


def _error(code: int, message: str, /, **more: Any) -> Fault:
    return _said(code, {"error": {"message": message, **more}})


def answer(content: Any, finish_reason: Any = "stop", **choice: Any) -> Fault:
    """Give a completion with a message's content and the reason of its end as they are."""
    message = {"role": "assistant", "content": content}
    one = {"index": 0, "message": message, "finish_reason": finish_reason, **choice}
    usage = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
    return _said(200, {"object": "chat.completion", "choices": [one], "usage": usage})


# Errors in an answer with status 200.
INSIDE: Final = {
    "gateway error": _said(200, {"error": {"code": 502, "message": "upstream broke"}}),
    "rate limit": _said(200, {"error": {"code": 429, "message": "slow down"}}),
    "rate limit, as text": _said(200, {"error": {"code": "429", "message": "slow down"}}),
    "error without a code": _said(200, {"error": {"message": "something"}}),
    "error as a text": _said(200, {"error": "something broke"}),
    "no choices": _said(200, {"object": "chat.completion"}),
    "empty choices": _said(200, {"choices": []}),
    "choices null": _said(200, {"choices": None}),
    "ended with an error": answer(None, "error"),
    "error of a choice": answer("", "stop", error={"code": 503, "message": "overloaded"}),
    "a list": _said(200, [1]),
    "not JSON": _said(200, b"data: [DONE]"),
    "nothing": _said(200, b""),
}
UNPAID: Final = {
    "payment": _said(200, {"error": {"code": 402, "message": "no credits left"}}),
    "payment, plain": _error(402, "Insufficient Balance"),
    "quota": _said(200, {"error": {"code": "insufficient_quota", "message": "spent"}}),
}
BLOCKED: Final = {
    "empty with a reason": _said(
        200, {"choices": [], "promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}
    ),
    "none with a filter": _said(
        200,
        {
            "choices": [],
            "prompt_filter_results": [{"content_filter_results": {"hate": {"filtered": True}}}],
        },
    ),
    "policy": _error(
        400,
        "The response was filtered due to the prompt triggering a content management policy.",
        code="content_filter",
        innererror={"code": "ResponsibleAIPolicyViolation"},
    ),
    "proxy": _error(400, "litellm.ContentPolicyViolationError: blocked by the safety system"),
    "moderation, 403": _error(403, "Your input was flagged by the content moderation"),
    "safety": answer(None, "SAFETY"),
    "recitation": answer(None, "RECITATION"),
    "refusal part": answer([{"type": "refusal", "refusal": "I cannot help with that."}]),
}
TOO_LONG: Final = {
    "vLLM": _error(
        400,
        "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens "
        "in the messages. Please reduce the length of the messages.",
        type="BadRequestError",
        code=400,
    ),
    "vLLM, newer": _error(
        400,
        "The decoder prompt (length 5000) is longer than the maximum model length of 4096. Make "
        "sure that `max_model_len` is no smaller than the number of text tokens.",
    ),
    "llama.cpp": _error(
        400,
        "the request exceeds the available context size, try increasing it",
        code=400,
        type="exceed_context_size_error",
    ),
    "LM Studio": _said(
        400,
        {
            "error": "Trying to keep the first 5000 tokens when context the overflows. However, "
            "the model is loaded with context length of only 4096 tokens, which is not enough."
        },
    ),
    "LiteLLM": _error(400, "litellm.ContextWindowExceededError: prompt is too long"),
    "Gemini": _error(
        400,
        "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
        status="INVALID_ARGUMENT",
    ),
    "Anthropic": _error(400, "prompt is too long: 210000 tokens > 200000 maximum"),
    "OpenAI": _error(400, "too long", code="context_length_exceeded"),
    "plain 413": _said(413, b"Request Entity Too Large"),
    "plain 422": _said(422, {"detail": "Input validation error: too many tokens"}),
}
# Complete answers of the label "top up", in other forms.
COMPLETE: Final = {
    "parts": answer([{"type": "text", "text": "top "}, {"type": "text", "text": "up"}]),
    "thinking parts": answer(
        [
            {"type": "thinking", "thinking": "card arrival or exchange rate?"},
            {"type": "text", "text": "top up"},
        ]
    ),
    "output text": answer([{"type": "output_text", "text": "top up"}]),
    "bare strings": answer(["top up"]),
    "thoughts": answer("<think>card arrival? exchange rate?</think>\n\ntop up"),
    "thoughts of a template": answer("Is it card arrival? No.\n</think>\ntop up"),
    "bracketed thoughts": answer("[THINK]card arrival or top up[/THINK]top up"),
    "channel": answer(
        "<|channel|>analysis<|message|>card arrival?<|end|><|start|>assistant<|channel|>final"
        "<|message|>top up"
    ),
    "reasons, then a label": answer(
        "It could be card arrival.\nIt could be an exchange rate.\nLabel: top up"
    ),
    "reasons, bold label": answer("First card arrival came to mind.\n\n**Answer:** top up"),
    **{
        f"ended by {word}": answer("top up", word)
        for word in ("eos_token", "stop_sequence", "end_turn", "STOP", "eos", "COMPLETE")
    },
    "no reason of its end": answer("top up", None),
    "as plain text": answer("top up"),
}
CUT: Final = {
    **{
        f"ended by {word}": answer("top", word)
        for word in ("length", "MAX_TOKENS", "model_length", "max_tokens")
    },
    "open thoughts": answer("<think>Let me see. card arrival", "stop"),
}
USAGE: Final = {
    "input_tokens": {"input_tokens": 700, "output_tokens": 5},
    "floats": {"prompt_tokens": 700.0, "completion_tokens": 5.0},
}
UNREPORTED: Final = {
    "null": None,
    "empty": {},
    "nulls": {"prompt_tokens": None, "completion_tokens": None},
    "output alone": {"completion_tokens": 5},
}
