"""A served model, as its clients meet it: the official OpenAI client, and a shell that stops it.

Everything runs with llama-cpp-python's server, and with llama-server where there is one on the PATH.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from quantpress.chat import Template, render
from quantpress.convert import convert
from quantpress.engine import Engine
from quantpress.engine.server import ServerSettings
from quantpress.errors import EngineError, InputError, PlanError
from quantpress.gguf import read
from quantpress.memory import Footprint
from quantpress.serve import Server, choose_context, serve
from tests.convert.test_architectures import checkpoint
from tests.engine.stand_in import StandIn

serving = importlib.import_module("quantpress.serve")  # the package has a function of the name

KEY = "a-key-of-ours"
CONTEXT = 1536
HELLO: Any = [{"role": "user", "content": "Tell me about the sea."}]
PROGRAM = shutil.which("llama-server")


@pytest.fixture(scope="module", params=["llama-cpp-python", "llama-server"])
def server(request: pytest.FixtureRequest, bf16_gguf: Path) -> Iterator[Server]:
    if request.param == "llama-server" and PROGRAM is None:
        pytest.skip("there is no llama-server on the PATH")
    program = PROGRAM if request.param == "llama-server" else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving.shutil, "which", lambda name: program)
        with serve(bf16_gguf, port=0, api_key=KEY, context=CONTEXT, repack=False) as found:
            yield found


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.serving.base_url, api_key=KEY, max_retries=0, timeout=120) as found:
        yield found


@pytest.fixture
def library_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving.shutil, "which", lambda name: None)


def port_of(base_url: str) -> int:
    return int(base_url.rsplit(":", 1)[1].partition("/")[0])


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return True
    return False


def streamed(client: openai.OpenAI, **options: Any) -> tuple[str, str | None]:
    """The text and why it ends."""
    text, reason = "", None
    for event in client.chat.completions.create(model="any", messages=HELLO, stream=True, **options):
        for choice in event.choices:
            text += choice.delta.content or ""
            reason = choice.finish_reason or reason
    return text, reason


def test_chat_uses_the_models_template(client: openai.OpenAI, server: Server, bf16_gguf: Path) -> None:
    reply = client.chat.completions.create(model=server.serving.model, messages=HELLO, max_tokens=6)
    assert reply.model == server.serving.model == "demo-gemma3-BF16"
    assert reply.choices[0].message.content
    with read(bf16_gguf) as model:
        template = Template(bf16_gguf, model.get("tokenizer.chat_template"), "<bos>", "<eos>")
    (prompt,) = render(template, [HELLO], prompt=True)
    with Engine(bf16_gguf, vocab_only=True) as engine:
        tokens = engine.tokenize(prompt, add_special=False, parse_special=True)
    assert reply.usage is not None
    assert reply.usage.prompt_tokens == len(tokens)


def test_the_model_is_listed(client: openai.OpenAI, server: Server) -> None:
    assert [model.id for model in client.models.list()] == [server.serving.model]


def test_a_stream_comes_in_pieces(client: openai.OpenAI) -> None:
    events = list(client.chat.completions.create(model="any", messages=HELLO, max_tokens=12, stream=True))
    assert len(events) > 4
    assert [choice.finish_reason for event in events for choice in event.choices][-1] in ("length", "stop")


def test_a_wrong_key_is_refused(server: Server) -> None:
    for key in ("wrong", KEY + "x", KEY[:-1]):
        with openai.OpenAI(base_url=server.serving.base_url, api_key=key, max_retries=0) as stranger:
            with pytest.raises(openai.AuthenticationError) as refused:
                stranger.chat.completions.create(model="any", messages=HELLO, max_tokens=2)
            assert refused.value.status_code == 401


def test_no_request_is_cut_off_by_another(client: openai.OpenAI) -> None:
    ends: list[str | None] = []

    def plain() -> None:
        reply = client.chat.completions.create(model="any", messages=HELLO, max_tokens=40)
        ends.append(reply.choices[0].finish_reason)

    def stream() -> None:
        ends.append(streamed(client, max_tokens=40)[1])

    threads = [threading.Thread(target=target) for target in (stream, plain, stream, plain)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ends) == 4
    assert set(ends) <= {"length", "stop"}


def test_a_reply_does_not_depend_on_earlier_prompts(client: openai.OpenAI, data: Path) -> None:
    """A cache as long as the sliding window has forgotten the middle of a long prompt."""
    prose = (data / "prose.txt").read_text()[:3000]
    prompt = prose[:1000] + " The end of it was that"

    def reply() -> str:
        done = client.completions.create(model="any", prompt=prompt, max_tokens=12, temperature=0)
        return done.choices[0].text

    first = reply()
    for _ in range(2):  # with llama-server, one for each slot
        client.completions.create(model="any", prompt=prose, max_tokens=1)
    assert reply() == first


def test_a_prompt_that_is_too_long_is_told(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "word " * 4 * CONTEXT}]
    with pytest.raises(openai.BadRequestError, match="context"):
        client.chat.completions.create(model="any", messages=messages, max_tokens=2)
    with pytest.raises(openai.APIError, match="context"):
        list(client.chat.completions.create(model="any", messages=messages, max_tokens=2, stream=True))
    assert streamed(client, max_tokens=2)[1]


def test_a_client_that_leaves_holds_up_nobody(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(model="any", messages=HELLO, max_tokens=CONTEXT - 100, stream=True)
    next(iter(stream))
    stream.close()
    assert streamed(client, max_tokens=2)[1]


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc")
def test_the_key_is_no_argument(server: Server) -> None:
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not any(KEY.encode() in command for command in commands)


@pytest.mark.usefixtures("library_only")
def test_its_death_is_told_and_leaves_nothing(bf16_gguf: Path) -> None:
    with serve(bf16_gguf, port=0, context=512) as server:
        os.kill(server.process.pid, signal.SIGSEGV)
        with pytest.raises(EngineError, match=r"demo-gemma3-BF16\.gguf: .* was killed by SIGSEGV.*try --no-repack"):
            server.wait()
    assert is_free(port_of(server.serving.base_url))


class Terminal:
    """`quantpress serve` as a user runs it; its standard output as far as it was read."""

    def __init__(self, *arguments: str | Path, path: Path | str = "") -> None:
        command = [sys.executable, "-m", "quantpress.cli", "serve", *map(str, arguments)]
        environment = {
            **os.environ,
            "PATH": str(path),
            "PYTHONUNBUFFERED": "1",
            "SEED": "no number",
            "LOGITS_ALL": "no",
        }
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment)
        self.output = ""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def read_to(self, end: str) -> str:
        assert self.process.stdout is not None
        while end not in self.output:
            line = self.process.stdout.readline()
            assert line, self.process.communicate()[1]
            self.output += line
        return self.output

    def ended(self, code: int) -> str:
        """Its messages, once it has ended with that exit code."""
        output, errors = self.process.communicate(timeout=60)
        self.output += output
        assert self.process.returncode == code, errors
        assert "Traceback" not in errors
        return errors


def test_it_says_how_to_connect_and_stops_when_asked(bf16_gguf: Path) -> None:
    with Terminal(bf16_gguf, "--port", "0", "--no-repack", "--memory", "25MB") as terminal:
        text = terminal.read_to("Ctrl-C stops it.")
        base_url = next(line.split()[-1] for line in text.splitlines() if "model.base_url" in line)
        assert f"is served at {base_url} by llama-cpp-python" in text
        assert "would take" in text
        assert "of memory, and there are 25.00 MB" in text
        for line in (
            "hermes config set model.provider custom",
            "hermes config set model.default demo-gemma3-BF16",
            "api_key    any text",
            "one at a time, others wait",
            "the model's own",
        ):
            assert f"  {line}" in text or line in text
        with openai.OpenAI(base_url=base_url, api_key="any", max_retries=0) as client:
            assert streamed(client, max_tokens=2)[1]
        for origin, admitted in (("https://example.org", False), ("http://localhost:3000", True)):
            request = urllib.request.Request(f"{base_url}/models", headers={"Origin": origin})  # noqa: S310
            with urllib.request.urlopen(request) as answer:  # noqa: S310
                assert (answer.headers["Access-Control-Allow-Origin"] == origin) is admitted
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.ended(0).splitlines() == [f"{bf16_gguf}: loading"]
        assert is_free(port_of(base_url))


def test_two_signals_stop_it_at_once(bf16_gguf: Path) -> None:
    with Terminal(bf16_gguf, "--port", "0", "--no-repack", "--json", "--quiet", "--api-key", KEY) as terminal:
        serving = json.loads(terminal.read_to("\n}\n"))
        assert serving["key"] is True
        assert KEY not in terminal.output
        with openai.OpenAI(base_url=serving["base_url"], api_key=KEY, max_retries=0, timeout=60) as client:
            stream = client.chat.completions.create(model="any", messages=HELLO, max_tokens=1900, stream=True)
            next(iter(stream))
            terminal.process.send_signal(signal.SIGTERM)
            terminal.process.send_signal(signal.SIGINT)
            assert terminal.ended(0) == ""
        assert is_free(port_of(serving["base_url"]))


def test_it_can_be_interrupted_while_it_loads(bf16_gguf: Path, tmp_path: Path) -> None:
    program = StandIn(tmp_path / "llama-server", "slow")
    with Terminal(bf16_gguf, "--port", "0", "--api-key", KEY, path=tmp_path) as terminal:
        program.given()
        terminal.process.send_signal(signal.SIGINT)
        assert "interrupted" in terminal.ended(130)
    program.check_gone()


def test_it_does_not_outlive_its_parent(bf16_gguf: Path, tmp_path: Path) -> None:
    program = StandIn(tmp_path / "llama-server", "good")
    with Terminal(bf16_gguf, "--port", "0", "--api-key", KEY, path=tmp_path) as terminal:
        text = terminal.read_to("Ctrl-C stops it.")
        assert f"by {program.path}" in text
        assert "2 side by side, others wait" in text
        terminal.process.kill()
        program.check_gone()


def test_a_port_that_is_taken_is_an_error(bf16_gguf: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with Terminal(bf16_gguf, "--port", str(port)) as terminal:
            assert f"quantpress: 127.0.0.1 port {port}: expected a free port" in terminal.ended(2)


@pytest.mark.usefixtures("library_only")
def test_what_cannot_be_served_is_refused(bf16_gguf: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(InputError, match=r"broken\.gguf"):
        serve(broken, port=0)
    with pytest.raises(InputError, match="absent"):
        serve(tmp_path / "absent.gguf", port=0)
    renamed = tmp_path / "renamed.gguf"
    renamed.write_bytes(bf16_gguf.read_bytes().replace(b"blk.3.ffn_up.weight", b"blk.3.ffn_xx.weight"))
    with pytest.raises(EngineError, match=r"(?s)renamed\.gguf: .*blk\.3\.ffn_up\.weight' not found"):
        serve(renamed, port=0)
    embeds = convert(checkpoint("bert", tmp_path), tmp_path / "bert.gguf")
    with pytest.raises(InputError, match=r"expected a model that writes texts, found one that embeds them \(bert\)"):
        serve(embeds, port=0)
    with pytest.raises(InputError, match="parallel: expected 1 with llama-cpp-python's server, found 2"):
        serve(bf16_gguf, port=0, parallel=2)


def test_the_context_is_the_most_that_fits(bf16_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With numbers that are easy to see: 1,000 bytes, and a byte a token."""

    def fake(model: object, *, context: int, cache_type: str, outputs: int) -> Footprint:
        return Footprint(900, context, 99, outputs, context, cache_type)

    monkeypatch.setattr(serving, "footprint", fake)
    with read(bf16_gguf) as model:

        def chosen(memory: int, **options: Any) -> tuple[int, str]:
            found, why = choose_context(model, memory, **options)
            return found.context, why

        assert chosen(3048) == (2048, "all that the model was trained on")
        assert chosen(3047) == (1024, "2,048 would take 3.05 kB of memory, and there are 3.05 kB")
        assert chosen(2023) == (512, "1,024 would take 2.02 kB of memory, and there are 2.02 kB")
        assert chosen(2024, parallel=2)[0] == 512
        assert chosen(1700, context=700) == (700, "as asked")
        with pytest.raises(PlanError, match=r"expected at least 1\.51 kB for a context of 512 tokens"):
            chosen(1511)
        with pytest.raises(PlanError, match=r"at least 2\.02 kB for a context of 512 tokens for each of 2 requests"):
            chosen(2023, parallel=2)
        with pytest.raises(PlanError, match=r"expected at least 1\.70 kB for a context of 700 tokens"):
            chosen(1699, context=700)
        with pytest.raises(PlanError, match=r"context: expected 1 to 2,048 tokens.*found 4,096"):
            chosen(9000, context=4096)


def test_of_a_release_the_file_is_chosen(bf16_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[ServerSettings] = []
    monkeypatch.setattr(serving.shutil, "which", lambda name: "/opt/llama server")
    monkeypatch.setattr(serving, "ServerProcess", lambda settings, url: given.append(settings))
    folder = tmp_path / "a release"
    folder.mkdir()
    (folder / "odd, name-BF16.gguf").symlink_to(bf16_gguf)
    found = serve(folder, port=0, memory=1 << 30, cache_type="q8_0", threads=3, gpu_layers=-1).serving
    (settings,) = given
    assert settings.file == found.file == str(folder / "odd, name-BF16.gguf")
    assert (settings.name, found.model) == ("odd-name-BF16", "odd-name-BF16")
    assert (settings.cache_type, settings.threads, settings.gpu_layers, settings.parallel) == ("Q8_0", 3, -1, 2)
    assert (settings.program, found.tool_calls) == ("/opt/llama server", True)
