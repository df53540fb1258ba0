"""The pictures of a card: which type each tensor of a plan has, what an importance matrix saw, size against divergence,
speed; SVG, and PNG beside it.

They are cards with a light background of their own, since an SVG in an <img> cannot know which of a site's themes is on
and no ink reads well on white and on black. Text is drawn as paths of the font that comes with matplotlib: an <img>
loads no font, another font has other widths, and names would leave their cells. Same input, same bytes: fixed ids, no
date. matplotlib's object interface only, imported when a picture is drawn, because that takes a while.
"""

from quantpress.plots.coverage import coverage
from quantpress.plots.frontier import Point, frontier
from quantpress.plots.kinds import Kind, kind_of
from quantpress.plots.plan_map import plan_map
from quantpress.plots.speed import Speed, speed

__all__ = ["Kind", "Point", "Speed", "coverage", "frontier", "kind_of", "plan_map", "speed"]
