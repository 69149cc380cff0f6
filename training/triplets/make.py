"""From captions to triplets.jsonl: ask for what is not in the cache, judge, write, and tell what was dropped.

    {"id": "7-1", "image": "images/7.jpg", "instruction": "make it red", "target_text": "a red car",
     "source_text": "a blue car", "kind": "colour"}

is a line of it: a triplet of a data folder, numbered by its place in the answer to the caption of row 7.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from mllm_embed.errors import DataError
from mllm_embed.generate.answer_cache import CUT, REFUSED, AnswerCache, CachedAnswer, cache_key

from .answers import Change, judge, parse, plain
from .asking import Answerer, collect
from .captions import Caption, Captions
from .prompt import Prompt
from .report import Report
from .written import CACHE, OUTPUT, check_alone, own_triplets, write_triplets


def make_triplets(
    captions: Captions, prompt: Prompt, answerer: Answerer[str], cache_file: Path | None = None
) -> Report:
    """Write triplets.jsonl into the captions' output folder, with the report beside it. Answers are cached on the way.

    Rows come in the order of the captions, so that the same answers give the same file. Pictures that lie as bytes in
    tables are written beside it first, those of the triplets alone. Raises DataError where a triplets.jsonl lies that
    was not made here, or no answer was usable; nothing but the cache is written then. Raises what the answerer raises;
    the same call then goes on where it was.
    """
    root = captions.output
    replaced = own_triplets(root, "per_caption")
    check_alone(root, captions.start)
    keys = {caption.text: cache_key(answerer.identity, prompt.fill(caption.text)) for caption in captions.listed}
    with AnswerCache(cache_file or root / CACHE, set(keys.values())) as cache:
        prompts = {key: prompt.fill(text) for text, key in keys.items()}
        texts = {key: text for text, key in keys.items()}
        collect(prompts, answerer, cache, "caption", lambda key: {"model": answerer.name, "caption": texts[key]})
        report = Report(unreadable=captions.unreadable)
        answers = {text: cache[key] for text, key in keys.items()}
        changes = list(_good_changes(captions.listed, prompt.count, answers, report))
    print(report.table())
    if not changes:
        worst = report.dropped.worst()
        raise DataError(
            f"no answer was usable, most often because {worst}; {root / OUTPUT} was not written; answers are kept, so "
            f"that to have the same model asked again {cache_file or root / CACHE} must be removed"
        )
    report.pictures = captions.write_pictures(caption for caption, _, _ in changes)
    rows = (_row(caption, number, change, captions.name(caption)) for caption, number, change in changes)
    asked = {"answerer": answerer.identity, "prompt": prompt.text, "per_caption": prompt.count}
    write_triplets(root, rows, asked | report.values(), replaced)
    return report


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
