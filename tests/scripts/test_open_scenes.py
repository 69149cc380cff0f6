"""Data with several right answers: what is written is true, and training knows all of it."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

import make_scenes
from mllm_embed import DataFolder
from mllm_embed.training.data.folder import read_rows
from mllm_embed.training.data.numbers import number_of
from mllm_embed.training.false_negatives.keys import ItemKeys, as_told
from mllm_embed.training.false_negatives.known import Relations, known_answers
from mllm_embed.training.false_negatives.near_twins import near_twins
from mllm_embed.training.false_negatives.twins import NO_TWINS
from mllm_embed.training.recipe.stage_keys.terms import Term
from toy import scenes

PAINTER = scenes.Painter(Path(make_scenes.__file__).parent / "assets" / "sprites")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, pictures = tmp_path_factory.mktemp("open"), make_scenes.Pictures()
    make_scenes.write_training(folder, random.Random(5), PAINTER.nouns, set(), (2, 24, 4), pictures, 1.0)
    pictures.paint(PAINTER)
    return folder


def test_all_four_rows_of_a_reference_are_right_for_one_another(made: Path) -> None:
    """Only where near-twins are one: by names and by content each of the four asks alone, or two of them."""
    data = DataFolder.open(made)
    rows = [row for row, triplet in zip(read_rows(data, made, "triplets", []), data.triplets, strict=True)
            if triplet.paraphrases]  # fmt: skip
    assert len(rows) >= 8 and len(rows) % 4 == 0
    relations = Relations.of([Term(query=["composed"], positive=["target_image"])])
    names = {
        str(picture) for row in rows for role in ("composed", "target_image") for picture in row.roles[role].images
    }
    listed = sorted(names, key=number_of)
    twins = NO_TWINS.joined(*near_twins(np.array([number_of(name) for name in listed]), listed))
    assert len(twins) == len(names) == 6 * len(rows) // 4
    for found, expected in ((twins, 2), (NO_TWINS, 2)):
        key = ItemKeys(as_told, found)
        known = known_answers(rows, relations, key)
        asked, answers = known.of(np.array([key(row.roles["composed"]) for row in rows[:4]]))
        # two wordings of one reference with two targets, or of either reference with the two of its own rows
        assert len(set(asked.tolist())) == (2 if found is twins else 4)
        assert len(asked) == len(set(asked.tolist())) * expected
        assert len(set(answers.tolist())) == (2 if found is twins else 4)


def test_without_open_references_the_data_is_what_it_was(tmp_path: Path) -> None:
    written = []
    for share in ((), (0.0,)):
        folder = tmp_path / str(len(share))
        folder.mkdir()
        make_scenes.write_training(
            folder, random.Random(5), PAINTER.nouns, set(), (2, 8, 4), make_scenes.Pictures(), *share
        )
        written.append((folder / "triplets.jsonl").read_bytes())
    assert written[0] == written[1] and b"paraphrases" not in written[0]
