"""The demo's data: true instructions, no leak from tests to training, a gallery that no picture alone can solve."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import make_scenes
from mllm_embed import DataFolder
from toy import scenes

ROOT = Path(__file__).resolve().parents[2]
SPRITES = ROOT / "scripts" / "assets" / "sprites"
PAINTER = scenes.Painter(SPRITES)


def test_there_are_enough_sprites_under_the_size_limit_with_notice() -> None:
    files = list(SPRITES.iterdir())
    assert 100 <= len(PAINTER.nouns) <= 200
    assert sum(file.stat().st_size for file in files) < 2_000_000
    assert "MIT License" in (SPRITES / "NOTICE.md").read_text()


@pytest.mark.parametrize("kind", scenes.KINDS)
def test_an_edit_does_what_its_instruction_says(kind: str) -> None:
    rng, seen = random.Random(0), set()
    for _ in range(300):
        scene = scenes.sample_scene(rng, PAINTER.nouns)
        edit = scenes.sample_edit(rng, scene, PAINTER.nouns, kind)
        if edit is None:
            continue
        before, after = set(scene.things), set(edit.result.things)
        gone, new = before - after, after - before
        counts = {"add": (0, 1), "remove": (1, 0), "background": (0, 0)}.get(kind, (1, 1))
        assert (len(gone), len(new)) == counts
        assert (scene.background != edit.result.background) == (kind == "background")
        words = edit.instruction
        assert all(thing.noun in words for thing in (gone if kind != "add" else new))
        for thing in new:
            wanted = {"add": scenes.CELLS[thing.cell], "move": scenes.CELLS[thing.cell], "replace": thing.noun}
            assert wanted.get(kind, "") in words
        assert kind != "background" or edit.result.background in words
        assert len(edit.result.things) == len({t.cell for t in after}) == len({t.noun for t in after}) <= 3
        seen.add(words.split()[0])
    assert len(seen) >= 3  # several phrasings


def test_captions_tell_scenes_apart() -> None:
    rng = random.Random(0)
    many = {scenes.sample_scene(rng, PAINTER.nouns) for _ in range(3000)}
    assert len({scenes.caption(scene) for scene in many}) == len(many)


def test_painting_depends_on_the_scene_alone() -> None:
    scene = scenes.sample_scene(random.Random(3), PAINTER.nouns)
    pictures = [np.asarray(scenes.Painter(SPRITES).paint(scene)) for _ in range(2)]
    assert np.array_equal(*pictures) and pictures[0].shape == (96, 96, 3)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    command = [sys.executable, str(ROOT / "scripts/make_scenes.py"), "--output", str(folder)]
    subprocess.run(
        [*command, "--pairs", "300", "--triplets", "300", "--references", "8", "--sessions", "2"],
        check=True,
        capture_output=True,
    )
    return folder


def test_folders_pass_the_checks_and_tests_stay_out_of_training(made: Path) -> None:
    train = DataFolder.open(made / "train")
    assert len(train.pairs) == 300 and len(train.triplets) >= 300
    told = {pair.caption for pair in train.pairs} | {t.target_text for t in train.triplets}
    told |= {t.source_text for t in train.triplets}
    _, unseen = make_scenes.split_nouns(PAINTER.nouns, 20)
    assert len(unseen) == 20
    assert not [text for text in told for noun in unseen if f" {noun} " in f" {text} ".replace(",", " ")]
    for name in ("seen", "unseen"):
        benchmark = DataFolder.open(made / name).benchmark
        assert told.isdisjoint({item.caption for item in benchmark.gallery})


def test_galleries_are_dense(made: Path) -> None:
    for name in ("seen", "unseen"):
        benchmark = DataFolder.open(made / name).benchmark
        assert len(benchmark.gallery) == 8 * 17 and len(benchmark.queries) == 8 * 16
        pictures = {item.id: item.image.read_bytes() for item in benchmark.gallery}
        assert len(set(pictures.values())) == len(pictures)
        for query in benchmark.queries:
            assert query.image == next(i.image for i in benchmark.gallery if i.id == query.exclude[0])
        assert len({query.kind for query in benchmark.queries}) == 6


def test_sessions_change_no_other_file(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make_scenes.Pictures, "paint", lambda pictures, painter: None)
    command = ["make_scenes.py", "--output", str(tmp_path), "--pairs", "300", "--triplets", "300", "--references", "8"]
    monkeypatch.setattr(sys, "argv", command)
    assert make_scenes.main() == 0
    for name in ("train/pairs.jsonl", "train/triplets.jsonl", "seen/benchmark.json", "unseen/benchmark.json"):
        assert (tmp_path / name).read_bytes() == (made / name).read_bytes()
    assert not (tmp_path / "sessions").exists()


def test_sessions_lead_to_their_scenes_edit_by_edit(made: Path) -> None:
    benchmark, train = (DataFolder.open(made / name) for name in ("sessions", "train"))
    benchmark = benchmark.benchmark
    assert len(benchmark.gallery) == 2 * 25 and benchmark.queries == ()
    assert sorted(len(session.turns) for session in benchmark.sessions) == [2] * 16 + [3] * 16
    captions = {item.id: item.caption for item in benchmark.gallery}
    assert len(set(captions.values())) == len(captions)  # no edit leads to a scene that is there already
    told = {pair.caption for pair in train.pairs} | {triplet.target_text for triplet in train.triplets}
    assert told.isdisjoint(captions.values())
    pictures = {item.image: item.id for item in benchmark.gallery}
    for session in benchmark.sessions:
        steps = [pictures[turn.image] for turn in session.turns]
        assert session.exclude == (steps[0],) and session.targets == (session.id,)
        for before, after in zip(steps, [*steps[1:], session.id], strict=True):
            assert after.startswith(before[:5]) and captions[before] != captions[after]


def test_no_scene_of_the_tests_is_sampled_for_training(made: Path) -> None:
    held_out = make_scenes.held_out_scenes(PAINTER.nouns)
    assert len(held_out) == 2 * 40 * 17
    seen = make_scenes.dense_references(make_scenes.split_nouns(PAINTER.nouns, 20)[0], 40, make_scenes.TEST_SEED + 1)
    assert {reference.scene for reference in seen} <= held_out


def test_own_cutouts_work(tmp_path: Path) -> None:
    sprites = tmp_path / "mine"
    sprites.mkdir()
    for number in range(40):
        Image.new("RGBA", (20, 20), (number * 6, 50, 90, 255)).save(sprites / f"block_{number}.png")
    command = [
        sys.executable,
        str(ROOT / "scripts/make_scenes.py"),
        "--sprites",
        str(sprites),
        "--output",
        str(tmp_path / "out"),
    ]
    subprocess.run(
        [*command, "--pairs", "20", "--triplets", "20", "--references", "4"], check=True, capture_output=True
    )
    row = json.loads((tmp_path / "out/train/pairs.jsonl").read_text().splitlines()[0])
    assert "block " in row["caption"]
    assert len(DataFolder.open(tmp_path / "out/unseen").benchmark.queries) == 64
