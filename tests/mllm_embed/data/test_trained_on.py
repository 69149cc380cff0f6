"""What a model was trained on, as numbers: contents count, not names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mllm_embed import Document, Query
from mllm_embed.data.trained_on import Question, TrainedOn, count_leaks, read_trained_on, record_beside
from mllm_embed.errors import DataError


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Four different pictures, and the first once more under another name."""
    for number in range(4):
        Image.new("RGB", (8, 8), (number * 60, 9, 9)).save(tmp_path / f"{number}.png")
    (tmp_path / "again.png").write_bytes((tmp_path / "0.png").read_bytes())
    return [tmp_path / f"{name}.png" for name in (0, 1, 2, 3, "again")]


def _asks(image: Path, words: str, target: Path | str) -> Question:
    answer = Document(text=target) if isinstance(target, str) else Document(image=target)
    return Question([Query(image, words)], [answer])


def test_what_is_the_same_question(pictures: list[Path]) -> None:
    a, b, c, d, again = pictures
    trained = TrainedOn.of([_asks(a, "in  Red", b), Question([Query(text="A dog")], [Document(image=c)])])
    gallery = [Document(image=image) for image in (b, c, d)]
    asked = [
        _asks(again, "in red ", b),  # another name, other spaces, another case
        _asks(again, "IN RED", d),  # with another answer
        _asks(a, "in blue", b),  # other words
        _asks(b, "in red", a),  # another picture
        Question([Query(text="a  dog")], [Document(image=c)]),
        Question([Query(text="a dog")], [Document(image=d)]),  # words alone may well be asked of another picture
        Question([Query(text="other"), Query(again, "in red")], []),  # one of its wordings; its answer is not known
    ]
    leaks = count_leaks(trained, asked, gallery)
    assert leaks == (7, 4, 2, 4, 3)
    assert leaks.in_words("B", "training") == (
        "B: 4 of its 7 queries are asked in training too, 2 of them with the same right answer; 3 of its 4 pictures "
        "are seen there"
    )
    with pytest.raises(DataError, match="take those rows out, or leave --strict out"):
        leaks.check("B", "training")
    clean = count_leaks(trained, asked[2:4], gallery)
    clean.check("B", "training")
    assert clean.in_words("B", "training").startswith("B: none of its 2 queries is asked in training; 3 of its 4")
    assert count_leaks(TrainedOn(), asked, gallery)[1:3] == (0, 0)


def test_it_is_kept_beside_a_model(pictures: list[Path], tmp_path: Path) -> None:
    one = TrainedOn.of([_asks(pictures[0], "in red", pictures[1])])
    other = TrainedOn.of([_asks(pictures[2], "in red", "a text"), _asks(pictures[0], "in red", pictures[1])])
    both = TrainedOn.joined([one, other, TrainedOn(unknown=("shards", "shards"))])
    both.save(tmp_path / "trained_on.safetensors", "of something")
    read, about = read_trained_on(tmp_path / "trained_on.safetensors")
    assert about == "of something" and read.unknown == ("shards",)
    assert [len(part) for part in (read.asked, read.answered, read.pictures)] == [2, 2, 3]
    assert all((part[1:] > part[:-1]).all() for part in (read.asked, read.answered, read.pictures))
    beside = record_beside(tmp_path)
    assert beside is not None and np.array_equal(beside.asked, both.asked)
    assert record_beside(None) is None and record_beside("some-hub/id") is None
    for content in (b"", b"no tensors", (tmp_path / "trained_on.safetensors").read_bytes()[:-1]):
        (tmp_path / "trained_on.safetensors").write_bytes(content)
        with pytest.raises(DataError, match="cannot be read"):
            record_beside(tmp_path)


def test_what_cannot_be_read_has_no_number(pictures: list[Path], tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(b"torn")
    found = TrainedOn.of([_asks(pictures[0], "x", pictures[1]), _asks(pictures[1], "x", pictures[0])])
    assert [len(part) for part in (found.asked, found.answered, found.pictures)] == [1, 0, 1]
    images = [Question([Query(Image.new("RGB", (8, 8)), "x")], [Document(image=pictures[2].read_bytes())])]
    assert (
        len(TrainedOn.of([*images, _asks(pictures[0], "x", pictures[2])]).pictures) == 3
    )  # bytes are those of the file
