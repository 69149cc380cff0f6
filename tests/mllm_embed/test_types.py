"""What counts as an input, and under which role."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from mllm_embed import Document, Query
from mllm_embed.errors import DataError
from mllm_embed.types import as_item


def test_roles() -> None:
    assert Query(image="a.png", instruction="redder").role == "composed"
    assert Query(image="a.png").role == Document(image="a.png").role == "image"
    assert Query(instruction="redder").role == Document(text="a hat").role == Query(text="a hat").role == "text"
    assert Document(image="a.png", text="a hat").role == "captioned"
    assert Query(text="a hat", instruction="redder").role == "composed_text"


def test_one_picture_or_several() -> None:
    assert Query(image="a.png").images == ("a.png",) and Query(instruction="redder").images == ()
    assert Query(image=["a.png", Path("b.png")], instruction="side by side").images == ("a.png", Path("b.png"))
    assert Document(image=["a.png"]).key == Document(image="a.png").key != Document(image=["a.png", "a.png"]).key


def test_equal_inputs_share_a_key() -> None:
    assert Query(instruction="a hat").key == Query(text="a hat").key
    assert Query(image="a.png", instruction="redder").key == Query(image=Path("a.png"), instruction="redder").key
    keys = [
        Document(image="a.png", text="redder").key,
        Query(image="a.png", instruction="redder").key,
        Query(text="a hat", instruction="redder").key,
        Query(text="redder", instruction="a hat").key,
        Query(image="a.png", instruction="redder", task="Find a hat.").key,
        Query(image="a.png", instruction="redder", task="Find a shoe.").key,
        # a prompt set may ask the two sides of a search differently
        Query(image="a.png").key,
        Document(image="a.png").key,
        Query(text="a hat").key,
        Document(text="a hat").key,
    ]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    ("value", "role"),
    [
        ("a hat", "text"),
        (Path("a.png"), "image"),
        (b"...", "image"),
        (Image.new("RGB", (1, 1)), "image"),
        ({"image": "a.png", "instruction": "redder"}, "composed"),
        ({"text": "a hat"}, "text"),
        ({"image": "a.png"}, "image"),
        ({"image": ["a.png", "b.png"]}, "image"),
        ({"image": "a.png", "text": "a hat"}, "captioned"),
        ({"text": "a hat", "instruction": "redder"}, "composed_text"),
    ],
)
def test_plain_values(value: object, role: str) -> None:
    assert as_item(value).role == role


@pytest.mark.parametrize("wrong", [3, None, ["a"], {"picture": "a.png"}, {}, "", {"image": []}, {"image": [3]}])
def test_other_values_are_refused(wrong: object) -> None:
    with pytest.raises(DataError):
        as_item(wrong)


def test_empty_words_are_refused() -> None:
    with pytest.raises(DataError, match="instruction of a Query is empty"):
        Query(image="a.png", instruction="  ")


def test_a_picture_of_another_type_and_two_references_are_refused() -> None:
    with pytest.raises(DataError, match="image of a Query is an int"):
        Query(image=3)
    with pytest.raises(DataError, match="image of a Query is a bytearray"):
        Query(image=bytearray(b"ab"))
    with pytest.raises(DataError, match="not both"):
        as_item({"image": "a.png", "text": "a hat", "instruction": "redder"})


@pytest.mark.parametrize("text", ["half \ud83d", "\udce9"])
def test_half_characters_are_no_words(text: str) -> None:
    for make in (lambda: Query(instruction=text), lambda: Document(text=text), lambda: as_item(text)):
        with pytest.raises(
            DataError, match=r"holds half a character .a lone surrogate., .*; write it in UTF-8"
        ) as error:
            make()
        str(error.value).encode()
    assert Document(text="whole \U0001f600").words
