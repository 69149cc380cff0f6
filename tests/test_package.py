"""The wheel as a user gets it: installed names do not collide, commands work outside the clone, imports are layered."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import mllm_embed
from mllm_embed.saving.versions import versions

ROOT = Path(__file__).resolve().parents[1]
ROOMS = {"mllm_embed": "mllm_embed", "training": "mllm_embed.training", "eval": "mllm_embed.eval"}
EXTRAS = (
    "fastapi", "starlette", "uvicorn", "prometheus_client", "python_multipart", "psycopg", "pgvector", "lance",
    "qdrant_client",
)  # fmt: skip
WITHOUT = f"sys.modules.update(dict.fromkeys({EXTRAS}))"  # as where they are not installed


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unpacked outside the clone."""
    folder = tmp_path_factory.mktemp("wheel")
    sources = folder / "source"
    for name in (*ROOMS, "pyproject.toml", "README.md", "LICENSE", "scripts/assets/sprites/NOTICE.md"):
        (sources / name).parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-r", ROOT / name, sources / name], check=True)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", folder, sources]
    subprocess.run(build, check=True, capture_output=True)
    (file,) = folder.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def _outside(site: Path, code: str, *words: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run code with the wheel first on the path, in a folder that is not the clone."""
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(site)!r}); {code}", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder or site.parent)


def test_no_top_level_name_but_ours(wheel: Path) -> None:
    assert sorted(p.name for p in wheel.iterdir() if not p.name.endswith(".dist-info")) == ["mllm_embed"]
    assert (wheel / "mllm_embed/training/recipes/demo.yaml").is_file() and (wheel / "mllm_embed/py.typed").is_file()
    assert (wheel / "mllm_embed/eval/reports/published.yaml").is_file()
    assert (wheel / "mllm_embed/training/triplets/prompt.txt").is_file()
    page = [path.name for path in (ROOT / "mllm_embed/serve/page").iterdir()]
    assert page and all((wheel / "mllm_embed/serve/page" / name).is_file() for name in page)
    assert (wheel / "mllm_embed/training/shapes/Qwen--Qwen2-VL-2B-Instruct.json").is_file()


def test_the_wheel_holds_every_module(wheel: Path) -> None:
    """The packages stand in pyproject.toml by name, since two rooms are installed inside the third."""
    for room, installed in ROOMS.items():
        modules = {path.relative_to(ROOT / room) for path in (ROOT / room).rglob("*.py")}
        home = wheel / installed.replace(".", "/")
        assert [str(module) for module in modules if not (home / module).is_file()] == []


@pytest.mark.parametrize("module", ["mllm_embed.cli", "mllm_embed.training.cli", "mllm_embed.eval.cli"])
def test_commands_work_outside_the_clone(wheel: Path, module: str) -> None:
    done = _outside(wheel, f"import {module} as m; assert m.__file__.startswith({str(wheel)!r}); m.main(['--help'])")
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


def test_import_is_quick() -> None:
    """Nothing heavy is loaded before it is used; `--help` stays a matter of a blink."""
    code = "import sys, mllm_embed.cli, training.cli, eval.cli; print({'torch', 'peft', 'faiss'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "set()", done.stdout + done.stderr


def test_a_port_answers_before_torch_is_there() -> None:
    code = "import sys, mllm_embed.serve.app, mllm_embed.serve.operations.making as m; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "False", done.stdout + done.stderr


def test_a_service_says_what_it_needs(wheel: Path) -> None:
    done = _outside(wheel, f"{WITHOUT}; import mllm_embed.cli as m; sys.exit(m.main(['serve', '--model', 'none']))")
    assert done.returncode == 2 and 'pip install "mllm_embed[serve]"' in done.stderr, done.stderr


def test_the_package_lists_its_public_names() -> None:
    assert {"MLLMEmbedder", "Query", "Searcher"} <= set(dir(mllm_embed)) == {*mllm_embed.__all__, "__version__"}
    assert all(hasattr(mllm_embed, name) for name in dir(mllm_embed))


def test_the_version_is_told_once(wheel: Path) -> None:
    assert versions()["mllm_embed"] == mllm_embed.__version__
    assert next(path.name for path in wheel.parent.glob("*.whl")).split("-")[1] == mllm_embed.__version__


def test_import_silences_no_logger_of_others() -> None:
    code = "import logging, mllm_embed; print(sorted(logging.root.manager.loggerDict))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.slow
def test_the_wheel_trains_encodes_and_searches(wheel: Path, tiny_llava: Path, data: Path, tmp_path: Path) -> None:
    """A fine-tuned model from a recipe of one's own, a store made with it, and answers, all outside the clone, and
    without what only servers need."""
    term = {"query": "image", "positive": "caption", "symmetric": True}
    stage = {"data": str(data), "rows": "pairs", "batch_size": 4, "steps": 1, "learning_rate": 0.01, "terms": [term]}
    recipe = {"model": str(tiny_llava), "output": "run", "lora": {"rank": 4}, "stages": {"captions": stage}}
    (tmp_path / "mine.yaml").write_text(json.dumps(recipe))  # JSON is YAML
    model = ["--model", str(tiny_llava), "--adapter", "run/captions"]
    commands = (
        ("mllm_embed.training.cli", "run", "mine.yaml"),
        ("mllm_embed.cli", "encode", str(data / "images"), "--output", "store", *model),
        ("mllm_embed.cli", "search", "--gallery", "store", *model, "--instruction", "red", "--output", "found.png"),
        ("mllm_embed.eval.cli", "run", str(data), *model, "--output", "figures"),
    )
    # one process for all: each alone would mostly load torch
    code = f"""{WITHOUT}; import importlib, json
for name, *words in json.loads(sys.argv[1]):
    module = importlib.import_module(name)
    assert module.__file__.startswith({str(wheel)!r})
    code = module.main(words)
    assert not code, f"{{name}} {{words[0]}}: {{code}}"
"""
    done = _outside(wheel, code, json.dumps(commands), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run/captions/adapter_model.safetensors").is_file()
    assert (tmp_path / "found.png").is_file() and (tmp_path / "figures/result.json").is_file()
