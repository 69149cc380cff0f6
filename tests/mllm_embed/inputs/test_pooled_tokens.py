"""Which tokens are pooled, wherever words, task and pictures stand in a prompt, and what may be shared then."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import families
import published
from mllm_embed import Document, MLLMEmbedder, PromptSet, Query
from mllm_embed.errors import ConfigError, DataError, ModelError
from mllm_embed.inputs.item_processor import ItemProcessor
from mllm_embed.inputs.prompts import PROMPT_SETS
from mllm_embed.model.embedding_model import EmbeddingModel
from mllm_embed.model.pooling import Pooling
from mllm_embed.model.processor_loading import load_processor

BASE = Path(__file__).resolve().parents[3] / "scripts/assets/base"
CLOSE = {"atol": 1e-5, "rtol": 0}
KINDS = ("llava", "llava_next", "qwen2_vl", "idefics3", "gemma3", "mllama")
PICTURE = {"qwen2_vl": "<|vision_start|><|image_pad|><|vision_end|>"}
_SPELT = {"Ġ": " ", "Ċ": "\n", "▁": " ", "<0x0A>": "\n"}
_SPACES = re.compile("|".join(_SPELT))
TASK = "red find a hat"  # which begins with a word that the instruction begins with
FORM = "Instruct: {task}\nQuery: "


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("families")
    return {name: families.make(name, folder / name) for name in KINDS}


def _behind(family: str = "") -> PromptSet:
    """Return prompts in which the picture stands behind the words, as BGE-VL's have it."""
    return PromptSet(
        name="behind", template="none", task_form=FORM, append="<|end|>", picture=PICTURE.get(family),
        image="<|user|>{image}", text="<|user|>{task}{text}", composed="<|user|>{task}{instruction}\n{image}",
        captioned="<|user|>{text} {image}",
    )  # fmt: skip


def _between() -> PromptSet:
    """Return prompts with words on both sides of the picture, in the model's own chat."""
    return PromptSet(
        name="between", task_form="<<{task}>> ", image="{image}\n{task}", text="{task}{text}!",
        composed='Change "{instruction}" {image} so: {task}', captioned="{text} {image} is {task}",
    )  # fmt: skip


def _in_front() -> PromptSet:
    """Return the same behind the picture, which LLaVA's chat templates put first wherever it is."""
    return PromptSet(
        name="in front", task_form="<<{task}>> ", image="{image}\n{task}", text="{task}{text}!",
        composed='{image} Change "{instruction}" so: {task}', captioned="{image} {text} is {task}",
    )  # fmt: skip


def _system() -> PromptSet:
    return PromptSet(name="system", system="{task}", image="Say.", text="{text}!", composed="{instruction}")


def _noise(width: int, height: int, seed: int = 0) -> Image.Image:
    drawn = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    return Image.fromarray(drawn).resize((width, height))


@cache
def _plain(folder: Path) -> MLLMEmbedder:
    return MLLMEmbedder.from_pretrained(folder, dtype="float32", device="cpu")


def _embedder(folder: Path, prompts: PromptSet, pooling: Pooling = "mean", **settings: Any) -> MLLMEmbedder:
    plain = _plain(folder)
    model = EmbeddingModel(plain.model.backbone, plain.family, pooling)
    own = replace(plain.settings, prompts=prompts, pooling=pooling, **settings)
    return MLLMEmbedder(model, load_processor(str(folder)), own)


def _split(items: ItemProcessor, item: Query | Document) -> tuple[str, str]:
    """Return the words of the tokens that are pooled and of those that are not, a picture's own left out."""
    batch = items([item, item])
    ids, mask = batch["input_ids"][1], batch["content_mask"][1].bool()
    own = torch.isin(ids, torch.tensor(items.processor.image_token_ids))
    assert not item.images or (mask & own).any()
    named = (items.processor.tokenizer.convert_ids_to_tokens(ids[chosen & ~own]) for chosen in (mask, ~mask))
    taken, left = (_SPACES.sub(lambda found: _SPELT[found[0]], "".join(tokens)) for tokens in named)
    return taken, left


@pytest.mark.parametrize("family", KINDS)
def test_words_and_tasks_are_found_on_either_side_of_a_picture(folders: dict[str, Path], family: str) -> None:
    """To the letter, also where a task begins as the instruction does, and a picture's marks go by its size."""
    processor, picture = load_processor(str(folders[family])), _noise(100, 60)
    query, caption = Query(picture, "red hat", task=TASK), Document(picture, "a caption")
    text = Query(text="a cap", task=TASK)
    for prompts in (_behind(family), _between(), _system()):
        content = ItemProcessor(processor, prompts, pooled="content")
        assert [_split(content, item)[0].strip() for item in (query, caption, text)] == [
            "red hat",
            "a caption",
            "a cap",
        ]
        without = ItemProcessor(processor, prompts, pooled="without_task")
        assert [_split(without, item)[1] for item in (query, text)] == [_form(prompts)] * 2
        assert _split(without, caption)[1] == ""


@pytest.mark.parametrize("kind", ["llava_next_mistral", "llava_next_llama3", "qwen3_vl"])
def test_they_are_found_by_tokenizers_of_published_models(tmp_path: Path, kind: str) -> None:
    """Which begin with a start token, write spaces and line breaks in their own ways, and pad with an end token."""
    processor = load_processor(str(published.make_published(kind, tmp_path / kind)))
    query, text = Query(_noise(100, 60), "red hat", task=TASK), Query(text="a cap", task=TASK)
    qwen = kind == "qwen3_vl"
    for prompts in (_behind("qwen2_vl" if qwen else ""), _between() if qwen else _in_front(), _system()):
        content = ItemProcessor(processor, prompts, pooled="content")
        assert [_split(content, item)[0].strip() for item in (query, text)] == ["red hat", "a cap"]
        without = ItemProcessor(processor, prompts, pooled="without_task", padding_side="right")
        left = [_split(without, item)[1].strip() for item in (query, text)]
        assert left == [_form(prompts).strip()] * 2


@pytest.mark.parametrize(
    ("words", "taken", "before"),
    [
        ("make it red", "make it red", 'with "'),
        ('"make" it red', '"make" it red', 'with "'),
        ('", describe it', '", describe it', 'with "'),  # as the prompt goes on
        (", describe modified", '", describe modified', "with "),  # which is one token with the prompt's mark
        ('"', '"', 'with "'),
    ],
)
def test_words_that_begin_as_the_prompt_goes_on_are_found_where_they_stand(words: str, taken: str, before: str) -> None:
    items = ItemProcessor(load_processor(str(BASE)), PROMPT_SETS["instructcir"], pooled="content_words")
    batch = items([Query(_noise(64, 64), words)])
    ids, [chosen] = batch["input_ids"][0], batch["content_mask"].bool()
    places = chosen.nonzero()[:, 0].tolist()
    assert places == list(range(places[0], places[-1] + 1))
    decode = items.processor.tokenizer.decode
    assert decode(ids[chosen]) == taken and decode(ids[: places[0]]).endswith(before)


def _form(prompts: PromptSet) -> str:
    return prompts.task_form.format(task=TASK)


@pytest.mark.parametrize("family", ["qwen2_vl", "llava", "gemma3"])
def test_pictures_have_their_marks_with_them(folders: dict[str, Path], family: str) -> None:
    processor = load_processor(str(folders[family]))
    items = ItemProcessor(processor, _behind(family), pooled="pictures")
    first, second = _noise(64, 64), _noise(100, 60)
    marks = {"qwen2_vl": "<|vision_start|><|vision_end|>", "gemma3": "<start_of_image><end_of_image>", "llava": ""}
    assert _split(items, Query(first, "red", task=TASK))[0].strip() == marks[family]
    assert _split(items, Document([first, second]))[0].split() == [marks[family] * 2] or family != "qwen2_vl"
    assert _split(items, Document(text="a cap"))[1] == ""  # where there is no picture, all


def _at(token: str, more: int) -> Callable[[Any, list[int]], list[int]]:
    def chosen(tokenizer: Any, ids: list[int]) -> list[int]:
        last = max(at for at, number in enumerate(ids) if number == tokenizer.convert_tokens_to_ids(token))
        return list(range(last + more))

    return chosen


def _within_marks(tokenizer: Any, ids: list[int]) -> list[int]:
    marks = [f"<|vision_{name}|>" for name in ("start", "end")]
    first, last = tokenizer.convert_tokens_to_ids(marks if marks[0] in tokenizer.get_vocab() else ["<image>"] * 2)
    return list(range(ids.index(first), len(ids) - ids[::-1].index(last))) if first in ids else list(range(len(ids)))


def _but_the_task(tokenizer: Any, ids: list[int]) -> list[int]:
    task = tokenizer(FORM.format(task=TASK).strip(), add_special_tokens=False)["input_ids"]
    starts = [at for at in range(len(ids)) if ids[at : at + len(task)] == task]
    # the space behind it, where it is a token and not the beginning of a word
    ends = [at + len(task) + (ids[at + len(task)] == tokenizer.convert_tokens_to_ids("Ġ")) for at in starts]
    gone = set(chain.from_iterable(map(range, starts, ends)))
    return [at for at in range(len(ids)) if at not in gone]


def _everything(tokenizer: Any, ids: list[int]) -> list[int]:
    return list(range(len(ids)))


@pytest.mark.parametrize(
    ("family", "pooling", "pooled", "chosen"),
    [
        ("llava", "mean", "all", _everything),
        ("llava", "mean", "without_task", _but_the_task),
        ("qwen2_vl", "mean", "without_task", _but_the_task),
        ("llava", "mean", "pictures", _within_marks),
        ("qwen2_vl", "mean", "pictures", _within_marks),
        ("qwen2_vl", "last", "before <|end|>", _at("<|end|>", 0)),
        ("llava", "last", "at <|user|>", _at("<|user|>", 1)),
        ("qwen2_vl", "mean", "at <|user|>", _at("<|user|>", 1)),
        ("llava", "max", "all", _everything),
        ("llava", "weightedmean", "all", _everything),
    ],
)
def test_vectors_are_those_of_a_plain_reference(
    folders: dict[str, Path], family: str, pooling: Pooling, pooled: str, chosen: Callable[[Any, list[int]], list[int]]
) -> None:
    """Alone, batched, packed, and shared where it may be; the picture stands behind the words."""
    embedder = _embedder(folders[family], _behind(family), pooling, pooled=pooled)
    a, b = _noise(64, 64), _noise(100, 60, 1)
    items = [
        Query(a, "red hat", task=TASK), Query(a, "blue, and a good deal longer than the first one", task=TASK),
        Query(b, "red hat"), Document(a), Document(a, "a caption"), Document(b), Query([a, b], "both", task=TASK),
        *(Query(text=words, task=TASK) for words in ("a cap", "a red cap with a feather", "two")),
    ]  # fmt: skip
    expected = np.stack([_reference(embedder, item, pooling, chosen) for item in items])
    work = embedder.plan(items)
    assert any(step.shared for step in work.steps)
    np.testing.assert_allclose(embedder.execute(work).vectors, expected, **CLOSE)
    np.testing.assert_allclose(np.concatenate([embedder.encode([item]) for item in items]), expected, **CLOSE)
    np.testing.assert_allclose(embedder.encode(items, packed=True), expected, **CLOSE)
    assert np.abs(expected[0] - expected[1]).max() > 1e-3 or pooled == "at <|user|>"


def _reference(
    embedder: MLLMEmbedder, item: Query | Document, pooling: str, chosen: Callable[[Any, list[int]], list[int]]
) -> np.ndarray:
    """Return a vector from the facts: tokens, a forward pass, the states of the chosen tokens, their length."""
    batch = embedder.item_processor([item])
    batch.pop("content_mask", None)
    with torch.no_grad():
        hidden = embedder.model.base(**batch).last_hidden_state[0]
    states = hidden[chosen(embedder.processor.tokenizer, batch["input_ids"][0].tolist())]
    pools: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "last": lambda states: states[-1],
        "mean": lambda states: states.mean(0),
        "max": lambda states: states.max(0).values,
        "weightedmean": lambda states: sum(states[at] * (at + 1) for at in range(len(states))),
    }
    vector = pools[pooling](states)
    return (vector / vector.norm()).numpy()


@pytest.mark.parametrize("family", ["qwen2_vl", "llava", "idefics3", "mllama"])
def test_nothing_is_shared_behind_words_that_differ(folders: dict[str, Path], family: str) -> None:
    embedder = _embedder(folders[family], _behind(family), "last")
    a, b = _noise(64, 64), _noise(100, 60, 1)
    words = ("red hat", "red hat with a feather", "blue")
    items = [*(Query(a, one, task=TASK) for one in words), Query(b, "red hat", task=TASK), Query(a, "red hat")]
    work = embedder.plan([*items, *items])
    assert [step.numbers for step in work.steps if step.shared] == [] and len(work.inputs) == len(items)
    # a model that may still looks at each picture once
    assert work.planned.pictures == (2 if embedder.family.reuses_features else 5)
    alone = np.concatenate([embedder.encode([item]) for item in items])
    np.testing.assert_allclose(embedder.execute(work).vectors, np.tile(alone, (2, 1)), **CLOSE)
    np.testing.assert_allclose(embedder.encode(items, packed=True), alone, **CLOSE)


@pytest.mark.parametrize("family", ["qwen2_vl", "llava_next"])
def test_equal_words_in_front_of_a_picture_are_shared_with_it(folders: dict[str, Path], family: str) -> None:
    prompts = replace(_behind(family), composed="<|user|>{task}{image}\n{instruction}")
    embedder = _embedder(folders[family], prompts, "last")
    a, b = _noise(64, 64), _noise(100, 60, 1)
    items = [
        Query(a, "red", task=TASK), Query(a, "blue, and longer", task=TASK), Query(a, "red", task="another one"),
        Query(a, "red"), Query(a, "green"), Query(b, "red", task=TASK),
    ]  # fmt: skip
    work = embedder.plan(items)
    assert sorted(step.groups for step in work.steps if step.shared) == [((0, 1), (3, 4))]
    alone = np.concatenate([embedder.encode([item]) for item in items])
    np.testing.assert_allclose(embedder.execute(work).vectors, alone, **CLOSE)


@pytest.mark.parametrize("wanted", ["before <|user|>", "at <|assistant|>"])
def test_an_input_without_the_token_is_named(folders: dict[str, Path], tmp_path: Path, wanted: str) -> None:
    embedder = _embedder(folders["llava"], _behind(), "last", pooled=wanted)
    _noise(32, 32).save(tmp_path / "hat.png")
    with pytest.raises(DataError, match=r"hat\.png.*no <\|\w+\|> with a token to pool") as caught:
        embedder.encode([tmp_path / "hat.png"])
    assert "\n" not in str(caught.value)
    unreadable: dict[int, str] = {}
    assert not embedder.encode(["a cap", tmp_path / "hat.png"], unreadable=unreadable).any()
    assert sorted(unreadable) == [0, 1] and "'a cap'" in unreadable[0]


@pytest.mark.parametrize(
    ("pooled", "said"),
    [
        ("middle", "pooled is 'middle', which are no tokens; give all, content"),
        ("at", "which are no tokens"),
        ("", "which are no tokens"),
        ("at  <|end|>", "which are no tokens"),
        ("before <emb>", "pooled is 'before <emb>', and the tokenizer of this model has no token '<emb>'"),
    ],
)
def test_tokens_that_do_not_exist_are_one_sentence(folders: dict[str, Path], pooled: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        ItemProcessor(load_processor(str(folders["llava"])), _behind(), pooled=pooled)
    assert "\n" not in str(caught.value)


def test_words_of_a_user_are_no_token_to_pool_at(folders: dict[str, Path]) -> None:
    items = ItemProcessor(load_processor(str(folders["llava"])), _behind(), pooled="at <|user|>")
    assert _split(items, Document(text="a <|user|> cap"))[0] == "<|user|>"


def test_what_is_pooled_is_saved_and_told_apart(folders: dict[str, Path], tmp_path: Path) -> None:
    usual, other = (
        _embedder(folders["llava"], _behind(), pooled=pooled, padding_side=side)
        for pooled, side in (("content", "left"), ("without_task", "right"))
    )
    other.save_pretrained(tmp_path / "saved")
    loaded = MLLMEmbedder.from_pretrained(tmp_path / "saved", dtype="float32", device="cpu")
    assert (loaded.settings.pooled, loaded.settings.padding_side) == ("without_task", "right")
    assert all(loaded.provenance[key] == other.provenance[key] for key in ("settings", "processor"))
    assert other.provenance["settings"]["pooled"] == "without_task"
    item = Query(text="a cap", task=TASK)
    np.testing.assert_array_equal(loaded.encode([item]), other.encode([item]))
    # vectors of words that were told from the prompt's otherwise do not go with these
    told = [one.provenance["settings"].get("pooled_words") for one in (usual, other)]
    assert told == ["by their characters", None]
    assert "pooled" not in usual.provenance["settings"] and "pooled" not in usual.settings.to_dict()


def test_where_tokens_cannot_be_told_that_is_said(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    items = ItemProcessor(load_processor(str(folders["llava"])), _behind(), pooled="without_task")
    spans = items.spans

    def mistaken(text: str) -> tuple[Sequence[int], Sequence[tuple[int, int]]]:
        tokens, found = spans(text)
        return [token + 1 for token in tokens], found

    monkeypatch.setattr(items, "spans", mistaken)
    with pytest.raises(ModelError, match=r"makes other tokens of a prompt than its tokenizer.*\(without_task\)"):
        items([Query(text="a cap", task=TASK)])
