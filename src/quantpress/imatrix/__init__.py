"""Importance matrices: how much each column of each weight matters, measured on text."""

from quantpress.imatrix.audit import Audit, Sparse, Statistics, audit, check_model, covered, show, statistics
from quantpress.imatrix.collect import imatrix, partial_path
from quantpress.imatrix.file import Imatrix, merge, read, write

__all__ = [
    "Audit",
    "Imatrix",
    "Sparse",
    "Statistics",
    "audit",
    "check_model",
    "covered",
    "imatrix",
    "merge",
    "partial_path",
    "read",
    "show",
    "statistics",
    "write",
]
