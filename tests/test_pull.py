"""Files from a Hub that runs here: which come, what is taken up again, and what has not the hash it should have."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
from typer.testing import CliRunner

import quantpress.download
import quantpress.pull
from quantpress.cli import app
from quantpress.errors import CheckpointError, DiskFullError, OutputError, QuantpressError
from quantpress.pull import pull
from tests.hub_server import Hub, serving

ID = "acme/Tiny-GGUF"
LARGE = 200_000
Q4, FIRST, SECOND = (
    "Tiny-Q4_K_M.gguf",
    "Tiny-BF16/Tiny-BF16-00001-of-00002.gguf",
    "Tiny-BF16/Tiny-BF16-00002-of-00002.gguf",
)

pytestmark = pytest.mark.usefixtures("hub_session")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A repository's files."""
    made = tmp_path / "remote"
    for name in (Q4, FIRST, SECOND):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_bytes(os.urandom(LARGE))
    (made / "README.md").write_text("---\n---\nQ4_K_M\n", encoding="utf-8")
    vouch(made, Q4, FIRST, SECOND, "README.md")
    return made


def vouch(folder: Path, *names: str) -> None:
    """Write the release.json of these files as they are."""
    files = {name: {"sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest()} for name in names}
    (folder / "release.json").write_text(json.dumps({"files": files}), encoding="utf-8")


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is logged in, and there is no patience."""
    constants, home = huggingface_hub.constants, tmp_path / "home"
    for name, path in {"HF_HOME": home, "HF_TOKEN_PATH": home / "token", "HF_STORED_TOKENS_PATH": home / "t"}.items():
        monkeypatch.setattr(constants, name, str(path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    monkeypatch.setattr(quantpress.download, "_WAIT", 0.0)


@pytest.fixture
def hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub with that repository."""
    with serving(Hub(ID, {"main": folder})) as running:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", running.endpoint)
        template = running.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(huggingface_hub.file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        yield running


def restart(hub: Hub) -> None:
    """The branch stands for what its folder holds now."""
    hub.__post_init__()
    hub.answers.clear()


def refuses(kind: type[QuantpressError], *words: str, include: str = "*", out: Path, repository: str = ID) -> None:
    with pytest.raises(kind) as caught:
        pull(repository, include=[include], out=out)
    for word in words:
        assert word in str(caught.value)


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_matches(hub: Hub, folder: Path, tmp_path: Path) -> None:
    found = pull(ID, include=["*Q4_K_M*"], out=tmp_path / "out")
    assert found.fetched == (Q4,)
    assert found.commit == hub.commits["main"]
    assert files(tmp_path / "out") == {Q4: (folder / Q4).read_bytes()}
    assert not (tmp_path / "out" / ".pull").exists()


def test_all_parts_of_a_model_and_several_patterns(hub: Hub, folder: Path, tmp_path: Path) -> None:
    found = pull(ID, include=["*BF16*", "README.md"], out=tmp_path / "out")
    assert found.fetched == ("README.md", FIRST, SECOND)
    assert files(tmp_path / "out") == {name: (folder / name).read_bytes() for name in found.fetched}


def test_everything(hub: Hub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert pull(ID).folder == Path("Tiny-GGUF")
    assert files(tmp_path / "Tiny-GGUF") == files(folder)


def test_a_second_run_fetches_nothing(hub: Hub, tmp_path: Path) -> None:
    pull(ID, out=tmp_path / "out")
    sent = hub.sent(".gguf")
    again = pull(ID, out=tmp_path / "out")
    assert hub.sent(".gguf") == sent == 3 * LARGE
    assert again.fetched == ()
    assert len(again.kept) == 5


def test_a_file_that_has_changed_is_replaced(hub: Hub, folder: Path, tmp_path: Path) -> None:
    pull(ID, out=tmp_path / "out")
    (folder / Q4).write_bytes(bytes(LARGE))
    vouch(folder, Q4, FIRST, SECOND)
    restart(hub)
    assert pull(ID, out=tmp_path / "out").fetched == (Q4, "release.json")
    assert files(tmp_path / "out") == files(folder)


def test_a_revision(folder: Path, tmp_path: Path, hub: Hub) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / Q4).write_bytes(b"GGUF of another day")
    hub.revisions["v1"] = other
    restart(hub)
    found = pull(f"{ID}@v1", out=tmp_path / "out")
    assert found.commit == hub.commits["v1"]
    assert files(tmp_path / "out") == {Q4: b"GGUF of another day"}


def test_cut_off_and_taken_up(hub: Hub, folder: Path, tmp_path: Path) -> None:
    hub.cuts[Q4] = [70_000, 80_000]
    pull(ID, include=[Q4], out=tmp_path / "out")
    assert files(tmp_path / "out") == {Q4: (folder / Q4).read_bytes()}
    assert hub.sent(".gguf") == LARGE


def test_a_later_run_goes_on(hub: Hub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantpress.download, "_ATTEMPTS", 0)
    hub.cuts[Q4] = [150_000]
    refuses(QuantpressError, "Run the same command again", include=Q4, out=tmp_path / "out")
    assert not (tmp_path / "out" / Q4).exists()
    hub.answers.clear()
    pull(ID, include=[Q4], out=tmp_path / "out")
    assert files(tmp_path / "out") == {Q4: (folder / Q4).read_bytes()}
    assert hub.sent(".gguf") == LARGE - 150_000


def test_by_the_library_where_ranges_are_too_large(
    hub: Hub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "MAX_HTTP_DOWNLOAD_SIZE", LARGE - 1)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    asked = []
    download = quantpress.pull.hf_hub_download

    def raised(*arguments: str, **settings: object) -> str:
        asked.append(arguments)
        monkeypatch.setattr(huggingface_hub.constants, "MAX_HTTP_DOWNLOAD_SIZE", LARGE)
        return download(*arguments, **settings)  # type: ignore[no-any-return, call-overload]

    monkeypatch.setattr(quantpress.pull, "hf_hub_download", raised)
    pull(ID, include=[Q4], out=tmp_path / "out")
    assert asked == [(ID, Q4)]
    assert (tmp_path / "out" / Q4).read_bytes() == (folder / Q4).read_bytes()


# What is refused


def test_nothing_matches(hub: Hub, tmp_path: Path) -> None:
    refuses(
        CheckpointError, f"{ID}: --include", "*Q9*", f"It has: {FIRST}, {SECOND}, {Q4}", include="*Q9*", out=tmp_path
    )
    assert hub.sent(".gguf") == 0


def test_damaged_on_its_way(hub: Hub, tmp_path: Path) -> None:
    hub.damaged = True
    refuses(CheckpointError, f"{ID}@", Q4, "hash", "damaged", include=Q4, out=tmp_path / "out")
    assert not files(tmp_path / "out")


def test_a_model_that_was_replaced(hub: Hub, folder: Path, tmp_path: Path) -> None:
    (folder / Q4).write_bytes(bytes(LARGE))
    restart(hub)
    refuses(CheckpointError, Q4, "as release.json", "replaced", include="*Q4*", out=tmp_path / "out")
    assert hub.sent(".gguf") == 0


@pytest.mark.parametrize("text", ["{", "[]", '{"files": []}', '{"files": {"a": 1}}'])
def test_a_release_json_of_somebody_else(text: str, hub: Hub, folder: Path, tmp_path: Path) -> None:
    (folder / "release.json").write_text(text, encoding="utf-8")
    restart(hub)
    assert pull(ID, include=[Q4], out=tmp_path / "out").fetched == (Q4,)


def test_no_such_repository(hub: Hub, tmp_path: Path) -> None:
    refuses(CheckpointError, "acme/Other", "one that you may read", out=tmp_path, repository="acme/Other")
    refuses(CheckpointError, "revision", "none named v2", out=tmp_path, repository=f"{ID}@v2")
    refuses(CheckpointError, "org/name", out=tmp_path, repository="a/b/c")


def test_no_room(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantpress.pull, "_free", lambda path: LARGE - 1)
    refuses(DiskFullError, f"{LARGE:,} bytes needed", include=Q4, out=tmp_path / "out")
    assert hub.sent(".gguf") == 0


def test_a_folder_that_is_a_file(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("", encoding="utf-8")
    refuses(OutputError, "out", out=tmp_path / "out")


def test_names_that_lead_out_of_the_folder(
    hub: Hub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = quantpress.pull.listing

    def listing(*arguments: object) -> object:
        commit, found = real(*arguments)  # type: ignore[arg-type]
        return commit, {"../escaped.gguf": found[Q4]}

    monkeypatch.setattr(quantpress.pull, "listing", listing)
    refuses(CheckpointError, "one inside of the folder", "../escaped.gguf", out=tmp_path / "out")


# The command


def test_the_files_are_printed(hub: Hub, tmp_path: Path) -> None:
    arguments = ["pull", ID, "--include", "*Q4_K_M*", "--include", "*.md", "--out", str(tmp_path / "out")]
    assert CliRunner().invoke(app, [*arguments, "--quiet"]).output.split() == [
        str(tmp_path / "out" / name) for name in ("README.md", Q4)
    ]
    found = json.loads(CliRunner().invoke(app, [*arguments, "--json", "--quiet"]).stdout)
    assert found == {
        "repository": ID,
        "commit": hub.commits["main"],
        "folder": str(tmp_path / "out"),
        "fetched": [],
        "kept": ["README.md", Q4],
    }
