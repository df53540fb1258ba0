"""Two pictures for the card, as SVG: which type each tensor of a plan has, and size against divergence.

They are cards with a light background of their own, since an SVG in an <img> cannot know which of a site's themes is on
and no ink reads well on white and on black. Text is drawn as paths of the font that comes with matplotlib: an <img>
loads no font, another font has other widths, and names would leave their cells. Same input, same bytes: fixed ids, no
date. matplotlib's object interface only, imported when a picture is drawn, because that takes a while.
"""

from quantpress.plots.frontier import Point, frontier
from quantpress.plots.plan_map import plan_map

__all__ = ["Point", "frontier", "plan_map"]
