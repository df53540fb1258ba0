"""A stand-in for llama-server: it tells what it was given, and behaves as badly as asked."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

_PROGRAM = f"""#!{sys.executable}
import http.server, json, os, signal, sys

mood = open(sys.argv[0] + ".mood").read()
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
environment = {{name: value for name, value in os.environ.items() if name.startswith("LLAMA_")}}
if mood == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
with open(sys.argv[0] + ".part", "w") as file:
    json.dump([given, environment, os.getpid()], file)
os.rename(sys.argv[0] + ".part", sys.argv[0] + ".json")
if mood == "refuses":
    sys.exit("error: invalid argument: --fit")
if mood == "crashes":
    os.kill(os.getpid(), signal.SIGSEGV)
last = {{"sick": 500, "slow": 503}}.get(mood, 200)
answers = [503, 503, last]

class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        key = self.headers["Authorization"] == "Bearer " + os.environ["LLAMA_API_KEY"]
        right = key and self.path == "/v1/completions" and asked["max_tokens"] == 1
        self.send_response((answers.pop(0) if answers else last) if right else 400)
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"sick")

http.server.HTTPServer(("127.0.0.1", int(given["--port"])), Handler).serve_forever()
"""


class StandIn:
    """An executable file; `mood`: good, refuses, crashes, sick, slow (loads for ever) or stubborn (never stops)."""

    def __init__(self, path: Path, mood: str) -> None:
        self.path = path
        path.write_text(_PROGRAM)
        path.chmod(0o755)
        Path(f"{path}.mood").write_text(mood)

    def given(self) -> tuple[dict[str, str], dict[str, str], int]:
        """Its options with values, what of its environment begins with LLAMA_, its process id."""
        told = Path(f"{self.path}.json")
        deadline = time.monotonic() + 60
        while not told.exists():
            assert time.monotonic() < deadline, "it was not started"
            time.sleep(0.02)
        options, environment, pid = json.loads(told.read_text())
        return options, environment, pid

    def check_gone(self) -> None:
        """Fail unless its process ends soon."""
        pid = self.given()[2]
        deadline = time.monotonic() + 60
        while _lives(pid):
            assert time.monotonic() < deadline, "it goes on"
            time.sleep(0.02)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")  # an orphan may wait for an init that does not care
    try:
        return ") Z " not in status.read_text()
    except OSError:
        return not status.parent.parent.joinpath("self").exists()
