"""llama.cpp, always in a child process: the one place that loads its libraries."""

from quantpress.engine.build import about
from quantpress.engine.client import Engine
from quantpress.engine.messages import ModelInfo, Scores, Timing

__all__ = ["Engine", "ModelInfo", "Scores", "Timing", "about"]
