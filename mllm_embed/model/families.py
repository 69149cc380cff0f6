"""The only place that knows model families: what differs between them, as data keyed by `model_type`."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from typing import Any

from ..errors import ModelError
from .picture_layout import AnySize, BestGrid, Budget, OneSquare, PictureLayout, Tiles

ONE_SQUARE = OneSquare()


@dataclass(frozen=True)
class Family:
    """The record of a model family; the defaults serve an ordinary one, which then needs no entry.

    Args:
        vision: fragments of module names: the vision tower, and what else is not trained, as parts that hear.
        projector: fragments of module names: what leads from the tower to the language model.
        beside_tower: fragments of module names within `vision` that no picture's features go through: parts that hear,
            and a tower's own pooling.
        texts_apart: whether a text without a picture goes to the tokenizer, past the processor.
        packs: whether several inputs may share one row of tokens, each seeing itself alone.
        shares_prefixes: whether inputs that begin alike may share the keys and values of that prefix.
        pictures_behind_prefix: whether what follows such a prefix may hold pictures of its own.
        reuses_features: whether rows on one picture may share its features, where they cannot share more
            (vision_features.py).
        rope_index: the base model's method that gives a picture's tokens positions on three axes (M-RoPE); None where
            they are counted as words are.
        pictures: how pictures are cut (picture_layout.py).
        tower_width: the key of `vision_config` that holds the width of the vision tower.
        keeps_layers: whether features may be taken from an earlier layer of the tower, so that all of them are kept.
        states_width: the key of the text config that holds the length of a token's last state.
        unused: keys of the config that hold parts which neither pictures nor words go through.
        headless: whether transformers has the family as a base alone, without a head that speaks.
        pictures_in_row: whether a picture's tokens stand in the row of tokens, so that each has a state.
        compresses: whether a picture's features enter the language model once, as tokens in its row, so that fewer may
            stand for them (heads/token_learner.py).
    """

    vision: tuple[str, ...] = ("vision_tower", "vision_model", "visual", "vision_encoder", "image_tower")
    projector: tuple[str, ...] = ("multi_modal_projector", "connector", "mm_projector", "aligner", "merger")
    beside_tower: tuple[str, ...] = ("audio_tower", "embed_audio", "head")
    texts_apart: bool = False
    packs: bool = True
    shares_prefixes: bool = True
    pictures_behind_prefix: bool = True
    reuses_features: bool = False
    rope_index: str | None = None
    pictures: PictureLayout = ONE_SQUARE
    tower_width: str = "hidden_size"
    keeps_layers: bool = False
    states_width: str = "hidden_size"
    unused: tuple[str, ...] = ()
    headless: bool = False
    pictures_in_row: bool = True
    compresses: bool = True


_TOWERS = Family.vision
# features leave the tower at several depths, each through a merger of its own (Qwen3-VL)
_DEEPSTACK = (*Family.projector, "deepstack_merger_list")
# A family needs an entry only where the default record is wrong for it.
FAMILIES: dict[str, Family] = {
    "llava": Family(reuses_features=True, keeps_layers=True),
    "llava_next": Family(pictures=BestGrid(), keeps_layers=True),
    "llava_onevision": Family(pictures=BestGrid(), keeps_layers=True),
    "idefics3": Family(pictures=Tiles()),
    "smolvlm": Family(pictures=Tiles()),
    # its tower's `hidden_size` is the width of the language model
    "qwen2_vl": Family(
        reuses_features=True,
        rope_index="get_rope_index",
        pictures=AnySize(frames="temporal_patch_size"),
        tower_width="embed_dim",
    ),
    "qwen2_5_vl": Family(
        reuses_features=True, rope_index="get_rope_index", pictures=AnySize(frames="temporal_patch_size")
    ),
    "qwen3_vl": Family(
        projector=_DEEPSTACK,
        rope_index="get_rope_index",
        pictures=AnySize(frames="temporal_patch_size"),
        compresses=False,
    ),
    "qwen2_5_omni_thinker": Family(
        vision=(*_TOWERS, "audio_tower"),
        reuses_features=True,
        rope_index="get_rope_index",
        pictures=AnySize(frames="temporal_patch_size"),
        unused=("audio_config",),
    ),
    # its processor puts the start token into the middle of a text that has no picture; the tokens of a prompt see what
    # comes after them
    "paligemma": Family(texts_apart=True, shares_prefixes=False, reuses_features=True),
    # transformers looks up a picture's own tokens by their position, which in a packed row is not their index
    # nor, behind a cached prefix, by it
    "gemma3": Family(
        packs=False,
        pictures_behind_prefix=False,
        reuses_features=True,
        pictures=OneSquare(tokens="mm_tokens_per_image"),
    ),
    "internvl": Family(keeps_layers=True),
    # its text looks at pictures through cross-attention, row by row
    "mllama": Family(packs=False, pictures_behind_prefix=False, pictures_in_row=False, compresses=False),
    # an encoder: its tokens see what comes after them, and in a packed row the other inputs; its last states are
    # projected to the length of a vector
    "embedding_gemma2": Family(
        vision=(*_TOWERS, "audio_tower", "embed_audio"),
        projector=("embed_vision",),
        packs=False,
        shares_prefixes=False,
        pictures=Budget(),
        states_width="embedding_dim",
        unused=("audio_config",),
        headless=True,
    ),
}

# Models of several parts, of which one reads pictures and text: the key of their config that holds this one's.
READING_PART = {"qwen2_5_omni": "thinker_config"}

# The families that the tests cover, of which the nearest is named to whoever brings another kind of model.
TESTED = (
    "llava", "llava_next", "llava_onevision", "idefics3", "smolvlm", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "paligemma",
    "gemma3", "internvl", "mllama", "qwen2_5_omni_thinker", "embedding_gemma2",
)  # fmt: skip


# A family without an entry cuts pictures as the first key tells that its config holds; one square where it holds none.
_LAYOUTS: tuple[tuple[str, PictureLayout], ...] = (
    ("vision_config.spatial_merge_size", AnySize()),
    ("vision_config.pooling_kernel_size", Budget()),
    ("scale_factor", Tiles()),
    ("image_grid_pinpoints", BestGrid()),
    ("mm_tokens_per_image", OneSquare(tokens="mm_tokens_per_image")),
)


def family_of(config: Any) -> Family:
    """Return the record of a model's family, from its transformers config; an ordinary one where it has no entry."""
    return FAMILIES.get(config.model_type) or _ordinary(config)


def reading_part(config: Any) -> Any:
    """Return the config of the part of a model that reads pictures and text, which for most models is their own."""
    part = READING_PART.get(config.model_type)
    return getattr(config, part) if part else config


def states_width(config: Any) -> int:
    """Return the length of a token's last state in a model of this transformers config."""
    return getattr(config.get_text_config(), family_of(config).states_width)


def _ordinary(config: Any) -> Family:
    """Return the record of a family without an entry, its pictures as its config tells."""
    # packing and sharing go wrong in silence where a layer is not attention: they are used where tests have shown them
    # right
    tested = config.model_type in TESTED
    layout = next((layout for key, layout in _LAYOUTS if _holds(config, key)), ONE_SQUARE)
    square, frames = _holds(config, "vision_config.image_size"), _holds(config, "vision_config.temporal_patch_size")
    deep = _holds(config, "vision_config.deepstack_visual_indexes")
    return Family(
        projector=_DEEPSTACK if deep else Family.projector,
        packs=tested,
        shares_prefixes=tested,
        pictures_behind_prefix=tested,
        pictures=replace(
            layout, side="image_size" if square else None, frames="temporal_patch_size" if frames else None
        ),
        tower_width="embed_dim" if _holds(config, "vision_config.embed_dim") else "hidden_size",
        keeps_layers=_holds(config, "vision_feature_layer"),
        compresses=tested and not deep,
    )


def _holds(config: Any, key: str) -> bool:
    """Return whether a config has `key`, of which a dot leads into a config within it."""
    first, _, rest = key.partition(".")
    return hasattr(config, first) and (not rest or _holds(getattr(config, first), rest))


def check_family(name: str, config: dict[str, Any]) -> None:
    """Raise ModelError where `config`, the config.json of a model, is of no decoder that reads pictures and text."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as KNOWN

    kind = config.get("model_type") or "unknown"
    if not isinstance(kind, str):
        raise ModelError(f"the model_type in config.json of {name} is no name ({kind!r}); fetch the model again")
    known = kind in KNOWN or kind in READING_PART or (kind in FAMILIES and FAMILIES[kind].headless)
    if known and not config.get("is_encoder_decoder"):
        return
    nearest = difflib.get_close_matches(kind, TESTED, n=1, cutoff=0)[0]
    own = _own_code(config)
    why = (
        f"it needs code of its own, {own}, and none is run"
        if own
        else "transformers has no decoder of it that reads pictures and text"
    )
    raise ModelError(
        f"{name} is of the family '{kind}', which is not supported ({why}); the nearest that is: {nearest}"
    )


def _own_code(config: dict[str, Any]) -> str:
    """Return what a config.json calls the code beside the weights that computes a model; empty where it calls none."""
    named = config.get("auto_map")
    if not isinstance(named, dict):
        return ""
    models = [value for key, value in named.items() if key.startswith("AutoModel")]
    return str(next(iter([*models, *named.values()]), ""))
