"""Benchmarks are asked as published models want it: the very texts that are encoded, and what is said of them.

Nothing is computed where only texts are looked at: what would be encoded is written down instead.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.benchmarks import open_suite
from eval.cli import main
from eval.scoring.asking import ask
from eval.scoring.evaluate import embed, evaluate
from mllm_embed import MLLMEmbedder
from mllm_embed.errors import ConfigError
from mllm_embed.inputs.prompts import PROMPT_SETS, PromptSet
from published import make_published
from published_reference import small_copy

GME, E5V = "Alibaba-NLP/gme-Qwen2-VL-2B-Instruct", "royokong/e5-v"
LAMRA, BGE = "code-kunkun/LamRA-Ret", "BAAI/BGE-VL-MLLM-S1"
KINDS = {GME: "qwen2_vl", E5V: "llava_next_llama3", LAMRA: "qwen2_vl", BGE: "llava_next_mistral"}
HELPFUL = "You are a helpful assistant."
CIRR = "Retrieve a day-to-day image that aligns with the modification instructions of the provided image."
FASHIONIQ = "Find a fashion image that aligns with the reference image and style note."
PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"
Rendered = set[tuple[str, str, str]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Tiny models in folders that end as hub ids do."""
    root = tmp_path_factory.mktemp("hub")
    return cache(lambda name: make_published(KINDS[name], root / name))


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> Rendered:
    """Side, role and text of all that is encoded; the vectors are made up."""
    seen: Rendered = set()

    def encode(self: MLLMEmbedder, inputs: list, **_: Any) -> np.ndarray:
        seen.update((item.side, item.role, self.item_processor.render(item)) for item in inputs)
        vectors = np.random.default_rng(0).standard_normal((len(inputs), 8))
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    monkeypatch.setattr(MLLMEmbedder, "encode", encode)
    return seen


@pytest.fixture
def data(request: pytest.FixtureRequest, paint: Callable, tmp_path: Path) -> Callable[[str], Path]:
    """A benchmark's made-up files with its pictures, or three captioned pictures and a query in the folder format."""

    def make(name: str) -> Path:
        if name == "mine":
            paint(tmp_path, "a.png", "b.png", "c.png")
            gallery = [{"id": one, "image": f"{one}.png", "caption": f"thing {one}"} for one in "abc"]
            queries = [{"id": "q", "image": "a.png", "instruction": "in red", "targets": ["b"]}]
            content = {"name": "mine", "gallery": gallery, "queries": queries}
            (tmp_path / "benchmark.json").write_text(json.dumps(content))
            return tmp_path
        folder = request.getfixturevalue(name)()
        paint(folder, *(f"images/{letter}{number}.png" for letter in "DST" for number in range(5)))
        paint(folder, *(f"dev/m{number}.png" for number in range(8)))
        paint(folder, *(f"unlabeled2017/{number:012d}.jpg" for number in range(10, 80, 10)))
        paint(folder, *(f"val2017/{number:012d}.jpg" for number in (3, 5, 8, 9)))
        paint(folder, *(f"VG_100K/{number}.jpg" for number in (1, 2, 3)))
        return Path(folder)

    return make


def gme(system: str, user: str) -> str:
    turns = f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{user}<|im_end|>\n"
    return f"{turns}<|im_start|>assistant\n<|endoftext|>"


def e5v(user: str) -> str:
    return (
        f"<|start_header_id|>user<|end_header_id|>\n\n{user}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n \n"
    )


def composed(texts: Rendered) -> set[str]:
    return {text for _, role, text in texts if role == "composed"}


# benchmark -> the task of its queries, and their words
ASKED = {
    "cirr": (CIRR, ["make it 12", "make it 5"]),
    "fashioniq": (FASHIONIQ, ["is red and has, longer sleeves", "is blue"]),
    "circo": (HELPFUL, ["has 0 dogs", "has 1 dogs"]),
    "genecis": (HELPFUL, ["red", "wall"]),
}


@pytest.mark.parametrize("name", ASKED)
def test_a_published_model_is_asked_as_its_preset_says(
    name: str,
    models: Callable[[str], Path],
    data: Callable[[str], Path],
    rendered: Rendered,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Gallery and queries with their own system message, either half alone as a query, all in the model's frame."""
    words = ["run", name, "--data", str(data(name)), "--model", str(models(GME)), "--sheet", "0"]
    assert main([*words, "--output", str(tmp_path / "out")]) == 0
    task, texts = ASKED[name]
    assert rendered == {
        ("document", "image", gme(HELPFUL, PICTURE)),
        ("query", "image", gme(task, PICTURE)),
        *(("query", "composed", gme(task, PICTURE + text)) for text in texts),
        *(("query", "text", gme(task, text)) for text in texts),
    }
    protocol = json.loads((tmp_path / "out" / "result.json").read_text())["protocol"]
    assert (protocol["query task"], protocol["document task"]) == (task, HELPFUL)
    assert protocol["preset"]["name"] == "gme" and protocol["prompts"]["name"] == "gme"
    assert protocol["preset"]["prompts from"] == "source" and protocol["preset"]["uncertain"]
    out = capsys.readouterr().out
    assert "prompts: gme (preset gme, its prompts as in the authors' code)\n" in out
    assert f"  query task: {task}\n  document task: {HELPFUL}\n  uncertain: " in out
    if name in ("cirr", "fashioniq"):
        assert protocol["words"].startswith(f"preset gme, for {name} (embeddings-benchmark/mteb@a905523")
        differing = {"query_task": task}
        assert all(changed == differing for changed in protocol["prompts by task"].values())
    else:
        left_out = "; the benchmark's own, which take the place of InstructCIR's, do not fit in, and are left out"
        assert protocol["words"] == "the model's own" + (left_out if name == "genecis" else "")
        assert "prompts by task" not in protocol
    assert f"  words: {protocol['words']}\n" in out


def test_a_run_is_scored_and_its_equal_inputs_are_one(
    models: Callable[[str], Path], data: Callable[[str], Path], tmp_path: Path
) -> None:
    """What was asked by hand has the same vectors."""
    small = {"factor": 16, "min_pixels": 1024, "max_pixels": 4096}
    preset = small_copy("gme", tmp_path, resize=small, image_processor=None)
    embedder = MLLMEmbedder.from_pretrained(models(GME), preset=preset, dtype="float32", device="cpu")
    suite = open_suite("cirr", data("cirr"))
    vectors = embed(embedder, suite, progress=False)[0][""]
    (query,), task = suite.tasks[0].queries[1], {"task": CIRR}
    np.testing.assert_allclose(vectors.rows["composed"][1], embedder.encode_query([query], **task)[0], atol=1e-5)
    alone = embedder.encode_query([query.image, query.instruction], **task)
    np.testing.assert_allclose(vectors.rows["image only"][1], alone[0], atol=1e-5)
    np.testing.assert_allclose(vectors.rows["text only"][1], alone[1], atol=1e-5)
    gallery = embedder.encode_document([suite.tasks[0].gallery[1]])[0]
    np.testing.assert_allclose(vectors.gallery[1], gallery, atol=1e-5)
    assert gallery @ alone[0] < 1 - 1e-4  # the same picture, asked otherwise
    embedder.save_pretrained(tmp_path / "tuned")
    again = MLLMEmbedder.from_pretrained(tmp_path / "tuned", dtype="float32", device="cpu")
    assert again.preset is None and str(ask(again, suite)) == str(ask(embedder, suite))  # it keeps its form


def test_each_task_has_words_of_its_own(
    models: Callable[[str], Path], data: Callable[[str], Path], rendered: Rendered
) -> None:
    """E5-V's categories of FashionIQ, LamRA's attributes of GeneCIS."""
    result = evaluate(MLLMEmbedder.from_pretrained(models(E5V)), open_suite("fashioniq", data("fashioniq")))
    style = " in one word based on its style:"
    kinds = ("dress", "shirt")
    assert {text for side, _, text in rendered if side == "document"} == {
        e5v(f"<image>\n Describe this {kind}{style}") for kind in kinds
    }
    assert composed(rendered) == {
        e5v(f"<image> change the style of this {kind} to {words}\n Desribe this modified {kind}{style}")
        for kind in kinds
        for words in ASKED["fashioniq"][1]
    }
    said = result.protocol["words"]["toptee"]
    assert said.startswith("preset e5-v, for fashioniq and fashioniq/toptee (kongds/E5-V@bcefe73 retrieval.py ")
    assert said.endswith("; the authors' figures are for the option captions=comma-both-orders")
    rendered.clear()
    result = evaluate(MLLMEmbedder.from_pretrained(models(LAMRA)), open_suite("genecis", data("genecis")))
    everyday = "I'm looking for a similar everyday image with the described changes."
    alike = "I'm looking for an image with the same attributes as described."
    tasks = ("focus_attribute", "change_attribute", "focus_object", "change_object")
    assert result.protocol["query task"] == {name: alike if name == tasks[0] else everyday for name in tasks}
    frame = f"<|im_start|>system\n{HELPFUL}<|im_end|>\n<|im_start|>user\n{{}}<|im_end|>\n<|im_start|>assistant\n"
    asked = f"{PICTURE}{{}}\nSummarize above image and sentence in one word: "
    assert composed(rendered) == {
        frame.format(asked.format(f"{task} {word}")) for task in (alike, everyday) for word in ("red", "wall")
    }


def test_a_benchmarks_own_words_take_the_place_of_instructcirs_alone(
    tiny_llava: Path, models: Callable[[str], Path], data: Callable[[str], Path], rendered: Rendered
) -> None:
    """E5-V asks in InstructCIR's words, in a frame of its own, which stays; other words stay too."""
    suite = open_suite("genecis", data("genecis"))
    focus = "Describe this image focusing on its {} in one word:"
    change = 'Modify this image with "same but {}", describe modified image in one word:'
    wanted = {form.format(word) for form in (focus, change) for word in ("red", "wall")}
    result = evaluate(MLLMEmbedder.from_pretrained(models(E5V)), suite)
    assert composed(rendered) == {e5v(f"<image>{words}") for words in wanted}
    assert result.protocol["words"] == "the benchmark's own"
    own = PromptSet("mine", "Describe:", "Change it: {instruction}", "{text}")
    for prompts, texts in (
        (PROMPT_SETS["instructcir-legacy"], wanted),
        (own, {"Change it: red", "Change it: wall"}),
    ):
        rendered.clear()
        evaluate(MLLMEmbedder.from_pretrained(tiny_llava, prompts=prompts), suite)
        assert composed(rendered) == {f"<|user|><image>\n{words}<|end|><|assistant|>" for words in texts}


def test_words_that_an_option_asks_for_are_never_left_out(
    tiny_llava: Path, models: Callable[[str], Path], data: Callable[[str], Path]
) -> None:
    suite = open_suite("fashioniq", data("fashioniq"), options={"prompts": "e5v"})
    with pytest.raises(ConfigError, match="the preset gme has words of its own for fashioniq; leave the option out"):
        ask(MLLMEmbedder.from_pretrained(models(GME)), suite)
    own = MLLMEmbedder.from_pretrained(tiny_llava, prompts=PromptSet("mine", "What:", "{instruction}", "{text}"))
    with pytest.raises(ConfigError, match=r"prompts=e5v: .* and the prompts 'mine' ask in others; leave the option"):
        ask(own, suite)


def test_a_persons_own_task_goes_over_the_presets(
    models: Callable[[str], Path],
    data: Callable[[str], Path],
    rendered: Rendered,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Also over one that a prompt has by itself; a run of it has a folder of its own."""
    monkeypatch.chdir(tmp_path)
    words = ["run", "cirr", "--data", str(data("cirr")), "--sheet", "0"]
    more = ["--task", "Find it.", "--document-task", "A picture."]
    assert main([*words, "--model", str(models(GME)), *more]) == 0
    assert composed(rendered) == {gme("Find it.", PICTURE + text) for text in ASKED["cirr"][1]}
    assert {text for side, _, text in rendered if side == "document"} == {gme("A picture.", PICTURE)}
    assert "  query task: Find it.\n  document task: A picture.\n" in capsys.readouterr().out
    rendered.clear()
    assert main([*words, "--model", str(models(BGE)), *more[:2]]) == 0
    assert "[INST] \n <instruct> Find it. <query>  make it 5 \n <image> [/INST]" in composed(rendered)
    assert ("query", "image", "[INST] \n <instruct> Find it. <query>  <image> [/INST]") in rendered
    assert ("query", "text", "[INST] \n <instruct> Find it. <query>  make it 5 \n [/INST]") in rendered
    assert ("document", "image", "[INST]  <image> [/INST]") in rendered
    names = {folder.name.split("-task-")[0] for folder in (tmp_path / "runs/eval").iterdir()}
    assert names == {"cirr-val-Alibaba-NLP-gme-Qwen2-VL-2B-Instruct", "cirr-val-BAAI-BGE-VL-MLLM-S1"}
    assert main([*words, "--model", str(models(BGE)), "--document-task", "A picture."]) == 2
    assert "have no place for the document task 'A picture.' in cirr val; leave it out" in capsys.readouterr().err
    assert main([*words, "--model", "not/loaded", "--task", " "]) == 2
    assert "--task is empty; give an instruction" in capsys.readouterr().err


PRESET = """
model_types: [qwen2_vl]
prompts:
  template: none
  image: "{image}Show:"
  composed: "{image}{task}{instruction}"
  text: "{text}"
  captioned: "{image}{text}"
benchmarks:
  mine: {query_task: "Find the thing: "}
  mine/captions: {prompts: {query_text: "Which: {text}"}}
"""


def test_a_persons_own_preset_words_their_own_benchmark(
    models: Callable[[str], Path],
    data: Callable[[str], Path],
    rendered: Rendered,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, file = data("mine"), tmp_path / "own.yaml"
    file.write_text(PRESET)
    words = ["run", str(folder), "--model", str(models(GME)), "--preset", str(file), "--output", str(tmp_path / "out")]
    assert main(words) == 0
    show = "<|image_pad|>Show:"
    assert rendered == {
        ("document", "image", show),
        ("query", "image", show),
        ("query", "composed", "<|image_pad|>Find the thing: in red"),
        ("query", "text", "in red"),
        *(("query", "text", f"Which: thing {one}") for one in "abc"),
    }
    protocol = json.loads((tmp_path / "out" / "result.json").read_text())["protocol"]
    assert protocol["query task"] == "Find the thing: " and "document task" not in protocol
    assert protocol["prompts by task"]["captions"]["query_text"] == "Which: {text}"
    assert protocol["words"]["captions"] == "preset own, for mine and mine/captions"
    rendered.clear()
    assert "asked as own is: preset own\n" in capsys.readouterr().err
    assert main([*words, "--prompts", "instructcir"]) == 0
    printed = capsys.readouterr()
    assert "prompts: instructcir (preset own, but not its prompts)\n  words: those given, not the" in printed.out
    assert "preset own, asked with the prompts instructcir in the place of its own\n" in printed.err
    assert "asked as" not in printed.err
    protocol = json.loads((tmp_path / "out" / "result.json").read_text())["protocol"]
    assert "prompts from" not in protocol["preset"]
    assert not any("Find the thing" in text for _, _, text in rendered)
    file.write_text(PRESET.replace("{task}", ""))
    assert main(words) == 2
    assert "benchmarks.mine.query_task has no place: none of the prompts of that side" in capsys.readouterr().err
