"""The multiple-choice knapsack: one option for each item, bytes within a budget, the least sum of damages.

    minimise  Σ_i d_i(c_i)   subject to   Σ_i b_i(c_i) ≤ B

Given to HiGHS as it stands, 1,000 items × 20 options take more than its seconds before the first solution, and damages
over eight orders of magnitude vanish in its tolerances. So most of the problem is solved before it:

1. An option that is no smaller than another of its item and does no less damage is dropped.
2. The relaxation that may mix options is solved exactly, by taking the steps along each item's lower convex hull in the
   order of damage saved a byte. The first step that does not fit gives the price λ of a byte; the options before it are
   the base, with some room left. Steps that still fit are taken, then the best exchange of two options, again and again
   until none is better: the incumbent, with damage U (here and below relative to the base's).
3. Every choice does the damage L + Σ r + λ (bytes unused), where L = -λ room and r = Δd + λ Δb ≥ 0 is the reduced cost
   of each of its options, Δ against the base's. So L is a lower bound, and an option with r > U - L is in no better
   choice than the incumbent's. What is left, the core, is some tens or hundreds of the 20,000, all near to the best.
4. HiGHS solves the core as a mixed-integer program in the form of 3: its objective is the distance from L, 1,000 at the
   incumbent, so its tolerances are small against what is still to be decided.

What HiGHS returns is summed up again in integers, and taken only if it fits and is better than the incumbent; its dual
bound, or L, gives the gap. Dynamic programming over bytes, the textbook's way, would need a table of budget ÷ unit
(10^7 and more) columns for each item.

Source: E. Zemel, "The linear multiple choice knapsack problem" (1980), for 2; D. Pisinger, "A minimal algorithm for the
multiple-choice knapsack problem" (1995), for 3.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from quantpress.errors import PlanError

if TYPE_CHECKING:
    import highspy

__all__ = ["Solution", "solve"]

Integers = NDArray[np.int64]
Numbers = NDArray[np.float64]

_OBJECTIVE = 1e3  # HiGHS's objective at the incumbent
_LARGEST = 1 << 10  # coefficient of HiGHS's row of bytes: beyond, its tolerances are too coarse for the others
_OPTIONS = {
    "output_flag": False,
    "threads": 1,
    "random_seed": 0,
    "mip_rel_gap": 0.0,
    "mip_feasibility_tolerance": 1e-9,
    "primal_feasibility_tolerance": 1e-9,
    "dual_feasibility_tolerance": 1e-9,
}
_ROUNDING = 1e-12  # a relative difference that float64's rounding explains
_PROVEN = 1e-6  # of U - L: as near as HiGHS's bound comes to its optimum


@dataclass(frozen=True)
class Solution:
    """`choice`: the index of each item's option; `nbytes` and `damage`: their sums.

    `gap`: no choice does less damage than `damage * (1 - gap)`; 0: none does less, up to the rounding of floats.
    """

    choice: tuple[int, ...]
    nbytes: int
    damage: float
    gap: float


@dataclass(frozen=True)
class _Problem:
    """The options of all items in one row, without dominated ones, each item's in ascending bytes.

    `item` [options]; `index` [options], as the caller counts them; `first` [items]. A choice is [items], places in it.
    """

    nbytes: Integers
    damage: Numbers
    item: Integers
    index: Integers
    first: Integers

    def size(self, choice: Integers) -> int:
        return int(self.nbytes[choice].sum())

    def harm(self, choice: Integers) -> float:
        return math.fsum(self.damage[choice])


@dataclass(frozen=True)
class _Relaxed:
    """The base, the bytes that it leaves, the price of a byte (0 where there is no lack of them), the incumbent."""

    base: Integers
    room: int
    price: float
    incumbent: Integers


@dataclass(frozen=True)
class _Core:
    """The options, other than the base's, that may be in a better choice than the incumbent."""

    options: Integers  # [n], places in the problem
    item: Integers  # [n]
    step: Integers  # [n], Δbytes
    reduced: Numbers  # [n], reduced costs
    unit: int  # the steps' greatest common divisor; 0 without any
    low: float  # L, and the price of the room that is over when steps are in units
    width: float  # U - low


def solve(nbytes: Sequence[Integers], damage: Sequence[Numbers], budget: int, *, seconds: float = 1.0) -> Solution:
    """The choice of one option an item with the least damage among those of at most `budget` bytes.

    Args:
        nbytes: int64 [options] an item, 0 or more.
        damage: float [options] an item, finite, 0 or more.
        budget: bytes of all items together; more than the largest choice takes is no error.
        seconds: for HiGHS. When they are up, the best choice found is returned with its gap, and another run may find
            another; a choice without a gap is the same each time.

    Raises:
        PlanError: a budget below the smallest choice; an item without options; a damage that is no such number.
    """
    problem = _problem(nbytes, damage)
    smallest, largest = problem.size(problem.first), sum(int(np.max(sizes)) for sizes in nbytes)
    if budget < smallest:
        expected = f"{smallest:,} bytes (the smallest choice) to {largest:,} (the largest)"
        raise PlanError(None, "budget", expected=expected, found=f"{budget:,} bytes")
    relaxed = _relaxed(problem, budget)
    best, bound = relaxed.incumbent, problem.harm(relaxed.incumbent)
    if relaxed.price > 0:
        best, bound = _improved(problem, relaxed, budget, seconds)
    found = problem.harm(best)
    gap = max(0.0, 1 - bound / found) if found > 0 else 0.0
    choice = tuple(problem.index[best].tolist())
    return Solution(choice, problem.size(best), found, gap if gap > _ROUNDING else 0.0)


def _problem(nbytes: Sequence[Integers], damage: Sequence[Numbers]) -> _Problem:
    sizes, harms, kept = [], [], []
    for item, (b, d) in enumerate(zip(nbytes, damage, strict=True)):
        b, d = np.asarray(b, np.int64), np.asarray(d, np.float64)
        if b.shape != d.shape or b.ndim != 1 or not b.size or b.min() < 0:
            found = f"shapes {b.shape} and {d.shape}"
            raise PlanError(None, f"options of item {item}", expected="bytes and as many damages", found=found)
        if not (np.isfinite(d).all() and d.min() >= 0):
            raise PlanError(None, f"damage of item {item}", expected="finite numbers, 0 or more", found=d.tolist())
        kept.append(_undominated(b, d))
        sizes.append(b[kept[-1]])
        harms.append(d[kept[-1]])
    counts = np.array([index.size for index in kept], np.int64)
    none = np.zeros(0, np.int64)  # for no items at all
    return _Problem(
        nbytes=np.concatenate([none, *sizes]),
        damage=np.concatenate([none.astype(np.float64), *harms]),
        item=np.repeat(np.arange(counts.size), counts),
        index=np.concatenate([none, *kept]),
        first=np.cumsum(counts) - counts,
    )


def _undominated(nbytes: Integers, damage: Numbers) -> Integers:
    """The options that do less damage than all that are no larger, in ascending bytes; the first of equal ones."""
    order = np.lexsort((damage, nbytes))  # stable
    least = np.minimum.accumulate(damage[order])
    kept: Integers = order[np.r_[True, least[1:] < least[:-1]]].astype(np.int64)
    return kept


def _relaxed(problem: _Problem, budget: int) -> _Relaxed:
    """Take the hulls' steps by damage saved a byte; see the module's step 2."""
    taken = problem.first.copy()
    room = budget - problem.size(taken)
    base, left, price, stuck = None, 0, 0.0, set()
    for saved, item, option, cost in _steps(problem):
        if cost > room:
            if base is None:
                base, left, price = taken.copy(), room, saved
            stuck.add(item)
        elif item not in stuck:
            taken[item] = option
            room -= cost
    return _Relaxed(taken if base is None else base, room if base is None else left, price, taken)


def _steps(problem: _Problem) -> list[tuple[float, int, int, int]]:
    """(damage saved a byte, item, option, bytes more) for each step along each item's hull, the best first."""
    sizes, harms = problem.nbytes.tolist(), problem.damage.tolist()
    ends = [*problem.first[1:].tolist(), len(sizes)]
    steps = []
    for item, (start, end) in enumerate(zip(problem.first.tolist(), ends, strict=False)):
        hull = _hull(sizes, harms, start, end)
        for before, after in itertools.pairwise(hull):
            cost = sizes[after] - sizes[before]
            steps.append(((harms[before] - harms[after]) / cost, item, after, cost))
    return sorted(steps, key=lambda step: (-step[0], step[1], step[2]))


def _hull(b: list[int], d: list[float], start: int, end: int) -> list[int]:
    """The lower convex hull of points start … end - 1, which are in ascending b and descending d."""
    hull = [start]
    for j in range(start + 1, end):
        while len(hull) > 1:
            i, k = hull[-2], hull[-1]
            if (d[i] - d[k]) * (b[j] - b[k]) > (d[k] - d[j]) * (b[k] - b[i]):
                break
            hull.pop()
        hull.append(j)
    return hull


def _improved(problem: _Problem, relaxed: _Relaxed, budget: int, seconds: float) -> tuple[Integers, float]:
    """The best choice found and a lower bound of the damage; see the module's steps 2 to 4."""
    best = _exchanged(problem, relaxed.incumbent, budget)
    core, floor = _core(problem, relaxed, best), problem.harm(relaxed.base)
    if core.width <= _ROUNDING * problem.harm(best) or not core.unit:
        return best, problem.harm(best)
    if seconds <= 0:
        return best, floor + core.low
    chosen, distance, optimal = _highs(core, relaxed, seconds)
    found = relaxed.base.copy()
    found[core.item[chosen]] = core.options[chosen]
    if problem.size(found) <= budget and problem.harm(found) < problem.harm(best):
        best = found
    bound = floor + core.low + distance
    proven = optimal and problem.harm(best) - bound <= _PROVEN * core.width + _ROUNDING * problem.harm(best)
    return best, problem.harm(best) if proven else bound


def _exchanged(problem: _Problem, choice: Integers, budget: int) -> Integers:
    """The choice after the best change of one or two items' options that fits, until none does less damage."""
    harm = problem.harm(choice)
    while True:
        step = problem.nbytes - problem.nbytes[choice][problem.item]
        gain = problem.damage - problem.damage[choice][problem.item]
        order = np.argsort(step, kind="stable")
        least = np.minimum.accumulate(gain[order])
        # the place in `order` of the least gain so far
        place = np.maximum.accumulate(np.where(gain[order] <= least, np.arange(order.size), 0))
        room = budget - problem.size(choice)
        fitting = np.searchsorted(step[order], room - step, side="right")
        partner = order[place[np.maximum(fitting - 1, 0)]]
        possible = (fitting > 0) & (problem.item[partner] != problem.item)
        at = int(np.argmin(np.where(possible, gain + gain[partner], 0)))
        changed = choice.copy()
        changed[problem.item[[at, partner[at]]]] = at, partner[at]
        if not possible[at] or not (found := problem.harm(changed)) < harm:
            return choice
        choice, harm = changed, found


def _core(problem: _Problem, relaxed: _Relaxed, incumbent: Integers) -> _Core:
    base = relaxed.base[problem.item]
    step = problem.nbytes - problem.nbytes[base]
    reduced = (problem.damage - problem.damage[base]) + relaxed.price * step
    # 0 or more on paper; what rounding took below it is taken off the bound
    low = -relaxed.price * relaxed.room + float(np.minimum.reduceat(reduced, problem.first).clip(max=0).sum())
    width = math.fsum(problem.damage[incumbent] - problem.damage[relaxed.base]) - low
    options = np.flatnonzero((reduced <= width * (1 + 1e-9)) & (np.arange(base.size) != base))
    unit = int(np.gcd.reduce(np.append(step[options], 0)))
    over = relaxed.price * (relaxed.room % unit) if unit else 0.0
    item, costs = problem.item[options], reduced[options].clip(min=0)
    return _Core(options, item, step[options], costs, unit, low + over, width - over)


def _highs(core: _Core, relaxed: _Relaxed, seconds: float) -> tuple[NDArray[np.bool_], float, bool]:
    """Solve the core: the options chosen [n], the bound's distance from `core.low`, and whether HiGHS has proven it."""
    import highspy  # here, because loading it takes a while and most commands solve nothing

    solver = highspy.Highs()
    for name, value in (*_OPTIONS.items(), ("time_limit", seconds)):
        solver.setOptionValue(name, value)
    solver.passModel(_model(core, relaxed))
    solver.run()
    values, info = np.asarray(solver.getSolution().col_value, np.float64), solver.getInfo()
    if values.size != core.options.size + 1:  # the time was up before the first solution
        values = np.zeros(core.options.size + 1)
    bound = max(0.0, info.mip_dual_bound) if math.isfinite(info.mip_dual_bound) else 0.0
    optimal = solver.getModelStatus() == highspy.HighsModelStatus.kOptimal
    return values[:-1] > 0.5, bound * core.width / _OBJECTIVE, optimal


def _model(core: _Core, relaxed: _Relaxed) -> highspy.HighsLp:
    """A column an option and, last, one for what is unused; a row an item (one option or the base's), one for bytes.

    The row of bytes is an equation, Σ step x + unused = room, in units of the steps' divisor times a power of two.
    """
    import highspy

    count, room = core.options.size, relaxed.room // core.unit
    steps, price = core.step / core.unit, relaxed.price * core.unit
    scale = 2.0 ** max(0, math.ceil(math.log2(np.abs(steps).max() / _LARGEST)))
    items, row = np.unique(core.item, return_inverse=True)
    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = count + 1, len(items) + 1
    lp.col_cost_ = np.append(core.reduced, price * scale) * (_OBJECTIVE / core.width)
    lp.col_lower_ = np.zeros(count + 1)
    lp.col_upper_ = np.append(np.ones(count), (core.width / price * (1 + 1e-9) + 1) / scale)
    lp.row_lower_ = np.append(np.full(len(items), -highspy.kHighsInf), room / scale)
    lp.row_upper_ = np.append(np.ones(len(items)), room / scale)
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    lp.a_matrix_.start_ = np.append(np.arange(count + 1) * 2, 2 * count + 1)
    lp.a_matrix_.index_ = np.append(np.stack([row, np.full(count, len(items))], 1), len(items))
    lp.a_matrix_.value_ = np.append(np.stack([np.ones(count), steps / scale], 1), 1.0)
    kinds = highspy.HighsVarType
    lp.integrality_ = [kinds.kInteger] * count + [kinds.kContinuous]
    return lp
