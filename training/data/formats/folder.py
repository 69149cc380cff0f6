"""Our own format, a data folder, which `training.data.folder` reads whole; `mllm_embed.data.folder` has its schema."""

from .format import Format

FOLDER = Format(
    description="a data folder with pairs.jsonl, triplets.jsonl, texts.jsonl",
    columns={},
    kinds=("pairs", "triplets", "texts"),
)
