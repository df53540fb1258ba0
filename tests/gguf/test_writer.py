"""The writer: what it writes others read, and whatever goes wrong leaves nothing behind."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from quantpress.errors import DiskFullError, OutputError
from quantpress.formats import TYPES
from quantpress.gguf import TensorSpec, Value, Writer, layout, read
from tests.gguf import ggml
from tests.gguf.samples import METADATA, SPECS, agrees_with_gguf, rows_of, write

SPEC = TensorSpec("t", (256, 64), TYPES["F32"])


def rows(count: int = SPEC.rows, value: int = 1) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    return np.full((count, SPEC.row_bytes), value, np.uint8)


@pytest.mark.parametrize("alignment", [None, 1, 64, 4096])
def test_gguf_and_ggml_read_it(tmp_path: Path, alignment: int | None) -> None:
    metadata = dict(METADATA) if alignment is None else {**METADATA, "general.alignment": Value.u32(alignment)}
    writer = write(tmp_path / "m.gguf", metadata)
    assert writer.paths == (tmp_path / "m.gguf",)
    assert writer.sizes == ((tmp_path / "m.gguf").stat().st_size,)
    assert os.listdir(tmp_path) == ["m.gguf"]
    with read(tmp_path / "m.gguf") as model:
        assert list(model.metadata.items()) == list(metadata.items())
        agrees_with_gguf(model)
        seen = ggml.read(model.path)
        assert list(seen.tensors) == list(model.tensors)
        assert all(seen.tensors[t.name][2:] == (t.offset, t.nbytes) for t in model.tensors.values())


def test_rows_in_any_order_from_any_thread(tmp_path: Path) -> None:
    write(tmp_path / "in order.gguf")
    tiles = [(spec.name, row, rows_of(spec)[row : row + 2]) for spec in SPECS for row in range(0, spec.rows, 2)]
    np.random.default_rng(0).shuffle(tiles)
    with Writer(tmp_path / "shuffled.gguf", METADATA, SPECS) as writer, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda tile: writer.write(*tile), tiles))
    assert (tmp_path / "shuffled.gguf").read_bytes() == (tmp_path / "in order.gguf").read_bytes()


def test_rows_that_are_not_contiguous(tmp_path: Path) -> None:
    wide = np.arange(64 * 2048, dtype=np.uint32).view(np.uint8).reshape(64, -1)
    data = wide[:, : SPEC.row_bytes]
    assert not data.flags.c_contiguous
    with Writer(tmp_path / "m.gguf", {}, [SPEC]) as writer:
        writer.write("t", 0, data)
    np.testing.assert_array_equal(read(tmp_path / "m.gguf").data("t"), data)


def test_short_writes_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel takes at most 2 GiB at once; here, 100 bytes."""
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, offset: pwrite(file, data[:100], offset))
    write(tmp_path / "m.gguf")
    agrees_with_gguf(read(tmp_path / "m.gguf"))


# mistakes of the caller


@pytest.mark.parametrize(
    ("name", "row", "data"),
    [
        ("absent", 0, rows()),
        ("t", -1, rows(1)),
        ("t", 64, rows(1)),
        ("t", 1, rows()),
        ("t", 0, rows(0)),
        ("t", 0, rows().view(np.float32)),
        ("t", 0, rows()[:, 1:]),
        ("t", 0, rows().reshape(-1)),
    ],
)
def test_rows_that_do_not_fit(
    tmp_path: Path, name: str, row: int, data: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
) -> None:
    with pytest.raises(ValueError, match="tensor"), Writer(tmp_path / "m.gguf", {}, [SPEC]) as writer:
        writer.write(name, row, data)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("first", [64, 8])
def test_rows_written_twice(tmp_path: Path, first: int) -> None:
    with pytest.raises(ValueError, match="twice"), Writer(tmp_path / "m.gguf", {}, [SPEC]) as writer:  # noqa: PT012
        writer.write("t", 0, rows(first))
        writer.write("t", 7, rows(8))


@pytest.mark.parametrize("written", [0, 63])
def test_incomplete_file_is_not_published(tmp_path: Path, written: int) -> None:
    message = rf"tensor t: expected {64 - written} more rows, found {written} written"
    with pytest.raises(OutputError, match=message), Writer(tmp_path / "m.gguf", {}, [SPEC]) as writer:  # noqa: PT012
        for row in range(written):
            writer.write("t", row, rows(1))
    assert os.listdir(tmp_path) == []


def test_write_outside_of_with(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "m.gguf", {}, [SPEC])
    with pytest.raises(ValueError, match="not open"):
        writer.write("t", 0, rows())
    with writer:
        writer.write("t", 0, rows())
    with pytest.raises(ValueError, match="not open"):
        writer.write("t", 0, rows())


# interruption


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_exception_leaves_nothing_and_keeps_the_old_file(tmp_path: Path, kind: type[BaseException]) -> None:
    (tmp_path / "m.gguf").write_text("old")
    with pytest.raises(kind), Writer(tmp_path / "m.gguf", {}, [SPEC]) as writer:  # noqa: PT012
        writer.write("t", 0, rows())
        raise kind
    assert os.listdir(tmp_path) == ["m.gguf"]
    assert (tmp_path / "m.gguf").read_text() == "old"


def test_ctrl_c(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Writer(tmp_path / "m.gguf", {}, [SPEC]) as writer:  # noqa: PT012
        writer.write("t", 0, rows(32))
        signal.raise_signal(signal.SIGINT)
    assert os.listdir(tmp_path) == []
    test_rows_that_are_not_contiguous(tmp_path)  # the next run goes on


def test_kill_leaves_no_final_name_and_the_next_run_cleans_up(tmp_path: Path) -> None:
    child = """if True:
        import os, signal, sys
        from tests.gguf.test_writer import SPEC, Writer, rows
        with Writer(sys.argv[1], {}, [SPEC]) as writer:
            writer.write("t", 0, rows())
            os.kill(os.getpid(), signal.SIGKILL)
    """
    assert run(child, tmp_path / "m.gguf").returncode == -signal.SIGKILL
    assert os.listdir(tmp_path) == [".m.gguf.partial"]
    with Writer(tmp_path / "m.gguf", {}, [SPEC]) as writer:
        writer.write("t", 0, rows())
    assert os.listdir(tmp_path) == ["m.gguf"]


def test_failed_rename_of_a_part_leaves_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace, done = os.replace, []

    def fail_at_the_last(source: Path, target: Path) -> None:
        if len(done) == 3:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        done.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_at_the_last)
    specs = tuple(TensorSpec(f"t{number}", SPEC.shape, SPEC.type) for number in range(4))
    with pytest.raises(OutputError, match=r"m-00001-of-00004\.gguf: cannot be written: Input/output error"):
        write(tmp_path / "m.gguf", {}, specs, split_bytes=70_000)
    assert len(done) == 3
    assert os.listdir(tmp_path) == []


# a full disk


def test_too_little_space_is_found_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = layout({}, [SPEC]).file_bytes
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=needed - 1))
    with pytest.raises(DiskFullError, match=f"{needed:,} bytes needed, {needed - 1:,} free") as caught:
        Writer(tmp_path / "m.gguf", {}, [SPEC]).__enter__()
    assert (caught.value.needed, caught.value.free) == (needed, needed - 1)
    assert os.listdir(tmp_path) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=needed))
    write(tmp_path / "m.gguf", {}, (SPEC,))


def test_space_of_an_abandoned_run_counts_as_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".m.gguf.partial").write_bytes(b"x" * 50_000)
    usage, seen = shutil.disk_usage(tmp_path), []

    def look(folder: Path) -> shutil._ntuple_diskusage:
        seen.append((tmp_path / ".m.gguf.partial").stat().st_size)
        return usage

    monkeypatch.setattr(shutil, "disk_usage", look)
    write(tmp_path / "m.gguf", {}, (SPEC,))
    assert seen == [0]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_disk_that_fills_up_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite, full = os.pwrite, os.open("/dev/full", os.O_WRONLY)
    message = f"{layout({}, [SPEC]).file_bytes:,} bytes needed"
    writer = Writer(tmp_path / "m.gguf", {}, [SPEC])
    try:
        with pytest.raises(DiskFullError, match=message) as caught, writer:  # noqa: PT012
            writer.write("t", 0, rows(32))
            monkeypatch.setattr(os, "pwrite", lambda file, data, offset: pwrite(full, data, offset))
            writer.write("t", 32, rows(32))
    finally:
        os.close(full)
    assert isinstance(caught.value.__cause__, OSError)
    assert os.listdir(tmp_path) == []


def test_full_file_system() -> None:
    """A real one of 1 MiB, which something else fills after the check."""
    mount = ["mount", "-t", "tmpfs", "none", "/mnt"]
    if not shutil.which("unshare") or subprocess.run([*NAMESPACE, *mount], capture_output=True).returncode:
        pytest.skip("needs a namespace in which anyone may mount")
    child = """if True:
        import os
        from pathlib import Path
        from quantpress.errors import DiskFullError
        from tests.gguf.test_writer import SPEC, Writer, rows
        try:
            with Writer("/mnt/m.gguf", {}, [SPEC] ) as writer:
                Path("/mnt/other").write_bytes(bytes(1000 * 1024))
                writer.write("t", 0, rows())
        except DiskFullError as error:
            print(error.needed, error.free, os.listdir("/mnt"))
    """
    script = 'mount -t tmpfs -o size=1m none /mnt && exec "$0" -c "$1"'
    done = run(child, command=[*NAMESPACE, "sh", "-c", script, sys.executable])
    needed, free, names = done.stdout.split(maxsplit=2)
    assert int(needed) == layout({}, [SPEC]).file_bytes > int(free) >= 0
    assert names.strip() == "['other']"


NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]


def run(code: str, *arguments: object, command: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python code in a child that can import quantpress and these tests."""
    folders = [str(Path(__file__).parents[2]), *filter(None, sys.path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    start = [*command, code] if command else [sys.executable, "-c", code]
    return subprocess.run([*start, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=60)


# other errors of the system


def test_no_permission(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    with ordinary_user(), pytest.raises(OutputError, match=r"m\.gguf: cannot be written: Permission denied"):
        write(folder / "m.gguf")


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Root may write anywhere, so it becomes nobody for a while."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EDQUOT])
def test_refusal_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*arguments: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(DiskFullError if number == errno.EDQUOT else OutputError, match=r"m\.gguf: "):
        Writer(tmp_path / "m.gguf", {}, [SPEC]).__enter__()
    monkeypatch.undo()
    assert os.listdir(tmp_path) == []


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"none/m\.gguf: cannot be written: No such file or directory"):
        write(tmp_path / "none" / "m.gguf")


def test_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file/m\.gguf: cannot be written: Not a directory"):
        write(tmp_path / "file" / "m.gguf")


def test_name_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").mkdir()
    with pytest.raises(OutputError, match=r"m\.gguf: expected the name of a file, found a folder"):
        write(tmp_path / "m.gguf")
    assert os.listdir(tmp_path) == ["m.gguf"]


def test_limit_on_the_size_of_files(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(OutputError, match=r"m\.gguf: cannot be written: File too large"):
            Writer(tmp_path / "m.gguf", {}, [SPEC]).__enter__()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == []


def test_link_in_place_of_the_temporary_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / ".m.gguf.partial").symlink_to(tmp_path / "precious")
    write(tmp_path / "m.gguf")
    assert (tmp_path / "precious").read_text() == "mine"
    agrees_with_gguf(read(tmp_path / "m.gguf"))
