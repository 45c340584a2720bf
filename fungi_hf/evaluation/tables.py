"""Moved to `fungi_hf.evaluation.report.tables`; this path goes with the next release."""

from fungi_hf.evaluation.report.tables import group_results, render_text, result_table, sweep_table

__all__ = ["group_results", "render_text", "result_table", "sweep_table"]
