"""Sums of adapters: exact sums, cuts with a known loss, and refusals."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from mllm_embed import MLLMEmbedder
from mllm_embed.data.trained_on import TRAINED_ON, TrainedOn, record_beside
from mllm_embed.model.lora import LoraSpec, add_lora
from mllm_embed.model.pooling import Pooling
from mllm_embed.training.cli import main

INPUTS = ["a red hat", "blue", "something green and white"]


def adapter(base: Path, folder: Path, seed: int, spec: LoraSpec, pooling: Pooling = "last") -> Path:
    embedder = MLLMEmbedder.from_pretrained(base, dtype="float32", device="cpu", pooling=pooling)
    torch.manual_seed(seed)
    add_lora(embedder.model, spec, embedder.family)
    for parameter in embedder.model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    embedder.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapters(tiny_llava: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("adapters")
    specs = {
        "a": LoraSpec(4, 8, 0.1), "b": LoraSpec(6, 6, 0.0), "plain": LoraSpec(2, 2, projector=False),
        "patterns": LoraSpec(
            4, 6, projector=False, targets=["q_proj", "v_proj", "up_proj"], vision=True, rslora=True,
            rank_pattern={"v_proj": 2, "fc1": 7}, alpha_pattern={r"layers\.0\..*": 1.5},
        ),
    }  # fmt: skip
    return {name: adapter(tiny_llava, home / name, n, spec) for n, (name, spec) in enumerate(specs.items())}


def load(base: Path, path: Path, quantization: str | None = None) -> MLLMEmbedder:
    return MLLMEmbedder.from_pretrained(base, adapter=path, dtype="float32", device="cpu", quantization=quantization)


def changes(base: Path, path: Path) -> dict[str, torch.Tensor]:
    """What an adapter adds to each weight of its base, by peft's own merging."""
    merged = load(base, path).model.backbone.merge_and_unload().state_dict()
    own = AutoModel.from_pretrained(base, dtype=torch.float32).state_dict()
    return {name: merged[name] - own[name] for name in own if not torch.equal(merged[name], own[name])}


@pytest.mark.parametrize(
    ("names", "weights"),
    [
        ("ab", (0.3, 0.7)),
        ("ab", (0.8, -0.5)),
        (("a", "plain"), (0.5, 0.5)),
        ("aab", (1, 1, 1)),
        (("patterns", "a"), (0.4, 0.6)),
    ],
)
def test_the_sum_changes_the_base_by_the_sum_of_changes(
    names: tuple[str, ...], weights: tuple[float, ...], adapters: dict[str, Path], tiny_llava: Path, tmp_path: Path
) -> None:
    """Layers and projector alike, weights that do not sum to 1, an adapter without a projector, and one whose layers
    have ranks and scales of their own, the vision tower's too."""
    paths = [str(adapters[name]) for name in names]
    output = tmp_path / "sum"
    assert main(["merge", *paths, "--weights", *map(str, weights), "--output", str(output)]) == 0
    parts, found = [changes(tiny_llava, adapters[name]) for name in names], changes(tiny_llava, output)
    assert found.keys() == set().union(*parts) and any("projector" in name for name in found)
    for name, change in found.items():
        wanted = sum(w * part[name] for part, w in zip(parts, weights, strict=True) if name in part)
        torch.testing.assert_close(change, wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize("quantization", [None, "nf4"])
def test_all_weight_on_one_gives_its_vectors(
    quantization: str | None, adapters: dict[str, Path], tiny_llava: Path, tmp_path: Path
) -> None:
    if quantization:
        pytest.importorskip("bitsandbytes")
    output = tmp_path / "sum"
    both = [str(adapters["a"]), str(adapters["b"])]
    assert main(["merge", *both, "--weights", "1", "0", "--output", str(output)]) == 0
    merged, alone = (load(tiny_llava, path, quantization) for path in (output, adapters["a"]))
    assert merged.quantization == quantization
    assert np.abs(merged.encode(INPUTS) - alone.encode(INPUTS)).max() < 1e-5
    assert np.abs(merged.encode(INPUTS) - load(tiny_llava, adapters["b"]).encode(INPUTS)).max() > 1e-2


def test_a_cut_loses_what_it_says(
    adapters: dict[str, Path], tiny_llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = [str(adapters["a"]), str(adapters["b"])]
    assert main(["merge", *both, "--output", str(tmp_path / "whole")]) == 0
    assert main(["merge", *both, "--rank", "3", "--output", str(tmp_path / "cut")]) == 0
    said = capsys.readouterr().out
    whole, cut = changes(tiny_llava, tmp_path / "whole"), changes(tiny_llava, tmp_path / "cut")
    lost = total = worst = 0.0
    for name, change in whole.items():
        if "projector" in name:
            torch.testing.assert_close(cut[name], change, atol=1e-6, rtol=0)
            continue
        values = torch.linalg.svdvals(change.double())
        gone = values[3:].square().sum().item()  # no matrix of rank 3 is nearer
        assert torch.linalg.matrix_rank(cut[name].double(), rtol=1e-4) == 3
        assert abs((cut[name] - change).square().sum().item() - gone) < 1e-5
        lost, total = lost + gone, total + values.square().sum().item()
        worst = max(worst, gone / values.square().sum().item())
    told = re.search(r"rank 10 cut to 3: ([\d.]+)% of the updates' length is lost, ([\d.]+)% in the worst layer", said)
    assert told and np.allclose(
        [float(part) / 100 for part in told.groups()], [(lost / total) ** 0.5, worst**0.5], atol=1e-4
    )
    names = [load_file(path / "adapter_model.safetensors").keys() for path in (tmp_path / "cut", adapters["a"])]
    assert names[0] == names[1]


def test_the_card_says_what_it_was_made_of(
    adapters: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "sum"
    command = ["merge", str(adapters["a"]), str(adapters["b"]), "--weights", "1", "0.5", "--output", str(output)]
    assert main(command) == 0 and "the weights sum to 1.5, not to 1" in capsys.readouterr().out
    card = (output / "README.md").read_text()
    assert "1 x a (rank 4, sha256 " in card and "0.5 x b (rank 6, sha256 " in card and str(tmp_path) not in card
    assert main(command) == 0  # an earlier sum is replaced
    assert sorted(path.name for path in output.iterdir()) == sorted(path.name for path in adapters["a"].iterdir())


def test_lengths_that_all_were_trained_at_stay(adapters: dict[str, Path], tmp_path: Path) -> None:
    for name, lengths in (("a", [16, 32]), ("b", [32, 48])):
        folder = shutil.copytree(adapters[name], tmp_path / name)
        settings = json.loads((folder / "mllm_embed.json").read_text()) | {"matryoshka": lengths}
        (folder / "mllm_embed.json").write_text(json.dumps(settings))
    assert main(["merge", str(tmp_path / "a"), str(tmp_path / "b"), "--output", str(tmp_path / "sum")]) == 0
    assert json.loads((tmp_path / "sum/mllm_embed.json").read_text())["matryoshka"] == [32]
    inside = json.loads((tmp_path / "sum/sentence_bert_config.json").read_text())
    assert inside["processing_kwargs"]["chat_template"]["mllm_embed"]["matryoshka"] == [32]


def test_what_cannot_be_added_is_refused(
    adapters: dict[str, Path], tiny_llava: Path, other_llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = str(adapters["a"]), str(adapters["b"])
    other = str(adapter(other_llava, tmp_path / "other", 0, LoraSpec(4)))
    mean = str(adapter(tiny_llava, tmp_path / "mean", 0, LoraSpec(4), pooling="mean"))
    names = ("dora", "nan", "prompts", "positions", "cut", "template", "old")
    broken = {name: Path(shutil.copytree(adapters["b"], tmp_path / name)) for name in names}
    config = json.loads((broken["dora"] / "adapter_config.json").read_text())
    (broken["dora"] / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    tensors = load_file(broken["nan"] / "adapter_model.safetensors")
    next(iter(tensors.values()))[0, 0] = float("nan")
    save_file(tensors, broken["nan"] / "adapter_model.safetensors")
    settings = json.loads((broken["prompts"] / "mllm_embed.json").read_text())
    settings["prompts"] |= {"image": "What is this?", "name": "mine"}
    (broken["prompts"] / "mllm_embed.json").write_text(json.dumps(settings))
    settings = json.loads((broken["positions"] / "mllm_embed.json").read_text())
    (broken["positions"] / "mllm_embed.json").write_text(json.dumps(settings | {"positions": "sequential"}))
    weights = (broken["cut"] / "adapter_model.safetensors").read_bytes()
    (broken["cut"] / "adapter_model.safetensors").write_bytes(weights[:100])
    (broken["template"] / "chat_template.jinja").write_text("{{ messages[0].content[0].text }}")
    (broken["old"] / "sentence_bert_config.json").unlink()
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.txt").write_text("")
    merged = str(tmp_path / "sum")
    refused = [
        ([a, other, "--output", merged], "differ in their base"),
        ([a, mean, "--output", merged], "differ in their pooling (last and mean)"),
        ([a, str(broken["prompts"]), "--output", merged], "differ in their prompts (instructcir and mine)"),
        (
            [a, str(broken["positions"]), "--output", merged],
            "differ in their settings ({} and {'positions': 'sequential'",
        ),
        ([a, str(broken["template"]), "--output", merged], "processors that differ (another chat template)"),
        ([str(broken["old"]), a, "--output", merged], "was saved by an earlier version"),
        ([a, str(broken["dora"]), "--output", merged], "was trained by DoRA, whose update is no product"),
        ([a, str(broken["nan"]), "--output", merged], "holds NaN or infinite values"),
        ([a, str(broken["cut"]), "--output", merged], "is damaged"),
        ([a, str(tiny_llava), "--output", merged], "holds no adapter"),
        ([a, b, "--weights", "1", "--output", merged], "1 weights for 2 adapters"),
        ([a, b, "--weights", "0", "0", "--output", merged], "not all 0"),
        ([a, b, "--weights", "1", "nan", "--output", merged], "weights are numbers"),
        ([a, b, "--rank", "10", "--output", merged], "--rank 10 cuts nothing: the ranks of the adapters sum to 10"),
        ([a, b, "--rank", "0", "--output", merged], "--rank must be at least 1"),
        ([a, b, "--output", b], "is one of the adapters"),
        ([a, b, "--output", str(full)], "holds other files"),
        ([a, b, "--weights", "1", "1", "--model", str(other_llava), "--output", merged], "is not the base"),
    ]
    for command, said in refused:
        assert main(["merge", *command]) == 2, said
        told = capsys.readouterr().err
        assert f"{said}" in told and told.splitlines()[-1].startswith("error: "), told
        assert not Path(merged).exists()
    assert (full / "thesis.txt").exists()


def test_a_full_disk_is_one_sentence(
    adapters: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found before anything is written, or, where the disk fills up meanwhile, told once."""
    command = ["merge", str(adapters["a"]), str(adapters["b"]), "--output", str(tmp_path / "new/sum")]
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))
        assert main(command) == 2
    told = capsys.readouterr().err
    assert "the sum needs " in told and "which has 0.0 MiB free; make room" in told and not (tmp_path / "new").exists()

    def full(*_: object, **__: object) -> None:
        raise shutil.Error([("a", "b", "[Errno 28] No space left on device: 'b'"), ("c", "d", "[Errno 28] more")])

    monkeypatch.setattr(shutil, "copytree", full)
    assert main(command) == 2
    told = capsys.readouterr().err
    assert told == f"error: cannot write {tmp_path / 'new/sum'}: No space left on device: 'b'\n"


def test_a_sum_was_trained_on_what_each_part_was(adapters: dict[str, Path], tmp_path: Path) -> None:
    parts = [Path(shutil.copytree(adapters[name], tmp_path / name)) for name in "ab"]
    merged = ["merge", *map(str, parts), "--weights", "0.5", "0.5", "--output"]
    assert main([*merged, str(tmp_path / "neither")]) == 0
    assert record_beside(tmp_path / "neither") is None
    TrainedOn(np.array([3, 5])).save(parts[0] / TRAINED_ON)
    assert main([*merged, str(tmp_path / "one")]) == 0
    found = record_beside(tmp_path / "one")
    assert found.asked.tolist() == [3, 5] and found.unknown == ("b",)  # not as if b had been trained on nothing
    TrainedOn(np.array([4, 5])).save(parts[1] / TRAINED_ON)
    assert main([*merged, str(tmp_path / "both")]) == 0
    found = record_beside(tmp_path / "both")
    assert found.asked.tolist() == [3, 4, 5] and not found.unknown
