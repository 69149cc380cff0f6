"""Anything with named columns: the recipe says which is which of ours, and `format.Format` what ours mean.

{path: made.jsonl, format: columns, columns: {image: ref, instruction: meta.edit, target_image: out}}
"""

from .format import COLUMNS as NAMES
from .format import Format

EXAMPLES = {
    "pairs": "{image: ..., caption: ...}",
    "triplets": "{image: ..., instruction: ..., target_image: ...}",
    "texts": "{source_text: ..., target_text: ...}",
}
COLUMNS = Format(
    description="JSON, JSON lines, CSV, TSV, parquet or tar shards; `columns` says which of theirs is which of ours",
    columns={},
    kinds=("pairs", "triplets", "texts"),
    optional=frozenset(NAMES) - {"image", "instruction", "caption"},
    suffixes=(".parquet", ".tar", ".jsonl", ".json", ".csv", ".tsv"),
    extensions=(".jpg", ".png", ".jpeg", ".webp"),
)
