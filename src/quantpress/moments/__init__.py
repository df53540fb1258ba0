"""Second moments of layer inputs: what an encoder needs to pay the error of one weight back by the next."""

from quantpress.moments.collect import Collection, collect
from quantpress.moments.file import InputMoments, Moments, beside, check_model, read
from quantpress.moments.merge import merge, merge_beside
from quantpress.moments.summary import InputSummary, holds_moments, summary

__all__ = [
    "Collection",
    "InputMoments",
    "InputSummary",
    "Moments",
    "beside",
    "check_model",
    "collect",
    "holds_moments",
    "merge",
    "merge_beside",
    "read",
    "summary",
]
