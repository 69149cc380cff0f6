"""`list`: what there is, how large, by which rule, and where to get it."""

from __future__ import annotations

import json

import pytest

from eval.benchmarks import BENCHMARKS
from eval.cli import main


def test_every_benchmark_is_listed_with_its_size_its_rule_and_where_to_get_it(capsys: pytest.CaptureFixture) -> None:
    assert main(["list", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in entries] == list(BENCHMARKS)
    for entry in entries:
        assert all(entry[key] for key in ("about", "sizes", "rule", "annotations")), entry["name"]
    own = {entry["name"]: entry for entry in entries}
    assert own["cirr"]["splits"] == ["val", "test1"] and own["fashioniq"]["options"]["gallery"] == ["original", "val"]
    assert [server["address"] for server in own["circo"]["servers"]] == [
        "https://circo.micc.unifi.it/evaluation",
        "https://www.codabench.org/competitions/10055",
    ]


def test_the_list_for_people_keeps_to_its_width_and_names_every_choice(capsys: pytest.CaptureFixture) -> None:
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    for benchmark in BENCHMARKS.values():
        assert f"{benchmark.name}: {benchmark.about}" in text
        for key, values in benchmark.options.items():
            assert f"--option {key}={' | '.join(values)}" in " ".join(text.split())
    assert "7,635 queries" in text and "cirr.junjie.au" in text
    assert max(map(len, text.splitlines())) <= 130


def test_some_are_listed_by_name_and_an_unknown_one_is_refused(capsys: pytest.CaptureFixture) -> None:
    assert main(["list", "icir", "shoes"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("icir: ") and "\n\nshoes: " in text and "fashioniq" not in text
    assert main(["list", "ilcir"]) == 2
    assert "no benchmark is called 'ilcir'; there are fashioniq, cirr" in capsys.readouterr().err
