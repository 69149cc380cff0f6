"""Mining on any sources that training reads, and training on what was mined from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import yaml

from mllm_embed import Document
from mllm_embed.training.batch.stage_data import StageRows, open_stage
from mllm_embed.training.cli import main
from mllm_embed.training.recipe.stage import Stage
from tiny import make_data

ROWS = 8


def right_of(row: int) -> list[int]:
    """The pictures that are right for a row of M-BEIR: two for each."""
    return [(row + 3) % ROWS, (row + 4) % ROWS]


def make_mbeir(folder: Path) -> dict[str, Any]:
    """M-BEIR's form, with two right answers a query; two rows ask the same and give one of them each."""
    pool = [{"did": f"9:{at}", "txt": "", "img_path": f"images/{at}.png", "modality": "image"} for at in range(ROWS)]
    rows: list[dict[str, Any]] = [
        {"qid": f"9:{at}", "query_txt": f"like {at}", "query_img_path": f"images/{at}.png",
         "pos_cand_list": [f"9:{found}" for found in right_of(at)], "neg_cand_list": []}
        for at in range(ROWS)
    ]  # fmt: skip
    rows.append(rows[0] | {"pos_cand_list": ["9:6"]})
    rows.insert(4, rows[1] | {"pos_cand_list": ["9:none"]})  # its answer is in no pool
    for name, records in (("train.jsonl", rows), ("pool.jsonl", pool)):
        (folder / name).write_text("".join(json.dumps(record) + "\n" for record in records))
    return {
        "path": str(folder / "train.jsonl"), "format": "mbeir", "pool": str(folder / "pool.jsonl"),
        "images": str(folder),
    }  # fmt: skip


def make_mmeb(folder: Path, path: Path) -> dict[str, Any]:
    """MMEB's form, in parquet that holds its pictures; every row has the id of one of the other source."""

    def held(at: int) -> dict[str, Any]:
        return {"bytes": (folder / f"images/{at}.png").read_bytes(), "path": None}

    columns = {
        "qid": [f"9:{at}" for at in range(ROWS)],
        "qry": [f"<|image_1|> such as {at}" for at in range(ROWS)],
        "qry_image_path": [held(at) for at in range(ROWS)],
        "pos_text": [""] * ROWS,
        "pos_image_path": [held((at + 2) % ROWS) for at in range(ROWS)],
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=3)
    return {"path": str(path), "format": "mmeb", "columns": {"id": "qid"}}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    root = tmp_path_factory.mktemp("sources")
    folder = make_data(root / "data", ROWS)
    return [make_mbeir(folder), make_mmeb(folder, root / "train.parquet")]


@pytest.fixture(scope="module")
def mined(sources: list[dict[str, Any]], tiny_llava: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What was mined from both at once."""
    folder = tmp_path_factory.mktemp("mined")
    (folder / "data.yaml").write_text(yaml.safe_dump(sources))
    command = ["mine", str(folder / "data.yaml"), "--model", str(tiny_llava), "--output", str(folder / "mined.jsonl")]
    more = ["--count", "3", "--ceiling", "1", "--clusters", "4", "--cluster-skip", "0"]
    assert main([*command, "--device", "cpu", "--dtype", "float32", *more]) == 0
    return folder / "mined.jsonl"


def stage_of(sources: list[dict[str, Any]], mined: Path, **more: Any) -> Stage:
    terms = [{"query": "composed", "positive": "target_image", "negatives": ["hard_negative"]}]
    return Stage(**{"data": sources, "rows": "triplets", "terms": terms, "mined": mined, "batch_size": 4} | more)


def content(item: Document) -> bytes:
    (picture,) = item.images
    return picture if isinstance(picture, bytes) else Path(str(picture)).read_bytes()


def test_rows_of_a_list_get_what_was_mined_for_them(sources: list[dict[str, Any]], mined: Path) -> None:
    folder = Path(sources[0]["images"])
    pictures = {(folder / f"images/{at}.png").read_bytes(): at for at in range(ROWS)}
    lines = [json.loads(line) for line in mined.read_text().splitlines()]
    assert lines[0]["format"] == 2 and lines[0]["left_out"] == 1 and len(lines) == 1 + 9 + 8
    assert {line["id"] for line in lines[1:10]} == {line["id"] for line in lines[10:]}  # ids are the source's own
    rows, fingerprints = open_stage(stage_of(sources, mined))
    assert len(fingerprints) == 3 and len(rows) == 10 + 8
    of_row = {(line["source"], line["row"]): line for line in lines[1:]}
    taken = 0
    for index in [*range(4), *range(5, 18)]:
        row, line = rows[index], of_row[(0, index) if index < 10 else (1, index - 10)]
        found = [pictures[content(item)] for item in row.hard_negatives]
        taken += len(found)
        assert len(found) == len(line["negatives"]) and len(set(found)) == len(found)
        # of the first source two answers a row, and rows 0 and 9 ask the same
        at = index - (index > 4) if index < 10 else index - 10
        right = {0: {3, 4, 6}, 8: {3, 4, 6}}.get(at, set(right_of(at))) if index < 10 else {(at + 2) % ROWS}
        assert right.isdisjoint(found)
    assert taken > 17  # on average more than one each


def test_pictures_are_named_by_path_or_by_row(sources: list[dict[str, Any]], mined: Path) -> None:
    """Each picture stands in both sources, in the first as a file: it is one candidate, and its first name counts."""
    lines = [json.loads(line) for line in mined.read_text().splitlines()][1:]
    entries = [(line["source"], entry) for line in lines for entry in line["negatives"]]
    assert {entry["image"].split("/")[0] for _, entry in entries} == {"images"}
    assert all(entry.get("source", source) == 0 for source, entry in entries)


def test_bytes_are_named_by_their_row(sources: list[dict[str, Any]], tiny_llava: Path, tmp_path: Path) -> None:
    output = tmp_path / "mined.jsonl"
    command = ["mine", sources[1]["path"], "--format", "mmeb", "--model", str(tiny_llava), "--output", str(output)]
    assert main([*command, "--device", "cpu", "--dtype", "float32", "--count", "2", "--ceiling", "1"]) == 0
    _, first, *_ = [json.loads(line) for line in output.read_text().splitlines()]
    assert first["negatives"] and all(entry.keys() == {"row", "role"} for entry in first["negatives"])
    source = {name: value for name, value in sources[1].items() if name != "columns"}
    rows = open_stage(stage_of([source], output))[0]
    wanted = [rows.mixed[entry["row"]].roles[entry["role"]] for entry in first["negatives"]]
    assert list(rows[0].hard_negatives) == wanted and isinstance(wanted[0].images[0], bytes)


def test_clusters_of_a_list_reach_the_order(sources: list[dict[str, Any]], mined: Path) -> None:
    rows: StageRows = open_stage(stage_of(sources, mined, per_cluster=2))[0]
    lines = [json.loads(line) for line in mined.read_text().splitlines()][1:]
    assert rows.mined and sorted(rows.mined.clusters().tolist()) == sorted([-1, *(line["cluster"] for line in lines)])


def test_a_list_with_what_was_mined_is_trained(
    sources: list[dict[str, Any]], mined: Path, tiny_llava: Path, tmp_path: Path
) -> None:
    stage = stage_of(sources, mined, steps=1, max_unreadable=0.5).model_dump(mode="json", exclude_defaults=True)
    recipe = {"model": str(tiny_llava), "output": str(tmp_path / "run"), "bf16": False, "stages": {"one": stage}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert main([str(tmp_path / "recipe.yaml")]) == 0
    log = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert next(line for line in log if "loss" in line)["negatives/composed-target_image"] > 3


def test_talk_without_a_picture_is_left_out(tiny_llava: Path, tmp_path: Path) -> None:
    """As LLaVA's releases hold it: nobody has to say that pictures ask."""
    folder = make_data(tmp_path / "data", ROWS)
    said = [{"from": "human", "value": "what is it?"}, {"from": "gpt", "value": "picture "}]
    rows: list[dict[str, Any]] = [{"id": "talk", "conversations": said}]
    for at in range(ROWS):
        spoken = [said[0], said[1] | {"value": f"picture {at}"}]
        rows.append({"id": str(at), "image": f"images/{at}.png", "conversations": spoken})
    (folder / "chat.json").write_text(json.dumps(rows))
    command = ["mine", str(folder / "chat.json"), "--format", "llava", "--model", str(tiny_llava), "--ceiling", "1"]
    assert main([*command, "--output", str(tmp_path / "mined.jsonl"), "--device", "cpu", "--dtype", "float32"]) == 0
    header, *lines = map(json.loads, (tmp_path / "mined.jsonl").read_text().splitlines())
    assert (header["query"], header["positive"]) == ("image", "caption")
    assert [line["row"] for line in lines] == list(range(1, ROWS + 1)) and any(line["negatives"] for line in lines)
