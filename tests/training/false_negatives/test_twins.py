"""Pictures that are the same, under other names or saved again, count as one answer."""

from __future__ import annotations

import io
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from mllm_embed import Document, Query
from mllm_embed.errors import ModelError
from mllm_embed.training.data.numbers import number_of
from mllm_embed.training.false_negatives.keys import ItemKeys, as_told
from mllm_embed.training.false_negatives.near_twins import near_twins, same_picture
from mllm_embed.training.false_negatives.twins import NO_TWINS, content_twins
from mllm_embed.training.recipe.recipe_files import load_recipe
from mllm_embed.training.run.stages import run_recipe
from toy.scenes import KINDS, Painter, sample_edit, sample_scene

from .stage_runs import figures, recipe_of

KEY = ItemKeys(as_told)
SPRITES = Path(__file__).parents[3] / "scripts" / "assets" / "sprites"


def test_twins_are_found_by_content(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    one, other = rng.bytes(20_000), rng.bytes(20_000)
    middle = one[:10_000] + b"x" + one[10_001:]  # of the same size, and alike at both ends
    contents = {"a": one, "b": one, "c": other, "d": middle, "e": one[:9], "f": other, "g": one[:9], "h": b"alone"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    names = [str(tmp_path / name) for name in (*contents, "missing")]
    twins = content_twins([*names, names[0]])
    called = {name: twins.name_of(name) for name in names}
    groups = {frozenset(Path(n).name for n in names if called[n] == called[name]) for name in names}
    assert groups == {frozenset(group) for group in ("ab", "cf", "d", "eg", "h", ["missing"])}
    assert called[names[3]] == names[3]
    keys = ItemKeys(as_told, twins)
    assert keys(Document(image=names[0])) == keys(Document(image=Path(names[1]))) != keys(Document(image=names[3]))
    assert keys(Query(image=names[2], instruction="x")) == keys(Query(image=names[5], instruction="x"))


def test_a_picture_under_two_names_is_one_candidate_of_a_bank(
    tiny_llava: Path, data: Path, triplets: Callable, tmp_path: Path
) -> None:
    shutil.copy(data / "images/5.png", data / "images/again.png")
    rows = [("images/0.png", "images/5.png"), ("images/0.png", "images/again.png"), ("images/1.png", "images/6.png"),
            ("images/2.png", "images/7.png")]  # fmt: skip
    triplets([{"image": image, "target_image": target} for image, target in rows])
    term = {"query": "composed", "positive": "target_image", "bank": True}
    bank = recipe_of(tiny_llava, data, tmp_path / "bank", terms=[term], batch_size=4, steps=1)
    batch = recipe_of(tiny_llava, data, tmp_path / "batch", batch_size=4, steps=1)
    for recipe in (bank, batch):
        run_recipe(load_recipe(recipe))
    inputs = load_file(tmp_path / "bank/run/checkpoints/one/bank-0.safetensors")["inputs"]
    assert len(inputs) == 3
    for name in ("accuracy/", "negatives/", "loss/"):
        assert figures(bank, name) == pytest.approx(figures(batch, name), abs=1e-4)
    (tmp_path / "bank/run/checkpoints/one/right_answers.safetensors").write_bytes(b"spoilt")
    shutil.rmtree(tmp_path / "bank/run/one")
    with pytest.raises(ModelError, match=r"right_answers.safetensors is damaged; remove .*/checkpoints/one to train"):
        run_recipe(load_recipe(bank))


def test_a_picture_saved_again_as_jpeg_is_one_answer_and_an_edit_is_none(tmp_path: Path) -> None:
    """Scenes that nobody has seen, and every kind of edit of each."""
    painter, rng = Painter(SPRITES), random.Random(99)
    names, expected = [], []
    for number in range(6):
        scene = sample_scene(rng, painter.nouns, 3)
        for quality in (100, 92, 75, 50):
            names.append(str(tmp_path / f"{number}-{quality}.jpg"))
            painter.paint(scene).save(names[-1], quality=quality, subsampling=0 if quality > 90 else 2)
        expected.append(set(names[-4:]))
        for kind in KINDS:
            edit = sample_edit(rng, scene, painter.nouns, kind)
            if edit:
                names.append(str(tmp_path / f"{number}-{kind}.png"))
                painter.paint(edit.result).save(names[-1])
    numbers = np.array([number_of(name) for name in names])
    order = np.argsort(numbers)
    twins = NO_TWINS.joined(*near_twins(numbers[order], [names[at] for at in order]))
    groups: dict[Any, set[str]] = {}
    for name in names:
        groups.setdefault(twins.name_of(name), set()).add(name)
    assert [group for group in groups.values() if len(group) > 1] == expected
    assert len(groups) > 6 * 5
    grey = Image.new("RGB", (64, 64), (120, 120, 120))
    grey.save(tmp_path / "grey.png")
    tinted = Image.new("RGB", (64, 64), (120, 120, 120))
    tinted.paste((158, 104, 104), (8, 8, 24, 24))  # as light as the rest
    tinted.save(tmp_path / "tinted.png")
    grey.resize((32, 32)).save(tmp_path / "small.png")
    assert not same_picture(tmp_path / "grey.png", tmp_path / "tinted.png")
    assert not same_picture(tmp_path / "grey.png", tmp_path / "small.png")
    assert not same_picture(tmp_path / "grey.png", tmp_path / "missing.png")


@pytest.mark.parametrize("near", [True, False])
def test_near_twins_count_as_one_answer_in_batch_and_bank(
    near: bool, tiny_llava: Path, data: Path, triplets: Callable, tmp_path: Path
) -> None:
    """Two rows ask the same and answer with one picture, once as JPEG: in the bank one candidate, in a batch right."""
    Image.open(data / "images/5.png").save(data / "images/again.jpg", quality=90)
    rows = [("images/0.png", "images/5.png"), ("images/1.png", "images/again.jpg"), ("images/2.png", "images/7.png")]
    triplets([{"image": image, "target_image": target} for image, target in rows])
    term = {"query": "composed", "positive": "target_image", "bank": True}
    for name, keys in (("batch", {}), ("bank", {"terms": [term]})):
        recipe = recipe_of(tiny_llava, data, tmp_path / name, batch_size=3, steps=1, near_twins=near, **keys)
        run_recipe(load_recipe(recipe))
        assert figures(recipe, "negatives/") == [1 if near else 2]
        assert figures(recipe, "left_out/") == pytest.approx([2 / 3 if near and name == "batch" else 0], abs=1e-3)


def test_pictures_that_are_bytes_have_keys_by_their_bytes() -> None:
    with io.BytesIO() as file:
        Image.new("RGB", (4, 4)).save(file, "PNG")
        content = file.getvalue()
    assert KEY(Document(image=content)) == KEY(Document(image=bytes(content))) != KEY(Document(image=content[:-1]))
