"""Try all attacks, and print the table of attack and answer in Markdown."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from mllm_embed import MLLMEmbedder

from .listed import ATTACKS
from .target import target

ASSETS = Path(__file__).parents[2] / "scripts" / "assets"


def main() -> int:
    """Print the table; 1 where an answer is another than it should be."""
    embedder = MLLMEmbedder.from_pretrained(ASSETS / "base", adapter=ASSETS / "adapters" / "instructions")
    wrong, group = 0, ""
    with tempfile.TemporaryDirectory() as folder, target(embedder, Path(folder)) as services:
        for attack in ATTACKS:
            if attack.group != group:
                group = attack.group
                print(f"\n| {group} | answer |\n| --- | --- |")
            got = attack.send(services)
            right = got.status == attack.status and attack.words in got.text
            wrong += not right
            said = got.said.replace("\n", " ").replace("|", "\\|").partition(";")[0]  # the cause, without the cure
            told = said if got.status >= 400 else "answered as any other"
            print(f"| {attack.name} | {got.status}: {told}{'' if right else ' **WRONG**'} |")
        print(f"\n{len(ATTACKS)} attacks, {wrong} of them answered otherwise than they should be; ", end="")
        print(f"connections to the port that nobody may reach: {services.sinkhole.connections}")
        wrong += services.sinkhole.connections
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
