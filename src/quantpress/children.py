"""Python programs of ours in child processes, which import nothing from the current folder.

`python -c` and `python -m` look there first: a `json.py` beside a downloaded model would be executed. PYTHONSAFEPATH
would prevent that, but only from Python 3.11 on, and `-I` would drop PYTHONPATH too. So the child removes the entry
itself, before its first import of a module that is not built in.
"""

from __future__ import annotations

import sys

__all__ = ["python_command"]

_SAFE_PATH = "import sys; sys.path[:] = [folder for folder in sys.path if folder]\n"


def python_command(code: str, *arguments: str) -> list[str]:
    """The command that runs `code` in this interpreter; `arguments` are its `sys.argv[1:]`."""
    return [sys.executable, "-c", _SAFE_PATH + code, *arguments]
