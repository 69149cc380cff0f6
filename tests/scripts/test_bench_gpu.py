"""The bench for a large GPU runs to its end on a CPU, and what fails on the way costs a sentence."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import bench_gpu
from gpu.extraction import compute, prepared
from gpu.measuring import operations
from gpu.sections import MODULES
from gpu.sizes import SIZES
from gpu.supervisor import MARK, Found, Supervisor, as_markdown
from gpu.workplace import Workplace

SCRIPT = Path(bench_gpu.__file__)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole run, started as a user starts it."""
    folder = tmp_path_factory.mktemp("gpu")
    command = [
        sys.executable,
        str(SCRIPT),
        "--size",
        "tiny",
        "--device",
        "cpu",
        "--output",
        str(folder),
        "--total",
        "900",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == (folder / "gpu.md").read_text()
    return folder


def test_every_section_comes_to_its_end_on_a_cpu(bench: Path) -> None:
    result = json.loads((bench / "gpu.json").read_text())
    assert list(result["sections"]) == list(MODULES) == list(bench_gpu.BUDGETS)
    for name, section in result["sections"].items():
        assert section["error"] is None and section["seconds"] > 0, name
        assert all(set(row) == {"what", "figure", "note", "values"} for row in section["rows"]), name
    rows = {row["what"]: row["values"] for section in result["sections"].values() for row in section["rows"]}
    # what was asked of this bench, a row each
    for kind in ("qwen2_vl", "qwen3_vl"):
        assert rows[f"{kind}, batch_size 2: the model alone"]["share of peak"] > 0
        assert rows[f"{kind}, batch_size 2: from JPEG files"]["seconds"] > 0
    assert rows["step of 4 rows, all at once"]["chunks"] < rows["step of 4 rows, chunks of 64 tokens"]["chunks"]
    assert rows["step of 4 rows, all at once"]["bytes"] > rows["step of 4 rows, chunks of 64 tokens"]["bytes"]
    assert rows["chunk_tokens: auto"]["tokens"] >= 1024
    assert rows["qwen2_vl in float32"]["cosine"] == pytest.approx(1, abs=1e-6)
    assert rows["qwen2_vl in int8"]["cosine"] > rows["qwen2_vl in nf4"]["cosine"] > 0.9
    assert rows["product and top k on cpu, float32"]["answers"] == 1
    assert rows["photographs of 640 x 600 in qwen2_vl, jpeg_side 280"]["cosine"] > 0.99
    assert "| decoding | decode one of" in (bench / "gpu.md").read_text()
    budgets = SIZES["large"]
    assert budgets.gallery[:2] == (800, 123403) and budgets.photograph == (4000, 3000) and not budgets.layers


def test_operations_are_those_of_the_weights_that_see_a_token(bench: Path) -> None:
    """Two for each weight and token; on a CPU the counter knows no attention."""
    place = Workplace(torch.device("cpu"), SIZES["tiny"], bench / "models")
    embedder = place.embedder("qwen2_vl")
    batches = prepared(embedder, ["a hat", "a much longer text, of which there are more tokens"], 2)
    weights = dict(embedder.model.base.named_parameters())
    language = sum(w.numel() for name, w in weights.items() if "layers" in name and w.dim() == 2)
    tokens = sum(batch.model_input["input_ids"].numel() for batch in batches)
    found = operations(lambda: compute(embedder, batches))
    assert found == 2 * language * tokens


def _found(script: str, names: str, **limits: float) -> dict[str, Found]:
    """Return what a supervisor knows in the end of sections that a script measures."""
    told: list[Mapping[str, Any]] = []
    said = f"print({MARK!r} + json.dumps(dict(section=s, **k)), flush=True)"
    worker = f"import sys, json, time, os\ndef tell(s, **k): {said}\n"
    worker += f"for name in sys.argv[1:]:\n    tell(name, started=True)\n    {script}\n    tell(name, seconds=1.0)\n"
    budgets = dict.fromkeys(names.split(), limits.get("budget", 30))
    start, total = limits.get("start", 30), limits.get("total", 60)
    found = Supervisor([sys.executable, "-c", worker], budgets, start, total, told.append).run()
    assert told
    return found


@pytest.mark.parametrize(
    ("script", "limits", "said"),
    [
        ("if name == 'b': tell(name, error='out of memory'); sys.exit(1)", {}, "out of memory"),
        ("if name == 'b': os._exit(9)", {}, "its process ended with code 9"),
        ("if name == 'b': time.sleep(60)", {"budget": 0.5}, "stopped: it took more than its 0.5 seconds"),
        ("if name == 'b': os.abort()", {}, "its process ended with code -6"),
        (
            "if name == 'b': import no_such_package",
            {},
            "code 1: ModuleNotFoundError: No module named 'no_such_package'",
        ),
    ],
)
def test_a_section_that_fails_leaves_the_others(script: str, limits: dict[str, float], said: str) -> None:
    found = _found(
        "tell(name, row=dict(what='w', figure='1 | 2', note='', values={}))\n    " + script, "a b c", **limits
    )
    assert [found[name].error for name in "ac"] == [None, None] and said in (found["b"].error or "")
    assert [len(found[name].rows) for name in "abc"] == [1, 1, 1]
    table = as_markdown(found)
    assert table.count("\n") == 6 and f"| b | failed | – | {found['b'].error} |" in table and "1 \\| 2" in table


def test_nothing_runs_beyond_the_time_for_all() -> None:
    found = _found("time.sleep(60)", "a b", total=0.5)
    assert "the 0.5 seconds for all sections are over" in (found["a"].error or "")
    assert "left out" in (found["b"].error or "")
    silent = _found("", "a", start=0.0)
    assert "nothing was measured within 0 seconds of the start" in (silent["a"].error or "")
