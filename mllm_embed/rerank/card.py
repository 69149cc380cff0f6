"""The README.md of a saved re-ranker: how to load it, and how it asks."""

from __future__ import annotations

from pathlib import Path

from ..files import write_file
from ..saving.card_header import CARD_FILE
from ..saving.reranker_settings import RerankSettings
from ..yaml_text import as_yaml

_TEXT = """\
---
library_name: mllm_embed
pipeline_tag: text-ranking
{base}---
# A multimodal re-ranker

It reads a query (picture, words, or both) and a candidate together, and scores how well they fit. `MODEL` is this
folder, or its name on the Hugging Face hub.

```python
from mllm_embed import Query, Reranker

reranker = Reranker.from_pretrained("MODEL")
query = Query(image="shoe.jpg", instruction="the same shoe in blue")
print(reranker.rank(query, [{{"image": "a.jpg"}}, "a blue shoe"]))
```

## Prompt

```yaml
{prompt}```
"""


def write_reranker_card(folder: Path, settings: RerankSettings) -> None:
    """Write the model card of a saved re-ranker, whose base it names where that is on the hub."""
    reading = settings.reading
    base = f"base_model: {reading.base}\n" if reading.base and not reading.base_is_folder else ""
    text = _TEXT.format(base=base, prompt=as_yaml(settings.prompt.to_dict()))
    write_file(folder / CARD_FILE, text.encode())
