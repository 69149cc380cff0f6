"""A stage with `jpq`: codes of its bank and its queries tuned together, which then go with each other alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file

from mllm_embed import MLLMEmbedder, Query, Searcher
from mllm_embed.cli import main as search_main
from mllm_embed.encode.dual_encoder import DualEncoder
from mllm_embed.errors import ConfigError, DataError
from mllm_embed.index.faiss_index import Index
from mllm_embed.index.jpq.quantizer import QUANTIZER_FILE, TunedQuantizer
from mllm_embed.training.recipe.recipe_files import load_recipe
from mllm_embed.training.run import trainer as trainer_module
from mllm_embed.training.run.stages import run_recipe
from tiny import make_data

TERM = {"query": "composed", "positive": "target_image", "negatives": ["query_image"], "bank": True}
FILES = ("adapter_model.safetensors", "mllm_embed.json", QUANTIZER_FILE)


@pytest.fixture(scope="module")
def recipe(tiny_llava: Path, saved_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("jpq")
    stage = {
        "data": str(make_data(folder / "halves")), "rows": "triplets", "batch_size": 4, "steps": 4, "save_steps": 2,
        "learning_rate": 1e-3, "rates": {"centroids": 1e-2}, "chunk_tokens": 4096, "jpq": {"bytes": 8},
        "terms": [TERM],
    }  # fmt: skip
    values = {
        "model": str(tiny_llava), "adapter": str(saved_models["adapter"]), "output": str(folder / "whole"),
        "bf16": False, "trained_on": False, "stages": {"one": stage},
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    return folder / "recipe.yaml"


@pytest.fixture(scope="module")
def whole(recipe: Path) -> Path:
    return run_recipe(load_recipe(recipe))


def test_queries_and_index_are_bound_to_each_other(
    whole: Path, recipe: Path, tiny_llava: Path, saved_models: dict[str, Path], tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    data = recipe.parent / "halves"
    before = ["--model", str(tiny_llava), "--adapter", str(saved_models["adapter"]), "--dtype", "float32"]
    assert search_main(["encode", str(data / "images"), "--output", str(tmp_path / "s"), *before]) == 0
    place = ["--output", str(tmp_path / "i")]
    assert search_main(["index", str(tmp_path / "s"), "--kind", "jpq", "--tuned", str(whole), *place]) == 0
    quantizer = TunedQuantizer.read(whole / QUANTIZER_FILE, "")
    assert not np.array_equal(quantizer.coded, quantizer.scored)
    row = json.loads((data / "triplets.jsonl").read_text().splitlines()[0])
    asked = Query(data / row["image"], row["instruction"])
    tuned = MLLMEmbedder.from_pretrained(tiny_llava, adapter=whole, dtype="float32")
    gallery = MLLMEmbedder.from_pretrained(tiny_llava, adapter=saved_models["adapter"], dtype="float32")
    index = Index.open(tmp_path / "i")
    wanted = quantizer.decoded(quantizer.codes(index.store.rows(0, len(index)))) @ tuned.encode([asked])[0]
    hits = Searcher(tuned, index).search(asked, k=len(index))
    assert np.allclose([hit.score for hit in hits], [wanted[index.store.position(hit.id)] for hit in hits], atol=1e-5)
    Searcher(gallery, index.store)
    for embedder, place in ((gallery, index), (tuned, index.store)):
        with pytest.raises(ConfigError, match="queries and index were not tuned together"):
            Searcher(embedder, place)
    with pytest.raises(ConfigError, match="not tuned together"):
        DualEncoder(tuned, gallery)
    with pytest.raises(ConfigError, match="cannot encode 'image' inputs"):
        tuned.encode([data / row["image"]])
    command = ["search", "--gallery", str(tmp_path / "i"), "--model", str(tiny_llava), "--adapter"]
    asks = ["--image", str(data / row["image"]), "--instruction", row["instruction"], "--dtype", "float32"]
    capsys.readouterr()
    assert search_main([*command, str(whole), *asks]) == 0
    assert search_main([*command, str(saved_models["adapter"]), *asks]) == 2
    assert "not tuned together" in capsys.readouterr().err


def test_a_run_that_was_stopped_ends_as_one_that_was_not(
    whole: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop(Exception):
        pass

    original = trainer_module.ContrastiveTrainer.compute_loss

    def interrupted(self, *args, **kwargs):
        if self.state.global_step == 3:
            raise Stop
        return original(self, *args, **kwargs)

    again = load_recipe(recipe, [f"output={tmp_path / 'again'}"])
    with monkeypatch.context() as patch:
        patch.setattr(trainer_module.ContrastiveTrainer, "compute_loss", interrupted)
        with pytest.raises(Stop):
            run_recipe(again)
    assert (tmp_path / "again/checkpoints/one/checkpoint-2").is_dir()
    last = run_recipe(again)
    for name in FILES:
        assert (last / name).read_bytes() == (whole / name).read_bytes(), name
    kept = load_file(tmp_path / "again/checkpoints/one/checkpoint-4/trainable.safetensors")
    assert np.array_equal(kept["centroids"].numpy(), TunedQuantizer.read(last / QUANTIZER_FILE, "").scored)
    (last / QUANTIZER_FILE).unlink()  # as a kill leaves it between the two
    run_recipe(again)
    assert (last / QUANTIZER_FILE).read_bytes() == (whole / QUANTIZER_FILE).read_bytes()
    with pytest.raises(ConfigError, match="negatives: 200, now 7"):
        run_recipe(load_recipe(recipe, [f"output={tmp_path / 'again'}", "stages.one.jpq.negatives=7"]))


def test_rows_that_avoid_something_are_refused_at_the_start(recipe: Path, tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    rows = [json.loads(line) for line in (data / "triplets.jsonl").read_text().splitlines()]
    rows[1]["avoid"] = "blue"  # which no query of the tuned adapter could say
    (data / "triplets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(
        DataError, match=r"avoids something, and queries that are tuned with codes \(jpq\) know no words"
    ):
        run_recipe(load_recipe(recipe, [f"stages.one.data={data}", f"output={tmp_path / 'n'}"]))


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("adapter={whole}", "tuned with the codes of an index"),
        ("stages.one.matryoshka=[32]", "jpq takes no matryoshka"),
        ("stages.one.terms=[{query: composed, positive: target_image}]", "jpq has one term"),
        ("stages.one.jpq=null", "rates.centroids is given"),
        ("stages.one.jpq.bytes=7", "give 4 or 8"),
        ("token_learner={tokens: 4}", "jpq goes without a token learner"),
        ("stages.one.jpq.negatives=1", "negatives"),
        ("stages.two={data: x, rows: pairs, terms: [{query: image, positive: caption}]}", "jpq is of the last stage"),
    ],
)
def test_what_does_not_go_with_codes_is_refused(
    recipe: Path, whole: Path, tmp_path: Path, override: str, sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        run_recipe(load_recipe(recipe, [override.replace("{whole}", str(whole)), f"output={tmp_path / 'n'}"]))
