"""Pictures made another size before the model's processor, and that processor's own settings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import families
from mllm_embed import Document, MLLMEmbedder, Query
from mllm_embed.errors import ConfigError, DataError
from mllm_embed.inputs.item_processor import ItemProcessor
from mllm_embed.inputs.prompts import PROMPT_SETS
from mllm_embed.inputs.resize import Resize, check_agrees, with_picture_settings

CLOSE = {"atol": 1e-5, "rtol": 0}
SMALL = Resize(factor=16, min_pixels=1024, max_pixels=4096)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("families")
    return {name: families.make(name, folder / name) for name in ("qwen2_vl", "llava_next", "mllama", "internvl")}


def _with(folder: Path, **settings: Any) -> MLLMEmbedder:
    plain = MLLMEmbedder.from_pretrained(folder, dtype="float32", device="cpu")
    return MLLMEmbedder(plain.model, plain.processor, replace(plain.settings, **settings))


def _noise(width: int, height: int, seed: int = 0) -> Image.Image:
    drawn = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(drawn)


def _sizes(factor: int, low: int, high: int, **more: Any) -> Resize:
    return Resize(factor=factor, min_pixels=low, max_pixels=high, **more)


GME, QWEN3, LAMRA = _sizes(28, 3136, 12845056), _sizes(32, 4096, 1843200), _sizes(28, 3136, 235200)
CAPPED = replace(GME, refused_ratio=None, capped_ratio=200)  # as the copy of GME and RzenEmbed has it


@pytest.mark.parametrize(
    ("resize", "size", "expected"),
    [
        # what smart_resize of the sources in resize.py gives, run there
        (GME, (640, 480), (644, 476)),
        (GME, (3000, 2000), (2996, 1988)),
        (GME, (10, 20), (56, 84)),
        (GME, (42, 70), (56, 56)),  # halves go to the even neighbour
        (GME, (10000, 7000), (4256, 2996)),
        (GME, (5000, 30), (5012, 28)),
        (QWEN3, (640, 480), (640, 480)),
        (QWEN3, (1920, 1080), (1792, 992)),
        (QWEN3, (42, 70), (64, 96)),
        (QWEN3, (1, 1), (64, 64)),
        (LAMRA, (1920, 1080), (644, 336)),
        (CAPPED, (10000, 20), (5600, 28)),
        (CAPPED, (20, 10000), (28, 5600)),
        (Resize(to=(512, 300)), (90, 4000), (512, 300)),
        (Resize(to=(1344, 1344), over=1344), (1344, 20), (1344, 20)),
        (Resize(to=(1344, 1344), over=1344), (1345, 20), (1344, 1344)),
        (Resize(under=28, under_to=(56, 56)), (27, 900), (56, 56)),
        (Resize(under=28, under_to=(56, 56)), (28, 900), (28, 900)),
        (Resize(to=(40, 20), under=28, under_to=(56, 56), factor=32), (900, 900), (64, 64)),
    ],
)
def test_a_picture_gets_the_size_that_the_models_authors_give_it(resize: Resize, size: Any, expected: Any) -> None:
    assert resize.size(*size) == resize(Image.new("RGB", size)).size == expected
    assert Resize.from_dict(resize.to_dict()) == resize


@pytest.mark.parametrize(("resize", "size"), [(GME, (8001, 40)), (CAPPED, (49_000_000, 1)), (LAMRA, (40, 8001))])
def test_a_picture_that_has_no_size_is_refused(resize: Resize, size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"its sides are {size[0]} and {size[1]}"):
        resize.size(*size)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "resize changes no picture"),
        ({"to": [512]}, r"resize\.to is \(512,\), not a width and a height"),
        ({"to": [512, 0]}, "not a width and a height"),
        ({"to": [10**5, 10**5]}, "not a width and a height"),
        ({"to": 512}, "not a width and a height"),
        ({"factor": "28"}, r"resize\.factor is '28', not a whole number over 0"),
        ({"factor": True}, "not a whole number over 0"),
        ({"factor": 28, "max_pixels": 700}, "give limits that hold a square"),
        ({"factor": 28, "max_pixels": 10**9}, "up to 50,000,000 pixels"),
        ({"factor": 28, "min_pixels": 5000, "max_pixels": 4000}, "between 5,000 and 4,000"),
        ({"over": 1344, "factor": 28}, "give to"),
        ({"under": 28}, "resize has one of under and under_to"),
        ({"to": [9, 9], "min_pixels": 9}, "min_pixels, which goes with factor"),
        ({"to": [9, 9], "capped_ratio": 9}, "capped_ratio, which goes with factor"),
        ({"too": [9, 9]}, r"resize\.too is no key of it; did you mean 'to'\?"),
    ],
)
def test_values_that_do_not_go_together_are_one_sentence(values: dict[str, Any], said: str) -> None:
    with pytest.raises((ConfigError, ValueError), match=said) as caught:
        Resize.from_dict(values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("family", "resize", "size"),
    [
        ("qwen2_vl", replace(SMALL, factor=32), (64, 32)),  # of a picture of 100 x 72
        ("llava_next", Resize(to=(48, 96)), (48, 96)),
        ("mllama", Resize(to=(80, 40), over=90), (80, 40)),
    ],
)
def test_the_processor_gets_what_pil_makes_of_it(
    folders: dict[str, Path], family: str, resize: Resize, size: tuple[int, int]
) -> None:
    """Its pixels are those of the resized picture, once, and so are vectors: alone, batched, shared and packed."""
    resized, plain = _with(folders[family], resize=resize), _with(folders[family])
    given, made = _noise(100, 72), _noise(100, 72).resize(size, Image.Resampling.BICUBIC)
    batches = [one.item_processor([Document(picture)]) for one, picture in ((resized, given), (plain, made))]
    assert batches[0].keys() == batches[1].keys()
    assert all(torch.equal(batches[0][name], batches[1][name]) for name in batches[0])
    other = _noise(70, 100, 1)

    def asked(picture: Image.Image) -> list[Query | Document]:
        return [Document(picture), Query(picture, "make it red"), Query(picture, "blue, and a good deal longer")]

    items = [*asked(given), Document(other), Document(text="a hat")]
    expected = plain.encode([*asked(made), Document(other.resize(resize.size(70, 100))), Document(text="a hat")])
    work = resized.plan(items)
    assert any(step.shared for step in work.steps)
    np.testing.assert_allclose(resized.execute(work).vectors, expected, **CLOSE)
    np.testing.assert_allclose(np.concatenate([resized.encode([item]) for item in items]), expected, **CLOSE)
    np.testing.assert_allclose(resized.encode(items, packed=True), expected, **CLOSE)
    # a picture that was decoded, and handed back
    prepared, length = resized.item_processor.prepared(items[1])
    assert prepared.images[0].size == (100, 72)
    assert length == batches[0]["input_ids"].shape[1] - len(_words(plain, "")) + len(_words(plain, "make it red"))
    np.testing.assert_allclose(resized.encode([prepared]), expected[1:2], **CLOSE)
    assert np.abs(expected[:1] - plain.encode([given])).max() > 1e-3


def _words(embedder: MLLMEmbedder, words: str) -> list[int]:
    """Return the tokens of a prompt with a picture, with these words in it."""
    items = embedder.item_processor
    item = Query("picture.png", words) if words else Document("picture.png")
    return items.tokens([items.render(item)])[0]


def test_each_picture_is_resized_once(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = _with(folders["qwen2_vl"], resize=SMALL)
    pictures = [_noise(100, 72, seed) for seed in range(3)]
    items = [*map(Document, pictures), *(Query(pictures[0], words) for words in ("red", "blue", "green"))]
    embedder.encode(items)
    seen: list[tuple[int, int]] = []
    monkeypatch.setattr(Resize, "__call__", _counted(Resize.__call__, seen))
    embedder.encode(items)
    assert seen == [(100, 72)] * 3


def _counted(call: Any, seen: list[tuple[int, int]]) -> Any:
    def counted(self: Resize, picture: Image.Image) -> Image.Image:
        seen.append(picture.size)
        return call(self, picture)

    return counted


@pytest.mark.parametrize(
    ("family", "resize", "settings"),
    [
        ("qwen2_vl", SMALL, {}),
        ("qwen2_vl", SMALL, {"do_resize": False, "min_pixels": 4096}),  # it is left at the size that it has
        ("llava_next", Resize(to=(48, 96)), {}),
        ("internvl", Resize(under=40, under_to=(96, 64)), {}),
    ],
)
def test_lengths_count_the_size_that_pictures_get(
    folders: dict[str, Path], family: str, resize: Resize, settings: dict[str, Any]
) -> None:
    processor = with_picture_settings(_with(folders[family]).processor, settings)
    items = ItemProcessor(processor, PROMPT_SETS["instructcir"], resize=resize)
    for size in ((100, 72), (30, 90), (200, 40), (33, 47)):
        item = Document(_noise(*size))
        prompt = items.tokenise([items.render(item)])[0]
        length = items([item])["input_ids"].shape[1]
        assert len(prompt.tokens) + items.more_tokens(prompt, (size,)) == length == items.prepared(item)[1]
        assert abs(len(prompt.tokens) + items.picture_tokens(*size) - length) <= 1  # its placeholder is one of them


def test_lengths_of_qwen_are_reckoned_without_a_look(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A large picture takes its processor a quarter of a second, and a gallery has hundreds of sizes."""
    processor = with_picture_settings(_with(folders["qwen2_vl"]).processor, {"do_resize": False, "min_pixels": 4096})
    items = ItemProcessor(processor, PROMPT_SETS["instructcir"], resize=SMALL)
    monkeypatch.setattr(items, "_batch", lambda *given: pytest.fail("a picture was processed"))
    assert [items.picture_tokens(*size) for size in ((16, 16), (100, 72), (200, 40))] == [4, 12, 8]


def test_a_picture_that_cannot_be_resized_is_named(folders: dict[str, Path], tmp_path: Path) -> None:
    embedder = _with(folders["qwen2_vl"], resize=SMALL)
    Image.new("RGB", (4000, 8)).save(tmp_path / "strip.png")
    with pytest.raises(DataError, match=r"strip\.png cannot be read by this model: its sides are 4000 and 8") as caught:
        embedder.encode([tmp_path / "strip.png", "a hat"])
    assert "\n" not in str(caught.value)
    unreadable: dict[int, str] = {}
    vectors = embedder.encode([tmp_path / "strip.png", "a hat"], unreadable=unreadable)
    assert list(unreadable) == [0] and "strip.png" in unreadable[0]
    assert not vectors[0].any() and vectors[1].any()


def test_what_is_resized_is_saved_and_told_apart(folders: dict[str, Path], tmp_path: Path) -> None:
    plain, resized = _with(folders["qwen2_vl"]), _with(folders["qwen2_vl"], resize=SMALL)
    resized.save_pretrained(tmp_path / "saved")
    loaded = MLLMEmbedder.from_pretrained(tmp_path / "saved", dtype="float32", device="cpu")
    assert loaded.settings.resize == SMALL
    assert loaded.provenance["settings"]["resize"] == {"factor": 16, "min_pixels": 1024, "max_pixels": 4096}
    np.testing.assert_array_equal(loaded.encode([_noise(100, 72)]), resized.encode([_noise(100, 72)]))
    assert not {"resize", "pooled", "padding_side"} & (plain.provenance["settings"].keys() | plain.settings.to_dict())


def _settings() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    yield "qwen2_vl", {"min_pixels": 2048}, {"size": {"shortest_edge": 2048, "longest_edge": 4096}}
    yield "qwen2_vl", {"max_pixels": 2048, "do_resize": True}, {"size": {"shortest_edge": 512, "longest_edge": 2048}}
    yield "qwen2_vl", {"size": {"shortest_edge": 256, "longest_edge": 1024}}, {}
    yield "llava_next", {"image_grid_pinpoints": [[32, 64], [64, 32]]}, {}
    yield "internvl", {"max_patches": 2}, {}


@pytest.mark.parametrize(("family", "given", "expected"), _settings())
def test_settings_of_an_image_processor_are_its_own(
    folders: dict[str, Path], tmp_path: Path, family: str, given: dict[str, Any], expected: dict[str, Any]
) -> None:
    """They change what it makes of a picture, are saved with it, and tell its vectors apart."""
    embedder, plain = _with(folders[family]), _with(folders[family])
    with_picture_settings(embedder.processor, given)
    values = embedder.processor.image_processor.to_dict()
    assert {key: values[key] for key in expected or given} == (expected or given)
    sizes = ((20, 20), (96, 96), (300, 100))
    tokens = [_tokens(embedder, size) for size in sizes]
    assert tokens != [_tokens(plain, size) for size in sizes]
    assert embedder.provenance["processor"] != plain.provenance["processor"]
    embedder.save_pretrained(tmp_path / "saved")
    loaded = MLLMEmbedder.from_pretrained(tmp_path / "saved", dtype="float32", device="cpu")
    assert loaded.provenance["processor"] == embedder.provenance["processor"]
    assert [_tokens(loaded, size) for size in sizes] == tokens


def _tokens(embedder: MLLMEmbedder, size: tuple[int, int]) -> int:
    return embedder.item_processor([Document(Image.new("RGB", size))])["input_ids"].shape[1]


@pytest.mark.parametrize(
    ("family", "given", "said"),
    [
        ("qwen2_vl", {"max_image_tiles": 4}, "Qwen2VLImageProcessor.* has no setting 'max_image_tiles'"),
        ("qwen2_vl", {"crop_size": {"height": 9, "width": 9}}, "has no setting 'crop_size'"),  # which it leaves aside
        ("qwen2_vl", {"max_pixel": 4}, "has no setting 'max_pixel'; did you mean 'max_pixels'"),
        ("qwen2_vl", {"do_resize": "no"}, "do_resize of .* is 'no', not true or false"),
        ("qwen2_vl", {"size": {"shortest_edge": 9}}, "reads no picture with size: "),
        ("qwen2_vl", {"image_mean": [0.5]}, "reads no picture with image_mean: "),
        ("llava_next", {"image_grid_pinpoints": [[32, 32]]}, r"by its own config, has \[\[32, 64\], "),
        ("mllama", {"min_pixels": 4}, "MllamaImageProcessor.* has no setting 'min_pixels'"),
    ],
)
def test_a_setting_that_does_not_fit_is_one_sentence(
    folders: dict[str, Path], family: str, given: dict[str, Any], said: str
) -> None:
    embedder = _with(folders[family])
    processor, config = embedder.processor, embedder.model.base.config
    before = processor.image_processor.to_dict()
    with pytest.raises(ConfigError, match=said) as caught:
        check_agrees(config, given)
        with_picture_settings(processor, given)
    assert "\n" not in str(caught.value) and processor.image_processor.to_dict() == before


def test_pictures_that_grow_are_no_more_at_once_than_memory_holds(folders: dict[str, Path]) -> None:
    """Small ones are squashed to a square of 1.8 million pixels, of which a step holds 48 million."""
    embedder = _with(folders["llava_next"], resize=Resize(to=(1344, 1344)))
    pictures = [_noise(8, 8, seed) for seed in range(60)]
    steps = embedder.plan(pictures, batch_size=64).steps
    assert max(len(step.numbers) for step in steps) == 26
    assert len(_with(folders["llava_next"]).plan(pictures, batch_size=64).steps) == 1
