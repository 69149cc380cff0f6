"""`plan` as a command: what it prints, and that what cannot fit or is wrong is refused in one sentence."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from mllm_embed.errors import ConfigError, ModelError
from mllm_embed.training.cli import main
from mllm_embed.training.plan.plan import GIB, check_fits, make_plan
from mllm_embed.training.recipe.recipe_files import load_recipe

BASE = Path(__file__).resolve().parents[3] / "scripts/assets/base"


@pytest.mark.slow
def test_the_command_prints_and_refuses(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(recipe), "--memory", "24"]) == 0
    out = capsys.readouterr().out
    assert "language model" in out and "AdamW's two moments" in out and "16 image tokens" in out
    large = "stages.instructions.chunk_tokens=65536"
    assert main(["plan", "qwen2-vl-2b", "--memory", "16", "--override", large]) == 2
    captured = capsys.readouterr()
    assert "4.1  base, bfloat16" in captured.out and "in chunks of 65,536 tokens (gradient caching)" in captured.out
    assert captured.err.count("\n") == 1
    assert re.search(
        r"needs [\d.]+ GiB and 16.0 are there; set stages.instructions.chunk_tokens to about \d+ ", captured.err
    )


@pytest.mark.slow
def test_refusals_name_what_to_lower_and_then_it_fits(recipe: Path) -> None:
    options = [f"model={BASE}", "stages.captions.batch_size=8", "stages.instructions.batch_size=8", "bf16=true"]
    whole = [*options, "stages.instructions.chunk_tokens=100000", "stages.captions.chunk_tokens=200"]
    loaded = load_recipe(recipe, whole)
    plan = make_plan(loaded, 24)
    room = (plan.total - 0.3 * plan.stages["instructions"].step.peak) / GIB
    with pytest.raises(ConfigError, match=r"set gradient_checkpointing: true, or set stages.instructions") as caught:
        check_fits(loaded, make_plan(loaded, room))
    size = re.search(r"chunk_tokens to about (\d+) \(now 100000\)", str(caught.value))[1]
    smaller = load_recipe(recipe, [*whole, f"stages.instructions.chunk_tokens={int(size) // 1000}"])
    check_fits(smaller, make_plan(smaller, room))
    alone = load_recipe(recipe, options)  # chunks that are found fit by themselves
    cut = make_plan(alone, room)
    check_fits(alone, cut)
    with pytest.raises(ConfigError, match=r"the libraries alone take 1.0"):
        check_fits(loaded, make_plan(loaded, 0.5))
    large = load_recipe("qwen2-vl-7b")
    with pytest.raises(ConfigError, match=r"the weights alone take 16.7; set quantization: nf4, or a larger card"):
        check_fits(large, make_plan(large, 8))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.yaml"], "nowhere.yaml does not exist"),
        (["demo", "--override", "sead=1"], "unknown key 'sead'"),
        (["demo", "--override", "model=no/such-model"], "no config of no/such-model: it is no folder"),
        (["demo", "--override", "model=nvidia/MM-Embed"], "nvidia/MM-Embed cannot be loaded as it is"),
        (["demo", "--override", "model=tests"], "tests is no model folder"),
        (
            ["demo", "--override", "model=tests/later"],
            "tests holds no later yet, and no hub id tests/later is known: make",
        ),
        (["demo", "--memory", "0"], "--memory must be above 0"),
    ],
)
def test_mistakes_are_one_sentence(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(BASE.parents[2])
    assert main(["plan", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1


def test_a_bad_picture_size_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["plan", "demo", "--picture", "wide"])
    assert left.value.code == 2 and "write it as 1024x768" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["plan", "--help"])
    assert "plan qwen2-vl-2b --memory 24" in capsys.readouterr().out


def test_a_damaged_config_is_named(recipe: Path, tiny_llava: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(tiny_llava, tmp_path / "broken")
    for content in ("{", "[]", '{"model_type": "llava", "text_config": {"hidden_size": "wide"}}'):
        (broken / "config.json").write_text(content)
        with pytest.raises(ModelError, match=r"is damaged|cannot read the config of"):
            make_plan(load_recipe(recipe, [f"model={broken}"]))


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("prompts=nonsense", "prompts: 'nonsense' is not one of"),
        ("stages.captions.matryoshka=[100000]", "matryoshka 100000 must be smaller"),
        ("stages.captions.batch_size=100000", "fewer than batch_size 100000"),
    ],
)
def test_what_training_refuses_plan_refuses(
    data: Path, capsys: pytest.CaptureFixture[str], override: str, why: str
) -> None:
    overrides = [f"stages.captions.data={data}", "stages.captions.batch_size=2", override]
    assert main(["plan", "demo", *(word for o in overrides for word in ("--override", o))]) == 2
    assert why in capsys.readouterr().err
