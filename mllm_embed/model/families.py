"""The only place that knows model families: what differs between them, as data keyed by `model_type`."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

from ..errors import ModelError


@dataclass(frozen=True)
class Family:
    """What a family needs; the defaults serve an ordinary one, which then needs no entry.

    Args:
        vision, projector: fragments of module names: the vision tower, and what leads from it to the language model.
        texts_apart: whether a text without a picture goes to the tokenizer, past the processor.
        packs: whether several inputs may share one row of tokens, each seeing itself alone.
        shares: whether inputs that begin alike may share the keys and values of that beginning.
        sees_once: whether rows on one picture may share its features, where they cannot share more (towers.py).
    """

    vision: tuple[str, ...] = ("vision_tower", "vision_model", "visual", "vision_encoder", "image_tower")
    projector: tuple[str, ...] = ("multi_modal_projector", "connector", "mm_projector", "aligner", "merger")
    texts_apart: bool = False
    packs: bool = True
    shares: bool = True
    sees_once: bool = False


# A family needs an entry only where the default record is wrong for it.
FAMILIES: dict[str, Family] = {
    # transformers looks up a picture's own tokens by their position, which in a packed row is not their index
    "gemma3": Family(packs=False, sees_once=True),
    # its processor puts the start token into the middle of a text that has no picture; the tokens of a prompt see what
    # comes after them
    "paligemma": Family(texts_apart=True, shares=False, sees_once=True),
    # its text looks at pictures through cross-attention, row by row
    "mllama": Family(packs=False),
    "llava": Family(sees_once=True),
    "qwen2_vl": Family(sees_once=True),
    "qwen2_5_vl": Family(sees_once=True),
}

# The families that the tests cover, of which the nearest is named to whoever brings another kind of model.
TESTED = (
    "llava", "llava_next", "llava_onevision", "idefics3", "smolvlm", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "paligemma",
    "gemma3", "internvl", "mllama",
)  # fmt: skip


def family_of(config: Any) -> Family:
    """The record of a model's family, from its transformers config; the default one where it has no entry."""
    kind = config.model_type
    # both go wrong in silence where a layer is not attention; they are used where tests have shown them right
    return FAMILIES.get(kind, Family(packs=kind in TESTED, shares=kind in TESTED))


def check_family(name: str, config: dict[str, Any]) -> None:
    """Raises ModelError where the model's config.json is not that of a decoder that reads pictures and text."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as KNOWN

    kind = config.get("model_type") or "unknown"
    if not isinstance(kind, str):
        raise ModelError(f"the model_type in config.json of {name} is no name ({kind!r}); fetch the model again")
    if kind in KNOWN and not config.get("is_encoder_decoder"):
        return
    nearest = difflib.get_close_matches(kind, TESTED, n=1, cutoff=0)[0]
    why = (
        "it needs code of its own, and none is run"
        if "auto_map" in config
        else "transformers has no decoder of it that reads pictures and text"
    )
    raise ModelError(
        f"{name} is of the family '{kind}', which is not supported ({why}); the nearest that is: {nearest}"
    )
