"""What is computed once, what together, and that no vector shows it."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
import threading
import weakref
from collections import Counter
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import families
from mllm_embed import Document, MLLMEmbedder, Query
from mllm_embed.encode import batching, prefetch
from mllm_embed.encode.batching import cut_by_budget
from mllm_embed.encode.planning import EncodingPlan
from mllm_embed.encode.suffixes import Suffix
from mllm_embed.errors import DataError, ImageError
from mllm_embed.inputs.images import glance, load_image
from mllm_embed.inputs.rendering import FilledPrompt

CLOSE = {"atol": 1e-5, "rtol": 0}


def _asked(data: Path) -> list[Query | Document]:
    """Three pictures, of which one is asked three things, one two and one is a gallery's alone; and two texts."""
    a, b, c = (data / "images" / f"{number}.png" for number in range(3))
    return [
        Document(a), Query(a, "make it red"), Query(b, "make it blue"), Document(b, "a hat"), Document(c),
        Query(a, "a longer instruction than the others"), Document(text="a hat"), Document(text="a blue hat"),
    ]  # fmt: skip


def _one_by_one(embedder: MLLMEmbedder, items: list) -> np.ndarray:
    return np.concatenate([embedder.encode([item]) for item in items])


def _tokens(embedder: MLLMEmbedder, item: Query | Document) -> int:
    return embedder.item_processor([item])["input_ids"].shape[1]


def test_what_is_asked_of_one_picture_shares_it(embedder: MLLMEmbedder, data: Path) -> None:
    items = _asked(data)
    work = embedder.plan(items)
    shared = [sorted(group) for step in work.steps if step.shared for group in step.groups]
    assert sorted(shared) == [[0, 1, 5], [2, 3]]
    lengths = [_tokens(embedder, item) for item in items]
    assert work.given.inputs == work.planned.inputs == 8
    assert (work.given.pictures, work.planned.pictures) == (6, 3)
    assert abs(work.given.tokens - sum(lengths)) <= len(items)  # a processor's arithmetic may be a token off
    picture = embedder.item_processor.picture_tokens(32, 32)
    assert work.given.tokens - work.planned.tokens >= 3 * picture
    assert "pictures seen" in str(work) and "2.00 x" in str(work)
    np.testing.assert_allclose(embedder.execute(work).vectors, _one_by_one(embedder, items), **CLOSE)


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_batches_of_any_size_give_the_same_vectors(embedder: MLLMEmbedder, data: Path, batch_size: int) -> None:
    items = _asked(data) * 2
    found = embedder.encode(items, batch_size=batch_size)
    np.testing.assert_allclose(found, _one_by_one(embedder, items), **CLOSE)
    np.testing.assert_array_equal(found[:8], found[8:])


def test_pictures_are_told_by_their_content(embedder: MLLMEmbedder, data: Path, tmp_path: Path) -> None:
    copy = shutil.copy(data / "images/0.png", tmp_path / "copy.png")
    with Image.open(copy) as opened:
        loaded = [opened.convert("RGB"), opened.convert("RGB")]
    items = [Document(data / "images/0.png"), Document(copy), Query(copy, "make it red"), *map(Document, loaded)]
    work = embedder.plan(items)
    assert work.places[0] == [0, 1] and work.planned.pictures == 2  # as a file, and as pixels
    assert sorted(chain.from_iterable(work.places)) == list(range(5)) and [3, 4] in work.places
    np.testing.assert_allclose(embedder.execute(work).vectors, _one_by_one(embedder, items), **CLOSE)


def test_texts_share_a_system_prompt(tiny_llava: Path) -> None:
    embedder = MLLMEmbedder.from_pretrained(tiny_llava, dtype="float32", device="cpu")
    plain = embedder.plan(["a hat", "a red hat"])
    assert not any(step.shared for step in plain.steps)
    system = "You are a helpful assistant who looks at pictures and describes them.\n"
    embedder.processor.chat_template = embedder.processor.tokenizer.chat_template = (
        system + embedder.processor.chat_template
    )
    embedder = embedder.with_prompts(embedder.prompts)
    items = [Document(text=words) for words in ("a hat", "a red hat", "a red hat with a feather", "two")]
    work = embedder.plan(items)
    assert [len(group) for step in work.steps for group in step.groups] == [4] and work.steps[0].shared
    lengths = [_tokens(embedder, item) for item in items]
    assert sum(lengths) == work.given.tokens
    assert work.planned.tokens < 0.6 * work.given.tokens
    np.testing.assert_allclose(embedder.execute(work).vectors, _one_by_one(embedder, items), **CLOSE)


def test_a_prompt_whose_tokens_run_into_the_words_is_computed_whole(
    embedder: MLLMEmbedder, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = _asked(data)
    expected = embedder.encode(items)
    monkeypatch.setattr(embedder.suffixes, "_learned", lambda role, images: None)
    work = embedder.plan(items)
    assert not any(step.shared for step in work.steps) and work.planned.pictures == 3
    np.testing.assert_allclose(embedder.execute(work).vectors, expected, **CLOSE)


def test_a_processor_that_makes_other_tokens_is_noticed(
    embedder: MLLMEmbedder, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = _asked(data)
    expected = embedder.encode(items)
    real = embedder.suffixes._learned

    def mistaken(role: str, images: int):
        learned = real(role, images)
        return replace(learned, added=(*learned.added, learned.following))

    monkeypatch.setattr(embedder.suffixes, "_learned", mistaken)
    work = embedder.plan(items)
    assert any(step.shared for step in work.steps)
    np.testing.assert_allclose(embedder.execute(work).vectors, expected, **CLOSE)


def test_a_suffix_that_ends_otherwise_is_noticed(
    embedder: MLLMEmbedder, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = _asked(data)
    expected = embedder.encode(items)
    suffixes = embedder.suffixes

    def mistaken(item: Query | Document, prompt: FilledPrompt) -> Suffix:
        suffix = suffixes(item, prompt)
        return replace(suffix, tokens=(*suffix.tokens[:-1], suffix.tokens[-1] + 1))

    monkeypatch.setattr(embedder, "suffixes", mistaken)
    work = embedder.plan(items)
    assert any(step.shared for step in work.steps)
    np.testing.assert_allclose(embedder.execute(work).vectors, expected, **CLOSE)


def test_prefixes_that_look_ahead_are_not_shared(tiny_llava: Path, data: Path) -> None:
    embedder = MLLMEmbedder.from_pretrained(tiny_llava, dtype="float32", device="cpu", bidirectional=True)
    assert not any(step.shared for step in embedder.plan(_asked(data)).steps)


def _tokenised(embedder: MLLMEmbedder, items: list, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Return how often each text passes the tokenizer while items are embedded."""
    embedder.encode(items)  # what a prompt is probed with comes first, once a model
    tokenizer, seen = embedder.processor.tokenizer, Counter[str]()
    batch = type(tokenizer)._encode_plus

    def counted(self: object, text: str | list[str], *given: object, **options: object) -> object:
        seen.update([text] if isinstance(text, str) else text)
        return batch(self, text, *given, **options)

    monkeypatch.setattr(type(tokenizer), "_encode_plus", counted)
    embedder.encode(items)
    monkeypatch.undo()
    return seen


def test_each_text_is_tokenised_once(embedder: MLLMEmbedder, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [Document(text=f"a hat, the {number}th") for number in range(50)]
    seen = _tokenised(embedder, [*texts, *texts, Query(text="a red hat", instruction="make it blue")], monkeypatch)
    assert len(seen) == 51 and set(seen.values()) == {1}
    # with pictures: the prompt once, and what the processor makes of it, which holds as many placeholders as tokens,
    # of one input a picture
    items = _asked(data)
    seen = _tokenised(embedder, items, monkeypatch)
    placeholder = embedder.processor.image_token
    prompts = {embedder.item_processor.render(item) for item in items}
    assert {text: count for text, count in seen.items() if text in prompts} == dict.fromkeys(prompts, 1)
    expanded = {text: count for text, count in seen.items() if text not in prompts}
    assert sum(expanded.values()) == 3 and all(text.count(placeholder) == 16 for text in expanded)


def test_a_processor_that_adds_to_texts_makes_them_itself(
    embedder: MLLMEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one would that writes a start token in front: what the tokenizer alone makes is not used then."""
    plain = embedder.encode(["a hat", "a red hat"])
    call = type(embedder.processor).__call__

    def adding(self: object, text: list[str], **options: object) -> object:
        return call(self, text=["<s>" + one for one in text], **options)

    monkeypatch.setattr(type(embedder.processor), "__call__", adding)
    other = embedder.with_prompts(embedder.prompts)
    batch = other.item_processor([Document(text="a hat")])
    expected = other.model(**batch).detach().numpy()
    np.testing.assert_allclose(other.encode(["a hat", "a red hat"])[:1], expected, **CLOSE)
    assert np.abs(plain[:1] - expected).max() > 1e-3


def test_an_empty_list_has_no_work(embedder: MLLMEmbedder) -> None:
    work = embedder.plan([])
    assert isinstance(work, EncodingPlan) and not work.steps and embedder.encode([]).shape == (0, embedder.dimension)


def test_batches_hold_their_budget_and_little_padding() -> None:
    lengths = sorted(np.random.default_rng(0).integers(5, 400, 1000).tolist(), reverse=True)
    parts = cut_by_budget(lengths, 4096, most=100)
    assert [at for part in parts for at in range(part.start, part.stop)] == list(range(1000))
    rows = [lengths[part] for part in parts]
    assert all(len(row) * row[0] <= 4096 and len(row) <= 100 for row in rows)
    assert sum(map(sum, rows)) / sum(len(row) * row[0] for row in rows) > 0.95
    assert cut_by_budget([9000, 10], 4096) == [slice(0, 1), slice(1, 2)] and cut_by_budget([], 10) == []


def test_a_glance_tells_content_and_upright_size(tmp_path: Path) -> None:
    picture = Image.new("RGB", (40, 20), "red")
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    picture.save(tmp_path / "lying.jpg", exif=exif)
    picture.save(tmp_path / "upright.jpg")
    assert glance(tmp_path / "lying.jpg")[1] == (20, 40) and glance(tmp_path / "upright.jpg")[1] == (40, 20)
    assert glance(tmp_path / "upright.jpg") == glance((tmp_path / "upright.jpg").read_bytes())
    assert glance(tmp_path / "lying.jpg")[0] != glance(tmp_path / "upright.jpg")[0]
    (tmp_path / "none.jpg").write_text("no picture")
    with pytest.raises(ImageError, match=r"none\.jpg is not a"):
        glance(tmp_path / "none.jpg")


def test_a_picture_that_the_model_cannot_take_is_named(tmp_path: Path) -> None:
    """Qwen2-VL refuses pictures 200 times as wide as high, by its arithmetic as by its processor."""
    embedder = MLLMEmbedder.from_pretrained(families.make("qwen2_vl", tmp_path / "model"), dtype="float32")
    Image.new("RGB", (3000, 8)).save(tmp_path / "strip.png")
    with pytest.raises(DataError, match=r"strip\.png cannot be read by this model"):
        embedder.encode([tmp_path / "strip.png", "a hat"])


def _large_and_small(folder: Path) -> list[Path]:
    drawn = np.random.default_rng(0)
    files = []
    for number, side in enumerate([96, 16, 64, 64, 32, 16, 64, 128, 32, 96, 64, 16]):
        files.append(folder / f"{number}.png")
        Image.fromarray(drawn.integers(0, 256, (side, side, 3)).astype(np.uint8)).save(files[-1])
    return files


def test_pictures_that_are_decoded_at_once_are_counted_in_pixels(
    embedder: MLLMEmbedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = _large_and_small(tmp_path)
    expected = embedder.encode(files)
    waiting, most, lock = 0, 0, threading.Lock()

    def let_go(pixels: int) -> None:
        nonlocal waiting
        with lock:
            waiting -= pixels

    def counted(source: Path | Image.Image) -> Image.Image:
        nonlocal waiting, most
        picture = load_image(source)
        if picture is source:  # it is decoded, and comes to the processor
            return picture
        with lock:
            waiting += math.prod(picture.size)
            most = max(most, waiting)
        weakref.finalize(picture, let_go, math.prod(picture.size))
        return picture

    monkeypatch.setattr(batching, "STEP_PIXELS", 2 * 64 * 64)
    monkeypatch.setattr(prefetch, "WAITING_PIXELS", 4 * 64 * 64)
    monkeypatch.setattr(embedder.item_processor, "load", counted)
    np.testing.assert_allclose(embedder.encode(files), expected, **CLOSE)
    # the largest alone is as much as two steps; what is just being let go of may still be there
    assert most <= (4 + 2) * 64 * 64
    steps = embedder.plan(files).steps
    sizes = [sum(math.prod(Image.open(files[number]).size) for number in step.numbers) for step in steps]
    assert all(size <= 2 * 64 * 64 or len(step.numbers) == 1 for size, step in zip(sizes, steps, strict=True))
    assert len(steps) < len(files)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the peak of a process's memory is Linux's to say")
def test_large_pictures_take_little_memory(tiny_llava: Path, tmp_path: Path) -> None:
    for number in range(4):
        Image.new("L", (7000, 7000), 60 * number).save(tmp_path / f"{number}.png")
    code = (
        "import pathlib; from mllm_embed import MLLMEmbedder;"
        f"embedder = MLLMEmbedder.from_pretrained({str(tiny_llava)!r}, device='cpu');"
        f"print(embedder.encode(sorted(pathlib.Path({str(tmp_path)!r}).glob('*.png')), show_progress=False).shape);"
        # getrusage would begin with the memory of the process that started this one
        "print(pathlib.Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[-1]) < 2 * 2**20  # KiB: two GiB, with the libraries
