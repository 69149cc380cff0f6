"""The house keeps its shape: rooms import only what lies below them, and nothing has outgrown its purpose."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from house import (
    ROOMS,
    at,
    complexity,
    function_lengths,
    modules,
    modules_a_folder,
    nested_comprehensions,
)

ROOT = Path(__file__).resolve().parents[1]
INSTALLED = {"mllm_embed": "mllm_embed", "training": "mllm_embed.training", "eval": "mllm_embed.eval"}
# A package of a room may import those above it in its list, and modules at the room's root that are not its roof.
LAYERS = {
    "mllm_embed": [
        "vectors",
        "model",
        "inputs",
        "thoughts",
        "data",
        "saving",
        "presets",
        "convert",
        "encode",
        "store",
        "index",
        "search",
        "generate",
        "rerank",
        "serve",
        "commands",
    ],
    "training": [
        "data",
        "recipe",
        "false_negatives",
        "mining",
        "batch",
        "loss",
        "distributed",
        "distill",
        "report",
        "plan",
        "run",
        "reranking",
        "merging",
        "triplets",
        "commands",
    ],
    "eval": ["scoring", "benchmarks", "reports", "table", "studies", "methods", "commands"],
}
ROOF = {"cli", "__main__"}
BANNED = ("import pickle", "trust_remote_code=True", "sys.path", "TODO", "except:", "except Exception")


def _run_time_imports(tree: ast.AST) -> Iterator[ast.ImportFrom | ast.Import]:
    """Yield the imports of a module but those for type checkers alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.ImportFrom | ast.Import):
            yield node
        yield from _run_time_imports(node)


def _imported(path: Path, node: ast.ImportFrom | ast.Import) -> list[str]:
    """Return the full names of what a statement imports, with our rooms by their names in the clone."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif node.level:
        package = path.relative_to(ROOT).parts[: -node.level]
        module = ".".join((*package, *filter(None, [node.module])))
        names = [f"{module}.{alias.name}" for alias in node.names]
    else:
        names = [f"{node.module}.{alias.name}" for alias in node.names]
    for room in ("training", "eval"):
        names = [name.removeprefix("mllm_embed.") if name.startswith(INSTALLED[room]) else name for name in names]
    return names


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_only_what_they_may(room: str) -> None:
    for path in (ROOT / room).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Import | ast.ImportFrom):
                continue
            inside = isinstance(node, ast.ImportFrom) and node.level
            assert not inside or node.level <= len(path.relative_to(ROOT / room).parts), f"{path}: out of the room"
            for name in _imported(path, node):
                top = name.split(".")[0]
                assert top not in ROOMS or top in ("mllm_embed", room), f"{path}: {name}"
                assert room != "mllm_embed" or inside or top != "mllm_embed", f"{path}: {name} should be relative"


@pytest.mark.parametrize("room", ROOMS)
def test_packages_import_only_what_lies_below(room: str) -> None:
    layers = LAYERS[room]
    packages = {path.parent.name for path in (ROOT / room).glob("*/__init__.py")}
    assert packages == set(layers), "a new package takes its place in LAYERS"
    for path in (ROOT / room).rglob("*.py"):
        own = path.relative_to(ROOT / room).parts[0]
        for node in _run_time_imports(ast.parse(path.read_text())):
            for name in _imported(path, node):
                if not name.startswith(f"{room}.") or own.removesuffix(".py") in ROOF:
                    continue
                other = name.split(".")[1]
                assert other not in ROOF, f"{path} imports the roof, {name}"
                if other in layers and own != other:
                    assert own in layers, f"{path}, which lies below all packages, imports {name}"
                    assert layers.index(other) < layers.index(own), f"{path} imports {name}, which lies above it"


@pytest.mark.parametrize("room", ROOMS)
def test_no_argument_of_a_command_line_leaves_the_commands(room: str) -> None:
    files = [path.relative_to(ROOT / room) for path in (ROOT / room).rglob("*.py") if "argparse" in path.read_text()]
    assert Path("cli.py") in files
    assert [path for path in files if path.parts[0] not in ("cli.py", "commands")] == []


def test_a_package_says_what_it_is_for() -> None:
    for path in (file for room in ROOMS for file in (ROOT / room).rglob("__init__.py")):
        assert ast.get_docstring(ast.parse(path.read_text())), path


def test_no_folder_is_a_heap() -> None:
    assert {name: count for name, count in modules_a_folder(ROOT).items() if count > 15} == {}


@pytest.mark.parametrize("room", (*ROOMS, "scripts"))
def test_nothing_unsafe_or_unfinished(room: str) -> None:
    for path in (ROOT / room).rglob("*.py"):
        text = path.read_text()
        assert [words for words in BANNED if words in text] == [], path
        asserts = any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(text)))
        assert room == "scripts" or not asserts, f"{path}: assert outside tests"


def test_nothing_has_outgrown_its_purpose() -> None:
    values = []
    for path in [*modules(ROOT), *(ROOT / "scripts").rglob("*.py")]:
        text = path.read_text()
        tree = ast.parse(text)
        assert text.count("\n") <= 350, f"{path} is too long"
        assert {name: length for name, length in function_lengths(tree).items() if length > 80} == {}, path
        if path.is_relative_to(ROOT / "scripts"):
            continue
        found = complexity(tree)
        assert {name: value for name, value in found.items() if value > 12} == {}, path
        assert nested_comprehensions(tree) == [], f"{path}: a comprehension within a comprehension"
        values += found.values()
    assert at(values, 0.95) <= 8
