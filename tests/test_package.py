"""The wheel as a user gets it: installed names do not collide, commands work outside the clone, imports are layered."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = {"mllm_embed": "mllm_embed", "training": "mllm_embed.training", "eval": "mllm_embed.eval"}


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


def _outside(site: Path, *words: str) -> subprocess.CompletedProcess[str]:
    path = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(site)!r}); " + words[0]]
    return subprocess.run([*path, *words[1:]], capture_output=True, text=True, cwd=site.parent)


def test_no_top_level_name_but_ours(wheel: Path) -> None:
    assert sorted(p.name for p in wheel.iterdir() if not p.name.endswith(".dist-info")) == ["mllm_embed"]
    assert (wheel / "mllm_embed/training/recipes/demo.yaml").is_file() and (wheel / "mllm_embed/py.typed").is_file()
    assert (wheel / "mllm_embed/eval/reports/published.yaml").is_file()
    assert (wheel / "mllm_embed/training/triplets/prompt.txt").is_file()
    assert (wheel / "mllm_embed/training/shapes/Qwen--Qwen2-VL-2B-Instruct.json").is_file()
    assert (wheel / "mllm_embed/eval/benchmarks/cirr.py").is_file()


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
