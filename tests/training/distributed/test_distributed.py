"""Two processes, plain DDP, ZeRO-2 and ZeRO-3, against one process on the whole batch."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from mllm_embed.training.distill.right_answers import RIGHT_FILE
from mllm_embed.training.distributed.zero import zero_config
from mllm_embed.training.recipe.recipe_files import load_recipe
from mllm_embed.training.run.stages import run_recipe
from rerank_recipe import write_recipe
from tiny import make_data

pytest.importorskip("deepspeed")
pytestmark = pytest.mark.slow  # processes of their own, started once for the file
SCRIPT = Path(__file__).with_name("two_processes.py")
_spec = importlib.util.spec_from_file_location("two_processes", SCRIPT)
two_processes = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(two_processes)

ENGINES = ("ddp", "zero2", "zero3")
TEXTS = ["stages.one.terms=[{query: composed_text, positive: target_text, negatives: [hard_negative]}]"]
TORN = "images/5.png"  # the target of one row, and nobody's reference
NF4 = ["quantization=nf4"]
GUIDED = ["stages.one.guide={margin: -0.1}"]  # the base as a guide of its own adapter
JUDGED = [
    "stages.one.terms=[{query: composed, positive: target_image, negatives: [hard_negative], judged: true}]",
    "stages.one.judge={temperature: 0.5}",
]
RESUMED = ["stages.rerank.steps=2", "stages.rerank.save_steps=1", "stages.rerank.warmup=0.0"]
CASES = {  # how many batches a step has, by what engine, on which recipe, with what else
    "ddp-1": ("1", "ddp", "gradients", []), "ddp-2": ("2", "ddp", "gradients", []),
    "ddp-texts": ("1", "ddp", "gradients", TEXTS), "ddp-nf4": ("1", "ddp", "gradients", NF4),
    "zero2-2": ("2", "zero2", "gradients", []), "zero2-texts": ("1", "zero2", "gradients", TEXTS),
    "zero3-2": ("2", "zero3", "gradients", []),
    "zero3-guided": ("1", "zero3", "gradients", GUIDED),  # which is loaded whole, beside a model that is cut
    "ddp-thoughts": ("1", "ddp", "plain", ["thoughts={tokens: 8, dropped: 0.0}"]),
    "zero3-learner": ("1", "zero3", "plain", ["token_learner={tokens: 4, local: 0.5}"]),
    "ddp-judged": ("1", "ddp", "plain", JUDGED),
    "zero3-multi": ("1", "zero3", "plain", ["pooling=multi"]),
    "ddp-lexical": ("1", "ddp", "plain", ["lexical={words: 50}"]),
    "ddp-reranker": ("1", "ddp", "reranker", []),
}  # fmt: skip


@pytest.fixture(scope="module")
def recipes(tiny_llava: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """`gradients`: every kind of term on rows that bring different numbers of negatives and share targets, in batches
    whose halves make different numbers of chunks. `plain`: rows of which no two have an input in common, for what is
    counted by input. `reranker`: another model, and candidates that rows share. `run`: stages of a few steps, stopped
    within the first."""
    folder = tmp_path_factory.mktemp("two")
    data, torn, plain = (make_data(folder / name) for name in ("halves", "torn", "plain"))
    rows = [json.loads(line) for line in (data / "triplets.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):
        if number % 2:  # every other row has the first one's target
            row |= {key: rows[0][key] for key in ("target_image", "target_text")}
        if number % 2 and number > 1:  # and asks what the row before asks: that has two right answers
            row |= {key: rows[number - 1][key] for key in ("image", "instruction", "source_text")}
    rows[0]["avoid"], rows[1]["avoid"] = "blue", "a red one"
    for place in (data, torn):
        (place / "triplets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (torn / TORN).write_bytes((torn / TORN).read_bytes()[:60])
    common = {"model": str(tiny_llava), "output": "set", "bf16": False, "lora": {"rank": 4, "dropout": 0.0}}
    stage = {"data": str(data), "batch_size": 4, "learning_rate": 1e-3, "steps": 1, "chunk_tokens": 150}
    terms = [
        {"query": "composed", "positive": "target_image", "negatives": ["query_image", "hard_negative"]},
        {"query": "target_image", "positive": "target_text", "symmetric": True, "weight": 0.5},
        {"query": ["composed", "composed_text"], "positive": ["target_text", "target_text"], "frozen": True},
    ]
    one = stage | {"rows": "triplets", "terms": terms, "learn_temperature": [0.01, 0.5], "temperature": 0.2}
    bank = {"query": "composed", "positive": "target_image", "negatives": ["query_image"], "bank": True}
    pairs = [{"query": "image", "positive": "caption", "symmetric": True}]
    first = stage | {
        "steps": 2,
        "rows": "pairs",
        "save_steps": 1,
        "warmup": 0.0,
        "terms": pairs,
        "learn_temperature": [0.01, 0.2],
        "rates": {"projector": 2e-3},  # without it nothing that is not decayed has the stage's rate: an empty group
    }
    second = one | {"data": str(torn), "max_unreadable": 0.9, "warmup": 0.0, "terms": [terms[0], bank]}
    mining = stage | {"rows": "triplets", "terms": terms[:1], "steps": 3, "save_steps": 1, "warmup": 0.0}
    mining |= {"mine": {"every": 2, "count": 2, "ceiling": 1.0}, "learning_rate": 3e-3}
    alike = one | {"data": str(plain), "terms": [terms[0] | {"negatives": ["hard_negative"]}, terms[1]]}
    values = {
        "gradients": {"one": one}, "plain": {"one": alike},
        "run": {"captions": first, "one": second}, "mining": {"one": mining},
    }  # fmt: skip
    for name, stages in values.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(common | {"stages": stages}))
    forms = [{"form": form} for form in ("softmax", "pointwise", "listwise")]
    ranked = stage | {"data": str(plain), "negatives": ["query_image", "hard_negative"], "candidates": 4}
    written = write_recipe(folder, tiny_llava, ranked | {"terms": forms})
    return {name: folder / f"{name}.yaml" for name in values} | {"reranker": written}


@pytest.fixture(scope="module")
def done(recipes: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one launch of two processes that do everything."""
    folder = tmp_path_factory.mktemp("launch")
    run = str(recipes["run"])
    tasks = [(case, batches, engine, str(recipes[name]), more) for case, (batches, engine, name, more) in CASES.items()]
    # a validation that keeps the last step's weights, with which the run would end anyway
    validated = [f"stages.one.evaluate={{data: {recipes['run'].parent / 'halves'}, every: 10}}"]
    tasks += [(f"{engine}-run", "run", engine, run, validated if engine == "ddp" else []) for engine in ENGINES]
    tasks.append(("ddp-mining", "run", "ddp", str(recipes["mining"]), []))
    tasks.append(("ddp-reranker-run", "run", "ddp", str(recipes["reranker"]), RESUMED))
    (folder / "tasks.json").write_text(json.dumps(tasks))
    _launch(folder)
    return folder


def _launch(folder: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), str(folder)]
    logs = [(folder / f"log-{rank}").open("w") for rank in (0, 1)]
    processes = [
        subprocess.Popen(
            command, env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, stdout=log, stderr=log
        )
        for rank, log in enumerate(logs)
    ]
    end = time.monotonic() + 480  # a hang, not slowness
    while time.monotonic() < end and any(process.poll() is None for process in processes):
        if any(process.returncode for process in processes):
            break
        time.sleep(0.2)
    for process, log in zip(processes, logs, strict=True):
        process.kill()
        process.wait()
        log.close()
    told = [Path(log.name).read_text()[-3000:] for log in logs]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(told)


def asked_of(case: str) -> tuple[str, ...]:
    """Return what a case asks, whatever its engine."""
    batches, _, name, more = CASES[case]
    return batches, name, *more


@pytest.fixture(scope="module")
def alone(recipes: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[tuple, dict[str, torch.Tensor]]:
    """What one process gives, by what it is asked."""
    folder = tmp_path_factory.mktemp("alone")
    found = {}
    for number, case in enumerate(CASES):
        key = asked_of(case)
        if key not in found:
            batches, name, *more = key
            overrides = [*more, f"output={folder / str(number)}"]
            found[key], _ = two_processes.gradients(recipes[name], overrides, int(batches))
    return found


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_one_process(case: str, done: Path, alone: dict) -> None:
    expected, found = alone[asked_of(case)], load_file(done / f"{case}.safetensors")
    assert expected.keys() == found.keys()
    assert max(tensor.abs().max() for tensor in expected.values()) > 0.1
    for name, tensor in expected.items():
        torch.testing.assert_close(
            found[name], tensor, atol=1e-5, rtol=1e-5, msg=lambda told, name=name: f"{name}: {told}"
        )
    assert case == "ddp-reranker" or found["temperature.position"].abs() > 1e-4


@pytest.mark.parametrize(
    ("case", "without"),
    [
        ("ddp-thoughts", []),
        ("ddp-lexical", []),
        ("zero3-multi", []),
        ("zero3-learner", ["token_learner={tokens: 4}"]),
        ("ddp-judged", [JUDGED[0].replace(", judged: true", "")]),
    ],
)
def test_what_is_tried_has_a_part_in_the_gradient(
    case: str, without: list[str], alone: dict, recipes: dict[str, Path], tmp_path: Path
) -> None:
    plain, _ = two_processes.gradients(recipes["plain"], [*without, f"output={tmp_path}"], 1)
    found = alone[asked_of(case)]
    assert max((found[name] - plain[name]).abs().max() for name in plain.keys() & found.keys()) > 1e-3


def test_the_guide_masked_something(alone: dict) -> None:
    guided, plain = (alone[asked_of(case)]["temperature.position"] for case in ("zero3-guided", "ddp-1"))
    assert (guided - plain).abs() > 1e-3


def test_what_other_batches_know_to_be_right_changes_the_gradient(recipes: dict, alone: dict, tmp_path: Path) -> None:
    by_batch = ["stages.one.known_answers=batch", f"output={tmp_path}"]
    found, _ = two_processes.gradients(recipes["gradients"], by_batch, 1)
    assert max((found[name] - tensor).abs().max() for name, tensor in alone[asked_of("ddp-1")].items()) > 1e-3


def test_the_processes_had_different_numbers_of_chunks_and_one_sum_of_gradients(done: Path) -> None:
    for accumulation in (1, 2):
        ranks = [json.loads((done / f"ddp-{accumulation}-{rank}.json").read_text()) for rank in (0, 1)]
        assert ranks[0]["chunks"] != ranks[1]["chunks"] and min(min(rank["chunks"]) for rank in ranks) > 1
        trained = sum(tensor.numel() for tensor in load_file(done / f"ddp-{accumulation}.safetensors").values())
        assert [len(rank["chunks"]) for rank in ranks] == [accumulation] * 2
        assert [rank["buckets"] for rank in ranks] == [[trained]] * 2


def test_a_stopped_run_gives_the_adapters_of_one_process(
    done: Path, recipes: dict[str, Path], tmp_path: Path, tiny_llava: Path
) -> None:
    with two_processes.hard_negatives():
        run_recipe(load_recipe(recipes["run"], [f"output={tmp_path / 'run'}"]))
    for engine in ENGINES:
        for stage in ("captions", "one"):
            folder = done / f"{engine}-run" / stage
            expected, found = (load_file(f / "adapter_model.safetensors") for f in (tmp_path / "run" / stage, folder))
            assert expected.keys() == found.keys()
            for name, tensor in expected.items():
                torch.testing.assert_close(found[name], tensor, atol=1e-4, rtol=0)
        banks = [load_file(run / "checkpoints/one/bank-0.safetensors") for run in (tmp_path / "run", folder.parent)]
        assert len(banks[0]["inputs"]) == 5  # one of the 6 candidates cannot be read
        right = [load_file(run / "checkpoints/one" / RIGHT_FILE) for run in (tmp_path / "run", folder.parent)]
        assert len(right[0]["asked"]) and all(torch.equal(right[1][name], own) for name, own in right[0].items())
        for name, tensor in banks[0].items():
            torch.testing.assert_close(banks[1][name], tensor, atol=1e-4, rtol=0)
        files = {path.name for path in (done / f"{engine}-run/checkpoints/captions/checkpoint-2").iterdir()}
        assert {"trainable.safetensors", "rng_state_0.pth", "rng_state_1.pth", "seal.json"} <= files
        assert not list((done / f"{engine}-run").rglob(".*"))
    for rank in (0, 1):
        assert json.loads((done / f"agreed-{rank}.json").read_text()) == [3, 0]
    assert json.loads((done / "ddp-run/checkpoints/one/best/validation.json").read_text())["step"] == 1


def test_a_stopped_reranker_is_that_of_one_process(done: Path, recipes: dict[str, Path], tmp_path: Path) -> None:
    with two_processes.hard_negatives():
        two_processes.run_any(recipes["reranker"], [*RESUMED, f"output={tmp_path / 'run'}"])
    files = (run / "rerank/adapter_model.safetensors" for run in (tmp_path / "run", done / "ddp-reranker-run"))
    expected, found = map(load_file, files)
    assert expected.keys() == found.keys()
    assert max(tensor.abs().max() for name, tensor in expected.items() if "lora_B" in name) > 1e-4
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-4, rtol=0)


def test_processes_share_the_mining_of_one(done: Path, recipes: dict[str, Path], tmp_path: Path) -> None:
    with two_processes.hard_negatives():
        run_recipe(load_recipe(recipes["mining"], [f"output={tmp_path / 'run'}"]))
    for step in (0, 2):
        files = [run / f"checkpoints/one/mined-{step}.jsonl" for run in (tmp_path / "run", done / "ddp-mining")]
        alone, shared = ([json.loads(line) for line in file.read_text().splitlines()][1:] for file in files)
        assert len(alone) == 8 and not list((done / "ddp-mining").rglob("mining-*"))
        found = {line["row"]: line["negatives"] for line in shared}
        assert len(found) == len(shared) and found == {line["row"]: line["negatives"] for line in alone}
    expected, found = (load_file(f / "one/adapter_model.safetensors") for f in (tmp_path / "run", done / "ddp-mining"))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["zero2", "zero3", "zero2-offload", "zero3-offload"])
def test_a_shipped_config_leaves_to_the_recipe_what_it_says(
    name: str, recipes: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")
    config = zero_config(load_recipe(recipes["run"], [f"deepspeed={name}"]))
    assert config["zero_optimization"]["stage"] == int(name[4]) and config["train_batch_size"] == "auto"
    assert ("offload_optimizer" in config["zero_optimization"]) == name.endswith("offload")


@pytest.mark.parametrize(
    ("overrides", "content", "message"),
    [
        (["deepspeed=zero4"], None, "zero4 is neither a JSON file nor one of zero2, zero2-offload, zero3, zero3-"),
        (["deepspeed=FILE"], "{", "is not JSON"),
        (["deepspeed=FILE"], "[]", "holds no JSON object"),
        (["deepspeed=FILE"], "{}", "has no zero_optimization with a stage"),
        (["deepspeed=FILE"], '{"zero_optimization": {"stage": 2}, "bf16": {}}', "take bf16 out of"),
        (["deepspeed=zero3", "quantization=nf4"], None, "ZeRO-3 cannot cut such weights"),
        (["deepspeed=zero3", "stages.one.evaluate={data: x, every: 1}"], None, "ZeRO-3 cannot validate between"),
        (["deepspeed=zero2"], None, "needs a launcher: torchrun"),
    ],
)
def test_what_deepspeed_cannot_do_is_told_before_anything_is_loaded(
    overrides: list[str], content: str | None, message: str, recipes: dict[str, Path], tmp_path: Path, monkeypatch
) -> None:
    from mllm_embed.errors import MLLMEmbedError

    monkeypatch.delenv("RANK", raising=False)
    if content is not None:
        (tmp_path / "own.json").write_text(content)
    overrides = [word.replace("FILE", str(tmp_path / "own.json")) for word in overrides]
    with pytest.raises(MLLMEmbedError, match=message):
        run_recipe(load_recipe(recipes["run"], [*overrides, f"output={tmp_path / 'out'}"]))
    assert not (tmp_path / "out").exists()
