"""Convert released text-only training data to texts.jsonl, which a stage with `rows: texts` reads.

    python scripts/convert_texts.py nli_for_simcse.csv --output my_nli
    python scripts/convert_texts.py LLM_triplets.json --output my_triplets

Knows, by their columns, the NLI triples that SimCSE and E5-V (arXiv 2407.12580) train on, a CSV file with sent0, sent1,
hard_neg; and the caption triplets of CompoDiff and RTD (arXiv 2406.09188), JSON rows (a list, or one a line) with
reference_caption, conditioning_caption, target_caption. Empty rows and repeated ones are dropped and counted.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from mllm_embed.data.json_rows import half_character
from mllm_embed.errors import DataError, user_errors
from mllm_embed.files import atomic_file
from mllm_embed.training.data.formats.text_triplets import NLI, TEXT_TRIPLETS

COLUMNS = tuple({theirs: ours for ours, theirs in format.columns.items()} for format in (NLI, TEXT_TRIPLETS))


def read(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows of a CSV file, a JSON list or JSON lines, each with the place it came from."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        start = file.read(1)
        while start.isspace():
            start = file.read(1)
        file.seek(0)
        if start == "[":
            yield from ((f"{path} row {number}", row) for number, row in enumerate(_decoded(file.read(), path), 1))
        elif start == "{":
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"{path}:{number}", _decoded(line, f"{path}:{number}")
        else:
            yield from _csv_rows(file, path)


def _decoded(text: str, where: object) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON ({error}); fetch the file again") from error


def _csv_rows(file: TextIO, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    csv.field_size_limit(1 << 24)
    reader = csv.DictReader(file, strict=True)
    try:
        for row in reader:
            if None in row:
                raise DataError(f"{path}:{reader.line_num} has more cells than columns; quote the cells with commas")
            yield f"{path}:{reader.line_num}", row
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num} is not CSV ({error}); fetch the file again") from error


def convert(path: Path, counts: Counter[str]) -> Iterator[dict[str, str]]:
    """Yield rows of texts.jsonl, numbered as in the input; `counts` learns how many were written, empty and repeated.

    Raises DataError for columns that are none of `COLUMNS`, or a cell that is no text.
    """
    seen: set[tuple[str, ...]] = set()
    for number, (where, row) in enumerate(read(path), 1):
        values = _renamed(row, where)
        key = tuple(values.values())
        fate = "empty" if not all(key) else "repeated" if key in seen else "written"
        counts[fate] += 1
        if fate == "written":
            seen.add(key)
            yield {"id": str(number), **values}


def _renamed(row: Any, where: str) -> dict[str, str]:
    if not isinstance(row, dict):
        raise DataError(f"{where} is no JSON object but {json.dumps(row)[:60]}; give a file of rows with named columns")
    names = next((columns for columns in COLUMNS if columns.keys() <= row.keys()), None)
    if names is None:
        known = " or ".join(", ".join(columns) for columns in COLUMNS)
        raise DataError(f"{where} has the columns {', '.join(map(str, row))[:120]}; known are {known}")
    for name in names:
        if not isinstance(row[name], str | None):
            raise DataError(f"{where}: {name} must be a text, not {json.dumps(row[name])[:60]}")
        if half_character(row[name] or ""):
            raise DataError(f"{where}: {name} holds half a character (a lone surrogate); mend the row")
    return {new: (row[old] or "").strip() for old, new in names.items()}


@user_errors
def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", type=Path, help="the CSV or JSON file")
    parser.add_argument("--output", type=Path, required=True, help="folder that receives texts.jsonl")
    args = parser.parse_args()

    if not args.input.is_file():
        raise DataError(
            f"{args.input} is {'not a file' if args.input.exists() else 'missing'}; give a CSV or JSON file"
        )
    target, counts = args.output / "texts.jsonl", Counter[str]()
    if target.exists():
        raise DataError(f"{target} is already there; remove it or give another --output")
    try:
        with atomic_file(target) as temporary:
            with temporary.open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in convert(args.input, counts))
            if not counts["written"]:
                raise DataError(f"{args.input} has no row with all its texts; fetch the file again")
    except UnicodeDecodeError as error:
        raise DataError(f"{args.input} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    dropped = f"{counts['empty']:,} empty and {counts['repeated']:,} repeated rows dropped"
    print(f"{counts['written']:,} rows in {target}; {dropped}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
