"""The guides hold: what embedded data allows runs, the other commands parse, links lead somewhere.

A fenced block says its language, and an indented block is shell. Steps run in the order of the guides, in one folder
that all of them share, with the commands in this process and fewer scenes.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import io
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mllm_embed import cli as library
from mllm_embed.errors import ConfigError
from mllm_embed.eval import cli as evaluation
from mllm_embed.index.kinds import KINDS
from mllm_embed.training import cli as training
from mllm_embed.training.recipe.recipe_files import load_any
from mllm_embed.training.recipe.run_keys import RunKeys

ROOT = Path(__file__).resolve().parents[1]
RUN = ("README.md", "mllm_embed/README.md", "training/README.md", "eval/README.md", "scripts/README.md")
GUIDES = (
    *RUN,
    "mllm_embed/presets/README.md",
    "mllm_embed/serve/README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "training/shapes/README.md",
)
RECIPES = sorted((ROOT / "training/recipes").glob("*.yaml"))

PROGRAMS = {"mllm-embed": library.main, "mllm-embed-train": training.main, "mllm-embed-eval": evaluation.main}
TOOLS = ("attacks",)  # modules of tests/ that print a table
MODULES = {"training": "mllm-embed-train", "eval": "mllm-embed-eval"}
SMALL = ["--pairs", "200", "--triplets", "200", "--references", "2"]
# What stands in lines that need other data, a server, the hub or more processes; a word in capitals is to be filled in.
# --target tries product quantisation too, which trains for a minute and needs more rows than these scenes have.
ELSEWHERE = re.compile(
    r"(^|[ =:/])[A-Z]+($|[ :/])|my_data|photos|shoe\.jpg|shop\.jsonl|shards/|://|mllm-embed serve|torchrun|accelerate"
    r"|--target"
)
BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$|^ {4}([^\n]*)$", re.M | re.S)  # language, fenced, indented
SCRIPTS = ("scripts/make_scenes.py", "scripts/toy/smaller_base.py")
SLOW = ("mllm-embed-train", "mllm-embed-eval methods")


class Step(NamedTuple):
    """A block of Python, or one command of a shell line by its words."""

    python: str = ""
    words: Sequence[str] = ()

    @property
    def slow(self) -> bool:
        return " ".join(self.words).startswith(SLOW)


# ---- reading a guide


def read_steps(text: str) -> list[Step]:
    """Return the Python blocks and shell commands of a guide in order, with shell variables put in."""
    steps, variables = [], {}
    for language, fenced, indented in BLOCK.findall(_joined(text)):
        if language == "python":
            steps.append(Step(python=fenced))
        for line in fenced.splitlines() if language in ("bash", "sh") else [indented]:
            assigned = re.fullmatch(r'([A-Z]+)="(.*)"', line)
            if assigned:
                variables[assigned[1]] = assigned[2]
            steps += [Step(words=words) for words in commands(line, variables) if not assigned]
    return steps


def commands(line: str, variables: Mapping[str, str]) -> Iterator[list[str]]:
    """Yield the words of each command of a shell line."""
    for name, value in variables.items():
        line = line.replace(f"${name}", value)
    for part in line.split(" && "):
        words = shlex.split(part, comments=True)
        while words and re.match(r"[A-Z]+=", words[0]):  # of the environment
            del words[0]
        if words:
            yield words


def inline_commands(text: str) -> Iterator[list[str]]:
    """Yield the words of commands that stand within a sentence; dots there stand for what is left out."""
    for span in re.findall(r"`(mllm-embed[^`]*)`", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)):
        yield [word for word in shlex.split(span) if word not in ("...", "$MODEL")]


def header_commands(recipe: Path) -> Iterator[list[str]]:
    """Yield the words of the commands in a recipe's header."""
    header = "\n".join(re.findall(r"^# ?(.*)$", recipe.read_text(), re.M))
    for line in re.findall(r"^ {2}((?:mllm-embed|python|torchrun) ?.*)$", _joined(header), re.M):
        yield from commands(line, {})


def _joined(text: str) -> str:
    """Join lines that end in a backslash with those that continue them."""
    return re.sub(r" *\\\n\s*", " ", text)


# ---- checking a command against --help


@cache
def help_of(program: str, *command: str) -> str:
    """Return what --help prints of a command of ours."""
    with contextlib.redirect_stdout(io.StringIO()) as out, pytest.raises(SystemExit) as end:
        PROGRAMS[program]([*command, "--help"])
    assert not end.value.code, f"{program} has no command {command}"
    return out.getvalue()


@cache
def help_of_script(script: str) -> str:
    """Return what --help prints of a script; nothing for one without options."""
    path = ROOT / script
    assert path.is_file(), f"there is no {script}"
    if "argparse" not in path.read_text():
        return ""
    with contextlib.redirect_stdout(io.StringIO()) as out, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script, "--help"])
        patch.syspath_prepend(path.parent)  # as Python does that runs it
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(path), run_name="__main__")
    assert not end.value.code, script
    return out.getvalue()


def check_options(words: Sequence[str], text: str) -> None:
    """Fail for an option among the words that a help text does not name."""
    for word in words:
        option = re.match(r"--?[a-zA-Z][\w-]*", word)
        assert not option or re.search(rf"(?<![\w-]){option[0]}(?![\w-])", text), f"--help has no {option[0]}"


def check_ours(program: str, rest: Sequence[str]) -> None:
    """Fail where a command of ours does not exist or does not have the options; recipes and their keys are read."""
    if not rest:
        return
    assert re.search(rf"\b{re.escape(rest[0])}\b", help_of(program)), f"{program} has no command {rest[0]}"
    check_options(rest[1:], help_of(program, rest[0]))
    if program == "mllm-embed-train" and rest[0] in ("run", "plan"):
        recipe_of(rest)


def recipe_of(words: Sequence[str]) -> RunKeys | None:
    """Return the recipe that `run NAME` or `plan NAME` is about, read with its overrides; None where none is named."""
    if len(words) < 2 or words[1].startswith("-") or words[1].isupper():
        return None
    changes = [value for option, value in pairwise(words) if option == "--override"]
    return load_any(words[1], changes)


def check_launched(words: Sequence[str]) -> None:
    """Fail where a launcher of processes has not the options, or what it launches does not exist."""
    at = next(at for at, word in enumerate(words) if word in ("-m", "--no-python"))
    if words[0] == "torchrun":
        from torch.distributed.run import get_args_parser as parser
    else:
        assert words[1] == "launch"
        from accelerate.commands.launch import launch_command_parser as parser
    check_options(words[1:at], parser().format_help())
    check(words[at + 1 :] if words[at] == "--no-python" else ["python", *words[at:]])


def check_installed(words: Sequence[str]) -> None:
    """Fail for an extra of ours that pip could not install."""
    assert words[0] == "install"
    extras = metadata("mllm_embed").get_all("Provides-Extra") or []
    named = re.findall(r"mllm_embed\[(.*?)\]", " ".join(words))
    assert set(",".join(named).split(",")) - {""} <= set(extras), words


def check(words: Sequence[str]) -> None:
    """Fail for a command that does not exist, or that has not the options it is given."""
    program, *rest = words
    if program in PROGRAMS:
        check_ours(program, rest)
    elif program in ("torchrun", "accelerate"):
        check_launched(words)
    elif program == "python" and rest[0] == "-m":
        assert importlib.util.find_spec(rest[1]), rest[1]
        if rest[1] not in TOOLS:
            check_ours(MODULES[rest[1].removeprefix("mllm_embed.")], rest[2:])
    elif program == "python":
        check_options(rest[1:], help_of_script(rest[0]))
    elif program == "bash":
        assert (ROOT / rest[0]).is_file(), rest[0]
    elif program == "pip":
        check_installed(rest)
    elif program == "curl":
        assert any(word.startswith("http://127.0.0.1:8000/") for word in rest), rest
    else:
        pytest.fail(f"what is {program}?")


# ---- running a guide


class Workspace:
    """A folder in which the steps of the guides run, commands that several guides have but once."""

    def __init__(self, folder: Path):
        (folder / "scripts").symlink_to(ROOT / "scripts")
        self.folder = folder
        self.names: dict[str, dict[str, Any]] = {}
        self.done: set[tuple[str, ...]] = set()

    def run(self, guide: str, slow: bool) -> int:
        """Run the steps of a guide that have not run yet, and say how many could; long trainings never run."""
        names = self.names.setdefault(guide, {})
        untrained: tuple[str, ...] = ()
        count = 0
        for step in read_steps((ROOT / guide).read_text()):
            if not runs(step, untrained):
                untrained += adapters_of(step)
                continue
            count += 1
            key = (guide, step.python) if step.python else tuple(step.words)
            if key not in self.done and (slow or not step.slow):
                self.done.add(key)
                self._run(step, names)
        return count

    def _run(self, step: Step, names: dict[str, Any]) -> None:
        if step.python:
            exec(compile(step.python, "guide", "exec"), names)
        elif step.words[0] == "python":
            more = SMALL if "make_scenes" in step.words[1] else []
            subprocess.run([sys.executable, *step.words[1:], *more], check=True)
        else:
            assert PROGRAMS[step.words[0]](step.words[1:]) == 0, step.words


def runs(step: Step, untrained: tuple[str, ...]) -> bool:
    """Return whether a step needs nothing but embedded data and little time."""
    if step.python:
        return True
    line = " ".join(step.words)
    if ELSEWHERE.search(line) or any(adapter in line for adapter in untrained):
        return False
    if step.words[:2] == ["mllm-embed-train", "run"]:
        return re.search(r"\.steps=\d\b", line) is not None
    return step.words[0] in PROGRAMS or (step.words[0] == "python" and step.words[1] in SCRIPTS)


def adapters_of(step: Step) -> tuple[str, ...]:
    """Return the adapter folders that a training leaves."""
    if step.words[:2] != ["mllm-embed-train", "run"]:
        return ()
    recipe = recipe_of(step.words[1:])
    return tuple(f"{recipe.output}/{stage}" for stage in recipe.stages) if recipe else ()


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with the scenes that the demo would have made."""
    place = Workspace(tmp_path_factory.mktemp("guides"))
    make = [sys.executable, "scripts/make_scenes.py", "--output", "runs/demo/data", *SMALL]
    subprocess.run(make, cwd=place.folder, check=True, capture_output=True)
    return place


@pytest.mark.slow
@pytest.mark.parametrize("guide", RUN)
def test_what_can_run_runs(guide: str, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace.folder)
    assert workspace.run(guide, slow=False)


@pytest.mark.slow
@pytest.mark.parametrize("guide", RUN)
def test_the_slow_steps_run(guide: str, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace.folder)
    assert workspace.run(guide, slow=True)


@pytest.mark.parametrize("guide", GUIDES)
def test_every_command_exists_and_has_its_options(guide: str) -> None:
    text = (ROOT / guide).read_text()
    for step in read_steps(text):
        if step.words:
            check(step.words)
    for words in inline_commands(text):
        check(words)
    for block in re.findall(r"^```python[^\n]*\n(.*?)^```$", text, re.M | re.S):
        ast.parse(block)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_the_commands_of_a_recipe_exist(recipe: Path) -> None:
    found = list(header_commands(recipe))
    assert any(words[0] == "mllm-embed-train" for words in found)
    for words in found:
        check(words)


@pytest.mark.parametrize(
    "line",
    ["mllm-embed encoed photos", "mllm-embed encode photos --ouput x", "mllm-embed-train run demmo", "bash demo.sh",
     "python scripts/bench_loss.py --batch 3", "torchrun --nprocs 2 -m mllm_embed.training run demo", "make all",
     "mllm-embed-train run demo --override stages.captions.step=2", "pip install 'mllm_embed[quantised]'"],
)  # fmt: skip
def test_a_wrong_line_is_noticed(line: str) -> None:
    with pytest.raises((AssertionError, ConfigError, pytest.fail.Exception)):
        check(shlex.split(line))


# ---- the rest


def _anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("guide", GUIDES)
def test_links_lead_somewhere(guide: str) -> None:
    text = (ROOT / guide).read_text()
    for path, _, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(#([^)]*))?\)", text):
        place = (ROOT / guide).parent / path if path else ROOT / guide
        assert place.exists(), path
        assert not anchor or anchor in _anchors(place.read_text()), f"{path}#{anchor}"


def test_a_room_lists_its_packages() -> None:
    for room in ("mllm_embed", "training", "eval"):
        listed = set(re.findall(r"^\| `(\w+)/`", (ROOT / room / "README.md").read_text(), re.M))
        assert listed == {path.parent.name for path in (ROOT / room).glob("*/__init__.py")}, room


def test_the_kinds_of_index_are_listed() -> None:
    text = (ROOT / "mllm_embed/README.md").read_text()
    listed = re.findall(r"^\| `([\w-]+)` \| (.*?) \| [\d./]+ \|$", text, re.M)
    assert listed == [(name, kind.about) for name, kind in KINDS.items()]


def test_the_readme_stays_short() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 160
    assert len(re.findall(r"^\| ---", text, re.M)) <= 4
