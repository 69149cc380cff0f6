"""What a row holds as one number, by which a store tells a row that has changed from one that has not."""

from __future__ import annotations

import hashlib
import json

from ..inputs.images import content_key
from ..types import Item, Query


def item_digest(item: Item) -> str:
    """Return the sha256 of an item's words, by field, and of its pictures' bytes; nothing is decoded.

    Neither names nor places count: a folder that moved, or the same rows in another file format, give the same.

    Raises ImageError, naming it, for a picture that cannot be read.
    """
    instruction = item.instruction if isinstance(item, Query) else None
    held = {
        "images": [content_key(image) for image in item.images],
        "text": item.text,
        "instruction": instruction,
    }
    beside = {"task": item.task, "avoid": item.avoid}
    held |= {name: words for name, words in beside.items() if words is not None}  # others are what they were
    return hashlib.sha256(json.dumps(held).encode()).hexdigest()
