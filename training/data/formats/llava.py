"""LLaVA's captions: LLaVA-Pretrain (blip_laion_cc_sbu_558k.json) and LLaVA-CC3M-Pretrain-595K (chat.json).

[{"id": "004539375", "image": "00453/004539375.jpg",
  "conversations": [{"from": "human", "value": "Say what you see.\\n<image>"}, {"from": "gpt", "value": CAPTION}]}]
"""

from typing import Any

from .format import Format


def _answer(conversation: Any) -> Any:
    """Return the caption, the model's first turn; the human's is one of a few ways to ask for it."""
    if not isinstance(conversation, list):
        return conversation
    turns = (turn.get("value") for turn in conversation if isinstance(turn, dict) and turn.get("from") == "gpt")
    return next(turns, None)


LLAVA = Format(
    description="JSON list of {id, image, conversations}: LLaVA-Pretrain 558K, LLaVA-CC3M 595K",
    columns={"id": "id", "image": "image", "caption": "conversations"},
    kinds=("pairs",),
    cells={"caption": _answer},
    optional=frozenset({"id", "image"}),
    mixed=True,  # talk without a picture is part of some releases
)
