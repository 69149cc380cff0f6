"""`mllm-embed prompt`: the set of a model as YAML, and what the model is given, to the letter and the token."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

import published
from mllm_embed import MLLMEmbedder, Query
from mllm_embed.cli import main
from published_reference import small_copy


def test_what_is_shown_is_what_the_model_gets(
    tiny_llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (40, 30), "teal").save(tmp_path / "a.png")
    asked = ["--image", str(tmp_path / "a.png"), "--instruction", "in <blue>"]
    assert main(["prompt", "--model", str(tiny_llava), "--show", *asked]) == 0
    shown = capsys.readouterr().out
    items = MLLMEmbedder.from_pretrained(tiny_llava).item_processor
    query = Query(image=tmp_path / "a.png", instruction="in <blue>")
    assert f'  text    "{items.render(query)}"'.replace('"in <blue>"', '\\"in <blue>\\"').replace("\n", "\\n") in shown
    counts = re.findall(r'^ +(\d+)  ".*"(?:  x (\d+))?$', shown, re.MULTILINE)
    ids = [int(number) for number, times in counts for _ in range(int(times or 1))]
    assert ids == items([query])["input_ids"][0].tolist() and f"tokens  {len(ids)}\n" in shown


def test_a_picture_is_shown_at_the_size_that_a_preset_gives_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = published.make_published("qwen2_vl", tmp_path / "model")
    preset = small_copy("vlm2vec-v2", tmp_path, resize={"to": [80, 48]}, image_processor=None)
    Image.new("RGB", (64, 64), "teal").save(tmp_path / "a.png")
    asked = ["--preset", str(preset), "--image", str(tmp_path / "a.png")]
    assert main(["prompt", "--model", str(folder), "--show", *asked]) == 0
    assert '"<|image_pad|>"  x 15\n' in capsys.readouterr().out  # 80 x 48 in squares of 16


def test_without_an_input_every_kind_is_shown(tiny_llava: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prompt", "--model", str(tiny_llava), "--show"]) == 0
    shown = capsys.readouterr().out
    assert len(re.findall("^(?:query|document), ", shown, re.MULTILINE)) == 7


def test_a_task_without_an_input_is_that_of_every_kind_that_can_have_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = published.make_published("qwen2_vl", tmp_path / "model")
    assert main(["prompt", "--model", str(folder), "--preset", "vlm2vec-v2", "--show", "--task", "Find it:"]) == 0
    shown = re.findall(r"^(\w+, [\w ]+), task 'Find it:'\n  text    \"(.*)\"$", capsys.readouterr().out, re.MULTILINE)
    assert len(shown) == 6 and all("Find it:" in text for _, text in shown)
    assert not any(name == "document, text" for name, _ in shown)


def test_prompts_for_texts_alone_are_shown_without_pictures(
    tiny_llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = {name: "{text}" for name in ("text", "captioned")} | {"image": "a", "composed": "{instruction}"}
    own = {"composed_text": "{text} {instruction}", "text_only": True, **words}
    (tmp_path / "own.json").write_text(json.dumps(own))
    assert main(["prompt", "--model", str(tiny_llava), "--prompts", str(tmp_path / "own.json"), "--show"]) == 0
    shown = capsys.readouterr().out
    assert re.findall("^(?:query|document), .*", shown, re.MULTILINE) == [
        "query, text", "query, text and instruction", "document, text",
    ]  # fmt: skip


def test_a_set_is_printed_as_a_file_that_can_be_changed(
    tiny_llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prompt", "--preset", "gme"]) == 0
    (tmp_path / "own.yaml").write_text(capsys.readouterr().out.replace("You are a helpful assistant.", "Find it."))
    assert main(["prompt", "--model", str(tiny_llava), "--prompts", str(tmp_path / "own.yaml")]) == 0
    assert "query_task: Find it." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (["--show", "--preset", "gme"], "--show needs --model"),
        ([], "give --model, --preset or --prompts"),
        (["--preset", "gme", "--adapter", "A"], "--adapter needs --model"),
        (["--preset", "gme", "--prompts", "instructcir"], "name two prompt sets"),
        (["--preset", "gme", "--task", "Find it."], "--task is of an input, which --show shows"),
        (["--model", "M", "--show", "--task", "Find it."], "no place for the task 'Find it.'"),
        (["--prompts", "own.yml"], "prompt set own.yml cannot be read"),
        (["--model", "M", "--show", "--side", "document", "--instruction", "red"], "--instruction is a query's"),
        (["--model", "M", "--show", "--text", "a hat", "--task", "Find it."], "no place for the task 'Find it.'"),
    ],
)
def test_what_cannot_be_shown_is_said(
    tiny_llava: Path, asked: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prompt", *(str(tiny_llava) if word == "M" else word for word in asked)]) == 2
    printed = capsys.readouterr()
    assert reason in printed.err and not printed.out


def test_a_preset_is_named_where_its_prompts_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = published.make_published("qwen2_vl", tmp_path / "Alibaba-NLP/gme-Qwen2-VL-2B-Instruct")
    for given, said in (([], "gme, of the preset gme"), (["--prompts", "instructcir"], "instructcir")):
        assert main(["prompt", "--model", str(folder), "--show", "--text", "a hat", *given]) == 0
        assert capsys.readouterr().out.startswith(f"prompts: {said}\n")


def test_what_cannot_be_embedded_is_not_shown(
    tiny_llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prompt", "--model", str(tiny_llava), "--preset", "gme", "--show"]) == 2
    assert "the preset gme is for qwen2_vl models, and" in capsys.readouterr().err
    (tmp_path / "config.json").write_text('{"model_type": "own_vl", "auto_map": {"AutoModel": "modeling_own.Own"}}')
    assert main(["prompt", "--model", str(tmp_path), "--show"]) == 2
    assert "it needs code of its own, modeling_own.Own, and none is run" in capsys.readouterr().err
