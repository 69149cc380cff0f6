"""Our own format, a data folder with pairs.jsonl, triplets.jsonl, texts.jsonl: `training.data.folder` reads it whole."""

from .format import Format

FOLDER = Format(
    description="a data folder with pairs.jsonl, triplets.jsonl, texts.jsonl",
    columns={},
    kinds=("pairs", "triplets", "texts"),
)
