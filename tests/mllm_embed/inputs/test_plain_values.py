"""What a plain value means on each side of a search, and what is said where it could mean two things."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mllm_embed import Document, MLLMEmbedder, Query
from mllm_embed.encode.dual_encoder import DualEncoder
from mllm_embed.errors import DataError, ImageError

PICTURE = Image.new("RGB", (32, 32), "red")
BOTH = {"image": PICTURE, "text": "make it blue"}


@pytest.fixture(autouse=True)
def silent() -> Iterator[None]:
    """Whatever is warned of without being asked for is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def test_a_picture_with_words_is_a_query_or_a_document(embedder: MLLMEmbedder) -> None:
    asked = embedder.encode([Query(PICTURE, "make it blue")])
    told = embedder.encode([Document(PICTURE, "make it blue")])
    assert (asked @ told.T).item() < 0.999
    np.testing.assert_array_equal(embedder.encode_query([BOTH]), asked)
    np.testing.assert_array_equal(embedder.encode_document([BOTH]), told)
    np.testing.assert_array_equal(embedder.encode_query([BOTH | {"instruction": None}]), asked)
    np.testing.assert_array_equal(embedder.encode_document([BOTH | {"instruction": None}]), told)


def test_encode_alone_says_once_what_it_takes_it_for(embedder: MLLMEmbedder) -> None:
    with pytest.warns(UserWarning, match="encode_query where .*encode_document where") as told:
        vectors = embedder.encode([BOTH, "a hat", BOTH])
    assert len(told) == 1 and told[0].filename == __file__
    np.testing.assert_allclose(vectors[0], embedder.encode_document([BOTH])[0], atol=1e-6)
    pair = DualEncoder.__new__(DualEncoder)  # the same door
    pair.query = pair.gallery = embedder
    with pytest.warns(UserWarning, match="encode_query where"):
        pair.encode([BOTH])
    embedder.encode([{"image": PICTURE}, {"text": "a hat"}, {"image": PICTURE, "instruction": "redder"}])


def test_other_values_are_the_same_on_both_sides(embedder: MLLMEmbedder) -> None:
    values: list[Any] = ["a hat", PICTURE, {"text": "a hat"}, {"image": PICTURE}, {"image": None, "text": "a hat"}]
    expected = embedder.encode(values)
    np.testing.assert_array_equal(embedder.encode_query(values), expected)
    np.testing.assert_array_equal(embedder.encode_document(values), expected)
    changed = {"text": "a hat", "instruction": "make it red"}
    np.testing.assert_array_equal(embedder.encode_query([changed]), embedder.encode([changed]))
    for given in (changed, {"image": PICTURE, "instruction": "make it red"}):
        with pytest.raises(DataError, match="a document has no instruction.*encode_query"):
            embedder.encode_document([given])
    # what is said in so many words stays what it is
    query = Query(PICTURE, "make it blue")
    np.testing.assert_array_equal(embedder.encode_document([query]), embedder.encode([query]))


@pytest.mark.parametrize("name", ["a.jpg", "A.TIF", "sub/no suffix", "caf\u00e9.png", "my shoe.webp"])
def test_a_text_that_names_a_file_is_said_to_be_a_text(
    embedder: MLLMEmbedder, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = embedder.encode([name])  # as long as there is no such file, nothing is said
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"...")
    for encode in (embedder.encode, embedder.encode_query, embedder.encode_document):
        with pytest.warns(
            UserWarning, match="is embedded as a text, though it names a file: give a pathlib.Path"
        ) as told:
            np.testing.assert_array_equal(encode([name, name])[:1], before)
        assert len(told) == 1
    embedder.encode([{"text": name}, Document(text=name), "a red hat.", "and/or"])


@pytest.mark.parametrize(
    "text",
    [
        "https://example.org/a/shoe.JPG",
        "https://example.org/shoe.png?width=200#top",
        "file:///photos/shoe.webp",
        "data:image/png;base64," + "iVBORw0KGgo" * 9,
    ],
)
def test_a_text_that_is_an_address_of_a_picture_too(embedder: MLLMEmbedder, text: str) -> None:
    with pytest.warns(UserWarning, match="is embedded as a text"):
        embedder.encode_query([text])
    embedder.encode(["see https://example.org/a.jpg for more", "https://example.org/page"])


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ([["a.png", "a hat"]], "cannot embed a list: give a text"),
        ([(PICTURE, "a hat")], "cannot embed a tuple"),
        ([np.zeros((4, 4, 3))], "cannot embed a ndarray"),
        ([{"image": PICTURE, "prompt": "redder"}], "the key 'prompt': give any of image, text, instruction"),
        (
            [{"images": PICTURE}],
            "the key 'images': give any of image, text, instruction, task, avoid; did you mean 'image'",
        ),
        ([{"image": PICTURE, "text": 3}], "of a (Document|Query) is an int; give words"),
        ([{"text": Path("a.png")}], "the text of a (Document|Query) is a PosixPath; give words"),
        ([{"image": None}], "needs an image or an? "),
        ([b"a hat"], "is not a JPEG"),
        (["a hat", " "], "^input 1: the text of a (Document|Query) is empty"),
        (["a hat", "a shoe", "half \ud800"], "^input 2: .* is no Unicode"),
        ("a hat", "not a str; put a single one in brackets"),
        ({"a hat", "a shoe"}, "takes a list of inputs, not a set"),
        ({"text": "a hat"}, "not a dict; put"),
        (Document(text="a hat"), "not a Document; put"),
        (np.zeros((2, 4)), "not a ndarray"),
    ],
)
def test_what_is_no_list_of_inputs_is_refused(embedder: MLLMEmbedder, wrong: Any, reason: str) -> None:
    for encode in (embedder.encode, embedder.encode_query, embedder.encode_document):
        with pytest.raises((DataError, ImageError), match=reason):
            encode(wrong)


def test_lists_of_other_kinds_are_lists_and_tables_are_not(embedder: MLLMEmbedder) -> None:
    pandas = pytest.importorskip("pandas")
    expected = embedder.encode(["a hat", "a shoe"])
    for listed in (("a hat", "a shoe"), np.array(["a hat", "a shoe"]), pandas.Series(["a hat", "a shoe"])):
        np.testing.assert_array_equal(embedder.encode(listed), expected)
    with pytest.raises(DataError, match="not a DataFrame"):  # which goes through the names of its columns
        embedder.encode(pandas.DataFrame({"text": ["a hat"]}))
