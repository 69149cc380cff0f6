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
    assert Query(instruction="redder").role == Document(text="a hat").role == "text"


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
    ],
)
def test_plain_values(value: object, role: str) -> None:
    assert as_item(value).role == role


@pytest.mark.parametrize("wrong", [3, None, ["a"], {"picture": "a.png"}, {}, ""])
def test_other_values_are_refused(wrong: object) -> None:
    with pytest.raises(DataError):
        as_item(wrong)


def test_empty_words_are_refused() -> None:
    with pytest.raises(DataError, match="instruction of a Query is empty"):
        Query(image="a.png", instruction="  ")
    with pytest.raises(DataError, match="not both"):
        Document(image="a.png", text="a hat")


def test_a_picture_of_another_type_and_contradicting_keys_are_refused() -> None:
    with pytest.raises(DataError, match="image of a Query is a int"):
        Query(image=3)
    with pytest.raises(DataError, match="not both"):
        as_item({"text": "a hat", "instruction": "redder"})
