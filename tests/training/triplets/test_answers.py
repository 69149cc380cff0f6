"""What is found in a language model's answer, and what is thrown away."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from mllm_embed.training.triplets.answers import Change, judge, parse
from mllm_embed.training.triplets.prompt import CHANGE_KINDS, Prompt

ONE = {"instruction": "make it blue", "modified_caption": "a blue dress"}
TWO = {"instruction": "add a hat", "modified_caption": "a red dress and a hat"}
A, B = json.dumps(ONE), json.dumps(TWO)


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (f"[{A}, {B}]", [ONE, TWO]),
        (A, [ONE]),
        (f"{A}\n{B}", [ONE, TWO]),
        (f"Here you are [as asked]:\n```json\n[{A},\n {B},\n]\n```\nAnything else {{or not}}?", [ONE, TWO]),
        (f'{{"changes": [{A}, {{"nested": {B}}}]}}', [ONE, TWO]),
        (f"<think>perhaps {B}? no</think>\n[{A}]", [ONE]),
        (f"[{A}, {B[:-5]}", [ONE]),
        (A.replace("make it", "make\nit"), [{**ONE, "instruction": "make\nit blue"}]),
        (A.replace('dress"', 'dress",'), [ONE]),
        ('{"instruction": "x"}', [{"instruction": "x"}]),
        ("I am sorry, I cannot.", []),
        ("", []),
        ("{" * 5000, []),
        ("[" * 5000 + A, [ONE]),
        ('[1, "two", null, {"three": 3}]', []),
    ],
)
def test_json_is_found_wherever_it_stands(answer: str, found: list[dict[str, str]]) -> None:
    assert parse(answer) == found


@pytest.mark.parametrize(
    ("instruction", "caption", "reason"),
    [
        ("", "a blue dress", "incomplete"),
        ("make it blue", " .,! ", "incomplete"),
        ("make it blue", None, "incomplete"),
        ("make it blue", ["a blue dress"], "incomplete"),
        ("make it \udc00 blue", "a blue dress", "incomplete"),
        ("...", "a blue dress", "incomplete"),
        ("make it blue ...", "a blue dress", "placeholder"),
        ("make it [colour]", "a blue dress", "placeholder"),
        ("make it blue", "<image> a blue dress", "placeholder"),
        ("make it blue", "{caption}", "placeholder"),
        ("instruction", "a blue dress", "placeholder"),
        ("make it blue", "Modified caption", "placeholder"),
        ("make it blue " * 30, "a blue dress", "length"),
        ("make it blue", "a blue dress " * 30, "length"),
        ("make it blue", "a blue", "length"),
        ("b", "a blue dress", "length"),
        ("make it blue", "A red dress, on a chair in a shop!", "unchanged"),
        ("a blue dress on a chair", "a blue dress on a chair", "leaked"),
        ("a blue dress", "A blue dress.", "leaked"),
        ("turn it to: a blue dress on a chair.", "a blue dress on a chair", "leaked"),
        ("not A red dress on a chair in a shop but two", "two red dresses", "leaked"),
        ("make it blue", "The image shows a blue dress", "not_a_caption"),
        ("make it blue", "the modified picture of a blue dress", "not_a_caption"),
        ("make it blue", "a blue dress instead of a red one", "not_a_caption"),
        ("make it blue", "a dress that is now blue", "not_a_caption"),
        ("make it blue", "a dress, the red has been replaced", "not_a_caption"),
    ],
)
def test_what_is_no_change_has_a_reason(instruction: object, caption: object, reason: str) -> None:
    value = {"instruction": instruction, "modified_caption": caption}
    assert judge(value, "a red dress on a chair in a shop") == reason


@pytest.mark.parametrize(
    ("source", "instruction", "caption"),
    [
        ("a red dress", "a blue dress, please", "a blue dress"),  # a short target may be named in an instruction
        ("a photo of a dog", "make it a cat", "a photo of a cat"),
        ("a picture on the wall", "hang up a new picture", "the new picture hangs on the wall"),
        ("the image shows a dog", "a cat", "the image shows two cats"),
        ("a sign with <exit> on it", "in green", "a green sign with <exit> on it"),
        ("一只狗在雪地里", "换成猫", "一只猫在雪地里"),
        ("a dog", "remove the leash", "a dog without a leash"),
    ],
)
def test_honest_changes_pass(source: str, instruction: str, caption: str) -> None:
    value = {"kind": " Replace ", "instruction": f" {instruction}\n", "modified_caption": caption}
    assert judge(value, source) == Change(instruction, caption, "replace")
    assert judge({**value, "kind": "make-believe"}, source) == Change(instruction, caption, None)
    assert judge({**value, "kind": 3}, source) == Change(instruction, caption, None)


def test_every_kind_comes_first_about_as_often() -> None:
    prompt = Prompt.load(None, 2)
    firsts = Counter(prompt.fill(f"caption {i}").split("\n- ")[1].split(":")[0] for i in range(2200))
    assert firsts.keys() == CHANGE_KINDS.keys() and all(140 < count < 260 for count in firsts.values())
    assert prompt.fill("a dog") == prompt.fill("a dog")
