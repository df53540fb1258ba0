"""quantpress turns a checkpoint into a measured release of GGUF files.

The public functions have the names of the commands. Some modules have them too: `from quantpress.plan import Plan`
reaches into the module, `quantpress.plan(…)` is the function.
"""

from quantpress.allocation import Allocation, Constraints, Spend, Target, allocate, parse_spend, parse_target
from quantpress.codec import decode, encode, error
from quantpress.convert import convert
from quantpress.engine import Engine
from quantpress.errors import QuantpressError
from quantpress.evaluate import Evaluation, evaluate
from quantpress.imatrix import imatrix
from quantpress.inspection import info, inspect
from quantpress.plan import Plan, plan
from quantpress.quantize import quantize
from quantpress.release import release

__all__ = [
    "Allocation",
    "Constraints",
    "Engine",
    "Evaluation",
    "Plan",
    "QuantpressError",
    "Spend",
    "Target",
    "allocate",
    "convert",
    "decode",
    "encode",
    "error",
    "evaluate",
    "imatrix",
    "info",
    "inspect",
    "parse_spend",
    "parse_target",
    "plan",
    "quantize",
    "release",
]
