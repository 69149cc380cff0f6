"""From captions to triplets.jsonl: ask for what is not in the cache, judge, write, and tell what was dropped.

    {"id": "7-1", "image": "images/7.jpg", "instruction": "make it red", "target_text": "a red car",
     "source_text": "a blue car", "kind": "colour"}

is a line of it: a triplet of a data folder, numbered by its place in the answer to the caption of row 7.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from mllm_embed.data.folder import FILES, TRIPLETS
from mllm_embed.errors import DataError, ModelError
from mllm_embed.files import read_json, write_file, write_json
from mllm_embed.generate.answer_cache import CUT, REFUSED, AnswerCache, CachedAnswer, cache_key

from .answers import REASONS, Change, judge, parse, plain
from .captions import Caption, Captions
from .prompt import Prompt
from .report import Report

OUTPUT, REPORT, CACHE = TRIPLETS, "triplets.report.json", "triplets.cache.jsonl"
_PATIENCE = 5  # refusals before the first answer, after which it is not the captions' fault


class Answerer(Protocol):
    """A language model; `identity`, which is JSON, holds all that decides an answer beside the prompt."""

    name: str
    identity: dict[str, Any]

    def ask(self, prompts: Iterable[tuple[str, str]]) -> Iterator[tuple[str, CachedAnswer]]:
        """Yield (key, answer) for each (key, prompt), in any order."""
        ...


def make_triplets(captions: Captions, prompt: Prompt, answerer: Answerer, cache_file: Path | None = None) -> Report:
    """Write triplets.jsonl into the captions' output folder, with the report beside it. Answers are cached on the way.

    Rows come in the order of the captions, so that the same answers give the same file. Pictures that lie as bytes in
    tables are written beside it first, those of the triplets alone. Raises DataError where a triplets.jsonl lies that
    was not made here, or no answer was usable; nothing but the cache is written then. Raises what the answerer raises;
    the same call then goes on where it was.
    """
    root = captions.output
    replaced = _own(root)
    _check_alone(captions)
    keys = {caption.text: cache_key(answerer.identity, prompt.fill(caption.text)) for caption in captions.listed}
    with AnswerCache(cache_file or root / CACHE, set(keys.values())) as cache:
        _collect(keys, prompt, answerer, cache)
        report = Report(unreadable=captions.unreadable)
        answers = {text: cache[key] for text, key in keys.items()}
        changes = list(_good_changes(captions.listed, prompt.count, answers, report))
    print(report.table())
    if not changes:
        worst = REASONS[report.dropped.most_common(1)[0][0]]
        raise DataError(f"no answer was usable, most often because {worst}; {root / OUTPUT} was not written")
    report.pictures = captions.write_pictures(caption for caption, _, _ in changes)
    rows = (_row(caption, number, change, captions.name(caption)) for caption, number, change in changes)
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    made = hashlib.sha256(content).hexdigest()
    sums = {"sha256": made, "replaced": replaced if replaced != made else None}
    # first, with both sums: killed between the two files, the next run still knows the older one as ours
    asked = {"answerer": answerer.identity, "prompt": prompt.text, "per_caption": prompt.count}
    write_json(root / REPORT, asked | report.values() | sums)
    write_file(root / OUTPUT, content)
    return report


def _own(root: Path) -> str | None:
    """Return the sha256 of the triplets.jsonl that an earlier run left. Raises DataError for one from elsewhere."""
    file = root / OUTPUT
    if not file.exists():
        return None
    found = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""
    report = read_json(root / REPORT, "remove it") if (root / REPORT).is_file() else {}
    if not isinstance(report, dict) or found not in (report.get("sha256"), report.get("replaced")):
        raise DataError(
            f"{file} was not made by this command, or was changed since, and stays as it is: give another folder with "
            "--output; a recipe's `data` takes both, as a list"
        )
    return found


def _check_alone(captions: Captions) -> None:
    """Raise DataError where other files of a data folder lie in the output, whose pictures have names of their own."""
    root = captions.output
    if os.path.realpath(captions.start) == os.path.realpath(root):
        return
    for file in (root / name for name in FILES if name != OUTPUT):
        if file.exists():
            raise DataError(
                f"{file} names pictures of {root}, and those of the triplets lie in {captions.start}: give a folder of "
                "their own with --output"
            )


def _collect(keys: dict[str, str], prompt: Prompt, answerer: Answerer, cache: AnswerCache) -> None:
    """Ask for every caption that has no answer.

    Refusals wait for the first answer: what is refused for every caption is a setting, and does not go into the cache.
    """
    missing = {key: caption for caption, key in keys.items() if key not in cache}
    if not missing:
        return
    answered = _any_answer(keys, cache)
    waiting: list[tuple[str, CachedAnswer]] = []
    asked = answerer.ask([(key, prompt.fill(caption)) for key, caption in missing.items()])
    with tqdm(total=len(keys), initial=len(keys) - len(missing), unit="caption", desc=answerer.name) as bar:
        for key, answer in asked:
            waiting.append((key, answer))
            answered |= answer.finish != REFUSED
            if not answered and len(waiting) >= _PATIENCE:
                break
            if answered:
                _add(waiting, missing, answerer.name, cache)
                waiting.clear()
            bar.update()
    if waiting:
        raise ModelError(f"{waiting[0][1].text}; nothing was answered yet, so see to --model and --extra")


def _any_answer(keys: dict[str, str], cache: AnswerCache) -> bool:
    return any(cache[key].finish != REFUSED for key in keys.values() if key in cache)


def _add(answers: list[tuple[str, CachedAnswer]], captions: dict[str, str], model: str, cache: AnswerCache) -> None:
    for key, answer in answers:
        cache.add(key, answer, model=model, caption=captions[key])


def _good_changes(
    captions: Sequence[Caption], count: int, answers: dict[str, CachedAnswer], report: Report
) -> Iterator[tuple[Caption, int, Change]]:
    """Yield the changes that make triplets, at most `count` a caption, numbered by their place in its answer.

    No question comes twice, and no picture's caption.
    """
    questions: set[tuple[str, str]] = set()
    taken: set[tuple[str, str]] = {(caption.picture, plain(caption.text)) for caption in captions}
    for caption in captions:
        report.captions += 1
        made = 0
        for number, change in _changes(caption, answers[caption.text], report):
            question, target = (
                (plain(caption.text), plain(change.instruction)),
                (caption.picture, plain(change.caption)),
            )
            if question in questions or target in taken:
                report.drop("repeated", caption, [change.instruction, change.caption])
                continue
            if made == count:
                report.drop("surplus", caption, [change.instruction, change.caption])
                continue
            made += 1
            questions.add(question)
            taken.add(target)
            report.kinds[change.kind or "unnamed"] += 1
            yield caption, number, change


def _row(caption: Caption, number: int, change: Change, image: str) -> dict[str, str]:
    row = {"id": f"{caption.id}-{number}", "image": image}
    row |= {"instruction": change.instruction, "target_text": change.caption, "source_text": caption.text}
    return row | ({"kind": change.kind} if change.kind else {})


def _changes(caption: Caption, answer: CachedAnswer, report: Report) -> Iterator[tuple[int, Change]]:
    """Yield the good changes of an answer, numbered by their place in it; count the others."""
    values = [] if answer.finish == REFUSED else parse(answer.text)
    if not values:
        reason = {REFUSED: "refused", CUT: "cut_off"}.get(answer.finish, "no_json")
        report.drop(reason, caption, answer.text)
    report.changes += len(values)
    for number, value in enumerate(values, 1):
        judged = judge(value, caption.text)
        if isinstance(judged, Change):
            yield number, judged
        else:
            report.drop(judged, caption, value)
