"""Triplets with target pictures, through the command line: a real HTTP server looks at the pictures it is sent."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import tiny
from mllm_embed import MLLMEmbedder, Query
from mllm_embed.data.folder import DataFolder
from mllm_embed.generate.generator import Generator, Question
from mllm_embed.store.vector_store import VectorStore
from mllm_embed.training.cli import main
from mllm_embed.training.data.open import open_rows
from mllm_embed.training.data.source import DataSource
from mllm_embed.training.triplets.asked import Asked
from mllm_embed.training.triplets.pictures.seeing import Seeing
from servers.chat import Server

ROOT = Path(__file__).resolve().parents[3]
COLORS = {
    "red": (220, 30, 30), "green": (30, 160, 60), "blue": (40, 60, 220), "grey": (128, 128, 128),
    "pink": (250, 150, 190), "brown": (120, 70, 20),
}  # fmt: skip


class Painter(Server):
    """Knows pictures by their colour, and answers what `say` makes of the colours and the words of a question."""

    say: Callable[[list[str], str], Any] = staticmethod(lambda colors, words: turned(*colors))

    def answer(self, path: str, headers: dict[str, str], body: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        content = body["messages"][0]["content"]
        words = content if isinstance(content, str) else content[-1]["text"]
        colors = [] if isinstance(content, str) else [color_of(part) for part in content[:-1]]
        with self.lock:
            self.asked[" ".join(colors) or words] += 1
            self.requests.append({"path": path, "headers": headers, "body": body})
        reply = self.say(colors, words)
        if isinstance(reply, tuple):
            return reply[0], {}, json.dumps(reply[1]).encode()
        message = {"choices": [{"message": {"role": "assistant", "content": reply}, "finish_reason": "stop"}]}
        return 200, {}, json.dumps(message).encode()


def color_of(part: dict[str, Any]) -> str:
    kind, _, content = part["image_url"]["url"].partition(",")
    assert kind == "data:image/jpeg;base64"
    pixel = Image.open(io.BytesIO(base64.b64decode(content))).resize((1, 1)).getpixel((0, 0))
    return min(COLORS, key=lambda name: sum(abs(a - b) for a, b in zip(COLORS[name], pixel, strict=True)))


def turned(reference: str, target: str) -> str:
    rows = [{"kind": "colour", "instruction": f"{words} {target}"} for words in ("make it", "turn it", "now in")]
    return json.dumps(rows)


@pytest.fixture
def painter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Painter]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    played = Painter()
    yield played
    played.http.shutdown()
    played.http.server_close()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store of six pictures on a circle, 20 degrees apart, which knows where they lie."""
    (tmp_path / "photos").mkdir()
    files = []
    for name, color in COLORS.items():
        files.append(tmp_path / "photos" / f"{name}.png")
        Image.new("RGB", (40, 30), color).save(files[-1])
    angles = np.radians(20.0 * np.arange(len(COLORS)))
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    made = VectorStore.create(tmp_path / "store", 2)
    shades = [
        {"caption": f"a sheet of {name} paper", "page": "warm" if name in ("red", "pink") else "cold"}
        for name in COLORS
    ]
    made.add(list(COLORS), vectors, list(map(str, files)), shades)
    return tmp_path / "store"


def pair(store: Path, painter: Painter, *more: str) -> int:
    output = str(store.parent / "made")
    asked = ["--endpoint", painter.url, "--endpoint-model", "m", "--output", output]
    return main(["pair-pictures", str(store), *asked, *more])


def made_by(store: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (store.parent / "made/triplets.jsonl").read_text().splitlines()]


def report_of(store: Path) -> dict[str, Any]:
    return json.loads((store.parent / "made/triplets.report.json").read_text())


def test_pictures_become_triplets_that_training_reads(
    store: Path, painter: Painter, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pair(store, painter, "--check", "none", "--choice", "nearest") == 0
    told = capsys.readouterr().out
    rows = made_by(store)
    names = [f"{name}.png" for name in COLORS]
    assert [(row["image"], row["target_image"]) for row in rows] == list(pairwise(names))
    assert rows[0]["instruction"] == "make it green" and rows[0]["paraphrases"] == ["turn it green", "now in green"]
    assert rows[0]["negative_image"] == ["blue.png", "grey.png", "pink.png", "brown.png"]
    (line,) = [line.strip().removeprefix("- ") for line in told.splitlines() if line.strip().startswith("- {path")]
    assert line == f"{{path: {store.parent / 'made'}, images: {store.parent / 'photos'}}}"
    source = DataSource(path=store.parent / "made", images=store.parent / "photos")
    read = open_rows([source], "triplets", ["composed", "target_image"])[0]
    assert read.roles["target_image"].images == (store.parent / "photos/green.png",)
    assert [item.images[0].name for item in read.hard_negatives] == ["blue.png", "grey.png", "pink.png", "brown.png"]
    told_json = report_of(store)
    assert (told_json["pairs"], told_json["triplets"], told_json["instructions_kept"]) == ({"picture": 5}, 5, 15)
    assert told_json["rule"]["cosines"] == [0.8, 0.96] and told_json["kinds"] == {"colour": 5}
    assert (store.parent / "made/triplets.png").is_file()
    assert "no pairs by pattern and caption" in told and "0.94 to 0.94" in told
    sent = painter.requests[0]["body"]
    assert [part["type"] for part in sent["messages"][0]["content"]] == ["image_url", "image_url", "text"]
    assert sent["temperature"] == 0.7 and sent["max_tokens"] == 1024


@pytest.mark.parametrize(
    ("instruction", "reason"),
    [
        ("like the second picture", "pictures"),
        ("what image 2 shows", "pictures"),
        ("as in Picture B", "pictures"),
        ("a sheet of blue paper on a table", "description"),
        ("make it <colour>", "placeholder"),
        ("make it " + "very " * 60 + "blue", "length"),
        ("", "incomplete"),
    ],
)
def test_words_that_are_no_instruction_are_dropped(
    store: Path, painter: Painter, instruction: str, reason: str
) -> None:
    def say(colors: list[str], words: str) -> str:
        return json.dumps([{"instruction": instruction}, {"instruction": f"make the picture a bit more {colors[1]}"}])

    painter.say = say
    assert pair(store, painter, "--check", "none", "--limit", "2") == 0
    assert [row["instruction"].split()[0] for row in made_by(store)] == ["make", "make"]
    assert report_of(store)["dropped"] == {reason: {**report_of(store)["dropped"][reason], "count": 2}}


def test_the_same_picture_twice_and_the_same_question_twice(store: Path, painter: Painter) -> None:
    same = json.dumps({"same": True})
    painter.say = lambda colors, words: same if "red" in colors else json.dumps([{"instruction": "make it darker"}])
    assert pair(store, painter, "--check", "none", "--pairs", "2", "--cosines", "0.5", "0.96") == 0
    told, rows = report_of(store), made_by(store)
    assert told["dropped"]["same"]["count"] == 2 and told["dropped"]["repeated"]["count"] > 0
    questions = [(row["image"], row["instruction"]) for row in rows]
    assert len(set(questions)) == len(questions)  # one question has one right answer


def test_instructions_from_captions_and_captions_of_the_model(store: Path, painter: Painter) -> None:
    asked = []

    def say(colors: list[str], words: str) -> str:
        asked.append((colors, words))
        return f'"A {colors[0]} sheet."' if colors else json.dumps([{"instruction": "make it so"}])

    painter.say = say
    more = ["--from", "captions", "--check", "none", "--limit", "2"]
    assert pair(store, painter, *more, "--caption-column", "caption", "--by", "picture") == 0
    assert len(asked) == 2 and not any(colors for colors, _ in asked)
    assert any("a sheet of red paper\n" in words and "a sheet of green paper\n" in words for _, words in asked)
    assert made_by(store)[0]["source_text"] == "a sheet of red paper"
    asked.clear()
    assert pair(store, painter, *more, "--describe", "7", "--by", "picture") == 0
    assert sorted(colors[0] for colors, _ in asked if colors) == ["blue", "green", "red"]  # of the two pairs alone
    assert "about 7 words" in asked[0][1] and made_by(store)[0]["target_text"] == "A green sheet."


def test_pairs_that_are_asked_about_alike_share_an_answer(store: Path, painter: Painter, tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text('{reference_caption} to {target_caption}: JSON with "instruction"')
    painter.say = lambda colors, words: json.dumps([{"instruction": "make it so"}])
    more = ["--from", "captions", "--caption-column", "page", "--prompt", str(words), "--check", "none"]
    assert pair(store, painter, *more, "--by", "picture", "--choice", "nearest") == 0
    # red, green, blue, grey, pink, brown: warm, cold, cold, cold, warm, cold
    assert len(made_by(store)) == 5 and painter.asked.total() == 3


def test_pairs_of_one_page(store: Path, painter: Painter) -> None:
    assert (
        pair(store, painter, "--rule", "magiclens", "--check", "none", "--group", "page", "--cosines", "-1", "0.96")
        == 0
    )
    warm = {"red.png", "pink.png"}
    assert all(({row["image"], row["target_image"]} <= warm) == (row["image"] in warm) for row in made_by(store))


def test_the_model_is_asked_whether_it_is_right(store: Path, painter: Painter) -> None:
    def say(colors: list[str], words: str) -> str:
        if "yes or no" not in words:
            return turned(*colors)
        return "Yes, it does." if f"turn it {colors[1]}" in words else "No."

    painter.say = say
    assert pair(store, painter, "--check", "model", "--limit", "3") == 0
    rows = made_by(store)
    assert len(rows) == 3 and all(row["instruction"].startswith("turn it") for row in rows)
    assert not any("paraphrases" in row for row in rows) and report_of(store)["dropped"]["denied"]["count"] == 6
    before = painter.asked.total()
    assert pair(store, painter, "--check", "model", "--limit", "3") == 0 and painter.asked.total() == before == 12


def test_a_run_that_was_killed_in_a_write_goes_on_where_it_was(store: Path, painter: Painter) -> None:
    """What a kill leaves of its answers; that of a process of its own is tried with make-triplets, which keeps them
    alike."""
    output, cache = store.parent / "made", store.parent / "made/triplets.cache.jsonl"
    words = ["--cosines", "0", "0.96", "--pairs", "4", "--check", "none"]
    assert pair(store, painter, *words) == 0
    whole = (output / "triplets.jsonl").read_bytes()
    pairs = report_of(store)["pairs"]["picture"]
    answers = cache.read_bytes().splitlines(keepends=True)
    assert len(answers) == pairs > 5
    (output / "triplets.jsonl").unlink()
    cache.write_bytes(b"".join(answers[:4]) + answers[4][:-30])
    painter.asked.clear()
    assert pair(store, painter, *words) == 0
    assert painter.asked.total() == pairs - 4 and (output / "triplets.jsonl").read_bytes() == whole
    cache.unlink()
    assert pair(store, painter, *words, "--concurrency", "5") == 0
    assert (output / "triplets.jsonl").read_bytes() == whole


def test_the_first_pair_is_shown_and_nobody_asked(
    store: Path, painter: Painter, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pair-pictures", str(store), "--output", str(store.parent / "made"), "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "a pair by picture at cosine 0.9" in told and "Then write 3 different instructions" in told
    assert not painter.requests and not (store.parent / "made").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--check", "embedder"], "--check embedder needs --model"),
        ([], "say how triplets are checked"),
        (
            ["--check", "none", "--rule", "spn4cir"],
            "begin past the 5 other pictures; give shares of them, as --ranks 0.59 0.89",
        ),
        (["--check", "none", "--cosines", "0.99", "0.995"], "no two of 6 pictures are a pair"),
        (
            ["--check", "none", "--group", "shade", "--rule", "magiclens"],
            "keeps no column 'shade' (it keeps caption, page)",
        ),
        (["--check", "none", "--check-top", "0"], "'0' is not a whole number"),
        (["--check", "none", "--local", "x"], "either --endpoint URL"),
    ],
)
def test_a_mistake_is_one_sentence(
    store: Path, painter: Painter, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    try:
        assert pair(store, painter, *words) == 2
    except SystemExit as end:  # argparse's own
        assert end.code == 2
    assert told in capsys.readouterr().err and not painter.requests


def test_triplets_of_people_stay(store: Path, painter: Painter, capsys: pytest.CaptureFixture[str]) -> None:
    made = store.parent / "made"
    made.mkdir()
    (made / "triplets.jsonl").write_text("{}\n")
    assert pair(store, painter, "--check", "none") == 2
    assert "was not made by this command" in capsys.readouterr().err and not painter.requests
    assert (made / "triplets.jsonl").read_text() == "{}\n"


def test_triplets_of_captions_stay(
    data: Path, store: Path, painter: Painter, capsys: pytest.CaptureFixture[str]
) -> None:
    """The two commands write files of the same names, and neither takes the other's for its own."""
    made = store.parent / "made"
    painter.say = lambda colors, words: json.dumps([{"instruction": "make it so", "modified_caption": "a thing, so"}])
    asked = ["--endpoint", painter.url, "--output", str(made)]
    assert main(["make-triplets", str(data), *asked, "--model", "m"]) == 0
    before = (made / "triplets.jsonl").read_bytes()
    assert pair(store, painter, "--check", "none") == 2
    assert "was not made by this command" in capsys.readouterr().err
    assert (made / "triplets.jsonl").read_bytes() == before


def test_any_source_of_pictures(data: Path, painter: Painter, tiny_llava: Path, tmp_path: Path) -> None:
    """A data folder, a folder of pictures and a parquet with bytes give pairs; vectors are made and kept."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    painter.say = lambda colors, words: json.dumps([{"instruction": "make it so"}])
    content = [path.read_bytes() for path in sorted((data / "images").glob("*.png"))]
    pq.write_table(
        pa.table({"pic": content, "text": [f"picture {n}" for n in range(len(content))]}), tmp_path / "p.parquet"
    )
    made = tmp_path / "made"
    model = ["--model", str(tiny_llava), "--dtype", "float32", "--device", "cpu", "--check", "none"]
    common = ["--cosines", "-1", "1", "--duplicate", "1", "--endpoint", painter.url, "--endpoint-model", "m", *model]
    sources: list[list[str]] = [
        [str(data)],
        [str(data / "images")],
        [str(tmp_path / "p.parquet"), "--column", "image=pic", "--column", "caption=text"],
    ]
    for number, words in enumerate(sources):
        output = made / str(number)
        assert main(["pair-pictures", *words, *common, "--output", str(output), "--limit", "3"]) == 0
        images = output if number == 2 else data / "images" if number == 1 else data
        folder = DataFolder.open(output, images=None if number == 2 else images)
        assert 1 <= len(folder.triplets) <= 3 and all(triplet.target_image for triplet in folder.triplets)
        captioned = [triplet.source_text is not None for triplet in folder.triplets]
        assert all(captioned) == (number != 1)
    assert (made / "0/vectors/captions").is_dir() and any((made / "2/images").rglob("*.png"))


def test_rows_that_give_no_picture_are_told(
    data: Path, painter: Painter, tiny_llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    painter.say = lambda colors, words: json.dumps([{"instruction": "make it so"}])
    rows = [json.dumps({"pic": str(path)}) for path in sorted((data / "images").glob("*.png"))]
    (tmp_path / "rows.jsonl").write_text("\n".join([*rows, '{"pic": ["a.png", {}]}', rows[0][:-9]]) + "\n")
    asked = ["--endpoint", painter.url, "--endpoint-model", "m", "--check", "none", "--cosines", "-1", "1"]
    model = ["--model", str(tiny_llava), "--dtype", "float32", "--device", "cpu", "--limit", "2", "--duplicate", "1"]
    command = ["pair-pictures", str(tmp_path / "rows.jsonl"), "--column", "image=pic"]
    assert main([*command, *asked, *model, "--output", str(tmp_path / "made")]) == 0
    told = capsys.readouterr().out
    assert f"left out, for they are not as they should be: 2 rows, the first: {tmp_path / 'rows.jsonl'}: row " in told


def test_the_embedder_checks_and_training_takes_what_is_left(
    data: Path, painter: Painter, tiny_llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    painter.say = lambda colors, words: json.dumps([{"instruction": f"make it {n}"} for n in range(3)])
    made = tmp_path / "made"
    model = ["--model", str(tiny_llava), "--dtype", "float32", "--device", "cpu"]
    words = ["--cosines", "-1", "1", "--duplicate", "1", "--pairs", "2", "--endpoint", painter.url]
    command = ["pair-pictures", str(data / "images"), *model, *words, "--endpoint-model", "m", "--output", str(made)]
    assert main([*command, "--check-margin", "-2", "--check-top", "3", "--ceiling", "0"]) == 0
    embedder = MLLMEmbedder.from_pretrained(tiny_llava, dtype="float32", device="cpu")
    store = VectorStore.open(made / "vectors/pictures")
    vectors = store.rows(0, len(store))
    folder = DataFolder.open(made, images=data / "images")
    told = json.loads((made / "triplets.report.json").read_text())
    dropped = {reason: drop["count"] for reason, drop in told["dropped"].items()}
    assert dropped.keys() == {"repeated", "not_found"}  # another target for the same words would be a second answer
    assert sum(dropped.values()) + told["instructions_kept"] == told["instructions"]
    margins = []
    for triplet in folder.triplets:
        for instruction in (triplet.instruction, *triplet.paraphrases):
            cosines = vectors @ embedder.encode([Query(triplet.image, instruction)], show_progress=False)[0]
            reference, target = (store.ids.index(path.name) for path in (triplet.image, triplet.target_image))
            margins.append(cosines[target] - cosines[reference])
            assert sum(cosines[other] > cosines[target] + 1e-3 for other in range(len(store)) if other != reference) < 3
    bar = f"{np.median(margins) + 1e-3:.4f}"
    asked, lines = painter.asked.total(), (made / "triplets.cache.jsonl").read_text().count("\n")
    assert main([*command, "--check-margin", bar, "--check-top", "3"]) == 0  # another bar computes nothing anew
    assert painter.asked.total() == asked and (made / "triplets.cache.jsonl").read_text().count("\n") == lines
    told = json.loads((made / "triplets.report.json").read_text())
    assert told["instructions_kept"] == sum(margin >= float(bar) for margin in margins) < len(margins)
    assert told["negatives"]["dropped"] > 0

    shown = capsys.readouterr().out.rpartition("train on them with\n")[2]
    stage = yaml.safe_load(shown) | {"batch_size": 2, "steps": 1}
    recipe = {"model": str(tiny_llava), "output": str(tmp_path / "run"), "bf16": False, "stages": {"made": stage}}
    (tmp_path / "made.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["run", str(tmp_path / "made.yaml")]) == 0
    assert (tmp_path / "run/made/adapter_model.safetensors").is_file()


def test_a_model_here_looks_at_pictures(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model of random weights writes junk, which is told; yes and no are those of the generator."""
    model = str(tiny.give_words(tiny.make_tiny_llava(tmp_path / "saying"), ["yes", "no"]))
    made = str(store.parent / "made")
    asked = ["--local", model, "--answer-tokens", "4", "--check", "model", "--output", made, "--limit", "2"]
    assert main(["pair-pictures", str(store), *asked]) == 2
    assert "no triplet was made, most often because the answer holds no JSON" in capsys.readouterr().err
    assert main(["pair-pictures", str(store), *asked, "--temperature", "1"]) == 2
    assert "leave out --temperature" in capsys.readouterr().err
    images = tuple(store.parent / f"photos/{name}.png" for name in ("red", "blue"))
    seeing = Seeing(model, 4, 2)
    questions = {words: Asked(words, images) for words in ("yes or no?", "is it red?", "is it?")}
    questions["gone"] = Asked("gone", (store.parent / "gone.png",))
    found = dict(seeing.yes_no(iter(questions.items())))
    generator = Generator(MLLMEmbedder.from_pretrained(model))
    expected = generator.yes_no_margin([Question(words, images) for words in list(questions)[:3]])
    assert [float(found[words].text) for words in list(questions)[:3]] == pytest.approx(list(expected), abs=2e-2)
    assert found["gone"].finish == "refused" and "gone.png" in found["gone"].text
