"""The README's Python runs as it stands, in order, on the shipped model."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_python_blocks_run(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 2
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    make = [
        sys.executable,
        "scripts/make_scenes.py",
        "--output",
        "runs/demo/data",
        "--pairs",
        "200",
        "--triplets",
        "200",
    ]
    subprocess.run([*make, "--references", "2"], cwd=tmp_path, check=True, capture_output=True)
    done = subprocess.run([sys.executable, "-c", "\n".join(blocks)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_links_lead_somewhere(path: str) -> None:
    assert (ROOT / path).exists()
