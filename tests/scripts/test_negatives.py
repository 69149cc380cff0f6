"""Explicit negatives: what is written is true, and nothing but what is avoided tells which answer is right."""

from __future__ import annotations

import random
from pathlib import Path

import make_scenes
from mllm_embed import DataFolder
from toy import scenes

PAINTER = scenes.Painter(Path(make_scenes.__file__).parent / "assets" / "sprites")


def _shows(scene: scenes.Scene, words: str) -> bool:
    return words == scene.background or words in map(scenes.article, scene.nouns)


def test_of_two_answers_one_shows_what_is_avoided() -> None:
    tests = make_scenes.negatives_benchmarks(PAINTER.nouns, 8)
    assert list(tests) == ["seen-negatives", "unseen-negatives"]
    for references in tests.values():
        for own in (choice for reference in references for choice in reference.choices):
            for side in (0, 1):
                assert _shows(own.results[side], own.words[side])
                assert not _shows(own.results[side], own.words[1 - side])
            assert own.instruction and not any(words in own.instruction for words in own.words)
        shown = [scene for reference in references for scene in reference.scenes]
        assert len(set(shown)) == len(shown) == 8 * 7


def test_both_are_asked_for_and_train_as_they_are_written(tmp_path: Path) -> None:
    pictures = make_scenes.Pictures()
    [references, _] = make_scenes.negatives_benchmarks(PAINTER.nouns, 2).values()
    make_scenes.write_negatives(tmp_path, "n", references, pictures)
    forbidden = {scene for reference in references for scene in reference.scenes}
    shares = (0.0, 1.0)
    make_scenes.write_training(tmp_path, random.Random(3), PAINTER.nouns, forbidden, (1, 12, 4), pictures, *shares)
    pictures.paint(PAINTER)
    folder = DataFolder.open(tmp_path)
    assert folder.benchmark is not None
    for one, other in zip(folder.benchmark.queries[::2], folder.benchmark.queries[1::2], strict=True):
        assert (one.image, one.instruction) == (other.image, other.instruction) and one.avoid != other.avoid
        assert (one.targets, one.negatives) == (other.negatives, other.targets)
    avoiding = [row for row in folder.triplets if row.avoid]
    assert len(avoiding) >= 4
    scene_of = {str(path): scene for path, (scene, _) in pictures.wanted.items()}
    for one, other in zip(avoiding[::2], avoiding[1::2], strict=True):
        assert (one.image, one.instruction) == (other.image, other.instruction)
        assert _shows(scene_of[str(other.target_image)], one.avoid or "")
        assert not _shows(scene_of[str(one.target_image)], one.avoid or "")
        assert scene_of[str(one.target_image)] not in forbidden
