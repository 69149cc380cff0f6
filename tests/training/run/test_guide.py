"""A stage with a guide: what it leaves out is what its vectors say, and a stopped run ends like an unstopped one."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from mllm_embed import MLLMEmbedder, Query
from mllm_embed.errors import ConfigError
from mllm_embed.training.distill import guide as guide_module
from mllm_embed.training.recipe.config import Recipe
from mllm_embed.training.run import trainer as trainer_module
from mllm_embed.training.run.stages import run_recipe

TARGETS = {"query": "composed", "positive": "target_image", "negatives": ["query_image"]}
NAME = "composed-target_image"


class _Stop(Exception):
    pass


@pytest.fixture
def run(tiny_llava: Path, saved_models: dict[str, Path], data: Path, tmp_path: Path) -> Callable[..., Path]:
    """Trains one stage on triplets, guided by another fine-tuning of the model, and gives the folder of the run."""

    def trained(name: str, dropout: float = 0.1, before: dict[str, Any] | None = None, **keys: Any) -> Path:
        stage = {
            "data": data, "rows": "triplets", "terms": [TARGETS], "batch_size": 8, "steps": 1, "save_steps": 1,
            "chunk_tokens": 4096, "learning_rate": 1e-2, "guide": {"adapter": saved_models["adapter"]},
        } | keys  # fmt: skip
        recipe = Recipe(
            model=str(tiny_llava), output=tmp_path / name, bf16=False,
            lora={"rank": 4, "dropout": dropout}, stages={**(before or {}), "one": stage},
        )  # fmt: skip
        run_recipe(recipe)
        return recipe.output

    return trained


def _first(run: Path) -> dict[str, Any]:
    rows = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    return next(row for row in rows if "loss" in row and row["stage"] == "one")


def _weights(run: Path) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in load_file(run / "one/adapter_model.safetensors").items()}


def _expected(data: Path, model: MLLMEmbedder, guide: MLLMEmbedder, margin: float) -> dict[str, float]:
    """The first step over all eight rows in a loop: no dropout, and a new adapter changes nothing yet."""
    rows = [json.loads(line) for line in (data / "triplets.jsonl").read_text().splitlines()]
    queries: list[Any] = [Query(image=data / row["image"], instruction=row["instruction"]) for row in rows]
    shown = sorted({name for row in rows for name in (row["image"], row["target_image"])})
    total, left_out, compared = 0.0, 0, 0
    (asks, cands), (seen, found) = (
        (one.encode(queries), one.encode([data / name for name in shown])) for one in (model, guide)
    )
    for at, row in enumerate(rows):
        right = shown.index(row["target_image"])
        limit = float(seen[at] @ found[right]) + margin
        shares = {}
        for column, name in enumerate(shown):
            own = name == row["image"]  # its reference picture is wrong by what it is, whatever the guide finds
            if column != right and not own and float(seen[at] @ found[column]) > limit:
                left_out += 1
            else:
                shares[column] = math.exp(float(asks[at] @ cands[column]) / 0.05)
        total -= math.log(shares[right] / sum(shares.values()))
        compared += len(shares) - 1
    return {"loss": total / 8, "guided": left_out / 8, "negatives": compared / 8}


@pytest.mark.parametrize("bank", [False, True])
def test_a_guide_masks_what_it_finds_nearer_in_batches_and_banks(
    run: Callable[..., Path], tiny_llava: Path, saved_models: dict[str, Path], data: Path, bank: bool, capsys
) -> None:
    model = MLLMEmbedder.from_pretrained(tiny_llava, dtype="float32")
    guide = MLLMEmbedder.from_pretrained(tiny_llava, adapter=saved_models["adapter"], dtype="float32")
    name = f"{NAME}-bank" if bank else NAME
    terms = [TARGETS | ({"bank": True} if bank else {})]
    for margin in (0.0, -0.1):
        keys = {"adapter": saved_models["adapter"], "margin": margin}
        line = _first(run(f"with {margin}", dropout=0.0, terms=terms, guide=keys))
        expected = _expected(data, model, guide, margin)
        assert expected["guided"] > 0.5
        assert line["loss"] == pytest.approx(expected["loss"], abs=2e-3)
        assert line[f"guided/{name}"] == pytest.approx(expected["guided"], abs=1e-3)
        assert line[f"negatives/{name}"] == pytest.approx(expected["negatives"], abs=1e-3)
        assert line["unguided"] == 0
    assert "one  guided by" in capsys.readouterr().out
    without = _first(run("without", dropout=0.0, terms=terms, guide=None))
    assert not [key for key in without if "guided" in key] and without["loss"] > line["loss"] + 0.1


@pytest.mark.slow
@pytest.mark.parametrize("where", ["while the guide encodes", "between two steps"])
def test_a_stopped_run_ends_like_an_unstopped_one(
    run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(guide_module, "PART", 5)
    keys = {"batch_size": 4, "steps": 4}
    whole = run("whole", **keys)
    with monkeypatch.context() as patch:
        if where == "between two steps":
            original = trainer_module.ContrastiveTrainer.compute_loss

            def interrupted(self: Any, *args: Any, **options: Any) -> Any:
                if self.state.global_step == 2:
                    raise _Stop
                return original(self, *args, **options)

            patch.setattr(trainer_module.ContrastiveTrainer, "compute_loss", interrupted)
        else:
            written = guide_module._Encoder._write

            def killed(self: Any, part: Any, reasons: Any) -> None:
                if len(list(self.folder.glob("*.keys.npy"))) == 2:
                    raise _Stop
                written(self, part, reasons)

            patch.setattr(guide_module._Encoder, "_write", killed)
        with pytest.raises(_Stop):
            run("stopped", **keys)
    folders = [at.parent / f"{name}/checkpoints/one/guide" for at in (whole,) for name in ("whole", "stopped")]
    made = {path.name: path.stat().st_mtime_ns for path in folders[1].glob("*.npy")}
    stopped = run("stopped", **keys)
    assert len(made) == (4 if where == "while the guide encodes" else len(list(folders[0].glob("*.npy"))))
    assert all((folders[1] / name).stat().st_mtime_ns == time for name, time in made.items()), "made twice"
    for path in folders[0].glob("*.npy"):
        assert path.read_bytes() == (folders[1] / path.name).read_bytes()
    one, other = _weights(whole), _weights(stopped)
    assert one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_a_guide_reads_what_the_stage_will_see_and_no_more(run: Callable[..., Path], data: Path) -> None:
    """Of eight rows two are trained on; each has a query, a target, a reference."""
    folder = run("short", batch_size=2, steps=1) / "checkpoints/one/guide"
    keys = np.concatenate([np.load(path) for path in folder.glob("*.keys.npy")])
    assert 4 <= len(keys) <= 6
    assert _first(folder.parents[2])["unguided"] == 0


def test_more_steps_add_what_they_will_see(run: Callable[..., Path]) -> None:
    """A stage that trains on has vectors made of the rows that it comes to then, and keeps those that are there."""
    short = run("more", batch_size=2, steps=1) / "checkpoints/one/guide"
    before = {path.name for path in short.glob("*.npy")}
    run("more", batch_size=2, steps=1, more_steps=[2])
    lines = [json.loads(line) for line in (short.parents[2] / "log.jsonl").read_text().splitlines()]
    assert [line["unguided"] for line in lines if "loss" in line][-1] == 0
    assert {path.name for path in short.glob("*.npy")} > before


def test_an_earlier_stage_guides(run: Callable[..., Path], data: Path, tmp_path: Path) -> None:
    first = {
        "data": data, "rows": "pairs", "terms": [{"query": "image", "positive": "caption"}], "batch_size": 8,
        "steps": 2, "chunk_tokens": 4096, "learning_rate": 0.1,
    }  # fmt: skip
    folder = run("chain", before={"captions": first}, guide={"adapter": tmp_path / "chain/captions"})
    assert _first(folder)[f"guided/{NAME}"] > 0
    assert "captions, margin 0" in (folder / "one/README.md").read_text()
    for adapter, message in (
        (tmp_path / "other/one", "is stage 'one', which is not trained before it"),
        (tmp_path / "nowhere", "is neither an adapter folder nor .*other/NAME of an earlier stage"),
    ):
        with pytest.raises(ConfigError, match=message):
            run("other", guide={"adapter": adapter})
    assert not (tmp_path / "other").exists()


def test_a_changed_guide_does_not_go_on(
    run: Callable[..., Path], saved_models: dict[str, Path], tmp_path: Path, other_llava: Path
) -> None:
    adapter = Path(shutil.copytree(saved_models["adapter"], tmp_path / "guide"))
    folder = run("same", guide={"adapter": adapter})
    shutil.rmtree(folder / "one")
    run("same", guide={"adapter": adapter})  # nothing has changed
    shutil.copy(folder / "one/adapter_model.safetensors", adapter)
    with pytest.raises(ConfigError, match="on data that has changed since .*guide"):
        run("same", guide={"adapter": adapter})
    with pytest.raises(ConfigError, match="of another recipe .*margin"):
        run("same", guide={"adapter": adapter, "margin": 0.1})


@pytest.mark.parametrize("key", ["prompts", "preset"])
def test_a_guides_changed_file_does_not_go_on(
    key: str, run: Callable[..., Path], tiny_llava: Path, tmp_path: Path
) -> None:
    """The recipe names the file alone; a run of a version that did not note what it holds goes on, and notes it."""
    form = {"image": "Look.", "composed": "{instruction}", "text": "{text}"}
    file = tmp_path / "form.json"

    def write(**changed: str) -> None:
        words = form | changed
        file.write_text(json.dumps(words if key == "prompts" else {"model_types": ["llava"], "prompts": words}))

    write()
    guide = {"model": str(tiny_llava), key: str(file)}
    folder = run("same", guide=guide)
    record = json.loads((folder / "run.json").read_text())
    name = f"guide {key} {file}"
    older = record | {"data": {what: digest for what, digest in record["data"].items() if what != name}}
    (folder / "run.json").write_text(json.dumps(older))
    run("same", guide=guide)
    assert json.loads((folder / "run.json").read_text())["data"] == record["data"] != older["data"]
    write(image="Look twice.")
    with pytest.raises(ConfigError, match=f"on data that has changed since .{name}"):
        run("same", guide=guide)


@pytest.mark.parametrize(
    ("guide", "message"),
    [
        ({"margin": 0.1, "ceiling": 0.9}, "margin or ceiling, not both"),
        ({"preset": "gme"}, "preset goes with a model of the guide's own"),
        ({"ceiling": 1.5}, "less than or equal to 1"),
    ],
)
def test_a_guide_that_makes_no_sense_is_refused(run: Callable[..., Path], guide: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run("never", guide=guide)
