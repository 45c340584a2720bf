"""Moved to `fungi_hf.evaluation.report.documents`; this path goes with the next release."""

from fungi_hf.evaluation.report.documents import EvaluationDocument, read_documents, write_document

__all__ = ["EvaluationDocument", "read_documents", "write_document"]
