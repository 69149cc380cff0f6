"""Task instructions of MMEB and M-BEIR: apart from the words, and in the model's input as published."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

import published
from mllm_embed.encode.model_source import find_model, item_processor
from mllm_embed.errors import DataError
from mllm_embed.inputs.item_processor import ItemProcessor
from mllm_embed.inputs.prompts import PROMPT_SETS
from mllm_embed.training.batch.stage_data import StageRows, untold
from mllm_embed.training.data.numbers import Turn
from mllm_embed.training.data.open import open_rows
from mllm_embed.training.data.source import DataSource
from mllm_embed.training.mining.rows import RowsToMine
from mllm_embed.training.plan.model import find_config
from mllm_embed.training.recipe.sides import Sides
from mllm_embed.types import Document, Query

PICTURE = "<|image_1|>\nRepresent the given image.\n"
QUESTION = "Represent the given image with the following question:"
CHANGE = "Given an image, find a similar everyday image with the described changes:"
# (qry, whether with a picture, pos_text, whether with a picture): rows of MMEB-train as they were printed in public
PUBLISHED = {
    "A-OKVQA": (f"<|image_1|>\n{QUESTION} Where does this man eat pizza?\n", True, "office", False),
    "CIRR": (f"<|image_1|>\n{CHANGE} Sliced oranges in a white table.\n", True, PICTURE, True),
    "NIGHTS": ("<|image_1|>\nFind a day-to-day image that looks similar to the provided image.\n", True, PICTURE, True),
    "MSCOCO_i2t": (
        "<|image_1|>\nFind an image caption describing the given everyday image.\n", True,
        "A person with a umbrella on a city street.", False,
    ),
    "MSCOCO_t2i": (
        "Find me an everyday image that matches the given caption: A bench is sitting by a forest covered in snow.\n",
        False, PICTURE, True,
    ),
    "VisualNews_t2i": ("Retrieve an image of this news caption. Cucidati.\n", False, PICTURE, True),
    "VisDial": (
        "Represent the given dialogue about an image, which is used for image retrieval: Q:is oven hot\nA:yes\n", False,
        "<|image_1|>\nRepresent the given image\n", True,
    ),
    "WebQA's target": (
        "Find a Wikipedia image that answers this question: Which body part is found on both?\n", False,
        "<|image_1|>\nRepresent the given Wikipedia image with related text information: 1913-D Barber half obverse.\n",
        True,
    ),
}  # fmt: skip
INSTRUCTCIR = {
    "A-OKVQA": f"{QUESTION} Where does this man eat pizza?\nSummary above image and sentence in one word:",
    "CIRR": 'Modify this image with "Sliced oranges in a white table.", describe modified image in one word:',
    "NIGHTS": "Find a day-to-day image that looks similar to the provided image.\nSummary above image and sentence in",
    "MSCOCO_i2t": "Find an image caption describing the given everyday image.\nSummary above image and sentence in one",
    "MSCOCO_t2i": "Find me an everyday image that matches the given caption: A bench is sitting by a forest covered in "
    "snow.\nSummary above sentence in one word:",
    "VisualNews_t2i": "Retrieve an image of this news caption. Cucidati.\nSummary above sentence in one word:",
}


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of the family of VLM2Vec."""
    return published.make_published("qwen2_vl", tmp_path_factory.mktemp("qwen") / "model")


def asked_by(model: Path, preset: str | None, prompts: str | None = None) -> ItemProcessor:
    """Return what writes the input of a model, by a preset or a prompt set."""
    source = find_model(model, preset=preset)
    config, _ = find_config(str(model))
    settings = source.settings_for(config)
    if prompts:
        settings = replace(settings, prompts=PROMPT_SETS[prompts])
    return item_processor(source.own_processor(), settings, config)


def rows_of(prompts: ItemProcessor | None, **source: object) -> StageRows:
    """Return a source's rows on the sides of a search, as a stage with query and target has them."""
    opened = open_rows([DataSource(**source)], "triplets", ["query", "target"])
    rows = StageRows(opened, sides=Sides(frozenset({"query"})))
    if prompts:
        rows.ask_with(prompts.prompts)
    return rows


@pytest.fixture(scope="module")
def mmeb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published rows in a file."""
    folder = tmp_path_factory.mktemp("mmeb")
    Image.new("RGB", (40, 30)).save(folder / "a.jpg")
    lines = [
        {"qry": qry, "qry_image_path": "a.jpg" if shown else "", "pos_text": answer,
         "pos_image_path": "a.jpg" if found else "", "neg_text": answer, "neg_image_path": "a.jpg" if found else ""}
        for qry, shown, answer, found in PUBLISHED.values()
    ]  # fmt: skip
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "rows.jsonl"


@pytest.mark.parametrize("preset", ["vlm2vec-qwen2-vl", None])
def test_rows_are_mined_as_they_are_trained(preset: str | None, qwen: Path, mmeb: Path) -> None:
    """Whether the prompts have a place for a data set's instruction or not."""
    inputs = asked_by(qwen, preset)
    rows = RowsToMine.open([DataSource(path=mmeb, format="mmeb")], "triplets", "query", "target")
    before = [row.roles for row in rows]
    assert rows.ask_with(inputs.prompts)
    mined = [row.roles for row in rows]
    assert mined == [row.roles for row in rows_of(inputs, path=mmeb, format="mmeb")]
    assert (mined == before) == (preset is not None)


@pytest.mark.parametrize("preset", ["vlm2vec-qwen2-vl", "vlm2vec-v2"])
def test_rows_of_mmeb_are_asked_as_published(preset: str, qwen: Path, mmeb: Path) -> None:
    inputs = asked_by(qwen, preset)
    rows = rows_of(inputs, path=mmeb, format="mmeb")
    for row, (asked, _, answer, found) in zip(rows, PUBLISHED.values(), strict=True):
        assert inputs.render(row.roles["query"]) == asked.replace("<|image_1|>", "<|image_pad|>")
        assert inputs.render(row.roles["target"]) == answer.replace("<|image_1|>", "<|image_pad|>")
        if found and row.roles["target"].text is None:
            assert inputs.render(row.hard_negatives[0]) == answer.replace("<|image_1|>", "<|image_pad|>")


def test_prompts_without_a_place_for_a_task_have_it_before_the_words_and_never_in_another_prompt(
    qwen: Path, mmeb: Path
) -> None:
    inputs = asked_by(qwen, None, "instructcir")
    rows = rows_of(inputs, path=mmeb, format="mmeb")
    rendered = {name: inputs.render(row.roles["query"]) for name, row in zip(PUBLISHED, rows, strict=True)}
    for name, words in INSTRUCTCIR.items():
        assert words in rendered[name]
        assert ("Modify this" in rendered[name]) == (name == "CIRR")
    put = rows.sides.put(replace(rows[1], hard_negatives=(Document(text="mined"),)))
    assert put.hard_negatives == (Document(text="mined"),), "what is said of pictures is said of no text"
    targets = [inputs.render(row.roles["target"]) for row in rows]
    assert "Describe this image in one word:" in targets[1] and "Represent" not in targets[1]
    assert "related text information: 1913-D Barber half obverse.\nSummary above image and sentence" in targets[-1]


def test_a_source_may_word_the_task_anew(qwen: Path, mmeb: Path) -> None:
    rows = rows_of(None, path=mmeb, format="mmeb", query_task="Answer this:", document_task="An answer.")
    assert rows[0].roles["query"] == Query(mmeb.parent / "a.jpg", "Where does this man eat pizza?", task="Answer this:")
    assert rows[1].roles["target"] == Document(mmeb.parent / "a.jpg", task="An answer.")


def test_instructions_that_mmeb_does_not_have_are_listed_in_a_file(mmeb: Path, tmp_path: Path) -> None:
    own = tmp_path / "rows.jsonl"
    line = {"qry": "<|image_1|>\nName the dish: now\n", "qry_image_path": str(mmeb.parent / "a.jpg"), "pos_text": "pie"}
    own.write_text(json.dumps(line) + "\n")
    as_it_stands = rows_of(None, path=own, format="mmeb")[0].roles["query"]
    assert (as_it_stands.words, as_it_stands.task) == ("Name the dish: now", None)
    (tmp_path / "tasks.txt").write_text("Name the\nName the dish:\n")
    split = rows_of(None, path=own, format="mmeb", tasks=tmp_path / "tasks.txt")[0].roles["query"]
    assert (split.words, split.task) == ("now", "Name the dish:")
    (tmp_path / "tasks.txt").write_text("\n")
    with pytest.raises(DataError, match=r"tasks: \S+tasks.txt holds no instruction"):
        rows_of(None, path=own, format="mmeb", tasks=tmp_path / "tasks.txt")
    with pytest.raises(DataError, match=r"tasks: \S+nothing.txt is no file"):
        rows_of(None, path=own, format="mmeb", tasks=tmp_path / "nothing.txt")
    with pytest.raises(DataError, match="format columns has no file of task instructions"):
        rows_of(None, path=own, format="columns", columns={"image": "qry_image_path"}, tasks=own)


HEAD = "query_modality\tcand_modality\tdataset_name\tdataset_id\tprompt_1\tprompt_2\tprompt_3\tprompt_4\n"


@pytest.fixture
def mbeir(tmp_path: Path) -> Path:
    """M-BEIR's layout with one query of a picture and words for a picture, and one for words."""
    Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg")
    files = {
        "query/train/mbeir_cirr_task7_train.jsonl": [
            {"qid": "7:1", "query_txt": "In red.", "query_img_path": "a.jpg", "pos_cand_list": ["7:2"]},
            {"qid": "6:1", "query_txt": "Who?", "query_img_path": "a.jpg", "pos_cand_list": ["6:2"]},
        ],
        "cand_pool/local/mbeir_cirr_task7_cand_pool.jsonl": [
            {"did": "7:2", "img_path": "a.jpg", "txt": None}, {"did": "6:2", "img_path": None, "txt": "A king."},
        ],
    }  # fmt: skip
    for name, lines in files.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "instructions").mkdir()
    (tmp_path / "instructions/query_instructions.tsv").write_text(
        f"{HEAD}image,text\timage\tCIRR\t7\tfind the changed image\tWhat does it become?\t\t\n"
        "image,text\ttext\tOVEN\t6\tName what is asked for.\tSay who.\tSay it.\t\n"
    )
    return tmp_path / "query/train/mbeir_cirr_task7_train.jsonl"


def test_mbeir_is_told_one_of_its_instructions_another_in_each_epoch(mbeir: Path, tmp_path: Path) -> None:
    rows = rows_of(None, path=mbeir, format="mbeir", images=tmp_path)
    assert rows[0].roles["query"].words == "In red."
    told = [[rows.at_turn(0, Turn(0, epoch)).roles["query"].task for epoch in range(12)] for _ in range(2)]
    assert told[0] == told[1] and set(told[0]) == {"Find the changed image.", "What does it become?"}
    row = rows.at_turn(0, Turn(0, 3))
    assert {query.task for query in row.also_asked} | {row.roles["query"].task} == set(told[0])
    assert {row.roles["target"].task, rows[1].roles["target"].task} == {None}


def test_mbeir_under_prompts_without_a_place(mbeir: Path, tmp_path: Path, qwen: Path) -> None:
    inputs = asked_by(qwen, None, "instructcir")
    rows = rows_of(inputs, path=mbeir, format="mbeir", images=tmp_path)
    assert 'Modify this image with "In red."' in inputs.render(rows[0].roles["query"])
    said = inputs.render(rows[1].roles["query"])
    assert " Who?\nSummary above image and sentence in one word:" in said and "Modify" not in said


def test_other_instructions_of_mbeir_are_other_data(mbeir: Path, tmp_path: Path) -> None:
    before = rows_of(None, path=mbeir, format="mbeir", images=tmp_path).mixed.fingerprints()
    file = tmp_path / "instructions/query_instructions.tsv"
    file.write_text(file.read_text().replace("Say it.", "Say it now."))
    assert rows_of(None, path=mbeir, format="mbeir", images=tmp_path).mixed.fingerprints() != before
    file.write_text(HEAD + "image,text\timage\n")
    with pytest.raises(DataError, match="query_instructions.tsv, line 2: not query_modality, cand_modality"):
        rows_of(None, path=mbeir, format="mbeir", images=tmp_path)
    file.unlink()
    plain = rows_of(None, path=mbeir, format="mbeir", images=tmp_path)
    assert plain[0].roles["query"].task is None


def test_rows_without_an_instruction_are_told(mmeb: Path, mbeir: Path, tmp_path: Path) -> None:
    assert untold(rows_of(None, path=mmeb, format="mmeb")) == []
    (tmp_path / "own.jsonl").write_text(
        mmeb.read_text().replace(QUESTION, "Q:").replace('"a.jpg"', json.dumps(str(mmeb.parent / "a.jpg")))
    )
    (said,) = untold(rows_of(None, path=tmp_path / "own.jsonl", format="mmeb"))
    assert "of 8 rows looked at 1 have no task instruction that is known" in said
    assert untold(rows_of(None, path=mbeir, format="mbeir", images=tmp_path)) == []
