"""Repositories of GGUF files on a Hub that runs here: the local answer, from headers alone."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import huggingface_hub.constants
import huggingface_hub.file_download
import pytest
from huggingface_hub.utils import close_session

import quantpress.download
import quantpress.remote
from quantpress import gguf
from quantpress.choose import Choice, choose
from quantpress.errors import CheckpointError, GGUFError, HubError, InputError, QuantpressError
from quantpress.gguf import GGUF, Writer
from quantpress.gguf.parser import IncompleteError, parse, parse_start
from quantpress.remote import opened
from tests.choose.test_choice import MODULE, ROWS, once, quantized_files, write_results
from tests.hub_server import Handler, Hub, fresh_library, serving

ID = "acme/Demo-Gemma3-GGUF"
LOCAL = ("release", "commands", "notes")  # what a repository's answer says otherwise
FIRST = 1 << 12  # bytes that are asked for first, so that a header takes several requests


class _WithoutRevision(Handler):
    """It answers about a repository also where no revision is asked for: main."""

    def _answer(self) -> None:
        if urlsplit(self.path).path == f"/api/models/{ID}":
            self.path = f"/api/models/{ID}/revision/main?blobs=True"
        super()._answer()


@pytest.fixture(autouse=True)
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """huggingface_hub with an empty cache, nobody logged in and no patience; llama.cpp asked once a question."""
    fresh_library(monkeypatch, tmp_path / "home", timeout=10, first=FIRST)
    monkeypatch.setattr(quantpress.remote, "_FIRST", FIRST)
    monkeypatch.setattr(MODULE, "buffers", once)
    yield
    close_session()


@pytest.fixture(scope="module")
def quantized(bf16_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quantized_files(bf16_gguf, tmp_path_factory.mktemp("remote"))


@pytest.fixture
def folder(quantized: Path, tmp_path: Path) -> Path:
    """Files that nobody measured."""
    return Path(shutil.copytree(quantized, tmp_path / "files"))


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Hub]]:
    """`serve(main=folder, …)` is a running Hub with these branches."""
    with contextlib.ExitStack() as stack:

        def start(**revisions: Path) -> Hub:
            hub = stack.enter_context(serving(Hub(ID, revisions), _WithoutRevision))
            monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.endpoint)
            template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
            monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
            monkeypatch.setattr(huggingface_hub.file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
            return hub

        yield start


def header_bytes(path: Path) -> int:
    with gguf.read(path) as model:
        return min(tensor.offset for tensor in model.tensors.values() if tensor.part == 0)


def answer(choice: Choice) -> dict[str, Any]:
    return {name: value for name, value in choice.to_dict().items() if name not in LOCAL}


def split(source: Path, folder: Path) -> tuple[Path, ...]:
    """The model in parts, in a folder of their own."""
    (folder / source.stem).mkdir(parents=True)
    path = folder / source.stem / source.name
    with gguf.read(source) as model, Writer(path, model.metadata, model.tensors.values(), 5_000_000) as writer:
        for name in model.tensors:
            writer.write(name, 0, model.data(name))
    return writer.paths


# The same answer


@pytest.mark.parametrize("measured", [False, True])
def test_the_local_answer_from_few_bytes(measured: bool, folder: Path, serve: Callable[..., Hub]) -> None:
    """For every file as the choice, and with a GPU: the header of the chosen one and at most two more are fetched."""
    if measured:
        write_results(folder, speed=True)
    hub, header = serve(main=folder), max(map(header_bytes, folder.glob("demo-*.gguf")))
    everything = choose(folder, memory=1 << 40)
    limits: list[dict[str, Any]] = [
        {"memory": everything.memory.needed - less} for less in (0, 1, 2 * 10**6, 3 * 10**6)
    ]
    limits += [{"memory": 1 << 40, "gpu": (1 << 30) + 16 * 10**6, "prefer": prefer} for prefer in ("quality", "speed")]
    files = set()
    for limit in limits:
        hub.answers.clear()
        found = choose(ID, **limit)
        assert answer(found) == answer(choose(folder, **limit))
        assert hub.sent(".gguf") <= 3 * 2 * header < everything.bytes / 8
        assert {one.range is not None for one in hub.answers if one.file.endswith(".gguf") and one.body} == {True}
        files.add(found.file)
    assert len(files) > 2


def test_a_release_that_quantpress_made_is_measured(folder: Path, serve: Callable[..., Hub]) -> None:
    serve(main=write_results(folder))
    found = choose(ID, memory=1 << 40)
    assert (found.file, found.kld_mean) == ("demo-gemma3-Q8_0.gguf", ROWS["Q8_0"][0])


def test_commands(folder: Path, serve: Callable[..., Hub]) -> None:
    """llama-server fetches the file by its path; of another revision by its address."""
    hub = serve(main=folder, old=folder)
    found = choose(ID, memory=1 << 40)
    words = " ".join(found.commands["llama-server"])
    assert words.startswith(f"llama-server -hf {ID} --hf-file {found.file} --no-mmproj -c 2048 -ngl 0 ")
    assert found.commands["pull"] == ["quantpress", "pull", ID, "--include", found.file]
    assert found.commands["quantpress"][2] == f"Demo-Gemma3-GGUF/{found.file}"
    old = choose(f"{ID}@old", memory=1 << 40)
    assert old.commands["llama-server"][1:3] == ["-mu", f"{hub.endpoint}/{ID}/resolve/old/{found.file}"]
    assert old.commands["pull"][2] == f"{ID}@old"
    assert any("4 of 5 files were judged by their size" in note for note in old.notes)


def test_split_models(bf16_gguf: Path, tmp_path: Path, serve: Callable[..., Hub]) -> None:
    """The header of each part is read, its tensors are in it."""
    parts = split(bf16_gguf, tmp_path / "repository")
    hub = serve(main=tmp_path / "repository")
    found = choose(ID, memory=1 << 40)
    assert answer(found) == answer(choose(tmp_path / "repository", memory=1 << 40))
    assert found.bytes == sum(part.stat().st_size for part in parts)
    assert hub.sent(".gguf") < found.bytes / 10
    assert found.commands["pull"][-1] == "demo-gemma3-BF16/*"
    parts[1].unlink()
    with pytest.raises(GGUFError, match=r"part 2 of 3: expected a file, found none"):
        choose(ID, memory=1 << 40)


# Headers


def equal(one: GGUF, other: GGUF) -> bool:
    keys = [{key: repr(value) for key, value in model.metadata.items()} for model in (one, other)]
    return keys[0] == keys[1] and one.tensors == other.tensors and one.split == other.split


def test_a_header_is_that_of_the_file(folder: Path, serve: Callable[..., Hub]) -> None:
    hub = serve(main=folder)
    file = "demo-gemma3-Q4_K_M.gguf"
    there = opened(ID)
    with gguf.read(folder / file) as here:
        assert equal(there.header(file), here)
    header = header_bytes(folder / file)
    assert header <= hub.sent(file) <= 2 * header + FIRST
    assert len([one for one in hub.answers if one.body and one.file.endswith(file)]) > 2


def test_a_server_that_knows_no_ranges(folder: Path, serve: Callable[..., Hub]) -> None:
    hub = serve(main=folder)
    hub.ranges = False
    file = "demo-gemma3-Q2_K.gguf"
    with gguf.read(folder / file) as here:
        assert equal(opened(ID).header(file), here)


def test_a_file_from_its_start_alone(quantized: Path) -> None:
    """With one byte less than the header has, more are asked for; with it, nothing is."""
    path = quantized / "demo-gemma3-Q2_K.gguf"
    data, whole = path.read_bytes(), parse(path)
    header = header_bytes(path)
    last = header - 31  # the header ends with padding, of which nothing is read
    assert parse_start(path, data[:header], len(data)).tensors == whole.tensors
    for size in (4, 10, 100, 5000, header // 2, last - 40):
        with pytest.raises(IncompleteError) as caught:
            parse_start(path, data[:size], len(data))
        assert size < caught.value.needed <= header


# Failures


def refuses(kind: type[QuantpressError], *words: str, repository: str = ID) -> None:
    with pytest.raises(kind) as caught:
        choose(repository, memory=1 << 40)
    for word in words:
        assert word in str(caught.value)


def test_repositories_that_are_none(folder: Path, tmp_path: Path, serve: Callable[..., Hub]) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "README.md").write_text("nothing here")
    (tmp_path / "nothing").mkdir()
    hub = serve(main=folder, other=tmp_path / "other", nothing=tmp_path / "nothing")
    refuses(CheckpointError, "acme/none: repository: expected one that you may read", repository="acme/none")
    refuses(CheckpointError, "revision", "none named v9", repository=f"{ID}@v9")
    for revision in ("other", "nothing"):
        refuses(InputError, "files: expected GGUF files of a model, found none", repository=f"{ID}@{revision}")
    refuses(InputError, "revision", repository=f"{ID}@")
    refuses(CheckpointError, "repository", repository="acme/--x")
    hub.refusal = (403, "GatedRepo")
    refuses(CheckpointError, "a gated one")
    hub.refusal = (500, "")
    refuses(HubError, "no connection to")


def test_a_damaged_header(folder: Path, serve: Callable[..., Hub]) -> None:
    path = folder / "demo-gemma3-Q8_0.gguf"
    data = path.read_bytes()
    hub = serve(main=folder)
    for damaged, words in (
        (data[:8] + b"\xff" * 8 + data[16:], "number of tensors"),
        (b"PK" + data[2:], "magic"),
        (data[:30] + b"\xff" * 8 + data[38:], "key 0"),
    ):
        path.write_bytes(damaged)
        refuses(GGUFError, f"{ID}/{path.name}: ", words)
    assert hub.sent(path.name) <= 4 * FIRST  # nothing more of a file that is known to be damaged


def test_a_header_without_end(folder: Path, serve: Callable[..., Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantpress.remote, "_MOST", 4 * FIRST)
    serve(main=folder)
    refuses(GGUFError, "header: expected at most 16,384 bytes, found a longer one")


def test_results_that_are_damaged(folder: Path, serve: Callable[..., Hub]) -> None:
    serve(main=folder)
    (folder / "results.json").write_text("{")
    refuses(InputError, f"{ID}/results.json: file: expected JSON")
    (folder / "results.json").write_bytes(b"\xff")
    refuses(InputError, f"{ID}/results.json: encoding: expected UTF-8")


def test_a_connection_that_breaks_is_taken_up_again(folder: Path, serve: Callable[..., Hub]) -> None:
    hub = serve(main=folder)
    expected = answer(choose(ID, memory=1 << 40))
    hub.cuts = {expected["file"]: [100, 5000]}
    assert answer(choose(ID, memory=1 << 40)) == expected
