"""quantpress turns a checkpoint into a measured release of GGUF files.

The public functions have the names of the commands. Some modules have them too: `from quantpress.plan import Plan`
reaches into the module, `quantpress.plan(…)` is the function. `publish` and `pull` are imported from their modules, as
the Hub's library takes half a second.
"""

from quantpress.allocation import Allocation, Constraints, Spend, Target, allocate, parse_spend, parse_target
from quantpress.benchmark import Benchmark, benchmark
from quantpress.check import Finding, check
from quantpress.choose import Choice, choose
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
from quantpress.repair import Repair, repair
from quantpress.serve import Server, serve

__all__ = [
    "Allocation",
    "Benchmark",
    "Choice",
    "Constraints",
    "Engine",
    "Evaluation",
    "Finding",
    "Plan",
    "QuantpressError",
    "Repair",
    "Server",
    "Spend",
    "Target",
    "allocate",
    "benchmark",
    "check",
    "choose",
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
    "repair",
    "serve",
]
