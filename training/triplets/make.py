"""From captions to triplets.jsonl: ask for what is not in the cache, judge, write, and tell what was dropped.

    {"id": "7-1", "image": "images/7.jpg", "instruction": "make it red", "target_text": "a red car",
     "source_text": "a blue car", "kind": "colour"}

is a line of it: a triplet of a data folder, numbered by its place in the answer to pair 7.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from mllm_embed.data.folder import TRIPLETS, Pair
from mllm_embed.errors import DataError, ModelError
from mllm_embed.files import atomic_file, read_json, write_json
from mllm_embed.generate.answer_cache import CUT, REFUSED, AnswerCache, CachedAnswer, cache_key

from .answers import REASONS, Change, judge, parse, plain
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


def make_triplets(
    pairs: Sequence[Pair], root: Path, prompt: Prompt, answerer: Answerer, cache_file: Path | None = None
) -> Report:
    """Write `root`/triplets.jsonl, with the report beside it; pictures lie in `root`. Answers are cached on the way.

    Rows come in the order of the pairs, so that the same answers give the same file. Raises DataError where a
    triplets.jsonl lies that was not made here, or no answer was usable; nothing but the cache is written then. Raises
    what the answerer raises; the same call then goes on where it was.
    """
    replaced = _own(root)
    keys = {pair.caption: cache_key(answerer.identity, prompt.fill(pair.caption)) for pair in pairs}
    with AnswerCache(cache_file or root / CACHE, set(keys.values())) as cache:
        _collect(keys, prompt, answerer, cache)
        report = Report()
        rows = list(_rows(pairs, root, prompt.count, {text: cache[key] for text, key in keys.items()}, report))
    print(report.table())
    if not rows:
        worst = REASONS[report.dropped.most_common(1)[0][0]]
        raise DataError(f"no answer was usable, most often because {worst}; {root / OUTPUT} was not written")
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    made = hashlib.sha256(content).hexdigest()
    sums = {"sha256": made, "replaced": replaced if replaced != made else None}
    # first, with both sums: killed between the two files, the next run still knows the older one as ours
    asked = {"answerer": answerer.identity, "prompt": prompt.text, "per_caption": prompt.count}
    write_json(root / REPORT, asked | report.values() | sums)
    with atomic_file(root / OUTPUT) as temporary:
        temporary.write_bytes(content)
    return report


def _own(root: Path) -> str | None:
    """Return the sha256 of the triplets.jsonl that an earlier run left. Raises DataError for one from elsewhere."""
    file = root / OUTPUT
    if not file.exists():
        return None
    found = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""
    report = read_json(root / REPORT, "remove it") if (root / REPORT).is_file() else {}
    if not isinstance(report, dict) or found not in (report.get("sha256"), report.get("replaced")):
        raise DataError(f"{file} was not made by this command, or was changed since: move it away first")
    return found


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


def _rows(
    pairs: Sequence[Pair], root: Path, count: int, answers: dict[str, CachedAnswer], report: Report
) -> Iterator[dict[str, str]]:
    """Yield the rows of triplets.jsonl, at most `count` a pair, no question and no picture's caption twice."""
    questions: set[tuple[str, str]] = set()
    captions: set[tuple[Path, str]] = {(pair.image, plain(pair.caption)) for pair in pairs}
    for pair in pairs:
        report.captions += 1
        made = 0
        for number, change in _changes(pair, answers[pair.caption], report):
            question, caption = (plain(pair.caption), plain(change.instruction)), (pair.image, plain(change.caption))
            if question in questions or caption in captions:
                report.drop("repeated", pair, [change.instruction, change.caption])
                continue
            if made == count:
                report.drop("surplus", pair, [change.instruction, change.caption])
                continue
            made += 1
            questions.add(question)
            captions.add(caption)
            report.kinds[change.kind or "unnamed"] += 1
            yield _row(pair, number, change, root)


def _row(pair: Pair, number: int, change: Change, root: Path) -> dict[str, str]:
    row = {"id": f"{pair.id}-{number}", "image": pair.image.relative_to(root).as_posix()}
    row |= {"instruction": change.instruction, "target_text": change.caption, "source_text": pair.caption}
    return row | ({"kind": change.kind} if change.kind else {})


def _changes(pair: Pair, answer: CachedAnswer, report: Report) -> Iterator[tuple[int, Change]]:
    """Yield the good changes of an answer, numbered by their place in it; count the others."""
    values = [] if answer.finish == REFUSED else parse(answer.text)
    if not values:
        reason = {REFUSED: "refused", CUT: "cut_off"}.get(answer.finish, "no_json")
        report.drop(reason, pair, answer.text)
    report.changes += len(values)
    for number, value in enumerate(values, 1):
        judged = judge(value, pair.caption)
        if isinstance(judged, Change):
            yield number, judged
        else:
            report.drop(judged, pair, value)
