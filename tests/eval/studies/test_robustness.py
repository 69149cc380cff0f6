"""Robustness on a benchmark of plain colours, where every measure can be worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval.benchmarks import open_suite
from eval.cli import main
from eval.studies.robustness import WORDINGS, robustness, robustness_table
from mllm_embed.errors import DataError
from mllm_embed.inputs.prompts import PROMPT_SETS

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}


class ColourEncoder:
    """The colour of the picture once, each colour of the words `weight` times; "never" counts against it."""

    prompts = PROMPT_SETS["instructcir"]

    def __init__(self, weight: float = 2.0) -> None:
        self.weight = weight

    def encode(self, inputs: list, *, batch_size: int = 32, show_progress: bool | None = None) -> np.ndarray:
        return np.stack([self.vector(item) for item in inputs])

    def vector(self, item: object) -> np.ndarray:
        total = np.full(4, 0.01, dtype=np.float32)
        if item.image is not None:
            with Image.open(item.image) as image:
                total[list(COLOURS.values()).index(image.convert("RGB").getpixel((0, 0)))] += 1
        for word in (item.words or "").split():
            if word in COLOURS:
                total[list(COLOURS).index(word)] += self.weight if item.image is not None else 1
        return total / np.linalg.norm(total)


def folder(root: Path, **changes: object) -> Path:
    for name, colour in COLOURS.items():
        Image.new("RGB", (8, 8), colour).save(root / f"{name}.png")
    gallery = [{"id": name, "image": f"{name}.png"} for name in COLOURS]
    queries = [
        {
            "id": f"{a}-{b}", "image": f"{a}.png", "instruction": f"make it {b}", "targets": [b], "exclude": [a],
            "paraphrases": [f"now {b}", f"{a} into what sky is"], "negatives": [a], **changes,
        }
        for a, b in (("red", "green"), ("green", "blue"), ("blue", "white"))
    ]  # fmt: skip
    (root / "benchmark.json").write_text(json.dumps({"name": "colours", "gallery": gallery, "queries": queries}))
    return root


def test_every_measure_is_what_it_says(tmp_path: Path) -> None:
    found = robustness(ColourEncoder(), open_suite("folder", folder(tmp_path)))
    assert found.wordings[""] == found.negatives[""] == "the benchmark's own"
    values = {name: measure.value for name, measure in found.tasks[""].items()}
    # as asked and in the first wording the target comes first; the second names the picture's own colour alone, after
    # which the others tie, and the first of the gallery's order that is not excluded comes: red but for the first query
    assert values["R@1, as asked"] == 100 and values["R@1, worst wording"] == pytest.approx(100 / 3)
    assert values["R@1, mean of wordings"] == pytest.approx(100 * (1 + 2 / 3 + 2 / 3) / 3)
    assert values["R@1, best wording"] == 100
    assert values["same first answer"] == pytest.approx(100 * (1 + 0.5 + 0.5) / 3)
    assert values["reference above target"] == values["negative above target"] == 0
    assert values["negative in first 1"] == 0 and values["negative in first 10"] == 100
    encoder = ColourEncoder()
    queries = [query[0] for query in open_suite("folder", tmp_path).tasks[0].queries]
    other = [
        type(query)(image=queries[(at + 1) % 3].image, instruction=query.words) for at, query in enumerate(queries)
    ]
    cosine = np.mean([encoder.vector(a) @ encoder.vector(b) for a, b in zip(queries, other, strict=True)])
    assert values["cosine, picture swapped"] == pytest.approx(cosine, abs=1e-6)
    assert values["R@1, instruction swapped"] == 0
    assert not [fault for fault in found.faults if "instruction" in fault]


def test_a_half_that_is_ignored_is_a_fault(tmp_path: Path) -> None:
    found = robustness(ColourEncoder(weight=0.0), open_suite("folder", folder(tmp_path)))
    assert [fault for fault in found.faults if "the instruction hardly moves the vector" in fault]
    assert found.tasks[""]["reference above target"].value == 100
    found = robustness(ColourEncoder(weight=1000.0), open_suite("folder", folder(tmp_path)))
    assert [fault for fault in found.faults if "the picture hardly moves the vector" in fault]
    assert "FAULT: the picture hardly moves" in robustness_table(found)


def test_what_all_queries_share_is_no_fault(tmp_path: Path) -> None:
    data = folder(tmp_path, instruction="make it white", targets=["white"], paraphrases=None)
    found = robustness(ColourEncoder(), open_suite("folder", data))
    assert "cosine, instruction swapped" not in found.tasks[""] and "cosine, picture swapped" in found.tasks[""]
    assert not [fault for fault in found.faults if "the instruction" in fault]
    assert "the same instruction: whether it is ignored cannot be told" in robustness_table(found)


def test_queries_without_another_wording_do_not_count_as_steady(tmp_path: Path) -> None:
    data = folder(tmp_path)
    content = json.loads((data / "benchmark.json").read_text())
    for query in content["queries"][:2]:
        query["paraphrases"] = [query["instruction"]]
    (data / "benchmark.json").write_text(json.dumps(content))
    found = robustness(ColourEncoder(), open_suite("folder", data))
    assert found.tasks[""]["same first answer"].value == 50  # of blue-white alone, whose second wording finds red
    encoder, (query,) = ColourEncoder(), open_suite("folder", data).tasks[0].queries[2]
    said = [type(query)(image=query.image, instruction=words) for words in content["queries"][2]["paraphrases"]]
    cosine = np.mean([encoder.vector(query) @ encoder.vector(other) for other in said])
    assert found.tasks[""]["cosine of wordings"].value == pytest.approx(cosine, abs=1e-6)


def test_without_words_of_its_own_a_benchmark_is_asked_by_rule(tmp_path: Path) -> None:
    data = folder(tmp_path, paraphrases=None, negatives=None)
    encoder, asked = ColourEncoder(), []
    encoder.vector = lambda item, plain=encoder.vector: (asked.append(item.words), plain(item))[1]
    found = robustness(encoder, open_suite("folder", data))
    assert found.wordings[""] == "by rule" and found.negatives[""] == "none"
    assert {form.replace("{instruction}", "make it blue") for form in WORDINGS} <= set(asked)
    assert "negative above target" not in found.tasks[""]


def test_bad_words_and_negatives_are_named(tmp_path: Path) -> None:
    for changes, wrong in (
        ({"paraphrases": ["", "x"]}, '"paraphrases" must be a list of non-empty strings'),
        ({"paraphrases": ["\ud800"]}, '"paraphrases" holds half a character'),
        ({"negatives": ["pink"]}, 'negative "pink" is not in the gallery'),
        ({"negatives": ["green", "blue", "white"]}, '"green" is both a target and a negative'),
    ):
        with pytest.raises(DataError, match=wrong):
            open_suite("folder", folder(tmp_path, **changes))


def test_the_command_writes_what_it_prints(
    tiny_llava: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = ["robustness", str(data), "--model", str(tiny_llava), "--output", str(tmp_path / "out")]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    content = json.loads((tmp_path / "out" / "robustness.json").read_text())
    for name, measure in content["tasks"][""].items():
        assert f"| {name} " in text and measure["low"] <= measure["value"] <= measure["high"]
    assert content["wordings"] == {"": "by rule"}
    assert (content["asked"]["prompts"]["name"], content["asked"]["words"]) == ("instructcir", "the model's own")


def test_every_benchmark_can_be_asked(suites: dict) -> None:
    """Groups of items, prompts and candidates of their own: whatever a benchmark brings."""

    class Random:
        prompts = PROMPT_SETS["instructcir"]

        def with_prompts(self, prompts: object) -> Random:
            return self

        def encode(self, inputs: list, **_: object) -> np.ndarray:
            rng = np.random.default_rng(len(inputs))
            found = rng.standard_normal((len(inputs), 8)).astype(np.float32)
            return found / np.linalg.norm(found, axis=1, keepdims=True)

    for name in ("fashioniq", "cirr", "circo", "genecis"):
        found = robustness(Random(), suites[name])
        assert set(found.tasks) == {task.name for task in suites[name].tasks}
        for measures in found.tasks.values():
            assert all(np.isfinite([m.value, m.low, m.high]).all() for m in measures.values())
