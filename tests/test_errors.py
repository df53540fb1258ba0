from __future__ import annotations

import pickle

import pytest

from quantpress.errors import DiskFullError, EngineError, GGUFError, OutputError, QuantpressError


def test_an_input_error_names_all_its_parts() -> None:
    error = GGUFError("a.gguf", "version", expected="2 or 3", found=7, hint="Convert it again")
    assert str(error) == "a.gguf: version: expected 2 or 3, found 7. Convert it again"
    assert str(GGUFError(None, "version")) == "version"


def test_a_full_disk_says_how_much_is_needed() -> None:
    assert str(DiskFullError("out", 3_000, 1_000)).startswith(
        "out: not enough disk space: 3,000 bytes needed, 1,000 free"
    )


@pytest.mark.parametrize(
    "error",
    [GGUFError("a.gguf", "version", found=7), DiskFullError("out", 3, 1), EngineError("died"), OutputError("no")],
)
def test_errors_cross_processes_whole(error: QuantpressError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (str(copy), vars(copy), copy.exit_code) == (str(error), vars(error), error.exit_code)
