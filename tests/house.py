"""The house in figures: python tests/house.py [ROOT]

Counts modules a folder, lines of files and functions, complexity (McCabe's, as radon counts it), comprehensions,
comments, mypy's errors and the words of the README. `test_house.py` holds the ceilings.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOMS = ("mllm_embed", "training", "eval")
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def modules(root: Path) -> list[Path]:
    """Return the Python files of the three rooms under `root`."""
    return sorted(path for room in ROOMS for path in (root / room).rglob("*.py") if "__pycache__" not in path.parts)


def modules_a_folder(root: Path, rooms: tuple[str, ...] = (*ROOMS, "scripts", "tests")) -> Counter[str]:
    """Return how many modules, `__init__` apart, lie in each folder."""
    files = (path for room in rooms for path in (root / room).rglob("*.py") if path.name != "__init__.py")
    return Counter(str(path.parent.relative_to(root)) for path in files)


def function_lengths(tree: ast.Module) -> dict[str, int]:
    """Return the lines of each function, by name and line."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    functions = (node for node in ast.walk(tree) if isinstance(node, kinds))
    return {f"{node.name}:{node.lineno}": (node.end_lineno or node.lineno) - node.lineno + 1 for node in functions}


def nested_comprehensions(tree: ast.Module) -> list[int]:
    """Return the lines of comprehensions that hold another one."""
    return [node.lineno for node in _comprehensions(tree) if any(True for _ in _comprehensions(node, itself=False))]


def complexity(tree: ast.Module) -> dict[str, int]:
    """Return McCabe's complexity of each function, by name and line; comprehensions and `and`, `or` count.

    A function's own inner functions count with it.
    """
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    functions = (node for node in ast.walk(tree) if isinstance(node, kinds))
    return {f"{node.name}:{node.lineno}": sum(map(_branches, ast.walk(node))) for node in functions}


def _branches(node: ast.AST) -> int:
    if isinstance(node, ast.BoolOp):
        return len(node.values) - 1
    if isinstance(node, ast.comprehension):
        return 1 + len(node.ifs)
    if isinstance(node, ast.For | ast.AsyncFor | ast.While):
        return 1 + bool(node.orelse)
    if isinstance(node, ast.Try):
        return len(node.handlers) + bool(node.orelse)
    counted = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.If, ast.IfExp, ast.Assert, ast.match_case)
    return int(isinstance(node, counted))


def at(values: list[int], share: float) -> int:
    """Return the value that `share` of the values do not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def _comprehensions(node: ast.AST, itself: bool = True) -> Iterator[ast.expr]:
    return (part for part in ast.walk(node) if isinstance(part, COMPREHENSIONS) and (itself or part is not node))


def _comments(path: Path) -> int:
    with path.open("rb") as file:
        return sum(token.type == tokenize.COMMENT for token in tokenize.tokenize(file.readline))


def main(root: Path) -> None:
    """Print the figures of the checkout at `root`."""
    paths = modules(root)
    trees = {path: ast.parse(path.read_text()) for path in paths}
    lines = [len(path.read_text().splitlines()) for path in paths]
    lengths = [length for tree in trees.values() for length in function_lengths(tree).values()]
    found = [value for tree in trees.values() for value in complexity(tree).values()]
    inside = sum(len(list(_comprehensions(tree))) for tree in trees.values())
    fullest = ", ".join(f"{name} {count}" for name, count in modules_a_folder(root).most_common(3))
    print(f"modules {len(paths)}; the fullest folders: {fullest}")
    print(f"lines of a file: median {at(lines, 0.5)}, 95 % {at(lines, 0.95)}, most {max(lines)}")
    print(f"lines of a function: median {at(lengths, 0.5)}, 95 % {at(lengths, 0.95)}, most {max(lengths)}")
    print(f"complexity of a function: 95 % {at(found, 0.95)}, most {max(found)}, over 12: {sum(c > 12 for c in found)}")
    print(f"comprehensions a 100 lines: {100 * inside / sum(lines):.1f}")
    print(f"comprehensions in comprehensions: {sum(len(nested_comprehensions(tree)) for tree in trees.values())}")
    print(f"comments, % of lines: {100 * sum(map(_comments, paths)) / sum(lines):.1f}")
    print(f"words of the README: {len((root / 'README.md').read_text().split())}")
    mypy = subprocess.run([sys.executable, "-m", "mypy"], cwd=root, capture_output=True, text=True).stdout
    print(f"mypy: {mypy.strip().splitlines()[-1] if mypy.strip() else 'not run'}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1]).resolve())
