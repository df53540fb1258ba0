"""llama.cpp: the one place that loads its libraries.

Models are loaded and run in a child process only, which may die without taking ours along. `ggml.py` alone calls into
this process: the codec of libggml-base, which knows rows of numbers and no models.
"""

from quantpress.engine.build import about
from quantpress.engine.client import Engine
from quantpress.engine.devices import Hardware, hardware
from quantpress.engine.messages import ModelInfo, Scores, Tokens

__all__ = ["Engine", "Hardware", "ModelInfo", "Scores", "Tokens", "about", "hardware"]
