"""`mllm-embed encode`: from pictures and rows to a vector store."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..store.files import DTYPES
from .model_options import add_model_options, load_embedder

if TYPE_CHECKING:
    from ..store.extract import Extracted

_HELP = """\
what it does
  Embeds everything that the sources hold and writes the vectors, with their ids, to a store on disk: once, for any
  number of searches. Stopped or killed it goes on where it was: give the same command again. Given again when the
  sources have grown or changed, it embeds what is new, and anew what holds something else than before, whose old
  vectors go. An id that two sources have is refused where they hold different things. Rows that cannot be read are
  listed in STORE/unreadable.jsonl, and tried again the next time. A store that was made with another model or prompt is
  refused.

sources
  a folder              every picture in it and below (ids: their names), told by name or content; the gallery of its
                        benchmark.json where it has one; or, where it holds no pictures, its parquet, tar or jsonl
                        files. What else it holds is counted on stderr
  rows.jsonl, .json, .csv, .tsv, .parquet
                        rows with an id (or else the picture's path is one) and any of image, text, instruction;
                        pictures as paths relative to the file, or as bytes. An id that is a number becomes its
                        text: 1 and "1" are one id, 1.0 is "1.0". Null, NaN and blanks are no values, 0 is one
  shards.tar            samples as of webdataset: key.jpg is the picture, its id is the key, up to the first dot
  'photos/*.jpg'        a pattern, in quotes, of files of one kind

examples
  mllm-embed encode photos --output runs/photos --model runs/base --adapter runs/stage2
  mllm-embed encode 'laion/*.tar' --output runs/laion --model runs/merged --store-dtype float16
  mllm-embed encode shop.parquet --fields id=sku image=photo --output runs/shop --model runs/merged

columns
  --keep price colour keeps columns of the rows beside their vectors, to filter by and to show: words, numbers, truth
  values, lists of these; dates as ISO text. They lie in STORE/shards as parquet. A tar shard has them in key.json, a
  folder in the gallery of its benchmark.json. A store keeps its columns from then on: given again, with or without
  --keep, the command reads them anew, and rows whose values alone have changed are not embedded again. In CSV and TSV
  a column is one of numbers, or truth values, where all of its cells are.

several processes
  Started again while it runs, in another terminal or on another machine that sees the same folders by the same paths,
  it makes a part of the work; with other sources it works beside the first. With several GPUs: torchrun
  --nproc-per-node 8 --no-python mllm-embed encode ... On a Ray cluster: --ray. The store is the same to the bit, on
  processors of one kind.

memory
  On a CPU under Linux the process keeps the memory that it frees, which is faster: MLLM_EMBED_KEEP_PAGES=0 in the
  environment gives it back.
"""


def register(commands: Any) -> None:
    """Add the command to those of a parser."""
    encode = commands.add_parser(
        "encode",
        help="embed pictures and texts into a store on disk",
        description="Embed pictures and texts into a store on disk.",
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    encode.add_argument("sources", nargs="+", metavar="SOURCE", help="folder, file of rows, or pattern")
    encode.add_argument("--output", required=True, type=Path, metavar="STORE", help="folder of the store")
    add_model_options(encode, lexical=True)
    encode.add_argument(
        "--fields",
        nargs="+",
        metavar="NAME=COLUMN",
        help="read only these of id, image, text, instruction, and from these columns",
    )
    encode.add_argument(
        "--store-dtype",
        choices=DTYPES,
        help="how vectors are kept: in 4, 2 or 1 byte a number (default: as in the store, float32 in a new one)",
    )
    encode.add_argument(
        "--keep", nargs="+", default=[], metavar="COLUMN", help="columns of the rows to keep beside the vectors"
    )
    encode.add_argument("--shard-rows", type=int, default=4096, metavar="N", help="rows that a kill may cost at most")
    encode.add_argument("--explain-plan", action="store_true", help="say at the end what planning saved")
    encode.add_argument(
        "--ray",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help="share the work among the workers of a Ray cluster (default: of this machine); needs mllm_embed[ray]",
    )
    encode.add_argument(
        "--workers", type=int, metavar="N", help="with --ray: how many (default: one a GPU, or machine)"
    )
    encode.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    # Everything that can be wrong without a model is looked at before it is loaded.
    from ..data.sources import open_sources
    from ..store.kept.listed import ListedValues

    if arguments.shard_rows < 1:
        raise ConfigError(f"--shard-rows must be at least 1, not {arguments.shard_rows}")
    if arguments.workers is not None and (arguments.ray is None or arguments.workers < 1):
        raise ConfigError("--workers takes a number from 1 on, and belongs to --ray")
    if arguments.output.exists() and not arguments.output.is_dir():
        raise ConfigError(f"{arguments.output} is a file: give a folder for the store")
    fields = _fields(arguments.fields)
    listing = open_sources(arguments.sources, fields)
    sys.stderr.write("".join(f"{note}\n" for note in listing.notes()))
    keep = list(dict.fromkeys(arguments.keep))
    listing.check_keep(keep)
    ListedValues(listing).of(keep)
    options = {
        "dtype": arguments.store_dtype, "shard_rows": arguments.shard_rows, "batch_size": arguments.batch_size,
        "keep": keep,
    }  # fmt: skip
    if arguments.ray is not None:
        from .ray import encode_on_ray

        found = encode_on_ray(arguments, fields, options)
    else:
        from ..store.extract import encode_sources

        _own_gpu(arguments)
        found = [encode_sources(load_embedder(arguments), listing, arguments.output, **options)]
    sys.stdout.write(_summary(found, arguments))
    return 0


def _fields(given: list[str] | None) -> dict[str, str] | None:
    """Return --fields as `open_sources` takes them."""
    if given is None:
        return None
    pairs = [pair.partition("=") for pair in given]
    for name, mark, column in pairs:
        if not (name and mark and column):
            raise ConfigError(f"--fields takes NAME=COLUMN, image=photo say, not '{name}{mark}{column}'")
    names = [name for name, _, _ in pairs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"--fields names two columns for {twice}: a row has one")
    return {name: column for name, _, column in pairs}


def _own_gpu(arguments: argparse.Namespace) -> None:
    """Give each process under torchrun the GPU of its number, where nothing else is asked for."""
    import torch

    if arguments.device is None and "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        arguments.device = f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"


def _summary(found: Sequence[Extracted], arguments: argparse.Namespace) -> str:
    """Return what to say at the end, of what each process did."""
    from ..encode.cost import explained, total
    from ..store.extract import UNREADABLE

    rows = sum(done.rows for done in found)
    lines = []
    if arguments.explain_plan and rows:
        lines.append(explained(total([done.given for done in found]), total([done.planned for done in found])))
    lines += _about_rows(found, rows)
    unread = arguments.output / UNREADABLE
    if unread.is_file():
        lines.append(f"{len(unread.read_bytes().splitlines()):,} rows cannot be read: see {unread}")
    return "\n".join([*lines, *_about_store(found, arguments)]) + "\n"


def _about_rows(found: Sequence[Extracted], rows: int) -> list[str]:
    """Return what became of the rows, and of those that were there before."""
    changed = sum(done.changed for done in found)
    lines = [f"embedded {rows:,} rows" if rows else "nothing new to embed"]
    if changed:
        lines[0] += f", {changed:,} of which had changed: their old vectors are gone"
    for count, words in _about_others(found):
        lines += [f"{count:,} rows {words}"] if count else []
    return lines


def _about_others(found: Sequence[Extracted]) -> list[tuple[int, str]]:
    """Return how many rows there are besides those that were embedded, each with what is to be said of them."""
    from ..store.kept.changes import Revalued

    # each process looks at all of them
    unchanged = max(len(done.found.unchanged) for done in found)
    unknown = max(len(done.found.unknown) for done in found)
    taken_in, gone = sum(done.taken_in for done in found), max(done.gone for done in found)
    moved = max(done.moved for done in found)
    revalued = sum((done.revalued for done in found), Revalued())
    kept = next((done.store.kept for done in found if done.store is not None), ())
    lacking = f"; those of other sources have no {', '.join(kept)} until these are given again" if kept else ""
    return [
        (unchanged, "are there already, and have not changed"),
        (moved, "of these lie elsewhere now, or in other rows of a file: search shows their pictures from where they "
                "lay, until `mllm-embed remove` takes them out and they are embedded anew"),
        (unknown, "are there already without a record of what they held, and are taken as unchanged: `mllm-embed "
                  "remove` them first to embed them anew"),
        (taken_in, f"of a call that was stopped are in the store now{lacking}"),
        (gone, "in the store are in its sources no more; they stay until `mllm-embed remove` takes them out"),
        (revalued.rows, f"have other values of {', '.join(revalued.columns)} now"),
    ]  # fmt: skip


def _about_store(found: Sequence[Extracted], arguments: argparse.Namespace) -> list[str]:
    """Return what the store holds, or that others are still at it."""
    output = arguments.output
    store = next((done.store for done in found if done.store is not None), None)
    if store is None:
        return [
            f"other processes are making {found[-1].held:,} shards of {output}; should one be stopped, give the same "
            "command again"
        ]
    size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    return [
        f"{output}: {len(store.living):,} vectors of {store.dimension} x {store.dtype}, {size / 2**20:,.1f} MiB",
        f"search it: mllm-embed search --gallery {output} {_named(arguments)} ...",
    ]


def _named(arguments: argparse.Namespace) -> str:
    """Return the options that say which model made the vectors, and how it was asked."""
    given = {name: getattr(arguments, name) for name in ("model", "adapter", "preset", "prompts")}
    return " ".join(f"--{name} {shlex.quote(value)}" for name, value in given.items() if value is not None)
