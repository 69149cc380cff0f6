"""What this library does on a large GPU, in one command under six minutes: one table and one JSON.

    python scripts/bench_gpu.py                                  # all sections, into runs/gpu
    python scripts/bench_gpu.py --sections qwen2_vl decoding
    python scripts/bench_gpu.py --size tiny --device cpu         # the same on a CPU, in seconds: that it works
    python scripts/bench_gpu.py --wheels wheels                  # on a machine without a network

Sections: `machine` measures the rate of a plain bfloat16 product, beside which the others stand. `qwen2_vl` and
`qwen3_vl` embed pictures and queries about them by models of the published 2B shapes with random weights, the model
alone and from JPEG files. `training` is a step of LoRA with gradient caching and without, and what `chunk_tokens: auto`
finds; `quantised` has the same in int8 and nf4; `ranking` is CIRCO's test set; `decoding` is what photographs of 12
megapixels cost, decoded whole and with `jpeg_side`.

The table grows row by row in OUTPUT/gpu.md, the figures in OUTPUT/gpu.json. Another process measures; where a section
fails, hangs or takes its process down, that is a sentence in the table, and a new process goes on with the others.
Models take 9 GB of disk below OUTPUT, and are made once. `--wheels` installs the wheels of a folder and this clone into
OUTPUT/site first, without a network and without touching what is installed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from gpu.supervisor import Supervisor, as_markdown, write

ROOT = Path(__file__).resolve().parents[1]
# seconds of each section, at which it is stopped; together more than --total, which ends them all. What is short comes
# first, and the second model last.
BUDGETS = {
    "machine": 30, "ranking": 45, "qwen2_vl": 90, "training": 75, "decoding": 75, "quantised": 90, "qwen3_vl": 90,
}  # fmt: skip
START = 60  # seconds in which a process imports what it needs


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return 0 where every section came to its end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", nargs="+", choices=BUDGETS, default=list(BUDGETS), metavar="S")
    parser.add_argument("--size", choices=("large", "tiny"), default="large")
    parser.add_argument("--device", help="default: the GPU where there is one")
    parser.add_argument("--total", type=float, default=330, help="seconds for all, --wheels included (default 330)")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "gpu", help="default: runs/gpu")
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="install these wheels first")
    parser.add_argument("--work", nargs="+", help=argparse.SUPPRESS)  # what the other process is called with
    args = parser.parse_args(arguments)
    if args.work:
        return _work(args)
    names = [name for name in BUDGETS if name in args.sections]
    end = time.monotonic() + args.total
    if args.wheels:
        _install(args.wheels, args.output / "site")
    here = ["--size", args.size, "--output", str(args.output), *(["--device", args.device] if args.device else [])]
    command = [sys.executable, str(Path(__file__).resolve()), *here, "--work"]
    about = {"size": args.size, "device": args.device, "total": args.total}
    # a few seconds' work is not to be stopped on a machine that is busy with something else
    budgets = {name: BUDGETS[name] if args.size == "large" else args.total for name in names}
    start = START if args.size == "large" else args.total
    left = end - time.monotonic()
    found = Supervisor(command, budgets, start, left, lambda known: write(args.output, known, about)).run()
    print(as_markdown(found), end="")
    return 0 if all(section.error is None for section in found.values()) else 1


def _work(args: argparse.Namespace) -> int:
    """Measure sections in this process."""
    import torch

    from gpu.sections import work

    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    work(args.work, args.size, device, args.output / "models")
    return 0


def _install(wheels: Path, site: Path) -> None:
    """Install the wheels of a folder and this clone for the processes that are started from here on.

    Raises CalledProcessError where pip, which says why, fails.
    """
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--upgrade",
        "--target",
        str(site),
    ]
    found = sorted(map(str, wheels.glob("*.whl")))
    for what in ([found] if found else []) + [["--no-build-isolation", str(ROOT)]]:
        subprocess.run([*pip, *what], check=True)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))


if __name__ == "__main__":
    raise SystemExit(main())
