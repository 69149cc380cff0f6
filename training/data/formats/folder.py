"""Our own format, which `training.data.folder` reads whole."""

from .format import Format

FOLDER = Format(
    description="a data folder with pairs.jsonl, triplets.jsonl, texts.jsonl",
    columns={},
    kinds=("pairs", "triplets", "texts"),
)
