"""Automatic bit allocation: for a given size, the type of each tensor that does the least damage.

candidates   which types each tensor may have and what they weigh
problem      groups, bytes, errors and a budget; `knapsack` solves it
damage       from errors to divergence, by scales that probes tell
measure      the divergence of a choice, in the memory of a resident model
probing      the scales: what an error of each group costs
search       from the knapsack's choice to neighbours that are measured to be better
target       what a plan is asked for, and how much measuring it is worth
allocate     all of it, and the gate
"""

from quantpress.allocation.allocate import Allocation, Gate, allocate
from quantpress.allocation.candidates import Constraints
from quantpress.allocation.target import Spend, Target, is_automatic, parse_spend, parse_target

__all__ = [
    "Allocation",
    "Constraints",
    "Gate",
    "Spend",
    "Target",
    "allocate",
    "is_automatic",
    "parse_spend",
    "parse_target",
]
