"""Every format: a small file as its data set is published, and the rows that it gives."""

from __future__ import annotations

import csv
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mllm_embed import Document, Query
from mllm_embed.errors import DataError
from mllm_embed.training.data import DataSource, TrainingRow
from mllm_embed.training.data.formats import FORMATS
from mllm_embed.training.data.open import open_rows
from mllm_embed.training.data.rows import MixedRows

BENCHMARKS = Path(__file__).parents[4] / "shared" / "data" / "benchmarks"


def blank(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"looked for, not looked at")


def write(path: Path, rows: list[dict[str, Any]], lines: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(map(json.dumps, rows)) + "\n" if lines else json.dumps(rows, indent=1)
    path.write_text(text, encoding="utf-8")
    return path


def opened(kind: str, *roles: str, **source: Any) -> MixedRows:
    """The rows, as a worker process of a data loader gets them where processes are spawned."""
    return pickle.loads(pickle.dumps(open_rows([DataSource(**source)], kind, roles)))


def test_llava(tmp_path: Path) -> None:
    def talk(*turns: str) -> list[dict[str, str]]:
        return [{"from": who, "value": turn} for who, turn in zip(("human", "gpt"), turns, strict=True)]

    rows = [
        {"id": "7", "image": "004/a.jpg", "conversations": talk("Say what you see.\n<image>", 'a "big" {dog] \\')},
        {"id": "8", "image": "004/b.jpg", "conversations": talk("<image>\nWhat is it?", "ein Hündchen 🐕")},
        {"id": "9", "conversations": talk("Who are you?", "nobody")},
    ]
    blank(tmp_path, "004/a.jpg", "004/b.jpg")
    found = opened("pairs", "image", "caption", path=write(tmp_path / "chat.json", rows), format="llava")
    picture = tmp_path / "004/a.jpg"
    expected = TrainingRow(
        "7", str(picture), {"image": Document(image=picture), "caption": Document(text='a "big" {dog] \\')}
    )
    assert found[0] == expected
    assert found[1].roles["caption"].text == "ein Hündchen 🐕"
    assert len(found) == 2 and found.skipped() == {str(tmp_path / "chat.json"): 1}


def test_tsv_of_captions_and_downloaded_pictures(tmp_path: Path) -> None:
    blank(tmp_path, "one.jpg", "two.jpg")
    (tmp_path / "cc3m.tsv").write_text('a "quoted thing\tone.jpg\r\nanother\ttwo.jpg\r\n\r\n')
    found = opened("pairs", "image", "caption", path=tmp_path / "cc3m.tsv", format="tsv")
    assert [row.roles["caption"].text for row in found] == ['a "quoted thing', "another"]
    assert [row.id for row in found] == ["cc3m:1", "cc3m:2"]
    (tmp_path / "cc3m.tsv").write_text("a thing\thttp://example.org/one.jpg\n")
    with pytest.raises(DataError, match="example.org/one.jpg is a URL, and none is fetched; download the pictures"):
        opened("pairs", "image", "caption", path=tmp_path / "cc3m.tsv", format="tsv")


MMEB_ROWS = [
    {"qry": "<|image_1|>\nmake it red\n", "qry_image_path": "images/q.jpg",
     "pos_text": "<|image_1|>\nRepresent the given image.", "pos_image_path": "images/t.jpg",
     "neg_text": "", "neg_image_path": ""},
    {"qry": "<|image_1|>\nwhat is it?\n", "qry_image_path": "images/q.jpg", "pos_text": "a cat", "pos_image_path": "",
     "neg_text": "a dog", "neg_image_path": ""},
    {"qry": "find a cat", "qry_image_path": "", "pos_text": "<|image_1|>", "pos_image_path": "images/t.jpg",
     "neg_text": "<|image_1|>", "neg_image_path": "images/q.jpg"},
]  # fmt: skip


@pytest.mark.parametrize("streaming", [False, True])
def test_mmeb_gives_each_row_the_roles_that_it_has(tmp_path: Path, streaming: bool) -> None:
    import pyarrow
    import pyarrow.parquet

    blank(tmp_path, "images/q.jpg", "images/t.jpg")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(MMEB_ROWS), tmp_path / "CIRR.parquet")
    source = {"path": tmp_path / "CIRR.parquet", "format": "mmeb", "streaming": streaming}
    picture, target = tmp_path / "images/q.jpg", tmp_path / "images/t.jpg"
    changed = opened("triplets", "composed", "target_image", **source)
    assert [row.roles for row in changed] == [
        {
            "query": Query(image=picture, instruction="make it red"),
            "target": Document(image=target),
            "composed": Query(image=picture, instruction="make it red"),
            "query_image": Document(image=picture),
            "target_image": Document(image=target),
        }
    ]
    assert list(changed.skipped().values()) == [2]
    asked = opened("triplets", "composed", "target_text", **source)
    assert [(row.roles["target_text"].text, row.hard_negatives) for row in asked] == [
        ("a cat", (Document(text="a dog"),))
    ]
    words = opened("triplets", "composed_text", "target_image", **source)
    assert words[0].roles["composed_text"] == Query(instruction="find a cat")
    assert words[0].roles["target_image"] == Document(image=target) and "composed" not in words[0].roles
    assert words[0].hard_negatives == (Document(image=picture),)
    every = opened("triplets", "query", "target", **source)
    assert not every.skipped() and [(row.roles["query"].role, row.roles["target"].role) for row in every] == [
        ("composed", "image"), ("composed", "text"), ("text", "image"),
    ]  # fmt: skip
    with pytest.raises(DataError, match="none of its 3 rows offers source_text"):
        opened("triplets", "source_text", **source)


def test_mbeir_joins_the_pool(tmp_path: Path) -> None:
    queries = [
        {"qid": "9:1", "query_txt": "in red", "query_img_path": "mbeir_images/a.jpg", "query_modality": "image,text",
         "pos_cand_list": ["9:11", "9:12"], "neg_cand_list": [{"did": "9:13"}]},
        {"qid": "9:2", "query_txt": None, "query_img_path": "mbeir_images/a.jpg", "query_modality": "image",
         "pos_cand_list": ["9:13"], "neg_cand_list": []},
        {"qid": "9:3", "query_txt": "lost", "query_img_path": "mbeir_images/a.jpg", "pos_cand_list": ["9:99"]},
    ]  # fmt: skip
    pool = [
        {"did": "9:11", "txt": None, "img_path": "mbeir_images/b.jpg", "modality": "image"},
        {"did": "9:12", "txt": None, "img_path": "mbeir_images/a.jpg", "modality": "image"},
        {"did": "9:13", "txt": "a red coat", "img_path": None, "modality": "text"},
    ]
    path = write(tmp_path / "query/train/mbeir_cirr_task7_train.jsonl", queries, lines=True)
    write(tmp_path / "cand_pool/local/mbeir_cirr_task7_cand_pool.jsonl", pool, lines=True)
    blank(tmp_path, "mbeir_images/a.jpg", "mbeir_images/b.jpg")
    found = opened("triplets", "composed", "target_image", path=path, format="mbeir", images=tmp_path)
    assert found[0].roles["composed"] == Query(image=tmp_path / "mbeir_images/a.jpg", instruction="in red")
    assert found[0].roles["target_image"] == Document(image=tmp_path / "mbeir_images/b.jpg")
    assert found[0].hard_negatives == (Document(text="a red coat"),)
    assert len(found) == 2 and list(found.skipped().values()) == [1]
    with pytest.raises(DataError, match='train.jsonl: row 3: "9:99" is not in .*cand_pool.jsonl'):
        found[1]
    words = opened("triplets", "composed", "target_text", path=path, format="mbeir", images=tmp_path)
    assert words[0].roles["composed"] == Query(image=tmp_path / "mbeir_images/a.jpg")
    with pytest.raises(DataError, match="nowhere.jsonl is missing; give the file of candidates as pool"):
        opened("triplets", "composed", path=path, format="mbeir", images=tmp_path, pool=tmp_path / "nowhere.jsonl")


def test_mbeir_with_broken_lines(tmp_path: Path) -> None:
    good = {"qid": "9:1", "query_txt": "in red", "query_img_path": "a.jpg", "pos_cand_list": ["9:11"]}
    path = write(tmp_path / "query/train/one_train.jsonl", [good, good | {"neg_cand_list": 5}, good], lines=True)
    pool = write(tmp_path / "cand_pool/local/one_cand_pool.jsonl", [{"did": "9:11", "img_path": "b.jpg"}], lines=True)
    blank(tmp_path, "a.jpg", "b.jpg")
    found = opened("triplets", "composed", "target_image", path=path, format="mbeir", images=tmp_path)
    assert found[0].hard_negatives == found[2].hard_negatives == () and len(found.groups()) == 3
    with pytest.raises(DataError, match="one_train.jsonl: row 2: it is not as format mbeir has it \\("):
        found[1]
    pool.write_text(pool.read_text() + "{broken\n")
    with pytest.raises(DataError, match="one_cand_pool.jsonl: row 2: it is not JSON"):
        opened("triplets", "composed", "target_image", path=path, format="mbeir", images=tmp_path)


def test_cirr_with_cells_of_another_type(tmp_path: Path) -> None:
    row = {"pairid": 1, "reference": "2", "caption": "redder", "target_hard": "3", "img_set": {"members": ["2", "4"]}}
    bad = [row | {"reference": ["2"]}, row | {"img_set": {"members": 7}}, row | {"target_soft": 0.5}]
    path = write(tmp_path / "captions/cap.rc2.train.json", [row, *bad])
    (tmp_path / "image_splits").mkdir()
    places = {name: f"{name}.png" for name in "234"}
    (tmp_path / "image_splits/split.rc2.train.json").write_text(json.dumps(places))
    blank(tmp_path, *places.values())
    found = opened("triplets", "composed", "target_image", path=path, format="cirr", images=tmp_path)
    assert len(found[0].hard_negatives) == 1 and len(found.groups()) == 4
    for index in (1, 2, 3):
        with pytest.raises(DataError, match=f"cap.rc2.train.json: row {index + 1}: it is not as format cirr has it"):
            found[index]


def test_megapairs(tmp_path: Path) -> None:
    rows = [
        {"q_img": "1.jpg", "q_text": ["one", "two", "three"], "t_img": "2.jpg", "hns": ["1.jpg", "3.jpg"]},
        {"q_img": "1.jpg", "q_text": ["four"], "t_img": "3.jpg", "hns": []},
        {"q_img": "2.jpg", "q_text": ["five"], "t_img": "3.jpg", "hns": ["2.jpg"]},
    ]
    blank(tmp_path, "1.jpg", "2.jpg", "3.jpg")
    path = write(tmp_path / "mega.jsonl", rows, lines=True)
    found = opened("triplets", "composed", "target_image", path=path, format="megapairs")
    assert found[0].hard_negatives == (Document(image=tmp_path / "1.jpg"), Document(image=tmp_path / "3.jpg"))
    assert {found[0].roles["composed"].instruction for _ in range(5)} <= {"one", "two", "three"}
    assert found[1].roles["composed"].instruction == "four"
    many = write(tmp_path / "many.jsonl", [rows[0]] * 50, lines=True)
    texts = [row.roles["composed"].instruction for row in opened("triplets", path=many, format="megapairs")]
    assert set(texts) == {"one", "two", "three"}
    groups = found.groups()
    assert groups.dtype == np.int64 and groups[0] == groups[1] != groups[2]


def test_lasco_and_its_prefix(tmp_path: Path) -> None:
    name = "val2014/COCO_val2014_000000000042.jpg"
    row = {"qid": 420, "query-image": [42, name], "query-text": "it rains", "target-image": [43, name]}
    blank(tmp_path, f"coco/val/{name}")
    path = write(tmp_path / "lasco_val.json", [row] * 1000)
    with pytest.raises(DataError, match=f"does not exist, but .* does: give images: {tmp_path}/coco/val") as error:
        opened("triplets", "composed", "target_image", path=path, format="lasco", images=tmp_path / "coco")
    assert "\n" not in str(error.value)
    source = {"path": path, "format": "lasco", "images": tmp_path / "coco/val"}
    found = opened("triplets", "composed", "target_image", **source)
    assert (found[0].id, found[0].roles["target_image"].image) == ("420", tmp_path / "coco/val" / name)


def test_covr(tmp_path: Path) -> None:
    names = ("txt1", "txt2", "pth1", "pth2", "edit", "scores")
    with (tmp_path / "cc-coir.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerow(["a dog", 'a "wet"\ndog, running', "01/a", "01/b", "make it wet", "[0.1, 0.2]"])
        writer.writerow(["a cat", "a wet cat", "01/b", "01/a", "in water", "[0.3]"])
    blank(tmp_path, "01/a.jpg", "01/b.png")
    source = {"path": tmp_path / "cc-coir.csv", "format": "covr"}
    found = opened("triplets", "composed", "target_captioned", **source)
    assert found[0].roles["composed"] == Query(image=tmp_path / "01/a.jpg", instruction="make it wet")
    assert found[0].roles["target_captioned"] == Document(image=tmp_path / "01/b.png", text='a "wet"\ndog, running')
    assert found[1].roles["composed_text"] == Query(text="a cat", instruction="in water")
    texts = opened("texts", "composed_text", "target_text", **source)
    assert texts[1].roles["target_text"].text == "a wet cat"


def test_text_triplets_and_nli(tmp_path: Path) -> None:
    row = {"reference_caption": "a dog", "conditioning_caption": "as a puppet", "target_caption": "a puppet dog"}
    path = write(tmp_path / "LLM_triplets.json", [row, row], lines=True)
    found = opened("texts", "composed_text", "target_text", path=path, format="text-triplets")
    assert found[1].roles["composed_text"] == Query(text="a dog", instruction="as a puppet")
    (tmp_path / "nli.csv").write_text('sent0,sent1,hard_neg\n"one, two",three,four\n')
    found = opened("texts", "source_text", "negative_text", path=tmp_path / "nli.csv", format="nli")
    assert [item.text for item in found[0].roles.values()] == ["one, two", "three", "four"]


def test_columns_for_anything_else(tmp_path: Path) -> None:
    rows = [{"key": 5, "ref": "a.jpg", "meta": {"edit": "in red"}, "out": "b.jpg", "wrong": ["c.jpg"]}]
    blank(tmp_path, "a.jpg", "b.jpg")
    columns = {
        "id": "key",
        "image": "ref",
        "instruction": "meta.edit",
        "target_image": "out",
        "negative_image": "wrong",
    }
    path = write(tmp_path / "made.json", rows)
    found = opened("triplets", "composed", "target_image", path=path, format="columns", columns=columns)
    assert found[0].roles["composed"].instruction == "in red" and found[0].id == "5"
    assert found[0].hard_negatives == (Document(image=tmp_path / "c.jpg"),)


def test_folder(data: Path) -> None:
    found = opened("triplets", "composed", "target_image", path=data)
    lines = (data / "triplets.jsonl").read_text().splitlines()
    assert [row.id for row in found] == [json.loads(line)["id"] for line in lines]
    assert len(found.groups()) == len(found)


def real(name: str) -> Path:
    path = BENCHMARKS / name
    if not path.is_file():
        pytest.skip(f"the published annotation file {path} is not on this machine")
    return path


def test_published_cirr(tmp_path: Path) -> None:
    path = real("cirr/captions/cap.rc2.val.json")
    blank(tmp_path, "dev/dev-244-0-img0.png")
    found = opened("triplets", "composed", "target_image", path=path, format="cirr", images=tmp_path)
    assert len(found) == 4181
    assert found[0].id == "12060"
    assert found[0].roles["composed"] == Query(
        image=tmp_path / "dev/dev-244-0-img0.png", instruction="show three bottles of soft drink"
    )
    assert found[0].roles["target_image"].image == tmp_path / "dev/dev-1028-1-img1.png"
    assert [item.image.stem for item in found[0].hard_negatives] == [
        "dev-430-3-img0", "dev-63-0-img1", "dev-1028-2-img1", "dev-1028-2-img0",
    ]  # fmt: skip
    rows = list(found)
    assert [row.group for row in rows] == [str(row.roles["query_image"].image) for row in rows]
    assert len(set(found.groups().tolist())) == len({row.group for row in rows})


@pytest.mark.parametrize(("category", "count"), [("dress", 5985), ("toptee", 6027)])
def test_published_fashioniq(category: str, count: int, tmp_path: Path) -> None:
    path = real(f"fashioniq/captions/cap.{category}.train.json")
    told = json.loads(path.read_text(encoding="utf-8"))
    blank(tmp_path, f"{told[0]['candidate']}.jpg")
    found = opened("triplets", "composed", "target_image", path=path, format="fashioniq", images=tmp_path)
    assert len(found) == count == len([row for row in found if row.roles["composed"].instruction])
    both = next(index for index, row in enumerate(told) if all(text.strip() for text in row["captions"]))
    first, second = (text.strip(" .?,") for text in told[both]["captions"])
    assert found[both].roles["composed"].instruction == f"{first} and {second}"


def test_every_format_is_tried_here() -> None:
    tried = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in FORMATS if f'"{name}"' not in tried and name != "folder"] == []
