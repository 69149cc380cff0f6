"""What a stage may ask for beyond its terms: each reaches the steps, and a stopped run ends like an unstopped one."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from mllm_embed import Document, MLLMEmbedder
from mllm_embed.errors import ConfigError, DataError
from mllm_embed.locks import folder_lock
from mllm_embed.training.batch import stage_data
from mllm_embed.training.data.open import open_rows
from mllm_embed.training.data.source import DataSource
from mllm_embed.training.mining.mined_file import described, write_mined_file
from mllm_embed.training.recipe.config import Recipe
from mllm_embed.training.recipe.stage import Stage
from mllm_embed.training.run import trainer as trainer_module
from mllm_embed.training.run.stages import run_recipe

TARGETS = {"query": "composed", "positive": "target_image"}


class _Stop(Exception):
    pass


@pytest.fixture
def run(tiny_llava: Path, data: Path, tmp_path: Path) -> Callable[..., Path]:
    """Trains one stage on triplets and gives the folder of the run."""

    def trained(name: str, workers: int = 0, **keys: Any) -> Path:
        stage = {"data": data, "rows": "triplets", "terms": [TARGETS], "batch_size": 4, "steps": 4, "save_steps": 1}
        recipe = Recipe(
            model=str(tiny_llava), output=tmp_path / name, bf16=False, workers=workers,
            lora={"rank": 4, "dropout": 0.1}, stages={"one": stage | {"learning_rate": 1e-2} | keys},
        )  # fmt: skip
        run_recipe(recipe)
        return recipe.output

    return trained


def _weights(run: Path) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in load_file(run / "one/adapter_model.safetensors").items()}


def _first(run: Path) -> dict[str, Any]:
    rows = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    return next(row for row in rows if "loss" in row)


def _mine(data: Path, path: Path, clusters: bool = True) -> Path:
    """Two wrong answers for each row; rows 0, 2, 4, 6 are one cluster, the others another."""
    ids = [json.loads(line)["id"] for line in (data / "triplets.jsonl").read_text().splitlines()]
    lines = [
        {
            "source": 0,
            "row": number,
            "negatives": [{"text": f"nothing like {name}"}, {"image": "images/0.png"}],
            "similarity": [0.5, 0.4],
        }
        | ({"cluster": number % 2} if clusters else {})
        for number, name in enumerate(ids)
    ]
    (part,) = open_rows([DataSource(path=data)], "triplets", []).parts
    write_mined_file(path, {"sources": [described(part)], "rows": "triplets"}, lines)
    return path


def _as_tar(data: Path, folder: Path) -> Path:
    """The pairs of a data folder as two tar shards."""
    folder.mkdir()
    rows = [json.loads(line) for line in (data / "pairs.jsonl").read_text().splitlines()]
    for shard in range(2):
        with tarfile.open(folder / f"{shard}.tar", "w") as tar:
            for row in rows[shard::2]:
                (folder / "caption").write_text(row["caption"])
                tar.add(data / row["image"], f"{row['id']}.png")
                tar.add(folder / "caption", f"{row['id']}.txt")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("how", ["bank", "chunks and a learned temperature", "mined", "stream"])
def test_a_stopped_run_ends_like_an_unstopped_one(
    run: Callable[..., Path], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    keys: dict[str, Any] = {
        "bank": lambda: {"terms": [TARGETS | {"bank": True, "negatives": ["query_image"]}]},
        "chunks and a learned temperature": lambda: {"chunk_tokens": 60, "learn_temperature": [0.01, 0.2]},
        "mined": lambda: {
            "mined": _mine(data, tmp_path / "mined.jsonl"), "per_cluster": 4, "mask_margin": 0.1, "hardness": 2.0,
            "terms": [TARGETS | {"negatives": ["hard_negative"]}],
        },
        "stream": lambda: {
            "data": {"path": _as_tar(data, tmp_path / "tar"), "format": "columns", "streaming": True,
                     "columns": {"image": "png", "caption": "txt"}},
            "rows": "pairs", "terms": [{"query": "image", "positive": "caption"}],
        },
    }[how]()  # fmt: skip
    whole = run("whole", **keys)
    original = trainer_module.ContrastiveTrainer.compute_loss

    def interrupted(self: Any, *args: Any, **options: Any) -> Any:
        if self.state.global_step == 2:
            raise _Stop
        return original(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(trainer_module.ContrastiveTrainer, "compute_loss", interrupted)
        with pytest.raises(_Stop):
            run("stopped", **keys)
    if how == "bank":  # its vectors are those of the stage's start
        monkeypatch.setattr(MLLMEmbedder, "encode", lambda *_, **__: pytest.fail("the bank was encoded again"))
    stopped = run("stopped", workers=2, **keys)
    one, other = _weights(whole), _weights(stopped)
    assert one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_a_bank_holds_every_target_and_trains_queries_alone(run: Callable[..., Path], data: Path) -> None:
    rows = [json.loads(line) for line in (data / "triplets.jsonl").read_text().splitlines()]
    targets = {row["target_image"] for row in rows}
    first = _first(run("bank", terms=[TARGETS | {"bank": True}], steps=1))
    asked = {(row["image"], row["instruction"]) for row in rows}
    assert len(asked) == len(rows)  # so that each query has one right answer
    assert first["negatives/composed-target_image-bank"] == len(targets) - 1
    more = _first(run("more", terms=[TARGETS | {"bank": True, "negatives": ["query_image"]}], steps=1))
    shown = targets | {row["image"] for row in rows}
    assert more["negatives/composed-target_image-bank"] == len(shown) - 1


@pytest.mark.slow
def test_rows_whose_target_a_bank_lacks_are_replaced(run: Callable[..., Path], data: Path) -> None:
    rows = [json.loads(line) for line in (data / "triplets.jsonl").read_text().splitlines()]
    lost = rows[0]["target_image"]
    path = data / lost
    path.write_bytes(path.read_bytes()[:60])
    asked = {row["id"] for row in rows if row["target_image"] == lost}
    keys = {"terms": [TARGETS | {"bank": True}], "batch_size": 8, "steps": 2}
    rows[1]["target_text"] = "red " * 3000  # more than the model has positions for; a bank of texts comes to them
    (data / "triplets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = run("some", max_unreadable=0.6, **keys)
    assert _first(told)["negatives/composed-target_image-bank"] == len({row["target_image"] for row in rows}) - 2
    found = [json.loads(line) for line in (told / "unreadable.jsonl").read_text().splitlines()]
    assert asked <= {row["id"] for row in found}
    assert all(f"its target_image ({path}) could not be read" in row["reason"] for row in found if row["id"] in asked)
    term = {"query": "composed", "positive": "target_text", "bank": True}
    texts = run("texts", max_unreadable=0.6, **keys | {"terms": [term]})
    assert f"its target_text ({'red ' * 15}) could not be read" in (texts / "unreadable.jsonl").read_text()
    with pytest.raises(DataError, match=rf"1 of the \d candidates of a bank .*{path.name}.*; replace them"):
        run("none", **keys)


@pytest.mark.slow
def test_mined_negatives_join_the_candidates(run: Callable[..., Path], data: Path, tmp_path: Path) -> None:
    mined = _mine(data, tmp_path / "mined.jsonl")
    terms = [TARGETS | {"negatives": ["hard_negative"]}]
    without = _first(run("without", steps=1))["negatives/composed-target_image"]
    one, two = (
        _first(run(str(count), steps=1, mined=mined, terms=terms, hard_negatives=count))[
            "negatives/composed-target_image"
        ]
        for count in (1, 2)
    )
    assert one == without + 4  # a text of each row of the batch
    assert one <= two <= one + 1  # and a picture that they share, if it is no target


def test_clusters_share_batches(data: Path, tmp_path: Path) -> None:
    stage = Stage(
        data=data,
        rows="triplets",
        terms=[TARGETS],
        batch_size=4,
        mined=_mine(data, tmp_path / "m.jsonl"),
        per_cluster=4,
    )
    rows, _ = stage_data.open_stage(stage)
    for seed in range(5):
        order = list(stage_data.order_of(stage, rows, seed, 1))
        assert [{index % 2 for index in order[at : at + 4]} in ({0}, {1}) for at in (0, 4)] == [True, True]


def test_sources_are_mixed_by_weight_or_kept_apart(data: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(data, tmp_path / "other"))
    sources = [{"path": data, "weight": 3}, {"path": other, "weight": 1}]
    stage = Stage(data=sources, rows="triplets", terms=[TARGETS], batch_size=4, per_source=4)
    rows, fingerprints = stage_data.open_stage(stage)
    assert len(rows) == 16 and set(fingerprints) == {str(data), str(other)}
    order = list(stage_data.order_of(stage, rows, 0, 1))
    kinds = [{index // 8 for index in order[at : at + 4]} for at in range(0, len(order), 4)]
    assert kinds.count({0}) == 3 and kinds.count({1}) == 1


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"per_cluster": 4}, "per_cluster needs a mined file with clusters"),
        ({"learn_temperature": [0.1, 0.2]}, "temperature 0.05 must lie between learn_temperature's 0.1 and 0.2"),
        ({"terms": [TARGETS | {"bank": True, "symmetric": True}]}, "bank: true has one query and takes no symmetric"),
        ({"terms": [{"query": "composed", "positive": "hard_negative"}]}, "hard_negative can only be listed"),
        ({"chunk_tokens": 0}, "must be auto or a number of tokens from 1 on, not 0"),
        ({"per_image": 3}, "per_image 3 must divide batch_size 64"),
        ({"data": [{"path": "x", "streaming": True}], "per_image": 2}, "streamed sources come in their own order"),
        ({"data": "https://example.org/x"}, "nothing is downloaded"),
        ({"data": [{"path": "x", "format": "lava"}]}, "none of the known formats: .*; did you mean 'llava'"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Stage(**({"data": "x", "rows": "triplets", "terms": [TARGETS]} | keys))


def test_a_mined_file_of_other_data_is_refused(run: Callable[..., Path], data: Path, tmp_path: Path) -> None:
    mined = _mine(data, tmp_path / "mined.jsonl")
    with (data / "triplets.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(DataError, match="was mined from data other than"):
        run("other", mined=mined)


def test_a_term_whose_negatives_no_row_brings_is_refused(run: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match="no row brings a hard_negative, which a term needs; give mined"):
        run("none", terms=[TARGETS | {"negatives": ["hard_negative"]}])


def test_two_runs_do_not_share_a_folder(run: Callable[..., Path], tmp_path: Path) -> None:
    with folder_lock(tmp_path / "busy"), pytest.raises(ConfigError, match="another process is writing to .*busy"):
        run("busy")
    assert not (tmp_path / "busy/one").exists()
    assert (run("busy") / "one").is_dir() and not list((tmp_path / "busy").glob(".*"))


def test_a_batch_that_processes_cannot_share(run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ConfigError, match="batch_size 4 is that of all processes together, and 3 of them cannot share"):
        run("uneven")


def test_hard_negatives_that_are_texts_and_pictures(embedder: MLLMEmbedder, data: Path, tmp_path: Path) -> None:
    stage = Stage(
        data=data, rows="triplets", terms=[TARGETS | {"negatives": ["hard_negative"]}],
        mined=_mine(data, tmp_path / "m.jsonl", clusters=False),
    )  # fmt: skip
    rows, _ = stage_data.open_stage(stage)
    assert rows[0].hard_negatives == (
        Document(text=f"nothing like {rows[0].id}"), Document(image=data / "images/0.png"),
    )  # fmt: skip
