"""How the page says that the files were made: mixed and automatic plans, texts, and the commands that repeat it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import typer

from quantpress.card import type_groups, write_card
from quantpress.cli import app
from quantpress.gguf import read
from tests.oracle import models
from tests.release.cards import MEASURED, code, facts, page, results, table


def test_plans_show_their_types_and_pictures(tmp_path: Path) -> None:
    with read(models.save(tmp_path / "m.gguf")) as model:
        types = {name: "Q6_K" if "attn_v" in name else "IQ3_S" for name in model.tensors if len(name) > 17}
        groups = type_groups(types, model)
        weights = {name: model.tensors[name].weights for name in types}
    assert sum(group["weights"] for group in groups) == sum(weights.values())
    assert groups[0]["type"] == "IQ3_S"
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans/m-MP.plan.tensor_types.txt").touch()
    text = page(tmp_path, results(MP={"types": groups}, Q4_K_M={"types": groups}), pictures={"MP": "plots/m-MP.svg"})
    assert text.count("<details") == text.count("</details>") == 2  # one plan, and the back ends
    lines = table(text[text.index("## Mixed plans") :], "type")
    share = 100 * sum(size for name, size in weights.items() if types[name] == "Q6_K") / sum(weights.values())
    assert lines[1] == {
        "type": "Q6_K", "bits a weight": "6.562", "share of the weights": f"{share:.2f} %", "tensors": "attn_v ×2",
    }  # fmt: skip
    assert "(plans/m-MP.plan.tensor_types.txt)" in text
    assert "![Types of MP, by tensor and layer](plots/m-MP.svg)" in text


def gate(ratio: float) -> dict[str, Any]:
    own, other = {**MEASURED, "kld_mean": 0.004 * ratio}, MEASURED
    return {"text": "e.txt", "plan": own, "reference": other, "passed": ratio < 1}


def automatic(tmp_path: Path, allocation: dict[str, Any]) -> str:
    text = page(tmp_path, results(Q4_K_M={}, AUTO__4bpw={"bytes": 3_900_000, "allocation": allocation}))
    return text.replace("\u00a0", " ")


def test_a_plan_that_won_stands_beside_its_reference(tmp_path: Path) -> None:
    text = automatic(tmp_path, {"reference": "IQ4_XS", "reference_bytes": 3_890_000, "gate": gate(0.73)})
    assert "| **AUTO-4bpw** | 3.90 MB | 0.00292 ± 0.00010 | 0.03 | 0.1 | 94.00 % | 41.6100 |" in text
    assert "| IQ4_XS | 3.89 MB | 0.00400 ± 0.00010 | 0.03 | 0.1 | 94.00 % | 41.6100 |" in text
    assert "- AUTO-4bpw has 0.73 times the mean KLD of IQ4_XS." in text
    description = table(text, "file")[1]["description"]
    assert description == "Automatic: types by measured damage; better than IQ4_XS"


def test_a_plan_that_lost_is_reported_as_such(tmp_path: Path) -> None:
    text = automatic(tmp_path, {"reference": "IQ4_XS", "reference_bytes": 3_890_000, "gate": gate(1.2)})
    assert "- AUTO-4bpw was no better than IQ4_XS: its file has the types of IQ4_XS." in text
    assert "| **AUTO-4bpw** |  | 0.00480" in text  # no size: there is no such file
    assert "but no plan was better than IQ4_XS: the types of IQ4_XS" in table(text, "file")[1]["description"]


def test_a_plan_without_a_reference_or_a_measurement(tmp_path: Path) -> None:
    alone = {**gate(0.5), "reference": None}
    text = automatic(tmp_path, {"reference": None, "reference_bytes": None, "gate": alone})
    assert "- AUTO-4bpw: no mix of llama.cpp can be made that is as small." in text
    text = automatic(tmp_path, {"reference": "IQ4_XS", "reference_bytes": 3_890_000, "gate": None})
    assert "Nothing was measured (budget 0): they were not compared with other mixes." in text
    assert "| plan |" not in text


def test_settings_of_mp_are_described(tmp_path: Path) -> None:
    row = {"file": "m-MP-123456.gguf"}
    values = results(Q8_0={}, **{"MP:fraction=0.2,top=Q4_K": row})
    [line] = [line for line in table(page(tmp_path, values), "file") if line["type"].startswith("MP")]
    assert line["description"].startswith("FFN in IQ3_S, its 20 % of largest mean |w| in Q4_K, attention in IQ4_NL")


def given_by(command: str) -> dict[str, Any]:
    """What `quantpress release` understands of a line of the page."""
    release: Any = typer.main.get_command(app).commands["release"]  # type: ignore[attr-defined]
    words = shlex.split(command.replace("\\\n", " "))
    assert words[:2] == ["quantpress", "release"]
    return dict(release.make_context("release", words[2:]).params)


def test_the_commands_that_make_it_again_hold_every_setting(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "variants": ["Q4_K_M", "MP:fraction=0.2,top=Q4_K", "AUTO-3.98bpw", "AUTO-fit-16GB", "Q4_K_M_AUTO"],
        "targets": [
            {"kind": "bpw", "text": "3.98bpw"}, {"kind": "fit", "text": "16GB"}, {"kind": "like", "text": "Q4_K_M"},
        ],
        "budget": "15", "chat": True, "encoder": "ggml", "effort": "best", "context": 256, "seed": 7,
        "evaluation_chunks": 9, "split_bytes": 25 * 10**8, "repository": "me/m-GGUF",
    }  # fmt: skip
    text = page(tmp_path, results(Q4_K_M={}), base_model="them/m", **settings)
    block = next(block for block in code(text) if "quantpress release" in block)
    first, _, rest = block.partition("\n")
    assert first == "pip install quantpress==0.1.0 llama-cpp-python==0.3.36"
    found = given_by(rest)
    assert found["variants"] == "Q4_K_M,MP:fraction=0.2,top=Q4_K,auto:3.98bpw,auto:fit:16GB,auto:like:Q4_K_M"
    assert found["calibration"] == [Path("calibration.txt")]
    assert found["evaluation"] == [Path("evaluation.txt")]
    assert (found["split_gb"], found["base_model"], str(found["source"])) == (2.5, "them/m", "m")
    for name in ("budget", "chat", "encoder", "effort", "context", "seed", "evaluation_chunks", "repository"):
        assert found[name] == settings[name], name


def test_text_by_the_model_is_told_with_its_seed_and_hash(tmp_path: Path) -> None:
    values = results(Q4_K_M={})
    release = facts(values)
    by_model = {"by_model": True, "sha256": [["calibration.txt", "a" * 64]], "files": ["calibration.txt"]}
    release["texts"] = {"calibration": by_model, "evaluation": {**by_model, "sha256": [["evaluation.txt", "b" * 64]]}}
    release["source"] = {"repository": "them/m", "commit": "0123abcd"}
    with read(models.save(tmp_path / "m.gguf")) as model:
        written = write_card(tmp_path, values, release, model, imatrix="m-imatrix.gguf", pictures={})
    text = written[0].read_text()
    assert "about 32,768 tokens that the model wrote itself (temperature 1, seed 0)" in text
    assert f"[calibration.txt](calibration.txt) (SHA-256 `{'a' * 64}`)" in text
    found = given_by(next(block for block in code(text) if "quantpress release" in block).partition("\n")[2])
    assert (found["calibration_tokens"], found["evaluation_tokens"], found["remote"]) == (32768, 16384, True)
    assert str(found["source"]) == "them/m@0123abcd"


def test_release_json_of_an_earlier_version_serves(tmp_path: Path) -> None:
    values = results(Q4_K_M={})
    release = facts(values)
    for text in release["texts"].values():
        del text["files"]
    with read(models.save(tmp_path / "m.gguf")) as model:
        written = write_card(tmp_path, json.loads(json.dumps(values)), release, model, imatrix="i.gguf", pictures={})
    assert "**Calibration text**: c.txt (SHA-256" in written[0].read_text()
