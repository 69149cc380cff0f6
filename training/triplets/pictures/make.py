"""From pairs of pictures to triplets.jsonl: ask, judge, check, write, and tell what was dropped.

    {"id": "12", "image": "a.jpg", "instruction": "make it red", "target_image": "b.jpg", "source_text": "a blue car",
     "target_text": "a red car", "paraphrases": ["the same in red"], "kind": "colour", "negative_image": ["c.jpg"]}

is a line of it: a triplet of a data folder, numbered by its pair.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from mllm_embed.errors import DataError, ImageError
from mllm_embed.files import write_file
from mllm_embed.generate.answer_cache import CUT, REFUSED, AnswerCache, CachedAnswer, cache_key

from ..answers import Change, plain
from ..asked import Asked
from ..asking import Answerer, collect
from ..picture_names import common_start, file_of, name_from
from ..written import CACHE, OUTPUT, check_alone, own_triplets, write_triplets
from .check import Candidate, Check
from .gallery import Pictures
from .judge import judge, judge_caption, parse
from .pairs import Pair
from .question import PairPrompt, describing
from .report import Made, PairReport

MARK = "rule"  # a key of the report, by which the triplets of this command are known


@dataclass(frozen=True)
class Writer:
    """Who writes instructions, and from what.

    Args:
        answerer: a language model; one that sees for a prompt with pictures.
        prompt: what it is asked.
        side: as of `Asked`.
        cache: the file of the answers; None for the one beside the triplets.
    """

    answerer: Answerer[Asked]
    prompt: PairPrompt
    side: int = 768
    cache: Path | None = None

    def opened(self, root: Path) -> AnswerCache:
        """Return the answers that there are."""
        return AnswerCache(self.cache or root / CACHE)


@dataclass
class Files:
    """The pictures of triplets as files: those that are, where they lie, and those that get one in `root`.

    `start` is the folder that their names start from.
    """

    pictures: Pictures
    root: Path
    paths: dict[str, str] = field(default_factory=dict)
    start: str = ""

    @classmethod
    def of(cls, pictures: Pictures, names: Iterable[str], root: Path, roots: Sequence[str]) -> Files:
        """Return the files of these pictures. Raises ImageError for bytes that are no picture."""
        files = cls(pictures, root)
        for name in names:
            if name not in files.paths:
                image = pictures[name]
                files.paths[name] = file_of(image, root) if isinstance(image, bytes) else os.fspath(image)  # type: ignore[arg-type]
        files.start = common_start(files.paths.values(), [str(root), *roots])
        return files

    def name(self, picture: str) -> str:
        """Return the name of a picture from `start`."""
        return name_from(self.paths[picture], self.start)

    def write(self, wanted: Iterable[str]) -> int:
        """Write the files of those that lay as bytes in tables, and return how many these are."""
        count = 0
        for name in dict.fromkeys(wanted):
            image = self.pictures[name]
            if isinstance(image, bytes):
                count += 1
                if not os.path.exists(self.paths[name]):
                    write_file(Path(self.paths[name]), image)
        return count


def describe(names: Iterable[str], pictures: Pictures, writer: Writer, words: int, root: Path) -> None:
    """Have a caption of about `words` words written of each picture that has none, and keep it in `pictures`.

    One that cannot be read, or for which no caption comes, stays without. Raises as `collect`.
    """
    prompt = describing(words)
    keys: dict[str, str] = {}
    prompts: dict[str, Asked] = {}
    for name in names:
        digest = None if name in pictures.captions else _digest(pictures, name)
        if digest is not None:
            keys[name] = key = cache_key({**_seen(writer), "pictures": [digest]}, prompt)
            prompts[key] = Asked(prompt, (pictures[name],), writer.side)
    with writer.opened(root) as cache:
        name_of = {key: name for name, key in keys.items()}
        collect(prompts, writer.answerer, cache, "picture", lambda key: _notes(writer, described=name_of[key]))
        for name, key in keys.items():
            answer = cache[key]
            caption = None if answer.finish == REFUSED else judge_caption(answer.text)
            if caption:
                pictures.captions[name] = caption


def make_picture_triplets(
    pairs: Sequence[Pair],
    pictures: Pictures,
    writer: Writer,
    check: Check | None,
    root: Path,
    report: PairReport,
    settings: Mapping[str, Any],
    roots: Sequence[str] = (),
) -> tuple[list[Made], str]:
    """Write `root`/triplets.jsonl, with the report beside it. Answers are cached on the way.

    Triplets come in the order of the pairs, so that the same answers give the same file.

    Args:
        pairs: what is asked about.
        pictures: all of them.
        writer: who is asked, and how.
        check: of what was answered; None takes it as it is.
        root: the folder, which may hold the triplets of an earlier run of this command.
        report: what is known of the pairs; what becomes of them is added.
        settings: of the rule, under `MARK`, and of the check, for the record.
        roots: folders that pictures' names may start from, the first that fits.

    Returns:
        The triplets, and the folder that the names of their pictures start from.

    Raises:
        DataError: a triplets.jsonl is there that was not made here, or no triplet was made; nothing but the cache is
            written then.
        ModelError, ConfigError: as the answerer and the check raise them; the same call then goes on where it was.
    """
    replaced = own_triplets(root, MARK)
    files = Files.of(pictures, _named(pairs), root, roots)
    check_alone(root, files.start)
    report.pairs.update(pair.by for pair in pairs)
    with writer.opened(root) as cache:
        answers = _asked(pairs, pictures, writer, cache, report)
        candidates = list(_candidates(answers, pictures, writer.prompt.count, report))
        made = _triplets(_checked(candidates, check, cache, report), pairs)
    for triplet in made:
        report.keep(triplet)
    print(report.table())
    if not made:
        raise DataError(
            f"no triplet was made, most often because {report.dropped.worst()}; {root / OUTPUT} was not written; "
            f"answers are kept, so that to have the same asked again {writer.cache or root / CACHE} must be removed"
        )
    report.written = files.write(_named([triplet.pair for triplet in made]))
    rows = (_row(triplet, pictures, files) for triplet in made)
    asked = {"answerer": writer.answerer.identity, "prompt": writer.prompt.text, "side": writer.side}
    write_triplets(root, rows, {**asked, **settings, **report.values()}, replaced)
    return made, files.start


def _named(pairs: Iterable[Pair]) -> Iterator[str]:
    for pair in pairs:
        yield from (pair.reference, pair.target, *pair.negatives)


def question(pair: Pair, pictures: Pictures, writer: Writer) -> Asked:
    """Return what a writer is asked about a pair."""
    ids = pair.reference, pair.target
    words = writer.prompt.fill(ids, [pictures.captions.get(name) for name in ids])
    images = tuple(pictures[name] for name in ids) if writer.prompt.form.sees else ()
    return Asked(words, images, writer.side)


def _asked(
    pairs: Sequence[Pair], pictures: Pictures, writer: Writer, cache: AnswerCache, report: PairReport
) -> list[tuple[Pair, CachedAnswer]]:
    """Return the answer about each pair that can be asked about; others are counted."""
    keyed: list[tuple[Pair, str]] = []  # two pairs may be asked about alike, and share an answer
    prompts: dict[str, Asked] = {}
    for pair in pairs:
        ids = pair.reference, pair.target
        if not writer.prompt.form.sees and not all(name in pictures.captions for name in ids):
            report.drop("no_caption", pair, "")
            continue
        digests = [_digest(pictures, name) for name in ids] if writer.prompt.form.sees else []
        if None in digests:
            report.drop("refused", pair, "a picture cannot be read")
            continue
        asked = question(pair, pictures, writer)
        key = cache_key({**_seen(writer), "pictures": digests} if digests else writer.answerer.identity, asked.words)
        keyed.append((pair, key))
        prompts[key] = asked
    first = {key: pair.reference for pair, key in reversed(keyed)}
    collect(prompts, writer.answerer, cache, "pair", lambda key: _notes(writer, pair=first[key]))
    return [(pair, cache[key]) for pair, key in keyed]


def _seen(writer: Writer) -> dict[str, Any]:
    return {**writer.answerer.identity, "side": writer.side}


def _notes(writer: Writer, **about: str) -> dict[str, str]:
    return {"model": writer.answerer.name, **about}


def _digest(pictures: Pictures, name: str) -> str | None:
    try:
        return pictures.digest(name)
    except ImageError:
        return None


def _candidates(
    answers: Iterable[tuple[Pair, CachedAnswer]], pictures: Pictures, count: int, report: PairReport
) -> Iterator[tuple[Change, Candidate]]:
    """Yield the good instructions of each answer, at most `count`; count the others.

    No question comes twice: the same words about the same reference have one target.
    """
    questions: set[tuple[str, str]] = set()
    for pair, answer in answers:
        made = 0
        for change in _changes(pair, answer, pictures, report):
            asked = pair.reference, plain(change.instruction)
            if asked in questions or made == count:
                report.drop("repeated" if asked in questions else "surplus", pair, change.instruction)
                continue
            made += 1
            questions.add(asked)
            yield change, Candidate(pair, change.instruction)


def _changes(pair: Pair, answer: CachedAnswer, pictures: Pictures, report: PairReport) -> Iterator[Change]:
    values = [] if answer.finish == REFUSED else parse(answer.text)
    if not values:
        report.drop({REFUSED: "refused", CUT: "cut_off"}.get(answer.finish, "no_json"), pair, answer.text)
    report.instructions += len(values)
    captions = [pictures.captions.get(name) for name in (pair.reference, pair.target)]
    for value in values:
        judged = judge(value, captions)
        if isinstance(judged, Change):
            yield judged
        else:
            report.drop(judged, pair, value)


def _checked(
    candidates: Sequence[tuple[Change, Candidate]], check: Check | None, cache: AnswerCache, report: PairReport
) -> Iterator[tuple[Pair, Change, tuple[str, ...]]]:
    """Yield the pair and the instruction of each candidate that a check leaves, with the hard negatives that it may
    keep."""
    if check is None:
        yield from ((candidate.pair, change, candidate.pair.negatives) for change, candidate in candidates)
        return
    keys = [check.key(candidate) for _, candidate in candidates]
    prompts = {key: candidate for key, (_, candidate) in zip(keys, candidates, strict=True)}
    collect(prompts, check, cache, "triplet", lambda key: {"model": check.name}, check.together)
    for key, (change, candidate) in zip(keys, candidates, strict=True):
        verdict = check.verdict(candidate, cache[key])
        if verdict.reason:
            report.drop(verdict.reason, candidate.pair, f"{change.instruction} ({cache[key].text})")
        else:
            yield candidate.pair, change, verdict.negatives


def _triplets(checked: Iterable[tuple[Pair, Change, tuple[str, ...]]], pairs: Sequence[Pair]) -> list[Made]:
    """Return a triplet for each pair that has an instruction left; its hard negatives are those that suit all."""
    numbers = {(pair.reference, pair.target): number for number, pair in enumerate(pairs, 1)}
    made = []
    for pair, group in groupby(checked, key=lambda one: one[0]):
        kept = list(group)
        changes = [change for _, change, _ in kept]
        suiting = set.intersection(*(set(negatives) for _, _, negatives in kept))
        negatives = tuple(name for name in pair.negatives if name in suiting)
        words = tuple(change.instruction for change in changes)
        made.append(Made(numbers[pair.reference, pair.target], pair, words, changes[0].kind, negatives))
    return made


def _row(triplet: Made, pictures: Pictures, files: Files) -> dict[str, Any]:
    pair = triplet.pair
    row: dict[str, Any] = {
        "id": str(triplet.number),
        "image": files.name(pair.reference),
        "instruction": triplet.instructions[0],
        "target_image": files.name(pair.target),
        "source_text": pictures.captions.get(pair.reference),
        "target_text": pictures.captions.get(pair.target),
        "paraphrases": list(triplet.instructions[1:]),
        "kind": triplet.kind,
        "negative_image": list(map(files.name, triplet.negatives)),
    }
    return {name: value for name, value in row.items() if value}
