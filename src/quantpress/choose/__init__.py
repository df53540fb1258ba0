"""Which file of a release to take for a memory, and how to run it."""

from quantpress.choose.choice import CONTEXT, PREFERENCES, SPEED_BITS, SPEED_KLD, Choice, Neighbour, Side, choose

__all__ = ["CONTEXT", "PREFERENCES", "SPEED_BITS", "SPEED_KLD", "Choice", "Neighbour", "Side", "choose"]
