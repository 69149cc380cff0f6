"""Draw how runs of `pretrain_base.py` learned: the share of changes answered to the last word, by kind.

    PYTHONPATH=scripts python scripts/toy/plot_pretraining.py scripts/assets/base runs/base-without-heads \
        --output scripts/assets/pretraining.png

Each folder is one panel, named after it; scenes are fresh at every step, so that nothing is answered from memory.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

from mllm_embed.errors import DataError, user_errors

LOG = "pretraining.jsonl"
KINDS = ("remove", "replace", "resize", "move", "add", "background")


def answered(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's log that tell of answers. Raises DataError where there is no log of such a run."""
    try:
        rows = [json.loads(line) for line in (folder / LOG).read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / LOG} cannot be read ({error}); give a folder of pretrain_base.py") from error
    return [row for row in rows if row.get("phase") == "answering"]


def draw(folders: list[Path], output: Path) -> None:
    """Draw the runs side by side, over the same steps."""
    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(folders), figsize=(5.2 * len(folders), 3.4), sharey=True, squeeze=False)
    runs = [answered(folder) for folder in folders]
    longest = max(row["step"] for run in runs for row in run)
    for panel, folder, rows in zip(panels[0], folders, runs, strict=True):
        for kind in KINDS:
            found = [(row["step"], 100 * row[f"answer {kind}"]) for row in rows if f"answer {kind}" in row]
            panel.plot(*zip(*found, strict=True), label=kind)
        panel.set(title=folder.name, xlabel="step", xlim=(0, longest), ylim=(0, 100))
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("answered to the last word, %")
    panels[0][-1].legend(loc="best", fontsize=8)
    figure.tight_layout()
    figure.savefig(output, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


@user_errors
def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", metavar="FOLDER", type=Path, nargs="+", help="outputs of pretrain_base.py")
    parser.add_argument("--output", type=Path, required=True, help="the picture to write (PNG)")
    args = parser.parse_args()
    draw(args.folders, args.output)
    print(f"wrote {args.output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
