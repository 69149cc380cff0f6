"""The data folder: what it gives when right, and how it names what is wrong."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mllm_embed.data.folder import DataFolder, open_benchmark
from mllm_embed.errors import DataError

PAIRS = [
    {"id": "p0", "image": "images/0.png", "caption": "zero"},
    {"id": "p1", "image": "images/1.png", "caption": "1"},
]
TRIPLETS = [
    {"id": "t0", "image": "images/0.png", "instruction": "add", "target_image": "images/1.png", "kind": "add"},
    {"id": "t1", "image": "images/1.png", "instruction": "drop", "target_text": "x", "source_text": "y"},
]
TEXTS = [
    {"id": "n0", "source_text": "a dog", "target_text": "a cat", "instruction": "as a cat"},
    {"id": "n1", "source_text": "a dog runs", "target_text": "an animal moves", "negative_text": "a dog sleeps"},
]
BENCHMARK = {
    "name": "tiny",
    "note": "further keys are ignored",
    "gallery": [
        {"id": "g0", "image": "images/0.png", "caption": "zero"},
        {"id": "g1", "image": "images/1.png"},
        {"id": "g2", "image": "images/2.png"},
    ],
    "queries": [
        {"id": "q0", "image": "images/0.png", "instruction": "one", "targets": ["g1", "g2"], "exclude": ["g0"]},
        {"id": "q1", "image": "images/1.png", "instruction": "two, please: []{}", "targets": ["g2"], "kind": "k"},
    ],
}


def lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for number in range(3):
        Image.new("RGB", (4, 4), (80 * number, 0, 0)).save(tmp_path / f"images/{number}.png")
    (tmp_path / "pairs.jsonl").write_text(lines(PAIRS))
    (tmp_path / "triplets.jsonl").write_text(lines(TRIPLETS))
    (tmp_path / "benchmark.json").write_text(json.dumps(BENCHMARK, indent=1))
    (tmp_path / "texts.jsonl").write_text(lines(TEXTS))
    return tmp_path


def test_a_right_folder_gives_its_rows(folder: Path) -> None:
    data = DataFolder.open(folder)
    assert [(pair.id, pair.image, pair.caption) for pair in data.pairs] == [
        ("p0", folder / "images/0.png", "zero"),
        ("p1", folder / "images/1.png", "1"),
    ]
    first, second = data.triplets
    assert (first.instruction, first.target_image, first.target_text) == ("add", folder / "images/1.png", None)
    assert (second.target_image, second.target_text, second.source_text) == (None, "x", "y")
    assert (first.kind, second.kind) == ("add", None)
    assert data.benchmark is not None
    assert [item.caption for item in data.benchmark.gallery] == ["zero", None, None]
    assert data.benchmark.queries[0].targets == ("g1", "g2")
    assert data.benchmark.queries[0].exclude == ("g0",)
    assert data.benchmark.queries[1].kind == "k"
    assert open_benchmark(folder) == data.benchmark
    assert [(t.source_text, t.target_text, t.instruction, t.negative_text) for t in data.texts] == [
        ("a dog", "a cat", "as a cat", None),
        ("a dog runs", "an animal moves", None, "a dog sleeps"),
    ]


def test_one_file_is_enough_and_blank_lines_and_a_byte_order_mark_are_allowed(folder: Path) -> None:
    for name in ("triplets.jsonl", "benchmark.json", "texts.jsonl"):
        (folder / name).unlink()
    text = "\ufeff" + lines(PAIRS).replace("\n", "\r\n\r\n").replace("zero", "z\u2028ero")
    (folder / "pairs.jsonl").write_text(text, encoding="utf-8", newline="")
    data = DataFolder.open(str(folder))
    assert [pair.caption for pair in data.pairs] == ["z\u2028ero", "1"]
    assert (data.triplets, data.benchmark, data.texts) == ([], None, [])
    with pytest.raises(DataError, match="has no benchmark.json"):
        open_benchmark(folder)


def broken(name: str, number: int, **changes: Any) -> dict[str, str]:
    rows = [dict(row) for row in {"pairs": PAIRS, "triplets": TRIPLETS, "texts": TEXTS}[name.split(".")[0]]]
    rows[number].update(changes)
    return {name: lines([{key: value for key, value in row.items() if value != "-"} for row in rows])}


def broken_benchmark(part: str, number: int, **changes: Any) -> dict[str, str]:
    content = json.loads(json.dumps(BENCHMARK))
    content[part][number].update(changes)
    return {"benchmark.json": json.dumps(content, indent=1)}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (broken("pairs.jsonl", 1, image="images/9.png"), 'pairs.jsonl:2: image "images/9.png" does not exist'),
        (broken("pairs.jsonl", 1, image="images"), 'pairs.jsonl:2: image "images" is not a file'),
        (broken("pairs.jsonl", 1, image="../x.png"), "pairs.jsonl:2: .*must be a path inside the folder"),
        (broken("pairs.jsonl", 1, image="/etc/passwd"), "pairs.jsonl:2: .*must be a path inside the folder"),
        (broken("pairs.jsonl", 1, image="a\0b"), "pairs.jsonl:2: .*(cannot be a path|does not exist)"),
        (broken("pairs.jsonl", 1, image="x" * 4000), "pairs.jsonl:2: .*cannot be a path"),
        (broken("pairs.jsonl", 1, id="p0"), 'pairs.jsonl:2: duplicate id "p0", first at pairs.jsonl:1'),
        (broken("pairs.jsonl", 0, id=7), 'pairs.jsonl:1: "id" must be a string, not 7'),
        (broken("pairs.jsonl", 0, caption=" "), 'pairs.jsonl:1: "caption" is empty'),
        (broken("pairs.jsonl", 0, caption="-"), 'pairs.jsonl:1: "caption" is missing'),
        (broken("pairs.jsonl", 0, caption="-", captions="x"), 'unknown key "captions", did you mean "caption"'),
        ({"pairs.jsonl": lines(PAIRS) + '{"id": "p2",\n'}, r"pairs.jsonl:3: bad JSON \(.* at column \d+\)"),
        ({"pairs.jsonl": "[" * 200_000}, "pairs.jsonl:1: bad JSON"),
        ({"pairs.jsonl": lines([PAIRS[0], "x"])}, 'pairs.jsonl:2: must be a JSON object, not "x"'),
        ({"pairs.jsonl": "\n"}, "pairs.jsonl has no rows"),
        (broken("texts.jsonl", 1, target_text=""), 'texts.jsonl:2: "target_text" is empty'),
        (broken("texts.jsonl", 0, negative_txt="x"), 'unknown key "negative_txt", did you mean "negative_text"'),
        (broken("texts.jsonl", 1, id="n0"), 'texts.jsonl:2: duplicate id "n0", first at texts.jsonl:1'),
        (broken("triplets.jsonl", 0, instruction=""), 'triplets.jsonl:1: "instruction" is empty'),
        (broken("triplets.jsonl", 0, target_image="-"), "triplets.jsonl:1: needs target_image or target_text"),
        (broken("triplets.jsonl", 0, target_image="images/7.png"), "triplets.jsonl:1: target_image .*not exist"),
        (broken("triplets.jsonl", 1, target_text=""), 'triplets.jsonl:2: "target_text" is empty'),
        (broken_benchmark("queries", 1, targets=["g9"]), 'benchmark.json:.*target "g9" is not in the gallery'),
        (broken_benchmark("queries", 1, targets=[]), "benchmark.json:.*targets is empty"),
        (broken_benchmark("queries", 1, targets="g2"), 'benchmark.json:.*"targets" must be a list of ids, not "g2"'),
        (broken_benchmark("queries", 1, targets=["g2", "g2"]), "benchmark.json:.*names an id twice"),
        (broken_benchmark("queries", 1, exclude=["gx"]), 'benchmark.json:.*excluded id "gx" is not in the gallery'),
        (broken_benchmark("queries", 1, exclude=["g2"]), 'benchmark.json:.*"g2" is both a target and excluded'),
        (broken_benchmark("queries", 1, excluded=["g0"]), 'unknown key "excluded", did you mean "exclude"'),
        (broken_benchmark("gallery", 2, id="g0"), 'benchmark.json:.*duplicate id "g0"'),
        (broken_benchmark("gallery", 2, image="no.png"), 'benchmark.json:.*image "no.png" does not exist'),
        ({"benchmark.json": '{"name": "x",\n "gallery": [,]}'}, "benchmark.json:2: bad JSON"),
        ({"benchmark.json": "[1]"}, r"benchmark.json: must be a JSON object, not \[1\]"),
        ({"benchmark.json": '{"name": "", "gallery": 3}'}, '"gallery" must be a non-empty list'),
    ],
)
def test_what_is_wrong_is_named_with_file_and_line(folder: Path, files: dict[str, str], message: str) -> None:
    for name, text in files.items():
        (folder / name).write_text(text)
    with pytest.raises(DataError, match=message):
        DataFolder.open(folder)


@pytest.mark.parametrize("indent", [None, 1, 4])
def test_benchmark_rows_are_named_by_their_line(folder: Path, indent: int | None) -> None:
    content = json.loads(json.dumps(BENCHMARK))
    content["queries"][1]["instruction"] = ""
    text = json.dumps(content, indent=indent)
    line = text[: text.index('"q1"')].count("\n") + (0 if indent else 1)
    (folder / "benchmark.json").write_text(text)
    with pytest.raises(DataError, match=rf'benchmark.json:{line} \(queries\[1\]\): "instruction" is empty'):
        DataFolder.open(folder)


def test_an_empty_picture_file_and_text_that_is_not_utf8_are_named(folder: Path) -> None:
    (folder / "images/1.png").write_bytes(b"")
    with pytest.raises(DataError, match='pairs.jsonl:2: image "images/1.png" is an empty file'):
        DataFolder.open(folder)
    (folder / "pairs.jsonl").write_bytes(b'{"id": "\xff"}')
    with pytest.raises(DataError, match="pairs.jsonl is not UTF-8"):
        DataFolder.open(folder)


def test_pictures_may_lie_elsewhere_behind_a_link(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside") / "x.png"
    Image.new("RGB", (4, 4)).save(outside)
    (folder / "images/1.png").unlink()
    os.symlink(outside, folder / "images/1.png")
    assert DataFolder.open(folder).pairs[1].image.is_file()


def test_many_problems_come_in_one_message_of_twenty(folder: Path) -> None:
    rows = [{"id": f"p{number}", "image": "images/none.png", "caption": "c"} for number in range(33)]
    (folder / "pairs.jsonl").write_text(lines(rows))
    with pytest.raises(DataError) as caught:
        DataFolder.open(folder)
    message = str(caught.value)
    assert message.startswith(f"33 problems in {folder}:")
    assert message.count("does not exist") == 20
    assert "pairs.jsonl:20:" in message and "pairs.jsonl:21:" not in message
    assert message.endswith("and 13 more")


def test_a_folder_without_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="empty folder .*pairs.jsonl, triplets.jsonl, benchmark.json"):
        DataFolder.open(tmp_path)
    with pytest.raises(DataError, match="is missing"):
        DataFolder.open(tmp_path / "none")
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="is not a folder"):
        DataFolder.open(tmp_path / "file")


def test_fingerprints_tell_changes_and_nothing_else(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    data, benchmark = DataFolder.open(folder), open_benchmark(folder)
    moved = tmp_path_factory.mktemp("moved") / "copy"
    os.rename(folder, moved)
    assert DataFolder.open(moved).fingerprint() == data.fingerprint()
    before = open_benchmark(moved).fingerprint()
    os.rename(moved, folder)
    assert benchmark.fingerprint() == before
    Image.new("RGB", (40, 40), (9, 9, 9)).save(folder / "images/2.png")
    assert open_benchmark(folder).fingerprint() != before
    (folder / "pairs.jsonl").write_text(lines(PAIRS[:1]))
    assert DataFolder.open(folder).fingerprint() != data.fingerprint()


def test_a_query_may_show_several_pictures_and_a_gallery_entry_hold_a_text(data: Path) -> None:
    benchmark = json.loads((data / "benchmark.json").read_text())
    before = DataFolder.open(data).benchmark.fingerprint()
    benchmark["queries"][0]["image"] = ["images/0.png", "images/1.png"]
    benchmark["gallery"][2]["text"] = "a flag"
    (data / "benchmark.json").write_text(json.dumps(benchmark))
    row = json.loads((data / "triplets.jsonl").read_text().splitlines()[0])
    (data / "triplets.jsonl").write_text(json.dumps({**row, "image": ["images/2.png", "images/3.png"]}) + "\n")
    folder = DataFolder.open(data)
    assert folder.benchmark.queries[0].image == (data / "images/0.png", data / "images/1.png")
    assert folder.benchmark.gallery[2].text == "a flag"
    assert folder.triplets[0].image == (data / "images/2.png", data / "images/3.png")
    assert folder.benchmark.fingerprint() != before
    assert folder.pictures().keys() >= {data / "images/2.png", data / "images/3.png"}


@pytest.mark.parametrize(
    ("image", "why"),
    [
        ([], r'"image" must be a path or a list of paths, not \[\]'),
        (["images/0.png", 3], r'"image" must be a path or a list of paths'),
        (["images/0.png", "images/no.png"], r'image "images/no.png" (is missing|does not exist)'),
    ],
)
def test_a_wrong_list_of_pictures_is_named(data: Path, image: list, why: str) -> None:
    row = json.loads((data / "triplets.jsonl").read_text().splitlines()[0])
    (data / "triplets.jsonl").write_text(json.dumps({**row, "image": image}) + "\n")
    with pytest.raises(DataError, match=rf"triplets.jsonl:1.*{why}"):
        DataFolder.open(data)


SESSIONS = [
    {
        "id": "s0",
        "targets": ["g1"],
        "exclude": ["g0"],
        "kind": "two",
        "turns": [{"image": "images/0.png", "instruction": "add"}, {"instruction": "larger"}],
    },
    {"id": "s1", "targets": ["g0", "g2"], "turns": [{"image": "images/1.png", "instruction": "less"}]},
]


def test_sessions_stand_beside_queries_or_in_their_place(folder: Path) -> None:
    benchmark = json.loads((folder / "benchmark.json").read_text())
    before = open_benchmark(folder)
    assert before.sessions == () and before.asked == before.queries
    (folder / "benchmark.json").write_text(json.dumps({**benchmark, "sessions": SESSIONS}))
    both = open_benchmark(folder)
    assert both.queries == before.queries and both.fingerprint() != before.fingerprint()
    first, second = both.sessions
    assert [(turn.image, turn.instruction) for turn in first.turns] == [
        (folder / "images/0.png", "add"),
        (folder / "images/0.png", "larger"),  # about the picture of the turn before
    ]
    assert (first.targets, first.exclude, first.kind) == (("g1",), ("g0",), "two")
    assert (second.targets, second.exclude, second.kind) == (("g0", "g2"), (), None)
    assert [query.id for query in both.asked[-3:]] == ["s0, turn 1", "s0, turn 2", "s1, turn 1"]
    del benchmark["queries"]
    (folder / "benchmark.json").write_text(json.dumps({**benchmark, "sessions": SESSIONS}))
    alone = open_benchmark(folder)
    assert (alone.queries, alone.sessions) == ((), both.sessions)
    assert folder / "images/1.png" in DataFolder.open(folder).pictures()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": ["g9"]}, r'benchmark.json:1 \(sessions\[0\]\): target "g9" is not in the gallery'),
        ({"targets": []}, "targets is empty"),
        ({"targets": ["g0"]}, '"g0" is both a target and excluded'),
        ({"turns": []}, '"turns" must be a non-empty list of objects, not \\[\\]'),
        ({"turns": [{"instruction": "add"}]}, r'\(sessions\[0\]\), turn 1: "image" is missing'),
        ({"turns": [{"image": "images/0.png"}]}, r'\(sessions\[0\]\), turn 1: "instruction" is missing'),
        ({"turns": [{"image": "images/0.png", "instruction": "a"}, {"image": "no.png", "instruction": "b"}]}, "turn 2"),
        ({"id": "s1"}, 'duplicate id "s1"'),
    ],
)
def test_wrong_sessions_are_named_with_their_turn(folder: Path, change: dict, message: str) -> None:
    benchmark = json.loads((folder / "benchmark.json").read_text())
    sessions = [{**SESSIONS[0], **change}, SESSIONS[1]]
    (folder / "benchmark.json").write_text(json.dumps({**benchmark, "sessions": sessions}))
    with pytest.raises(DataError, match=message):
        open_benchmark(folder)


def test_a_benchmark_asks_something(folder: Path) -> None:
    benchmark = json.loads((folder / "benchmark.json").read_text())
    del benchmark["queries"]
    for given in ({}, {"sessions": None}):
        (folder / "benchmark.json").write_text(json.dumps({**benchmark, **given}))
        with pytest.raises(DataError, match='"queries" must be a non-empty list'):
            open_benchmark(folder)
    (folder / "benchmark.json").write_text(json.dumps({**benchmark, "sessions": []}))
    with pytest.raises(DataError, match='"sessions" must be a non-empty list'):
        open_benchmark(folder)
