"""Results as tables, figures and one page."""

from fungi_hf.evaluation.report.neighbours import Shown, write_neighbours
from fungi_hf.evaluation.report.sections import build_report, write_report

__all__ = ["Shown", "build_report", "write_neighbours", "write_report"]
