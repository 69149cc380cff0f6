"""A folder that sentence-transformers loads with its own modules, read by its own files: the same vectors.

`modules.json` lists the modules: a Transformer (sentence_transformers_inputs.py), Pooling, perhaps dense layers
(model/heads/projection.py) and Normalize. Its prompts, one a side of a search, are ours as the tasks of that side. What
cannot be done exactly as it does it is refused by name. Facts are of sentence-transformers 6.2 (base/model.py,
sentence_transformer/model.py, sentence_transformer/modules/pooling.py).

Vectors here have unit length also where the folder has no Normalize: there the score must not depend on lengths. What
would be cut there, as longer than the tokenizer's limit, is an error here, or cut by its words (`truncate`): there,
whatever stands last is lost. `encode` asks what is given alone as a document; theirs asks it by its default prompt.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import ModelError
from ..inputs.pooled_tokens import ALL
from ..model.families import FAMILIES, Family
from ..model.heads.projection import MODULES_FILE, module_kind
from ..model.loading import CONFIG_FILE
from ..text import half_character
from .sentence_transformers_files import MODEL_SETTINGS, MODULE_SETTINGS, POOLINGS, plain_prompts
from .sentence_transformers_inputs import SentenceInputs, read_inputs, refusal
from .settings import Settings, read_object

if TYPE_CHECKING:
    from ..model.pooling import Pooling

# the flags by which older versions name them; none of them set is the mean
_OLD_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_ORDER = ("Transformer", "Pooling", "Dense", "Normalize")
_WITHOUT_EFFECT = ("Dropout",)  # but in training
_SAME_ORDER = ("cosine", "dot", "euclidean")  # scores that rank unit vectors alike


@dataclass(frozen=True)
class SentenceFiles:
    """What the files of sentence-transformers say of an embedder.

    Args:
        folder: where they lie, beside the model's dense layers.
        settings: prompts, pooling and limits.
        inputs: how model input is made.
    """

    folder: Path
    settings: Settings
    inputs: SentenceInputs

    @property
    def dtype(self) -> str | None:
        """The type in which the weights are loaded; None for the checkpoint's."""
        return self.inputs.dtype

    def prepare(self, processor: Any) -> None:
        """Make of the model's processor, in place, what sentence-transformers makes of it; raises ModelError as
        `read_sentence_files` does."""
        self.inputs.prepare(processor)


class _Module(NamedTuple):
    kind: str
    home: Path


def read_sentence_files(folder: str | Path) -> SentenceFiles | None:
    """Return what a folder's files of sentence-transformers say; None where it has none, or they are ours.

    Raises ModelError, which names file and key, for modules with code of their own, for what is not done here exactly,
    and for damaged files.
    """
    folder = Path(folder)
    there = [name for name in (MODULES_FILE, MODEL_SETTINGS, MODULE_SETTINGS) if (folder / name).is_file()]
    if not there or _is_ours(folder):
        return None
    if MODULES_FILE not in there:
        raise ModelError(
            f"{folder} has {there[0]} but no {MODULES_FILE}, without which sentence-transformers would pool as it "
            "likes; fetch the model again"
        )
    about = read_object(folder / MODEL_SETTINGS) if MODEL_SETTINGS in there else {}
    modules = _modules(folder)
    inputs = read_inputs(folder)
    prompts = _prompts(folder / MODEL_SETTINGS, about)
    pooling = _pooling(modules[1].home / CONFIG_FILE, inputs.chats or not any(prompts.values()))
    normalizing = [module.home / CONFIG_FILE for module in modules if module.kind == "Normalize"]
    for path in normalizing:
        _check_normalize(path)
    _check_score(folder / MODEL_SETTINGS, about, bool(normalizing))
    _check_model(folder / CONFIG_FILE)
    asked = plain_prompts(inputs.chats, inputs.pictures, inputs.generation_prompt, **prompts)
    settings = Settings(asked, pooling=pooling, pooled=ALL, max_tokens=inputs.limit)
    return SentenceFiles(folder, settings, inputs)


def _is_ours(folder: Path) -> bool:
    """Return whether the files are what this library wrote, which has settings, or asks by default, in its own way."""
    path = folder / MODULE_SETTINGS
    values: Any = read_object(path) if path.is_file() else {}
    for key in ("processing_kwargs", "chat_template", "mllm_embed"):
        values = values.get(key) if isinstance(values, dict) else None
    return values is not None


def _modules(folder: Path) -> list[_Module]:
    """Return the modules in their order.

    Raises ModelError for one that is not of the library's own, and for an order that is not read.
    """
    path = folder / MODULES_FILE
    found = [_Module(_kind(path, name), folder / place) for name, place in _listed(path)]
    found = [module for module in found if module.kind not in _WITHOUT_EFFECT]
    kinds = [module.kind for module in found]
    once = all(kinds.count(kind) == 1 for kind in _ORDER[:2]) and kinds.count("Normalize") < 2
    if not once or kinds != sorted(kinds, key=_ORDER.index):
        order = ", ".join(kinds) or "none"
        raise refusal(path, f"has the modules {order}, in another order than {', '.join(_ORDER)}")
    if found[0].home != folder:
        raise refusal(path, f"has its model in the folder {found[0].home.name}")
    return found


def _listed(path: Path) -> list[tuple[str, str]]:
    """Return type and path of the modules that a file lists."""
    try:
        given = [(module["type"], module["path"]) for module in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise ModelError(f"{path} is damaged ({error}); fetch it again") from error
    if not all(isinstance(name, str) and isinstance(place, str) for name, place in given):
        raise ModelError(f"{path} is damaged (a type or path is no text); fetch it again")
    return given


def _kind(path: Path, name: str) -> str:
    kind = module_kind(name)
    if kind in _ORDER or kind in _WITHOUT_EFFECT:
        return kind
    if name.startswith("sentence_transformers."):
        raise refusal(path, f"has the module {name}")
    raise refusal(path, f"has the module {name}, which is code that comes with the model, and none is run")


def _pooling(path: Path, includes_prompt: bool) -> Pooling:
    """Return which states are pooled; `includes_prompt` says that no prompt could be left out."""
    about = read_object(path)
    width = about.get("embedding_dimension", about.get("word_embedding_dimension"))
    if type(width) is not int or width < 1:
        raise ModelError(f"{path} is damaged (embedding_dimension is {width!r}, not a length); fetch it again")
    modes = about.get("pooling_mode", [mode for flag, mode in _OLD_FLAGS.items() if about.get(flag)] or "mean")
    modes = [modes] if isinstance(modes, str) else modes
    if not isinstance(modes, list) or modes not in [[mode] for mode in POOLINGS]:
        raise refusal(path, f"pools by {json.dumps(modes)[:60]}")
    if about.get("include_prompt", True) is not True and not includes_prompt:
        raise refusal(path, "leaves the prompt out of pooling (include_prompt: false)")
    return POOLINGS[modes[0]]


def _check_normalize(path: Path) -> None:
    """Raise ModelError for a Normalize of something else than what was pooled; its file may be absent."""
    about = read_object(path) if path.is_file() else {}
    for key in ("module_input_name", "module_output_name"):
        if about.get(key) not in (None, "sentence_embedding"):
            raise refusal(path, f"sets {key} to {json.dumps(about[key])[:60]}")


def _prompts(path: Path, about: Mapping[str, Any]) -> dict[str, str]:
    """Return the prompt of each side of a search; empty where it has none."""
    kind, prompts = about.get("model_type", "SentenceTransformer"), about.get("prompts") or {}
    if kind != "SentenceTransformer":
        raise refusal(path, f"is of a {kind}, which is another kind of model")
    if not isinstance(prompts, dict) or not all(map(_is_prompt, prompts.values())):
        raise ModelError(f"{path} is damaged (prompts is no object of texts); fetch it again")
    if about.get("default_prompt_name") not in (None, "query", "document", *prompts):
        raise ModelError(
            f"{path} is damaged (there is no prompt {about['default_prompt_name']!r}, its default); fetch it again"
        )
    # "passage" and "corpus" are never looked at: there is always a "document", empty where the file has none
    return {side: prompts.get(side) or "" for side in ("query", "document")}


def _is_prompt(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not half_character(value))


def _check_score(path: Path, about: Mapping[str, Any], normalizes: bool) -> None:
    """Raise ModelError for a score that does not rank as cosines do."""
    score = about.get("similarity_fn_name") or "cosine"
    if score not in _SAME_ORDER:
        raise refusal(path, f"scores by {score!r}, not by cosines")
    if not normalizes and score != "cosine":
        raise refusal(path, f"scores by {score!r} vectors that are not normalised, whose lengths count")


def _check_model(path: Path) -> None:
    """Look at a model's config; an adapter has none.

    Raises ModelError for a family that reads texts past its processor, as theirs are not, and for attention that looks
    ahead by the config alone, which transformers' layers read by halves.
    """
    config = read_object(path) if path.is_file() else {}
    text = config.get("text_config", config)
    text = text if isinstance(text, dict) else {}
    kind = config.get("model_type")
    family = FAMILIES.get(kind, Family()) if isinstance(kind, str) else Family()
    if family.texts_apart:
        raise refusal(path, f"is of a {kind}, whose processor takes no text without a picture")
    if text.get("is_causal") is False or (text.get("use_bidirectional_attention") and family.shares_prefixes):
        raise refusal(path, "asks for attention that looks ahead, which goes by what shares a batch there")
