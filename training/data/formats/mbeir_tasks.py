"""M-BEIR's task instructions: instructions/query_instructions.tsv, as UniIR's code reads it.

query_modality    cand_modality    dataset_name    dataset_id    prompt_1    prompt_2    prompt_3    prompt_4

A query is asked with one of the prompts of its data set and of the modalities of query and answer, drawn anew each time
(TIGER-AI-Lab/UniIR@98dc570 src/data/mbeir_dataset.py 75-108, 155-166; preprocessing/utils.py 110-116).
"""

from __future__ import annotations

from pathlib import Path

from mllm_embed.errors import DataError, reason

_BEFORE = [""] * 4  # a line that is cut short has no prompts, and is told


def read_instructions(path: Path) -> dict[tuple[str, str, str], tuple[str, ...]]:
    """Return the instructions by (data set's number, modality of the query, modality of the answer).

    Raise DataError for a file that cannot be read, or a line of it that is none of such a file.
    """
    cure = "give M-BEIR's query_instructions.tsv"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"tasks: {path} cannot be read ({reason(error)}); {cure}") from error
    found: dict[tuple[str, str, str], tuple[str, ...]] = {}
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        asks, finds, _, dataset, *prompts = [cell.strip() for cell in line.split("\t")] + _BEFORE
        told = tuple(dict.fromkeys(map(_sentence, filter(None, prompts))))
        if not (told and dataset.isdigit()):
            raise DataError(
                f"tasks: {path}, line {number}: not query_modality, cand_modality, dataset_name, dataset_id and "
                f"prompts, apart by tabs; {cure}"
            )
        found[dataset, asks, finds] = told
    if not found:
        raise DataError(f"tasks: {path} holds no instruction; {cure}")
    return found


def _sentence(prompt: str) -> str:
    """Return a prompt as UniIR writes it: with a capital, and a stop where it has none."""
    prompt = prompt.replace("\r", "").strip().strip('"')
    prompt = prompt[:1].upper() + prompt[1:]
    return prompt if prompt.endswith((".", "?", "!")) else f"{prompt}."
