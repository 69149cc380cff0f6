"""`mllm-embed-train pair-pictures DATA`: stage 2's rows with target pictures, made from pictures alone."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_embed.commands.model_options import add_model_options
from mllm_embed.errors import ConfigError

from .answerer_options import KEY_HELP, add_answerer_options, at_least_0, check_one_asked, count, endpoint_of, local_of
from .data_options import DATA_HELP, add_data_options
from .pair_data import PairData

if TYPE_CHECKING:
    from ..triplets.asked import Asked
    from ..triplets.asking import Answerer
    from ..triplets.pictures.check import Check
    from ..triplets.pictures.make import Writer
    from ..triplets.pictures.pairs import Pair, PairFinder
    from ..triplets.pictures.question import PairPrompt
    from ..triplets.pictures.rules import PairRule

SIDE, TOP, CEILING = 768, 100, 0.95
_HELP = """\
what it does
  Finds pairs of pictures that are alike enough by --rule, has a model write the instruction that leads from the one to
  the other, checks by --check whether it does, and writes triplets with a target picture.
  DATA may also be a folder of pictures, a pattern of them, a file of rows with pictures, or a store or index of
  vectors that was made of them (`mllm-embed encode`, `mllm-embed index`). Of any but a store, vectors are made by
  --model and kept in OUTPUT/vectors.

similarities (--by): the cosines of
{similarities}

rules, with the options that they set
{rules}
  A rule's cosines go with the models of its paper. What yours are is shown by --dry-run, which asks nobody.
  magiclens pairs pictures of one --group: of one folder, or with one value in a column that the store keeps.

examples
  %(prog)s photos --model runs/base --adapter runs/stage1 --cosines 0.5 0.9 --output runs/pairs --dry-run
  %(prog)s runs/photos --model runs/merged --endpoint http://localhost:8000/v1 --endpoint-model Qwen/Qwen3-VL-8B \\
      --concurrency 32 --output runs/pairs --limit 20
  %(prog)s runs/photos --model runs/merged --rule spn4cir --ranks 0.6 0.9 --describe 10 --from captions \\
      --local Qwen/Qwen2.5-VL-7B-Instruct --check model --output runs/pairs

what it writes into OUTPUT
  triplets.jsonl         the triplets, as `rows: triplets` of a recipe reads them; further instructions of a pair are
                         its paraphrases, of which training reads another in each epoch
  triplets.report.json   how many were made and dropped, why, with an example of each reason
  triplets.cache.jsonl   every answer, under the model, its settings, the prompt and the pictures
  triplets.png           a few of them, to look at
  vectors/               what was embedded
  images/                pictures that lie as bytes in tables, those of the triplets, named by content
  and prints what a recipe takes. A run that was stopped goes on when the same command is given again, and asks for
  nothing it has an answer to. Only a triplets.jsonl that this command made is replaced.

checks
  embedder   the question of reference and instruction finds the target among the first --check-top pictures, and is
             nearer to it than to the reference by --check-margin. Hard negatives nearer than --ceiling times the
             target are left out. It is no better than the embedder, and triplets that it has no idea of are dropped
  model      who writes is asked, of both pictures, whether the second shows the result; yes or no

The rules on an instruction's wording know English alone.
"""


def register(commands: Any) -> None:
    """Add the command to those of a parser."""
    from ..triplets.pictures.question import FORMS
    from ..triplets.pictures.rules import SIMILARITIES, rules_in_words

    similarities = "\n".join(f"  {name:<12}{meaning}" for name, meaning in SIMILARITIES.items())
    rules = rules_in_words().replace("%", "%%")
    parser = commands.add_parser(
        "pair-pictures",
        help="make triplets with target pictures from pictures alone, by pairs and a model that writes instructions",
        description="Make triplets with target pictures from pictures alone: pairs that are alike, the instruction "
        "between them written by a model, checked.",
        epilog=f"{DATA_HELP}\n{_HELP.format(rules=rules, similarities=similarities)}\n{KEY_HELP}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_data_options(parser)
    add_model_options(parser, required=False)
    add = parser.add_argument
    add("--output", type=Path, required=True, metavar="FOLDER", help="where triplets, report and answers go")
    add("--limit", type=count, metavar="N", help="use the first N pairs of pictures only")
    add("--cache", type=Path, metavar="FILE", help="where answers are kept (default: in --output)")
    add("--dry-run", action="store_true", help="show the first pair and its question, and the cosines; ask nobody")
    _add_pair_options(parser)
    add_answerer_options(parser, "pairs", "--endpoint-model", "--answer-tokens")
    asked = parser.add_argument_group("what is asked")
    asked.add_argument(
        "--from", dest="written_from", choices=tuple(FORMS), default="pictures",
        help="what an instruction is written from (default: pictures)",
    )  # fmt: skip
    asked.add_argument("--prompt", type=Path, metavar="FILE", help="another prompt than the library's")
    asked.add_argument(
        "--describe", type=count, metavar="WORDS",
        help="first have a caption of about so many words written of pictures that need one and have none",
    )  # fmt: skip
    asked.add_argument(
        "--picture-side", type=count, default=SIDE, metavar="N",
        help=f"longer side in pixels at which pictures are sent at most (default {SIDE})",
    )  # fmt: skip
    checked = parser.add_argument_group("what is checked")
    checked.add_argument("--check", choices=("embedder", "model", "none"), help="default: embedder, with a --model")
    checked.add_argument(
        "--check-top", type=count, default=TOP, metavar="K",
        help=f"the target is among the first so many answers (default {TOP})",
    )  # fmt: skip
    checked.add_argument(
        "--check-margin", type=float, default=0.0, metavar="M",
        help="by so much the target is nearer than the reference, by cosine; of a --local model asked yes or no, by so "
        "many logits yes is likelier (default 0)",
    )  # fmt: skip
    checked.add_argument(
        "--ceiling", type=at_least_0, default=CEILING, metavar="C",
        help=f"leave out hard negatives nearer than C times the target (default {CEILING}; 0 keeps all)",
    )  # fmt: skip
    parser.set_defaults(run=_run)


def _add_pair_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of pairs; without a default they leave the rule's own."""
    from ..triplets.pictures.rules import CHOICES, FOLDER, RULES, SIMILARITIES

    add = parser.add_argument_group("which pictures are paired").add_argument
    add("--rule", choices=tuple(RULES), default="megapairs", help="default: megapairs; see below")
    add("--by", nargs="+", metavar="S", help=f"similarities that propose pairs: {', '.join(SIMILARITIES)}")
    add("--cosines", nargs=2, type=float, metavar=("LOW", "HIGH"), help="a pair's cosine lies between these")
    add(
        "--ranks",
        nargs=2,
        type=float,
        metavar=("FIRST", "LAST"),
        help="and its rank among the others; shares of them below 1",
    )
    add("--depth", type=count, metavar="N", help="nearest that are looked at, where there are no --ranks")
    add(
        "--caption-cosines",
        nargs=2,
        type=float,
        metavar=("LOW", "HIGH"),
        help="and the cosine of their captions between these",
    )
    add("--duplicate", type=float, metavar="C", help="pictures with this cosine are one")
    add("--choice", choices=CHOICES, help="which of those that fit are taken")
    add("--pairs", type=count, metavar="N", help="pairs of one reference at most, by each similarity")
    add("--per-target", type=count, metavar="N", help="references of one target at most")
    add("--negatives", type=int, metavar="N", help="hard negatives of a pair")
    add("--instructions", type=count, metavar="N", help="instructions asked for a pair")
    add("--group", metavar="COLUMN", help=f"of a rule by groups: a column that the store keeps, or {FOLDER} (default)")
    add("--both-directions", action="store_true", help="two pictures may be a pair both ways round")
    add("--seed", type=int, default=0, metavar="N", help="of what is taken at random (default 0)")
    add("--pattern-store", metavar="STORE", help="store of the same pictures, by their ids, for similarity pattern")
    add("--caption-store", metavar="STORE", help="store of their captions, by the pictures' ids (default: by --model)")
    add("--caption-column", metavar="COLUMN", help="column of the store that holds captions")


def _run(arguments: argparse.Namespace) -> int:
    from ..triplets.pictures.pairs import PairFinder
    from ..triplets.pictures.question import PairPrompt

    # Everything that can be wrong without a model is looked at before pictures are embedded, which may take hours.
    rule = _rule(arguments)
    _check_asked(arguments)
    _check_checked(arguments)
    prompt = PairPrompt.load(arguments.written_from, rule.instructions, arguments.prompt)
    writer = None if arguments.dry_run else _writer(arguments, prompt)
    data = PairData.open(arguments, rule)
    if writer:
        data.lend(writer)
        if arguments.describe and data.needs_captions(rule):
            data.describe(writer, arguments.describe)
    groups = data.groups(arguments.group) if rule.grouped else None
    finder = PairFinder(data.stores(rule), rule, groups, arguments.seed, arguments.both_directions)
    sys.stdout.write("".join(f"{line}\n" for line in data.told(rule, finder)))
    pairs = _pairs(arguments, finder)
    return _make(arguments, rule, data, writer, finder, pairs) if writer else _show(prompt, data, pairs)


def _pairs(arguments: argparse.Namespace, finder: PairFinder) -> list[Pair]:
    """Return the pairs, and tell at which cosines the pictures lie. Raises ConfigError where there are none."""
    from ..triplets.pictures.report import passed_over_line

    pairs = list(islice(finder, arguments.limit))
    lines = finder.cosines()
    if arguments.dry_run or not pairs:
        lines += passed_over_line(finder.passed_over)
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    if not pairs:
        raise ConfigError(
            f"no two of {len(finder.ids):,} pictures are a pair by the rule {arguments.rule}: set its numbers by the "
            "cosines above (--cosines, --ranks, --duplicate)"
        )
    return pairs


def _make(
    arguments: argparse.Namespace,
    rule: PairRule,
    data: PairData,
    writer: Writer,
    finder: PairFinder,
    pairs: list[Pair],
) -> int:
    from ..triplets.picture_names import source_line
    from ..triplets.pictures.make import describe, make_picture_triplets
    from ..triplets.pictures.report import PairReport, write_triplet_sheet
    from ..triplets.written import CACHE, OUTPUT

    root = arguments.output
    if arguments.describe and not writer.prompt.form.sees:
        names = dict.fromkeys(name for pair in pairs for name in (pair.reference, pair.target))
        describe(names, data.pictures, writer, arguments.describe, root)
    report = PairReport(len(finder.ids), passed_over=finder.passed_over)
    settings = {
        "rule": {"name": arguments.rule, **rule.numbers()},
        "seed": arguments.seed,
        "check": {"by": data.check, "top": arguments.check_top, "margin": arguments.check_margin},
    }
    check = _checker(arguments, data, writer)
    made, start = make_picture_triplets(pairs, data.pictures, writer, check, root, report, settings, data.roots)
    sheet = root / "triplets.png"
    write_triplet_sheet(sheet, made, data.pictures)
    cache = arguments.cache or root / CACHE
    sys.stdout.write(f"{root / OUTPUT} is written, and {sheet}, to look at; the answers are in {cache}\n")
    negatives = ", hard_negative" if report.negatives else ""
    sys.stdout.write(
        "train on them with\n"
        f"    data:\n      - {source_line(root, start)}\n"
        "    rows: triplets\n"
        "    terms:\n"
        f"      - {{query: composed, positive: target_image, negatives: [query_image{negatives}]}}\n"
    )
    return 0


def _rule(arguments: argparse.Namespace) -> PairRule:
    from ..triplets.pictures.rules import RULES

    names = (
        "by", "cosines", "ranks", "depth", "caption_cosines", "duplicate", "choice", "pairs", "per_target",
        "negatives", "instructions",
    )  # fmt: skip
    given: Mapping[str, Any] = {name: getattr(arguments, name) for name in names}
    return RULES[arguments.rule].with_settings(
        {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    )


def _check_asked(arguments: argparse.Namespace) -> None:
    """Raise ConfigError or DataError for an output that cannot be written to, and options of who is asked."""
    from ..triplets.pictures.make import MARK
    from ..triplets.written import own_triplets

    if arguments.output.exists() and not arguments.output.is_dir():
        raise ConfigError(f"--output {arguments.output} is a file: give a folder")
    if arguments.dry_run:
        return
    own_triplets(arguments.output, MARK)
    check_one_asked(arguments)
    if arguments.local and _sees(arguments) and arguments.temperature:
        raise ConfigError("a --local model that sees answers with its likeliest words: leave out --temperature")


def _check_checked(arguments: argparse.Namespace) -> None:
    """Raise ConfigError for options of the check that do not go together."""
    from ..triplets.pictures.check import check_numbers

    check_numbers(arguments.check_top, arguments.check_margin, arguments.ceiling or None)
    if arguments.check is None and arguments.model is None and not arguments.dry_run:
        raise ConfigError(
            "say how triplets are checked: give --model, that of the vectors, for --check embedder; or --check model, "
            "or --check none"
        )
    if arguments.check == "embedder" and arguments.model is None:
        raise ConfigError("--check embedder needs --model, that of the vectors")


def _sees(arguments: argparse.Namespace) -> bool:
    """Return whether who is asked is sent pictures."""
    return arguments.written_from == "pictures" or bool(arguments.describe) or arguments.check == "model"


def _writer(arguments: argparse.Namespace, prompt: PairPrompt) -> Writer:
    from ..triplets.pictures.make import Writer

    answerer: Answerer[Asked] = _local(arguments) if arguments.local else endpoint_of(arguments)
    return Writer(answerer, prompt, arguments.picture_side, arguments.cache)


def _local(arguments: argparse.Namespace) -> Answerer[Asked]:
    """Return a model on this machine: one that sees where it must."""
    from ..triplets.pictures.seeing import Seeing

    if _sees(arguments):
        return Seeing(arguments.local, arguments.answer_tokens, arguments.concurrency)
    return local_of(arguments)


def _checker(arguments: argparse.Namespace, data: PairData, writer: Writer) -> Check | None:
    """Return the check that the options name."""
    from ..triplets.pictures.check import EmbedderCheck, MarginCheck, YesNoCheck
    from ..triplets.pictures.seeing import Seeing

    if data.check == "embedder":
        return EmbedderCheck(
            data.loaded(), data.gallery, data.pictures, arguments.check_top, arguments.check_margin,
            arguments.ceiling or None, arguments.batch_size,
        )  # fmt: skip
    if data.check == "none":
        return None
    answerer = writer.answerer
    if isinstance(answerer, Seeing):
        return MarginCheck(answerer, data.pictures, writer.side, arguments.check_margin)
    return YesNoCheck(answerer, data.pictures, writer.side)


def _show(prompt: PairPrompt, data: PairData, pairs: list[Pair]) -> int:
    """Print the first pair and what would be asked about it."""
    pair = pairs[0]
    ids = pair.reference, pair.target
    captions = [data.pictures.captions.get(name) for name in ids]
    sys.stdout.write(f"\n{prompt.fill(ids, captions)}\n\n")
    sys.stdout.write(
        f"This is for '{pair.reference}' and '{pair.target}', a pair by {pair.by} at cosine {pair.cosine:.3f} with "
        f"{len(pair.negatives)} hard negatives, the first of {len(pairs):,} pairs.\n"
    )
    return 0
