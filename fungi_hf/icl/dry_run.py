"""What a run would send and cost, known before the first request."""

from __future__ import annotations

from dataclasses import dataclass

from fungi_hf.icl.reply import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """What a run would send.

    Attributes:
        rows: Rows in all, repetitions included.
        cached: Rows that need no request: answered in the run folder or in the cache.
        requests: Requests to be sent, if none has to be repeated.
        input_tokens: Their input tokens.
        exact_count: The tokens were counted with the user's function, not estimated.
        max_output_tokens: The most output tokens that they may bill.
        dropped_demos: Demonstrations that do not fit.
        overflow_rows: Queries that do not fit even alone; nothing is sent for them.
        n_leaks: Queries whose own copies the leak guard removed.
        coverage: Share of rows whose gold label is shown; None without gold labels.
        audio_s: Seconds of audio, whose tokens no text count includes.
    """

    rows: int
    cached: int
    requests: int
    input_tokens: int
    exact_count: bool
    max_output_tokens: int
    dropped_demos: int
    overflow_rows: int
    n_leaks: int
    coverage: float | None
    audio_s: float = 0.0

    def cost(
        self,
        *,
        input: float,  # noqa: A002 - the word on every price list
        output: float,
        cached_input: float | None = None,
    ) -> float:
        """Give the most that the run can cost, retries aside; prices are per million tokens."""
        usage = Usage(input_tokens=self.input_tokens, output_tokens=self.max_output_tokens)
        return usage.cost(input=input, output=output, cached_input=cached_input)

    def __str__(self) -> str:
        kind = "counted" if self.exact_count else "estimated"
        coverage = "" if self.coverage is None else f"coverage        {self.coverage:.4f}\n"
        audio = f"audio           {self.audio_s:.1f} s, not in the tokens\n" if self.audio_s else ""
        return (
            f"rows            {self.rows}, {self.cached} answered already\n"
            f"requests        {self.requests}\n"
            f"input tokens    {self.input_tokens} ({kind})\n"
            f"output tokens   at most {self.max_output_tokens}\n"
            f"{audio}{coverage}"
            f"demonstrations  {self.dropped_demos} dropped; {self.overflow_rows} queries too long\n"
            f"leaks           {self.n_leaks} queries"
        )
