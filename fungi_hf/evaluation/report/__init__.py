"""Results as tables, figures and one page."""

from fungi_hf.evaluation.report.sections import build_report, write_report

__all__ = ["build_report", "write_report"]
