"""Which llama.cpp is installed, and how it was built. Asked in a child process, like everything of its library."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from quantpress.children import python_command
from quantpress.errors import EngineError

__all__ = ["about"]

_QUESTION = """
import json, os, sys
answer = os.fdopen(os.dup(1), "w"); os.dup2(2, 1)
import llama_cpp, llama_cpp.llama_cpp as llama
json.dump({
    "llama_cpp_python": llama_cpp.__version__,
    "llama_cpp": llama.llama_version().decode(),
    "system": llama.llama_print_system_info().decode().strip(" |"),
    "gpu_offload": bool(llama.llama_supports_gpu_offload()),
}, answer)
"""


def about() -> dict[str, Any]:
    """`llama_cpp_python` and `llama_cpp` versions, `system` (the CPU features built in), `gpu_offload`.

    Raises EngineError if the library does not load.
    """
    done = subprocess.run(python_command(_QUESTION), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise EngineError(f"llama-cpp-python does not load:\n{done.stderr.strip()[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found
