from __future__ import annotations

import json
from pathlib import Path

import pytest

from quantpress.results import BASE, Results


def test_rows_are_kept_with_the_bytes_that_were_measured(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    results = Results(path, "protocol")
    results.enter(BASE, {"perplexity": 2.0}, ["0"])
    results.enter("Q8_0", {"perplexity": 2.1}, ["1"])
    results.enter("Q4_0", {"perplexity": 2.2}, ["2"])
    assert list(results.save(["Q4_0"])["variants"]) == ["Q4_0"]

    again = Results(path, "protocol")
    assert again.keeps(BASE, ["0"])
    assert again.keeps("Q8_0", ["1"])  # no part of the release, but measured
    assert not again.keeps("Q4_0", ["3"])
    assert not Results(path, "another").keeps("Q4_0", ["2"])


@pytest.mark.parametrize("damage", ["", "[]", '{"variants": 1}', '{"base": null, "variants": {"Q8_0": null}}'])
def test_a_damaged_file_vouches_for_nothing(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "results.json"
    Results(path, "protocol").save([])
    saved = json.loads(path.read_text())
    values = json.loads(damage or "0")
    path.write_text(json.dumps({**values, "protocol": saved["protocol"]}) if isinstance(values, dict) else damage)
    found = Results(path, "protocol")
    assert not any(found.keeps(name, ["1"]) for name in (BASE, "Q8_0"))
