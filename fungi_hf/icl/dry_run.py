"""What a run would send and cost, said before anything is sent."""

from __future__ import annotations

from dataclasses import dataclass

from fungi_hf.icl.reply import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """What a run would send."""

    rows: int  # rows in all, repetitions included
    cached: int  # rows that need no request: answered in the run folder or in the cache
    requests: int  # requests to be sent, if none has to be repeated
    input_tokens: int  # their input tokens
    exact_count: bool  # the tokens were counted with the user's function, not estimated
    max_output_tokens: int  # the most output tokens that they may bill
    dropped_demos: int  # demonstrations that do not fit
    overflow_rows: int  # queries that do not fit even alone; nothing is sent for them
    n_leaks: int  # queries whose own copies the leak guard removed
    coverage: float | None  # share of rows whose gold label is shown; None without gold labels
    audio_s: float = 0.0  # seconds of audio, whose tokens no text count includes

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
