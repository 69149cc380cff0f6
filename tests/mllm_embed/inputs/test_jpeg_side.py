"""JPEGs decoded at a part of their size: by one rule wherever pictures are embedded, and part of what vectors are."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import families
from mllm_embed import Document, MLLMEmbedder, Query
from mllm_embed.cli import main
from mllm_embed.errors import ConfigError, ImageError
from mllm_embed.inputs.images import glance, load_image
from mllm_embed.saving.settings import read_settings

CLOSE = {"atol": 1e-5, "rtol": 0}
SIDE = 32  # that of the tiny LLaVA's image processor


def _photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Return a picture with something to see at every scale."""
    drawn = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    smooth = Image.fromarray(drawn).resize((width, height), Image.Resampling.BICUBIC)
    grain = np.random.default_rng(seed + 1).integers(-20, 20, (height, width, 3))
    return Image.fromarray((np.asarray(smooth) + grain).clip(0, 255).astype(np.uint8))


def _saved(picture: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for seed, size in enumerate(((300, 200), (200, 300), (517, 301))):
        _photo(*size, seed).save(folder / f"{seed}.jpg", quality=90)
    return folder


@pytest.mark.parametrize(
    ("side", "size"),
    [
        (10, (53, 38)),  # 1/8, rounded up: there is no less
        (37, (53, 38)),
        (38, (105, 76)),  # 301 is less than 8 times it
        (75, (105, 76)),
        (76, (209, 151)),
        (150, (209, 151)),
        (151, (417, 301)),
        (5000, (417, 301)),
        (None, (417, 301)),
    ],
)
def test_the_smallest_size_is_taken_whose_sides_have_so_many_pixels(side: int | None, size: tuple[int, int]) -> None:
    content = _saved(_photo(417, 301))
    loaded = load_image(content, jpeg_side=side)
    assert loaded.size == glance(content, jpeg_side=side).size == size
    with Image.open(io.BytesIO(content)) as whole:
        if side:
            whole.draft(None, (side, side))
        assert loaded.tobytes() == whole.convert("RGB").tobytes()


def _jpegs() -> Iterator[tuple[str, bytes, tuple[int, int]]]:
    photo, turned = _photo(300, 200), Image.Exif()
    turned[0x0112] = 6
    yield "turned", _saved(photo, exif=turned), (50, 75)
    yield "progressive", _saved(photo, progressive=True), (75, 50)
    yield "grey", _saved(photo.convert("L")), (75, 50)
    yield "CMYK", _saved(photo.convert("CMYK")), (75, 50)
    yield "two pictures in one file", _saved(photo, "MPO", save_all=True, append_images=[photo]), (75, 50)


@pytest.mark.parametrize(("content", "size"), [pytest.param(*case, id=name) for name, *case in _jpegs()])
def test_every_kind_of_jpeg_is_scaled(content: bytes, size: tuple[int, int]) -> None:
    loaded = load_image(content, jpeg_side=SIDE)
    assert (loaded.mode, loaded.size) == ("RGB", size) and glance(content, jpeg_side=SIDE).size == size
    whole = np.asarray(load_image(content).resize(size, Image.Resampling.BOX), np.int16)
    assert np.abs(np.asarray(loaded, np.int16) - whole).mean() < 3  # the same picture, which lies the same way


def test_what_is_no_jpeg_file_is_read_whole() -> None:
    photo = _photo(300, 200)
    for given in (photo, _saved(photo, "PNG"), _saved(photo, "WEBP")):
        assert load_image(given, jpeg_side=SIDE).size == glance(given, jpeg_side=SIDE).size == (300, 200)


def test_a_damaged_jpeg_is_refused_at_any_size() -> None:
    content = _saved(_photo(300, 200))
    for cut in (content[: len(content) // 2], content[:-40]):
        for side in (None, 8, SIDE):
            with pytest.raises(ImageError, match="truncated"):
                load_image(cut, jpeg_side=side)


def test_vectors_are_those_of_the_scaled_pictures(tiny_llava: Path, folder: Path) -> None:
    """Alone, in a batch, sharing a picture, packed, from bytes, and decoded first."""
    plain = MLLMEmbedder.from_pretrained(tiny_llava, dtype="float32", device="cpu")
    scaled = MLLMEmbedder.from_pretrained(tiny_llava, dtype="float32", device="cpu", jpeg_side=SIDE)
    files = sorted(folder.iterdir())
    small = [load_image(file, jpeg_side=SIDE) for file in files]
    assert [picture.size for picture in small] == [(75, 50), (50, 75), (65, 38)]

    def asked(pictures: list[Any]) -> list[Query | Document]:
        queries = [Query(picture, words) for picture in pictures for words in ("make it red", "a blue one, and larger")]
        return [*map(Document, pictures), *queries]

    items, expected = asked(files), plain.encode(asked(small))
    work = scaled.plan(items)
    assert any(step.shared for step in work.steps)
    np.testing.assert_allclose(scaled.execute(work).vectors, expected, **CLOSE)
    np.testing.assert_allclose(np.concatenate([scaled.encode([item]) for item in items]), expected, **CLOSE)
    np.testing.assert_allclose(scaled.encode(items, packed=True), expected, **CLOSE)
    np.testing.assert_allclose(scaled.encode(asked([file.read_bytes() for file in files])), expected, **CLOSE)
    prepared = [scaled.item_processor.prepared(item)[0] for item in items]
    np.testing.assert_allclose(scaled.encode(prepared), expected, **CLOSE)
    unreadable: dict[int, str] = {}
    found = scaled.encode([*items, b"\xff\xd8\xff"], unreadable=unreadable)
    np.testing.assert_allclose(found[:-1], expected, **CLOSE)
    assert list(unreadable) == [len(items)]
    assert np.abs(plain.encode(items) - expected).max() > 1e-4


def test_tokens_are_counted_at_the_size_that_is_seen(tmp_path: Path, folder: Path) -> None:
    """Where the number of tokens follows the size of the picture."""
    model = families.make("qwen2_vl", tmp_path / "model")
    with pytest.warns(UserWarning, match=r"jpeg_side is 24: a JPEG of 48 x 48 pixels becomes \d+ tokens, and \d+"):
        scaled = MLLMEmbedder.from_pretrained(model, dtype="float32", device="cpu", jpeg_side=24)
    for file in sorted(folder.iterdir()):
        batch = scaled.item_processor([Document(file)])
        small = load_image(file, jpeg_side=24)
        assert batch["input_ids"].shape[1] == scaled.item_processor([Document(small)])["input_ids"].shape[1]
        assert batch["input_ids"].shape[1] == scaled.item_processor.prepared(Document(file))[1]
        planned = scaled.plan([file]).inputs[0]  # one more: a placeholder is one of its tokens
        assert planned.length - batch["input_ids"].shape[1] in (0, 1) and planned.pixels == small.width * small.height


def test_a_user_is_told_where_the_model_would_see_more(tiny_llava: Path) -> None:
    with pytest.warns(UserWarning, match="jpeg_side is 16: this model brings pictures to 1,024 pixels or more"):
        MLLMEmbedder.from_pretrained(tiny_llava, device="cpu", jpeg_side=16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for side in (SIDE, 10**6, 0, None):
            MLLMEmbedder.from_pretrained(tiny_llava, device="cpu", jpeg_side=side)


@pytest.mark.parametrize("side", [-1, 3.0, True, "32"])
def test_a_side_that_is_none_is_one_sentence(tiny_llava: Path, side: Any) -> None:
    with pytest.raises(ConfigError, match="jpeg_side is a number of pixels, or 0 to decode JPEGs whole, not") as caught:
        MLLMEmbedder.from_pretrained(tiny_llava, device="cpu", jpeg_side=side)
    assert "\n" not in str(caught.value)


def test_it_is_saved_and_can_be_taken_back(tiny_llava: Path, folder: Path, tmp_path: Path) -> None:
    plain = MLLMEmbedder.from_pretrained(tiny_llava, dtype="float32", device="cpu")
    MLLMEmbedder(plain.model, plain.processor, replace(plain.settings, jpeg_side=SIDE)).save_pretrained(
        tmp_path / "saved"
    )
    saved = read_settings(tmp_path / "saved")
    assert saved is not None and saved.jpeg_side == SIDE
    loaded = MLLMEmbedder.from_pretrained(tmp_path / "saved", dtype="float32", device="cpu")
    whole = MLLMEmbedder.from_pretrained(tmp_path / "saved", dtype="float32", device="cpu", jpeg_side=0)
    files = sorted(folder.iterdir())
    np.testing.assert_allclose(whole.encode(files), plain.encode(files), **CLOSE)
    assert np.abs(loaded.encode(files) - plain.encode(files)).max() > 1e-4
    assert loaded.provenance["settings"]["jpeg_side"] == SIDE
    # what was written before there was such a setting stays as it was
    assert "jpeg_side" not in whole.provenance["settings"].keys() | whole.settings.to_dict().keys()
    # sentence-transformers decodes pictures itself, whole
    asked = json.loads((tmp_path / "saved" / "sentence_bert_config.json").read_text())
    assert "cannot ask as this model was trained" in asked["processing_kwargs"]["chat_template"]["chat_template"]


def test_stores_and_indexes_keep_the_two_apart(
    tiny_llava: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, index = str(tmp_path / "store"), str(tmp_path / "index")
    model = ["--model", str(tiny_llava), "--dtype", "float32", "--device", "cpu"]
    encode = ["encode", str(folder), "--output", store, *model]
    scaled = ["--jpeg-side", str(SIDE)]
    assert main([*encode, *scaled]) == 0
    assert main(["index", store, "--output", index, "--kind", "flat"]) == 0
    queries = ["--image", str(folder / "0.jpg"), "-k", "1"]
    for gallery in (store, index):
        assert main(["search", *queries, "--gallery", gallery, *model, *scaled]) == 0
    said = f"settings.jpeg_side: {SIDE}, now null"
    capsys.readouterr()
    for asked in (encode, *(["search", *queries, "--gallery", gallery, *model] for gallery in (store, index))):
        assert main(asked) == 2
        told = capsys.readouterr().err
        assert said in told and "Traceback" not in told
    assert main([*encode, "--jpeg-side", "64"]) == 2
    assert f"settings.jpeg_side: {SIDE}, now 64" in capsys.readouterr().err
