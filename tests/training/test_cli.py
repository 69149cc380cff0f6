"""The trainer's command line: one parser, a command each, and a recipe's name alone as short for `run`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mllm_embed.training.cli import main

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = ("run", "plan", "show", "mine", "merge", "report", "make-triplets")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    told = capsys.readouterr().out
    assert left.value.code == 0 and told.startswith(f"usage: mllm-embed-train {command} ")
    if command != "report":
        assert f"\n  mllm-embed-train {command} " in told, "an example"


def test_help_lists_commands_and_keys(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--help"], ["run", "--help"], ["demo", "--help"]):
        with pytest.raises(SystemExit) as left:
            main(words)
        told = capsys.readouterr().out
        assert left.value.code == 0 and "temperature" in told and "per_image" in told
        assert words != ["--help"] or all(f"\n    {command} " in told for command in COMMANDS)


@pytest.mark.parametrize("words", [["nowhere.yaml"], ["run", "nowhere.yaml"], ["--override", "a=b", "nowhere.yaml"]])
def test_a_recipe_alone_is_run(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert "nowhere.yaml does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(("word", "cure"), [("rnu", "did you mean 'run'?"), ("xyz", "there are run, plan,")])
def test_a_misspelt_command_is_named(word: str, cure: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word, "demo"]) == 2
    said = capsys.readouterr().err
    assert f"'{word}' is no command; {cure}" in said and said.count("\n") == 1


def test_a_clone_names_the_module() -> None:
    done = subprocess.run([sys.executable, "-m", "training"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and "usage: python -m training " in done.stderr
    assert "required: run|plan" in done.stderr
