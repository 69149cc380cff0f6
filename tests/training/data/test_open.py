"""What is checked when sources are opened: one sentence a mistake, before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from pydantic import ValidationError

from mllm_embed.data.tables import spans as spans_module
from mllm_embed.data.tables.spans import json_spans
from mllm_embed.errors import DataError
from mllm_embed.training.data import DataSource
from mllm_embed.training.data.open import open_rows
from mllm_embed.training.data.rows import MixedRows

ROW = {"q_img": "1.jpg", "q_text": ["redder"], "t_img": "2.jpg", "hns": []}


@pytest.fixture
def mega(tmp_path: Path) -> Path:
    for name in ("1.jpg", "2.jpg"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "mega.jsonl").write_text((json.dumps(ROW) + "\n") * 3)
    return tmp_path / "mega.jsonl"


def test_sources_follow_one_another(mega: Path) -> None:
    (mega.parent / "more.jsonl").write_text(json.dumps(ROW | {"q_img": "2.jpg"}) + "\n")
    sources = [
        DataSource(path=mega, format="megapairs"),
        DataSource(path=mega.parent / "mo*.jsonl", format="megapairs"),
    ]
    rows = open_rows(sources, "triplets", ["composed", "target_image"])
    assert (len(rows), rows.sources().tolist()) == (4, [0, 0, 0, 1])
    assert rows[3].group == str(mega.parent / "2.jpg") and rows[-0].id == "mega:1"
    assert len(set(rows.fingerprints().values())) == 2
    with pytest.raises(IndexError):
        rows[4]
    folder = open_rows([DataSource(path=mega.parent, format="megapairs")], "triplets", ["composed"])
    assert [row.id for row in folder] == ["mega:1", "mega:2", "mega:3", "more:1"]
    assert folder.fingerprints() != rows.fingerprints()


@pytest.mark.parametrize(
    ("source", "kind", "roles", "message"),
    [
        ({"path": "nowhere.jsonl"}, "triplets", ["composed"], "nowhere.jsonl does not exist, and matches no file"),
        ({}, "pairs", ["image"], "format megapairs gives triplets, not pairs"),
        ({}, "triplets", ["target_text"], "its rows offer query, .*, and a term of the loss needs target_text"),
        ({"columns": {"instruction": "q_txt"}}, "triplets", [], "no column 'q_txt' for instruction; it has q_img,"),
        ({"columns": {"instuction": "q_text"}}, "triplets", [], "'instuction', which .*; did you mean 'instruction'"),
        ({"pool": "x.json"}, "triplets", [], "format megapairs has no second file; leave out pool"),
        ({"images": "elsewhere"}, "triplets", ["composed"], "elsewhere/1.jpg does not exist.*give images"),
        ({"format": "lasco"}, "triplets", ["composed"], "no column 'query-image' for image; it has q_img"),
        ({"format": "columns"}, "triplets", ["composed"], "give columns: {image: ..., ins.*; the file has q_img,"),
        ({"format": "columns"}, "pairs", ["image"], "give columns: {image: ..., caption: ...}; the file has q_img"),
        ({"format": "covr"}, "triplets", ["composed"], "no column 'pth1' for image"),
    ],
)  # fmt: skip
def test_mistakes(mega: Path, source: dict[str, Any], kind: str, roles: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        open_rows([DataSource(**{"path": mega, "format": "megapairs"} | source)], kind, roles)
    assert "\n" not in str(error.value)


def test_files_that_are_not_what_they_should_be(tmp_path: Path) -> None:
    def opened(name: str, content: str, format: str = "megapairs") -> None:
        (tmp_path / name).write_text(content)
        open_rows([DataSource(path=tmp_path / name, format=format)], "triplets", [])

    with pytest.raises(DataError, match="a.json is empty; fetch it again"):
        opened("a.json", "")
    with pytest.raises(DataError, match="a.json ends in the middle of its JSON list"):
        opened("a.json", json.dumps([ROW, ROW])[:-9])
    with pytest.raises(DataError, match="a.json is neither a JSON list"):
        opened("a.json", "<html>")
    with pytest.raises(DataError, match="a.json has no rows"):
        opened("a.json", "[]")
    with pytest.raises(DataError, match="a.jpeg is of no known type; known are .json"):
        opened("a.jpeg", "x")
    with pytest.raises(DataError, match="leads to files of several types \\(.jpeg, .json\\); give a pattern"):
        open_rows([DataSource(path=tmp_path / "*", format="columns")], "triplets", [])


@pytest.mark.parametrize("mark", [";", "\t"])
def test_csv_without_commas_is_told_as_that(tmp_path: Path, mark: str) -> None:
    """As spreadsheets write it in many places: a row with commas in its words has several cells, the header one."""
    with pytest.raises(DataError, match="has semicolons or tabs between its columns; save it as CSV with commas"):
        table(tmp_path / "a.csv", f"image{mark}text\n0.png{mark}red, or blue\n")


def test_a_data_set_that_was_saved_to_disk_is_told_how_to_be_given(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"image": ["a.png"], "text": ["red"]}).save_to_disk(str(tmp_path / "set"))
    source = DataSource(path=tmp_path / "set", format="columns", columns={"image": "image", "caption": "text"})
    with pytest.raises(DataError, match=r"save_to_disk: write it as parquet, .*to_parquet\(FILE\), and give that"):
        open_rows([source], "pairs", [])


def table(path: Path, content: str) -> MixedRows:
    path.write_text(content, encoding="utf-8", newline="")
    columns = {"image": "image", "caption": "text"}
    for number in range(10):
        (path.parent / f"{number}.png").write_bytes(b"x")
    return open_rows([DataSource(path=path, format="columns", columns=columns)], "pairs", ["image", "caption"])


@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_quotes_inside_a_cell_are_characters(start: str, tmp_path: Path) -> None:
    words = [f'a 5" pipe number {number}' for number in range(10)]
    lines = ["image,text", *(f"{number}.png,{text}" for number, text in enumerate(words))]
    rows = table(tmp_path / "a.csv", start + "\r\n".join(lines))
    assert [row.roles["caption"].text for row in rows] == words
    lines[4] = '3.png,"a ""wet""\n5"", dog"'
    lines[5] = '"4.png","a\r\n"'
    rows = table(tmp_path / "b.csv", start + "\n".join(lines))
    assert [row.roles["caption"].text for row in rows] == [*words[:3], 'a "wet"\n5", dog', "a\r\n", *words[5:]]


@pytest.mark.parametrize("after", ["", ' "so"', ',"so"'])
def test_a_quote_left_open_is_refused_where_it_takes_other_rows_with_it(after: str, tmp_path: Path) -> None:
    lines = ["image,text", *(f'{number}.png,"number\n{number}"' for number in range(3)), '3.png,"a broken']
    lines += [f"{number}.png,number {number}{after if number == 8 else ''}" for number in range(4, 10)]
    for stop in range(5, 12):
        with pytest.raises(DataError, match="a.csv: line 8 opens a quote that is not closed"):
            table(tmp_path / "a.csv", "\n".join(lines[:stop]) + ("\n" if stop % 2 else ""))


def test_bad_rows_of_csv_spoil_themselves_alone(tmp_path: Path) -> None:
    lines = ["image,text", *(f"{number}.png,number {number}" for number in range(10))]
    lines[3], lines[6], lines[10] = '2.png,"two,"s', "5.png,fi\rve", '9.png,"nine"s'
    rows = table(tmp_path / "a.csv", "\n".join(lines))
    told = {}
    for index in range(10):
        try:
            assert rows[index].roles["caption"].text == f"number {index}"
        except DataError as error:
            told[index] = str(error)
    assert list(told) == [2, 5, 9] and len(rows) == 10
    assert "a.csv: row 3: it is not CSV" in told[2] and "reads as 2 rows" in told[5]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_a_table_of_blank_lines(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{name} has no header line"):
        table(tmp_path / name, "\n\r\n\n")


def test_source_is_strict() -> None:
    with pytest.raises(ValidationError, match="'lava' is none of the known formats: cirr"):
        DataSource(path="x", format="lava")
    with pytest.raises(ValidationError, match="wieght"):
        DataSource(path="x", wieght=1)
    with pytest.raises(ValidationError, match="greater than 0"):
        DataSource(path="x", weight=0)


def test_a_bad_row_spoils_itself_alone(mega: Path) -> None:
    bad = ['{"q_img": "1.jpg", "q_text": ["a"', "[1]", json.dumps(ROW | {"q_text": 5}), json.dumps({"q_img": "1.jpg"})]
    bad += [json.dumps(ROW | {"q_text": [" "]}), json.dumps(ROW | {"t_img": 7}), '{"q_img": "\\ud800']
    mega.write_text("\n".join([json.dumps(ROW), *bad, json.dumps(ROW)]) + "\n")
    rows = open_rows([DataSource(path=mega, format="megapairs")], "triplets", ["composed", "target_image"])
    told = []
    for index in range(len(rows)):
        try:
            rows[index]
        except DataError as error:
            told.append(str(error).removeprefix(f"{mega}: "))
    assert len(rows) == 9 and len(told) == 7
    for message, start in zip(
        told,
        ["row 2: it is not JSON", "row 3: it is no JSON object but [1]", "row 4: instruction must be a text, not '5'",
         'row 5: "q_text" is missing or empty', 'row 6: "q_text" is missing or empty',
         "row 7: a picture must be a path, not '7'", "row 8: it is not JSON"],
        strict=True,
    ):  # fmt: skip
        assert message.startswith(start)


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64])
def test_records_are_found_whatever_the_pieces_read(
    chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"a": 'quote " and \\', "b": [{"c": "}]"}, []]},
        {"a": '\\\\" ][{', "b": {}},
        {"\\": '"{'},
        {"é": "日本 \n \t"},
    ]
    monkeypatch.setattr(spans_module, "_CHUNK", chunk)
    for text in (json.dumps(rows), json.dumps(rows, indent=2, ensure_ascii=False), "\ufeff " + json.dumps(rows)):
        (tmp_path / "list.json").write_text(text, encoding="utf-8")
        data = (tmp_path / "list.json").read_bytes()
        starts, lengths = json_spans(tmp_path / "list.json")
        assert [json.loads(data[a : a + n]) for a, n in zip(starts, lengths, strict=True)] == rows
    lines = "\ufeff\n" + "\r\n\r\n".join(map(json.dumps, rows)) + "\n\n"
    (tmp_path / "lines.jsonl").write_text(lines, encoding="utf-8", newline="")
    data = (tmp_path / "lines.jsonl").read_bytes()
    starts, lengths = json_spans(tmp_path / "lines.jsonl")
    assert [json.loads(data[a : a + n]) for a, n in zip(starts, lengths, strict=True)] == rows
    assert starts.dtype == np.int64


def test_of_two_faults_in_a_row_of_texts_the_wrong_answer_s_is_named(tmp_path: Path) -> None:
    good = {"source_text": "a", "target_text": "b", "negative_text": "c"}
    lines = [good, good | {"source_text": 5, "negative_text": 6}]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    source = DataSource(path=tmp_path / "t.jsonl", format="columns", columns={name: name for name in good})
    with pytest.raises(DataError, match="row 2: negative_text must be a text, not '6'"):
        open_rows([source], "texts", ["source_text"])[1]


def test_a_data_folder_about_pictures_that_lie_elsewhere(data: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    (data / "triplets.jsonl").rename(made / "triplets.jsonl")
    rows = open_rows([DataSource(path=made, images=data)], "triplets", ["composed"])
    assert rows[0].roles["composed"].images == (data / "images/0.png",)
    with pytest.raises(DataError, match=r"made, with pictures from .*/made:\n.*images/0.png\" does not exist"):
        open_rows([DataSource(path=made, images=made)], "triplets", ["composed"])
    with pytest.raises(DataError, match="images is .*gone, which is no folder"):
        open_rows([DataSource(path=made, images=tmp_path / "gone")], "triplets", ["composed"])
