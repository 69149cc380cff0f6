"""From sources to a store: the vectors of `encode`, never twice, whatever happens on the way."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fuzz.tools.store_forms import MODELS
from mllm_embed import MLLMEmbedder, PromptSet
from mllm_embed.cli import main
from mllm_embed.data.sources import open_sources
from mllm_embed.encode.execution import Encoded
from mllm_embed.encode.planning import EncodingPlan
from mllm_embed.errors import ConfigError, DataError, ModelError
from mllm_embed.store import extract as extract_module
from mllm_embed.store.extract import encode_sources
from mllm_embed.store.files import written_shards
from mllm_embed.store.plans import claim
from mllm_embed.store.vector_store import VectorStore
from mllm_embed.types import Document

BAD = {"bad.jpg": "is not a JPEG", "cut.jpg": "cannot be read", "empty.jpg": "is not a JPEG"}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(20):
        add_photo(folder, number)
    return folder


def add_photo(folder: Path, number: int) -> None:
    pixels = np.random.default_rng(number).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / f"{number:02d}.jpg")


def spoil(folder: Path) -> None:
    (folder / "bad.jpg").write_bytes(b"no picture")
    (folder / "empty.jpg").write_bytes(b"")
    whole = (folder / "00.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])


def files(store: Path) -> dict[str, bytes]:
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in store.rglob("*") if path.is_file()}


def encode(embedder: MLLMEmbedder, photos: Path, store: Path, **options):
    return encode_sources(embedder, open_sources([photos]), store, shard_rows=8, show_progress=False, **options)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_a_store_holds_the_vectors_of_encode(embedder: MLLMEmbedder, photos: Path, tmp_path: Path, dtype: str) -> None:
    done = encode(embedder, photos, tmp_path / "s", dtype=dtype)
    store = VectorStore.open(tmp_path / "s")
    assert (done.rows, done.lost, done.held, len(done.store)) == (20, 0, 0, 20)
    assert [shard.rows for shard in store.shards] == [8, 8, 4]
    assert store.ids == [f"{number:02d}.jpg" for number in range(20)]
    assert store.sources == [str(photos / name) for name in store.ids]
    expected = embedder.encode([Document(photos / name) for name in store.ids], show_progress=False)
    assert np.abs(store.rows(0, 20) - expected).max() < {"float32": 1e-5, "float16": 1e-3, "int8": 1e-2}[dtype]
    assert store.provenance == embedder.provenance
    assert not (tmp_path / "s/plan.json").exists() and not (tmp_path / "s/unreadable.jsonl").exists()


def test_what_cannot_be_read_is_listed_and_tried_again(embedder: MLLMEmbedder, photos: Path, tmp_path: Path) -> None:
    spoil(photos)
    done = encode(embedder, photos, tmp_path / "s")
    assert (done.rows, done.lost, len(done.store)) == (20, 3, 20)
    lines = [json.loads(line) for line in (tmp_path / "s/unreadable.jsonl").read_text().splitlines()]
    assert {line["id"]: BAD[line["id"]] in line["reason"] for line in lines} == dict.fromkeys(BAD, True)
    assert all(line["source"] == str(photos / line["id"]) for line in lines)
    before = files(tmp_path / "s")
    assert encode(embedder, photos, tmp_path / "s").rows == 0
    assert files(tmp_path / "s") == before
    add_photo(photos, 30)
    (photos / "30.jpg").rename(photos / "cut.jpg")  # mended
    assert encode(embedder, photos, tmp_path / "s").rows == 1
    lines = (tmp_path / "s/unreadable.jsonl").read_text().splitlines()
    assert {json.loads(line)["id"] for line in lines} == {"bad.jpg", "empty.jpg"}
    mended = VectorStore.open(tmp_path / "s")
    vector = embedder.encode([Document(photos / "cut.jpg")], show_progress=False)
    assert np.abs(mended.take(np.array([mended.position("cut.jpg")])) - vector).max() < 1e-5


def test_a_source_that_has_grown_costs_its_growth(
    embedder: MLLMEmbedder, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode(embedder, photos, tmp_path / "s")
    first = VectorStore.open(tmp_path / "s")
    for number in range(20, 23):
        add_photo(photos, number)
    seen = []
    execute = embedder.execute

    def noted(work: EncodingPlan, **options: object) -> Encoded:
        seen.extend(given.item for given in work.inputs)
        return execute(work, **options)

    monkeypatch.setattr(embedder, "execute", noted)
    encode(embedder, photos, tmp_path / "s")
    assert sorted(Path(item.image).name for item in seen) == ["20.jpg", "21.jpg", "22.jpg"]
    grown = VectorStore.open(tmp_path / "s")
    assert grown.ids == [*first.ids, "20.jpg", "21.jpg", "22.jpg"]
    assert grown.rows_fingerprint(3) == first.rows_fingerprint(3)
    encode(embedder, photos, tmp_path / "s")
    assert len(seen) == 3


class Killed(BaseException):
    pass


@pytest.mark.parametrize(
    ("form", "shard", "when"),
    [
        *product(["dense"], [1, 2, 3], ["before", "vectors", "record"]),
        *product(["several", "lexical"], [2], ["before", "vectors"]),
    ],
)
def test_a_kill_costs_the_shard_under_way(
    embedder: MLLMEmbedder,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    form: str,
    shard: int,
    when: str,
) -> None:
    embedder = MODELS[form](embedder)
    spoil(photos)
    encode(embedder, photos, tmp_path / "whole")
    write, calls = extract_module.write_shard, []

    def killed(folder: Path, name: str, *rest):
        calls.append(name)
        if len(calls) < shard:
            return write(folder, name, *rest)
        if when != "before":
            write(folder, name, *rest)
        if when == "vectors":
            (folder / f"shards/{name}.json").unlink()
            (folder / f"shards/.{name}.json.1.tmp").write_text("half")
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(extract_module, "write_shard", killed)
        with pytest.raises(Killed):
            encode(embedder, photos, tmp_path / "s")
    with pytest.raises(DataError, match="holds no vectors yet: finish"):
        VectorStore.open(tmp_path / "s")
    left = 3 - shard + (when != "record")
    seen: list[int] = []
    plan = embedder.plan
    monkeypatch.setattr(embedder, "plan", lambda items, **options: (seen.append(1), plan(items, **options))[1])
    encode(embedder, photos, tmp_path / "s")
    assert len(seen) == left
    assert files(tmp_path / "s") == files(tmp_path / "whole")


def test_a_kill_after_the_commit_doubles_nothing(
    embedder: MLLMEmbedder, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(photos)
    encode(embedder, photos, tmp_path / "whole")

    def killed(store: VectorStore) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(extract_module, "_write_unreadable", killed)
        with pytest.raises(Killed):
            encode(embedder, photos, tmp_path / "s")
    assert encode(embedder, photos, tmp_path / "s").rows == 0
    assert files(tmp_path / "s") == files(tmp_path / "whole")


def test_a_kill_after_the_commit_doubles_nothing_for_who_shared_the_work(
    embedder: MLLMEmbedder, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes make the shards of one plan; one is killed once it has committed them, and the other ends."""
    encode(embedder, photos, tmp_path / "whole")
    make, end = extract_module._make_missing, extract_module._write_unreadable

    def killed(store: VectorStore) -> None:
        raise Killed

    def overtaken(*given: Any) -> Any:
        made = make(*given)
        monkeypatch.setattr(extract_module, "_make_missing", make)
        monkeypatch.setattr(extract_module, "_write_unreadable", killed)
        with pytest.raises(Killed):
            encode(embedder, photos, tmp_path / "s")
        monkeypatch.setattr(extract_module, "_write_unreadable", end)
        return made

    monkeypatch.setattr(extract_module, "_make_missing", overtaken)
    encode(embedder, photos, tmp_path / "s")
    assert files(tmp_path / "s") == files(tmp_path / "whole")


def test_a_source_that_changes_while_it_is_stopped(
    embedder: MLLMEmbedder, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, calls = extract_module.write_shard, []

    def killed(folder: Path, name: str, *rest):
        calls.append(name)
        if len(calls) == 2:
            raise Killed
        return write(folder, name, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(extract_module, "write_shard", killed)
        with pytest.raises(Killed):
            encode(embedder, photos, tmp_path / "s")
    add_photo(photos, 20)
    (photos / "15.jpg").unlink()
    done = encode(embedder, photos, tmp_path / "s")
    assert done.rows == 12  # of 20, of which 8 were done
    assert sorted(done.store.ids) == [f"{number:02d}.jpg" for number in range(21) if number != 15]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompts": "Describe"}, "settings.prompts.image: \"Describe this image in one word:\", now \"Name this:\""),
        ({"dim": 8}, "dimension: 64, now 8"),
        ({"model": "other"}, 'base: "'),
        ({"pooling": "mean"}, 'settings.pooling: "last", now "mean"'),
        ({"dtype": "bfloat16"}, 'dtype: "float32", now "bfloat16"'),
        ({"quantization": "int8"}, 'quantization: null, now "int8"'),
    ],
)  # fmt: skip
def test_another_model_or_prompt_is_refused(
    tiny_llava: Path, other_llava: Path, photos: Path, tmp_path: Path, change: dict, words: str
) -> None:
    encode(MLLMEmbedder.from_pretrained(tiny_llava, dtype="float32"), photos, tmp_path / "s")
    before = files(tmp_path / "s")
    options = {"dtype": "float32"} | {key: value for key, value in change.items() if key not in ("prompts", "model")}
    other = MLLMEmbedder.from_pretrained(other_llava if "model" in change else tiny_llava, **options)
    if "prompts" in change:
        other = other.with_prompts(PromptSet.from_dict(other.prompts.to_dict() | {"image": "Name this:"}))
    with pytest.raises(ConfigError) as caught:
        encode(other, photos, tmp_path / "s")
    assert words in str(caught.value) and "use that model and those settings, or another store" in str(caught.value)
    assert files(tmp_path / "s") == before


def test_an_adapter_tells_its_vectors_apart(saved_models: dict[str, Path], tiny_llava: Path) -> None:
    adapted = MLLMEmbedder.from_pretrained(saved_models["adapter"], dtype="float32").provenance
    base = MLLMEmbedder.from_pretrained(tiny_llava, dtype="float32").provenance
    assert adapted["base"] == base["base"] and base["adapter"] is None and len(adapted["adapter"]) == 64


def test_what_stops_a_run(
    embedder: MLLMEmbedder, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="keeps float32, not int8: give --store-dtype float32, or another store"):
        encode(embedder, photos, tmp_path / "s")
        encode(embedder, photos, tmp_path / "s", dtype="int8")

    def nothing(work: EncodingPlan, **_: object) -> Encoded:
        return Encoded(np.full((work.given.inputs, 64), np.nan, np.float32), dict(work.failures))

    monkeypatch.setattr(embedder, "execute", nothing)
    with pytest.raises(ModelError, match="the vector of .*00.jpg holds NaN"):
        encode(embedder, photos, tmp_path / "n")
    wrong = tmp_path / "rows.jsonl"
    wrong.write_text("".join(json.dumps({"image": f"gone/{at}.jpg"}) + "\n" for at in range(70)))
    with pytest.raises(DataError, match="none of 70 rows can be read, the first since .*gone/0.jpg does not exist"):
        encode_sources(embedder, open_sources([wrong]), tmp_path / "w", show_progress=False)
    wrong.write_text('{"image": "gone.jpg"}')
    with pytest.raises(DataError, match="has got no vector: none of the rows can be read, the first since"):
        encode_sources(embedder, open_sources([wrong]), tmp_path / "v", show_progress=False)


def _command(model: Path, photos: Path, store: Path) -> list[str]:
    options = ["--model", str(model), "--dtype", "float32", "--shard-rows", "4"]
    return [sys.executable, "-m", "mllm_embed.cli", "encode", str(photos), "--output", str(store), *options]


@pytest.mark.slow
def test_processes_share_the_work_and_one_may_die(tiny_llava: Path, photos: Path, tmp_path: Path) -> None:
    spoil(photos)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    assert subprocess.run(_command(tiny_llava, photos, tmp_path / "whole"), env=environment).returncode == 0
    pair = [
        subprocess.Popen(
            _command(tiny_llava, photos, tmp_path / "s"),
            env=environment | {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    while pair[0].poll() is None and not list((tmp_path / "s").glob("shards/*.json")):
        time.sleep(0.01)
    pair[0].send_signal(signal.SIGKILL)
    pair[0].wait()
    assert pair[1].wait() == 0
    subprocess.run(_command(tiny_llava, photos, tmp_path / "s"), env=environment, check=True)
    assert files(tmp_path / "s") == files(tmp_path / "whole")


def test_a_shard_that_another_has_claimed_is_left_to_it(embedder: MLLMEmbedder, photos: Path, tmp_path: Path) -> None:
    encode(embedder, photos, tmp_path / "whole")
    VectorStore.create(tmp_path / "s", embedder.dimension, provenance=embedder.provenance)
    with claim(tmp_path / "s/shards", "000001") as mine:
        assert mine
        done = encode(embedder, photos, tmp_path / "s")
        assert (done.store, done.rows, done.held) == (None, 12, 1)
        assert written_shards(tmp_path / "s") == ["000000", "000002"]
    (tmp_path / "s/shards/.000002.lock").touch()  # of a killed process
    done = encode(embedder, photos, tmp_path / "s")
    assert (len(done.store), done.rows, done.held) == (20, 8, 0)
    assert files(tmp_path / "s") == files(tmp_path / "whole")


def test_the_command_line(tiny_llava: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil(photos)
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"key": "x", "say": "a red shoe"}))
    options = ["--output", str(tmp_path / "s"), "--model", str(tiny_llava), "--explain-plan"]
    assert main(["encode", str(photos), *options]) == 0
    out = capsys.readouterr().out
    assert "embedded 20 rows" in out and f"3 rows cannot be read: see {tmp_path / 's/unreadable.jsonl'}" in out
    assert "20 vectors of 64 x float32" in out and "tokens with padding" in out
    assert main(["encode", str(photos), *options, "--prompts", "instructcir"]) == 0
    out = capsys.readouterr().out
    assert "nothing new to embed" in out and f" --model {tiny_llava} --prompts instructcir ...\n" in out
    assert main(["encode", str(rows), "--fields", "id=key", "text=say", *options]) == 0
    assert VectorStore.open(tmp_path / "s").ids[-1] == "x"
    capsys.readouterr()
    for wrong, words in (
        (["nowhere", *options], "nowhere does not exist"),
        ([str(rows), *options], 'row 1 has neither "image" nor "text"'),
        ([str(photos), "--fields", "image", *options], "--fields takes NAME=COLUMN, image=photo say, not 'image'"),
        ([str(photos), *options, "--shard-rows", "0"], "--shard-rows must be at least 1, not 0"),
        ([str(photos), *options, "--output", str(rows)], "rows.jsonl is a file: give a folder"),
        ([str(photos), *options, "--output", str(photos)], "holds something already: give a new or empty folder"),
    ):
        assert main(["encode", *wrong]) == 2
        assert words in capsys.readouterr().err


@pytest.mark.skipif("SLOW_TESTS" not in os.environ, reason="half a minute of starting Ray: set SLOW_TESTS=1")
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray: pip install mllm_embed[ray]")
def test_a_ray_cluster_makes_the_same_store(tiny_llava: Path, photos: Path, tmp_path: Path) -> None:
    spoil(photos)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run(_command(tiny_llava, photos, tmp_path / "whole"), env=environment, check=True)
    told = [*_command(tiny_llava, photos, tmp_path / "s"), "--ray", "--workers", "2"]
    done = subprocess.run(told, env=environment, check=True, capture_output=True, text=True)
    assert "embedded 20 rows" in done.stdout
    assert files(tmp_path / "s") == files(tmp_path / "whole")


def test_a_store_keeps_its_number_format(embedder: MLLMEmbedder, photos: Path, tmp_path: Path) -> None:
    assert encode(embedder, photos, tmp_path / "s", dtype="float16").store.dtype == np.float16
    add_photo(photos, 20)
    assert encode(embedder, photos, tmp_path / "s").store.dtype == np.float16
    assert encode(embedder, photos, tmp_path / "new").store.dtype == np.float32
