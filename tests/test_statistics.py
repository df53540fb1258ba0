"""Which moments an effort uses, whose they must be, and what is said of tensors that have none, or few."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantpress import gguf, moments
from quantpress.errors import GGUFError, ImatrixError, InputError, PlanError
from quantpress.formats import TYPES
from quantpress.gguf import Value
from quantpress.imatrix import Imatrix, write
from quantpress.progress import Progress
from quantpress.statistics import Statistics, moments_for, open_statistics
from tests.oracle import models
from tests.test_compensation import Seen, seen, write_moments

UP = "blk.0.ffn_up.weight"


class Notes(Progress):
    """Keeps them."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def inputs_of(model: Path, without: Collection[str] = (), tokens: int = 600, **counts: int) -> list[Seen]:
    """An input for each matrix of a model but the embedding; `counts`: tokens, where a name ends so, of each expert."""
    found = []
    with gguf.read(model) as source:
        for seed, (name, tensor) in enumerate(source.tensors.items()):
            if len(tensor.shape) > 1 and name != "token_embd.weight" and name not in without:
                count = next((n for part, n in counts.items() if part in name), tokens)
                found.append(seen([name], tensor.cols, seed, tokens=tensor.matrices * (count,), sample=min(count, 100)))
    return found


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.save(tmp_path_factory.mktemp("dense") / "Tiny-BF16.gguf")


@pytest.fixture(scope="module")
def imatrix(dense: Path) -> Path:
    """Without the embedding, as of a model with an output of its own."""
    path = models.importance(dense, dense.with_name("I.gguf"), embedding=False).path
    assert path is not None
    return path


@pytest.fixture(scope="module")
def beside(dense: Path, imatrix: Path) -> Path:
    return write_moments(moments.beside(imatrix), inputs_of(dense))


def test_only_one_effort_needs_moments(imatrix: Path, beside: Path, tmp_path: Path) -> None:
    for effort in ("fast", "normal", "best"):
        assert moments_for(effort, imatrix, None) is None
        message = rf"{re.escape(str(beside))}: moments: .*compensated, found {effort}.*--effort compensated"
        with pytest.raises(InputError, match=message):
            moments_for(effort, imatrix, beside)
    assert moments_for("compensated", imatrix, None) == beside
    assert moments_for("compensated", str(imatrix), None) == beside
    assert moments_for("compensated", None, beside) == beside
    assert moments_for("compensated", imatrix, tmp_path / "other.gguf") == tmp_path / "other.gguf"


def refused(error: type[Exception], words: str, model: Path, *given: Any) -> str:
    """The message of `open_statistics`."""
    with (
        gguf.read(model) as source,
        pytest.raises(error, match=words) as raised,
        open_statistics(source, *given),
    ):
        pass
    return str(raised.value)


def test_missing_moments(dense: Path, imatrix: Path, beside: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone.gguf"
    alone.write_bytes(imatrix.read_bytes())
    message = r"alone\.moments\.gguf: moments: expected .*beside the imatrix, found no such file.*imatrix --moments"
    refused(InputError, message, dense, alone, "compensated")
    refused(InputError, r"^moments: .*found none.*imatrix --moments", dense, None, "compensated")
    refused(GGUFError, r"none\.gguf", dense, alone, "compensated", tmp_path / "none.gguf")
    refused(InputError, "--effort compensated", dense, imatrix, "normal", beside)


def test_what_a_tile_is_told(dense: Path, imatrix: Path, beside: Path) -> None:
    with gguf.read(dense) as source:
        tensor, embedding = source.tensors[UP], source.tensors["token_embd.weight"]
        data = source.data(UP)
        extra = {"general.x": Value.u32(1)}
        with open_statistics(source, imatrix, "compensated") as found:
            tile = found.tile(tensor, 3, data[3:5], [TYPES["Q4_0"]])
            assert tile.compensator is not None
            assert (tile.compensator.tensor, tile.compensator.matrix) == (tensor, 0)
            assert (tile.tensor, tile.row, tile.cols, tile.types) == (UP, 3, 256, (TYPES["Q4_0"],))
            assert found.tile(embedding, 0, source.data(embedding.name), [TYPES["Q4_0"]]).compensator is None
            assert dict(found.metadata(extra)) == {
                **extra,
                "quantize.compensated.chunks_count": Value.u32(10),
                "quantize.compensated.dataset": Value.string("text.txt"),
            }
            assert not found.choices
            tile.compensator.encode(np.ones((1, 256), np.float32), TYPES["Q4_0"])
            assert list(found.choices) == [(UP, 0, "Q4_0")]
        with open_statistics(source, imatrix) as found:
            tile = found.tile(tensor, 3, data[3:5], [TYPES["Q4_0"]])
            assert tile.compensator is None
            assert tile.importance is not None
            assert found.metadata(extra) == extra
        with open_statistics(source, None, "compensated", beside) as found:
            tile = found.tile(tensor, 0, data, [TYPES["Q4_0"]])
            assert tile.compensator is not None
            assert tile.importance is None


def test_experts_are_told_apart(tmp_path: Path) -> None:
    model = models.save(tmp_path / "Tiny-MoE-BF16.gguf", models.MIXTURE, layers=1)
    path = write_moments(tmp_path / "m.gguf", inputs_of(model))
    with gguf.read(model) as source, open_statistics(source, None, "compensated", path) as found:
        tensor = source.tensors["blk.0.ffn_up_exps.weight"]
        data = source.data(tensor.name).reshape(tensor.rows, -1)
        for row, matrix in ((0, 0), (12, 0), (13, 1), (13 * 7 + 5, 7)):
            compensator = found.tile(tensor, row, data[row : row + 1], [TYPES["Q4_0"]]).compensator
            assert compensator is not None
            assert compensator.matrix == matrix


def test_moments_of_another_model(dense: Path, imatrix: Path, tmp_path: Path) -> None:
    whole = inputs_of(dense)
    cases = {
        "found none of that name": [*whole, seen(["blk.0.ffn_side.weight"], 256)],
        r"found 1 × 512 columns": [one for one in whole if one.name != UP] + [seen([UP], 512)],
        r"found 2 × 256 columns": [one for one in whole if one.name != UP] + [seen([UP], 256, tokens=(300, 300))],
        r"blk\.1: expected moments of the 2 layers": [one for one in whole if "blk.1" not in one.name],
    }
    for words, inputs in cases.items():
        path = write_moments(tmp_path / "other.gguf", inputs)
        message = rf"other\.gguf: .*{words}.*another model"
        assert dense.name in refused(ImatrixError, message, dense, imatrix, "compensated", path)


def test_moments_of_another_run(dense: Path, imatrix: Path, tmp_path: Path) -> None:
    """Beside the imatrix they are refused; by their name they may be used."""
    alone = tmp_path / "alone.gguf"
    alone.write_bytes(imatrix.read_bytes())
    path = write_moments(moments.beside(alone), inputs_of(dense), ("other.txt",))
    refused(
        ImatrixError, r"alone\.moments\.gguf: .*text\.txt.*found .*other\.txt.*--moments", dense, alone, "compensated"
    )
    with gguf.read(dense) as source, open_statistics(source, alone, "compensated", path) as found:
        assert found.compensation is not None


def test_files_that_are_no_moments(dense: Path, imatrix: Path, beside: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(beside.read_bytes()[:-64])
    refused(GGUFError, r"cut\.gguf", dense, imatrix, "compensated", cut)
    refused(ImatrixError, "I.gguf: .*no moments", dense, imatrix, "compensated", imatrix)
    refused(InputError, r"I\.moments\.gguf", dense, beside, "compensated")


def test_an_imatrix_of_another_model(dense: Path, beside: Path, tmp_path: Path) -> None:
    name = "blk.0.x.weight"
    other = Imatrix({name: np.ones((1, 8), np.float32)}, {name: np.ones(1, np.int64)}, ("t",), 1, 8)
    path = write(other, tmp_path / "other.gguf")
    refused(ImatrixError, r"other\.gguf", dense, path, "compensated", beside)


def checked(model: Path, path: Path, type: str, imatrix: Path | None = None, **how: Any) -> list[str]:
    """The notes of a check where every matrix becomes `type`."""
    notes = Notes()
    with gguf.read(model) as source, open_statistics(source, imatrix, "compensated", path) as found:
        types = {name: TYPES[type] if len(one.shape) > 1 else one.type for name, one in source.tensors.items()}
        found.check([types], **{"allow_plain": False, "progress": notes, **how})
    return notes.notes


@pytest.mark.parametrize("with_imatrix", [False, True])
def test_an_embedding_is_no_obstacle(with_imatrix: bool, dense: Path, imatrix: Path, beside: Path) -> None:
    assert checked(dense, beside, "Q4_0", imatrix if with_imatrix else None) == []


def test_an_embedding_that_is_the_output_needs_moments(
    dense: Path, imatrix: Path, beside: Path, tmp_path: Path
) -> None:
    whole = models.importance(dense, tmp_path / "whole.gguf").path
    with pytest.raises(PlanError, match=r"found none of token_embd\.weight"):
        checked(dense, beside, "Q4_0", whole)


def test_tensors_without_moments(dense: Path, imatrix: Path, tmp_path: Path) -> None:
    path = write_moments(tmp_path / "part.gguf", inputs_of(dense, without=(UP, "blk.1.attn_q.weight")))
    listed = r"blk\.0\.ffn_up\.weight, blk\.1\.attn_q\.weight"
    with pytest.raises(PlanError, match=rf"part\.gguf: moments: .*found none of {listed}.*--allow-plain"):
        checked(dense, path, "Q4_0", imatrix)
    (note,) = checked(dense, path, "Q4_0", imatrix, allow_plain=True)
    assert re.fullmatch(rf"encoded plainly, without moments: {listed}", note)
    assert checked(dense, path, "F16", imatrix) == []  # which has no codes
    assert checked(dense, path, "BF16", imatrix) == []


def test_only_the_tensors_that_are_encoded_need_moments(dense: Path, tmp_path: Path) -> None:
    path = write_moments(tmp_path / "part.gguf", inputs_of(dense, without=(UP,)))
    with gguf.read(dense) as source, open_statistics(source, None, "compensated", path) as found:
        kept = {name: one.type for name, one in source.tensors.items()}
        found.check([kept | {"blk.0.attn_q.weight": TYPES["Q4_0"]}], allow_plain=False, progress=Notes())
        with pytest.raises(PlanError, match=re.escape(UP)):
            found.check([kept, kept | {UP: TYPES["Q4_0"]}], allow_plain=False, progress=Notes())


def test_many_without_moments_are_counted(tmp_path: Path) -> None:
    shapes = {f"blk.0.part{i:02}.weight": (32, 2) for i in range(12)}
    model = models.save(tmp_path / "Tiny-BF16.gguf", shapes, layers=1)
    path = write_moments(tmp_path / "m.gguf", [seen(["blk.0.part00.weight"], 32)])
    with pytest.raises(PlanError, match=r"none of blk\.0\.part01\.weight, .*blk\.0\.part08\.weight and 3 more"):
        checked(model, path, "Q4_0")


def test_experts_that_no_token_reached(tmp_path: Path) -> None:
    model = models.save(tmp_path / "Tiny-MoE-BF16.gguf", models.MIXTURE, layers=1)
    name = "blk.0.ffn_up_exps.weight"
    rest = inputs_of(model, without=(name,))
    path = write_moments(tmp_path / "m.gguf", [*rest, seen([name], 256, tokens=(0, 300, 300, 0, 300, 300, 300, 300))])
    with pytest.raises(PlanError, match=r"none of blk\.0\.ffn_up_exps\.weight \(2 experts\)"):
        checked(model, path, "Q4_0")
    notes = checked(model, path, "Q4_0", allow_plain=True)
    assert notes[0] == f"encoded plainly, without moments: {name} (2 experts)"


def test_few_tokens_are_said(dense: Path, imatrix: Path, tmp_path: Path) -> None:
    path = write_moments(tmp_path / "few.gguf", inputs_of(dense, ffn_up=255, ffn_gate=256))
    (note,) = checked(dense, path, "Q4_0", imatrix)
    assert note.startswith("moments of fewer tokens than columns: blk.0.ffn_up.weight;")


def test_an_effort_without_moments_checks_nothing(dense: Path, imatrix: Path) -> None:
    notes = Notes()
    with gguf.read(dense) as source:
        Statistics(source, None).check([{UP: TYPES["Q4_0"]}], allow_plain=False, progress=notes)
    assert notes.notes == []
