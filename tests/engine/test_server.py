"""llama-server as the child runs it, with a stand-in for it, and the ways in which it can end."""

from __future__ import annotations

import os
import signal
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jinja2.exceptions import SecurityError
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from quantpress.engine.server import GRACE, ServerSettings, program_command
from quantpress.engine.serving import ServerProcess
from quantpress.errors import EngineError
from tests.engine.stand_in import StandIn


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def settings(program: StandIn | None, **changes: Any) -> ServerSettings:
    found = ServerSettings(
        file="/models/a b.gguf", name="a-b", host="127.0.0.1", port=free_port(), api_key="secret", context=4096,
        cache_type="Q8_0", cache_type_id=8, threads=3, gpu_layers=-1, parallel=2, repack=False,
        program=str(program and program.path),
    )  # fmt: skip
    return replace(found, **changes)


def start(found: ServerSettings) -> ServerProcess:
    return ServerProcess(found, f"http://127.0.0.1:{found.port}/v1")


def test_it_gets_what_was_counted_and_no_other_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_ARG_TOOLS", "all")
    program = StandIn(tmp_path / "llama server", "good")
    server = start(settings(program))
    options, environment, _ = program.given()
    server.close()
    program.check_gone()
    assert environment == {"LLAMA_API_KEY": "secret"}
    for name, value in (("--model", "/models/a b.gguf"), ("--ctx-size", "8192"), ("--parallel", "2")):
        assert options[name] == value
    assert (options["--cache-type-k"], options["--cache-type-v"], options["--n-gpu-layers"]) == ("q8_0", "q8_0", "all")


def test_the_command_line() -> None:
    command = program_command(settings(None), "llama-server")
    assert "--no-repack" in command
    assert not {"secret", "--cors-origins"} & set(command)
    command = program_command(settings(None, api_key=None, repack=True, gpu_layers=0), "llama-server")
    assert {"--repack", "--cors-origins"} <= set(command)


def test_one_that_does_not_stop_is_ended(tmp_path: Path) -> None:
    program = StandIn(tmp_path / "llama-server", "stubborn")
    server = start(settings(program))
    begun = time.monotonic()
    server.stop()
    server.wait()
    assert time.monotonic() - begun > GRACE / 2
    program.check_gone()
    server.close()


def test_told_twice_it_ends_at_once(tmp_path: Path) -> None:
    program = StandIn(tmp_path / "llama-server", "stubborn")
    server = start(settings(program))
    server.stop()
    server.stop()
    server.wait()
    assert server.pid
    server.close()
    program.check_gone()


def test_if_our_child_is_killed_the_program_is_too(tmp_path: Path) -> None:
    program = StandIn(tmp_path / "llama-server", "good")
    server = start(settings(program))
    os.kill(server.pid, signal.SIGKILL)
    with pytest.raises(EngineError, match=r"a b\.gguf: the server was killed by SIGKILL"):
        server.wait()
    server.close()
    program.check_gone()


@pytest.mark.parametrize(
    ("mood", "message"),
    [
        ("refuses", r"(?s)exited with status 1.*invalid argument: --fit"),
        ("crashes", r"was killed by SIGSEGV\Z"),
        ("sick", r"cannot complete a text: .*sick"),
    ],
)
def test_one_that_does_not_start_is_one_clear_error(tmp_path: Path, mood: str, message: str) -> None:
    program = StandIn(tmp_path / "llama-server", mood)
    with pytest.raises(EngineError, match=message):
        start(settings(program))
    program.check_gone()


def test_a_crash_with_repacked_weights_has_a_hint(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"SIGSEGV.*--no-repack"):
        start(settings(StandIn(tmp_path / "llama-server", "crashes"), repack=True))


def test_no_program_is_one_clear_error(tmp_path: Path) -> None:
    found = replace(settings(StandIn(tmp_path / "llama-server", "good")), program=str(tmp_path / "absent"))
    with pytest.raises(EngineError, match=r"(?s)exited with status 1.*absent"):
        start(found)


@pytest.mark.parametrize("template", ["{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ messages.append(1) }}"])
def test_llama_cpp_pythons_templates_are_in_a_sandbox(template: str) -> None:
    formatter = Jinja2ChatFormatter(template=template, eos_token="", bos_token="")
    with pytest.raises(SecurityError):
        formatter(messages=[])
