"""The files by which sentence-transformers loads a saved folder, adapter or whole model, with stock modules alone.

Its `Transformer` module renders every input through a chat template, and takes one from its own settings
(sentence-transformers 6, base/modules/transformer.py, `processing_kwargs`). The template written here turns what was
given (words, pictures, or both) into the prompt of that role, then goes on with the model's own chat template: no code
of ours runs, so that the user needs neither this package nor `trust_remote_code`, which its loader asks for before it
imports any class that is not its own. `Pooling` and `Normalize` do the rest.

Its vectors differ from `MLLMEmbedder`'s where it reads pictures itself, before any setting of ours has a say. A
transparent picture given by its path loses its transparency instead of lying on white (cosines of 0.23 to 0.90 to ours,
on noise); a PIL picture is not turned as its EXIF data says (0.59 to 0.95). Both are alike the other way round: give it
transparent pictures opened, and turned ones by their path; of 16-bit pictures it keeps the brightest part alone. Half
precision is normalised in half precision, and `truncate_dim` cuts after normalising (give `normalize_embeddings=True`).
Texts and pictures share a batch there, in which mllama's texts are not what they are alone: give it the two kinds
apart. An adapter's base it looks for by its name from the working folder alone.

A template cannot have words read as words where they spell a special token, as `inputs.words` does: it refuses them.
It refuses all where inputs that are too long are to be cut, and knows no limit otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import ConfigError, ModelError
from ..files import write_json
from ..inputs.chat_template import render_chat, template_of
from ..inputs.item_processor import ItemProcessor
from ..inputs.pooled_tokens import ALL
from ..inputs.prompts import CHAT, PromptSet
from ..model.families import Family, family_of, states_width
from ..model.heads.projection import MODULE, MODULES_FILE
from ..model.pooling import MULTI
from ..model.processor_loading import load_processor
from ..types import Document, Item, Query

if TYPE_CHECKING:
    from ..model.pooling import Pooling
    from .settings import Settings

MODULE_SETTINGS = "sentence_bert_config.json"
MODEL_SETTINGS = "config_sentence_transformers.json"
POOLING_FILE = "1_Pooling/config.json"
POOLINGS: dict[str, Pooling] = {
    "lasttoken": "last",
    "cls": "first",
    "mean": "mean",
    "max": "max",
    "weightedmean": "weightedmean",
    "mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
}
"""Their names of poolings, and ours."""
_STATES = {"method": "forward", "method_output_name": "last_hidden_state"}
_MODULES = {
    "": "sentence_transformers.base.modules.transformer.Transformer",
    "1_Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "2_Normalize": "sentence_transformers.base.modules.normalize.Normalize",
}

# A system message is what sentence-transformers calls a prompt: with a mark in it, it replaces the prompt for picture
# and words; without one it goes before the words. Two texts without a picture are a reference and an instruction.
_TEMPLATE = """\
{%- set asked = mllm_embed.prompts -%}
{%- set seen = namespace(pictures=[], words=[], prompt='') -%}
{%- for message in messages -%}
  {%- for part in ([{'type': 'text', 'text': message.content}] if message.content is string else message.content) -%}
    {%- if part.type == 'image' -%}
      {%- set seen.pictures = seen.pictures + [{'type': 'image'}] -%}
    {%- elif part.type != 'text' -%}
      {{- raise_exception('this model embeds texts and pictures, not ' ~ part.type) -}}
    {%- elif message.role == 'system' -%}
      {%- set seen.prompt = part.text -%}
    {%- elif part.text | trim -%}
      {%- set seen.words = seen.words + [part.text | trim] -%}
    {%- endif -%}
  {%- endfor -%}
{%- endfor -%}
{%- set own = '{instruction}' in seen.prompt or '{text}' in seen.prompt -%}
{%- set words = (('' if own else seen.prompt) ~ seen.words | join(' ')) | trim -%}
{%- for mark in MARKS if mark in words -%}
  {{- raise_exception("the words spell a token of the model's own, " ~ mark ~ '; take it out, or use mllm_embed') -}}
{%- endfor -%}
{%- if not words and not seen.pictures -%}{{- raise_exception('there is nothing to embed: no words, no picture') -}}
{%- elif seen.pictures and words -%}
  {%- set prompt = seen.prompt if own else asked.composed -%}
  {%- set mark = '{instruction}' if '{instruction}' in prompt else '{text}' -%}
  {%- set words = prompt.replace(mark, words) -%}
{%- elif seen.pictures -%}{%- set words = asked.image -%}
{%- elif seen.words | length == 2 and asked.composed_text -%}
  {%- set parts = asked.composed_text.split('{text}') -%}
  {%- set words = parts[0].replace('{instruction}', seen.words[1]) ~ seen.words[0]
      ~ parts[1].replace('{instruction}', seen.words[1]) -%}
{%- else -%}{%- set words = asked.text.replace('{text}', words) -%}
{%- endif -%}
{%- set messages = [{'role': 'user', 'content': seen.pictures + [{'type': 'text', 'text': words}]}] -%}
{%- set add_generation_prompt = true -%}
{{- '' }}"""
_PLAIN = """\
{%- for part in messages[0].content -%}
{{- IMAGE_TOKEN if part.type == 'image' else ('\n' if seen.pictures else '') ~ part.text -}}
{%- endfor -%}"""
_PLAIN_NAME = "sentence-transformers"
_REFUSAL = "{{ raise_exception('sentence-transformers cannot ask as this model was trained; use mllm_embed') }}"


def write_base_files(folder: Path, prompts: PromptSet) -> None:
    """Write the same for a plain model, which has no settings of ours: what `from_pretrained` makes of it by default.

    Raises ModelError for a folder that is no image-text model.
    """
    from transformers import AutoConfig

    from .settings import Settings

    processor = load_processor(str(folder))
    config = AutoConfig.from_pretrained(folder)
    # its prompts alone: with all the settings it would be one of ours, whose weights can no longer speak
    about = {"prompts": prompts.to_dict()}
    width = states_width(config)
    write_sentence_files(folder, processor, family_of(config), Settings(prompts), width, about=about)


def write_sentence_files(
    folder: Path,
    processor: Any,
    family: Family,
    settings: Settings,
    dimension: int,
    projections: Sequence[str] = (),
    stock_states: bool = True,
    about: dict[str, Any] | None = None,
) -> None:
    """Write what makes a saved folder one that `SentenceTransformer(folder)` loads.

    `dimension` is the length of a pooled state; `projections` are the folders of the layers that come next;
    `stock_states` says that pooling takes hidden states as the model gives them; `about` is what is kept of the
    settings, by default all.

    Prompts that put nothing around what is given are theirs too. For all others there is a template of our own. Where
    that does not render exactly what the prompts render here, or the model pools, attends or reads texts as no stock
    module does, the files make it refuse to encode: without them it would average the token states of bare inputs,
    which no error would show.
    """
    several = settings.pooling in MULTI
    own_way = settings.bidirectional or settings.truncate or settings.thoughts or family.texts_apart or several
    plain = stock_states and not own_way
    form = _as_theirs(settings, template_of(processor) is not None) if plain else None
    form = form or _as_ours(processor, settings, about or settings.to_dict(), plain)
    write_json(
        folder / MODULE_SETTINGS, {"transformer_task": "feature-extraction", "unpad_inputs": False, **form.module}
    )
    model = {"model_type": "SentenceTransformer", "prompts": form.prompts, "similarity_fn_name": "cosine"}
    write_json(folder / MODEL_SETTINGS, model)
    kinds = list(_MODULES.items())
    kinds[-1:-1] = [(place, MODULE) for place in projections]
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": kind} for index, (path, kind) in enumerate(kinds)
    ]
    write_json(folder / MODULES_FILE, modules)
    pooling = {"embedding_dimension": dimension, "pooling_mode": form.pooling, "include_prompt": True}
    write_json(folder / POOLING_FILE, pooling)
    write_json(folder / "2_Normalize/config.json", {"module_input_name": "sentence_embedding"})


class _Form(NamedTuple):
    """What differs between the files of two models."""

    module: dict[str, Any]
    prompts: dict[str, str]
    pooling: str = "lasttoken"


def plain_prompts(
    chats: bool, pictures: bool, generation_prompt: bool, query: str = "", document: str = ""
) -> PromptSet:
    """Return the prompts by which sentence-transformers asks: what is given alone, and a prompt a side of a search.

    In a chat that is the system message, where it is not empty; otherwise it stands before the text, and there are no
    pictures.
    """
    tasks: dict[str, Any] = {"query_task": query, "document_task": document}
    if chats:
        return PromptSet(
            name=_PLAIN_NAME, image="", composed="{instruction}", text="{text}", captioned="{text}",
            composed_text="{text}\n{instruction}", system="{task}", generation_prompt=generation_prompt, strip=False,
            text_only=not pictures, **tasks,
        )  # fmt: skip
    return PromptSet(
        name=_PLAIN_NAME, image="{image}", composed="{image}{instruction}", text="{task}{text}",
        captioned="{image}{text}", composed_text="{task}{text}\n{instruction}", template="none", strip=False,
        text_only=True, **tasks,
    )  # fmt: skip


def _as_theirs(settings: Settings, has_template: bool) -> _Form | None:
    """Return the form of prompts that are `plain_prompts`; None for others, and where something has no place in it."""
    prompts, modes = settings.prompts, {ours: theirs for theirs, ours in POOLINGS.items()}
    chats, pictures = prompts.template == CHAT, not prompts.text_only
    asked = prompts.query_task, prompts.document_task
    if replace(prompts, name=_PLAIN_NAME) != plain_prompts(chats, pictures, prompts.generation_prompt, *asked):
        return None
    if settings.recipe.keys() - {"pooled"} or settings.pooled_tokens != ALL or settings.target_space:
        return None
    if chats and not has_template:
        return None
    module: dict[str, Any] = {"processing_kwargs": {"text": {"truncation": False}}}
    if chats:
        kinds = {"text": _STATES, **({"image": _STATES} if pictures else {})}
        module["modality_config"] = {**kinds, "message": {**_STATES, "format": "structured"}}
        module["module_output_name"] = "token_embeddings"
        module["processing_kwargs"]["chat_template"] = {"add_generation_prompt": prompts.generation_prompt}
    return _Form(module, dict(zip(("query", "document"), asked, strict=True)), modes[settings.pooling])


def _as_ours(processor: Any, settings: Settings, about: dict[str, Any], plain: bool) -> _Form:
    """Return the form of all other prompts: a template of our own, which refuses to encode where it is not exact, or
    the model is not `plain`."""
    items = ItemProcessor(processor, settings.prompts)
    template = _template(processor, sorted(items.words.marks))
    prompts = settings.prompts
    stock = plain and settings.pooling == "last" and not settings.recipe and prompts.strip and not prompts.text_only
    if not (stock and _renders_the_same(items, settings, template)):
        template = _REFUSAL
    module = {
        "modality_config": {"text": _STATES, "image": _STATES, "message": {**_STATES, "format": "structured"}},
        "module_output_name": "token_embeddings",
        "processing_kwargs": {
            "text": {"truncation": False},  # cut words would lose the end of the prompt, and a cut picture fails
            "chat_template": {"chat_template": template, "mllm_embed": about},
        },
    }
    captioned = about["prompts"].get("captioned")
    return _Form(module, {"query": "", "document": captioned if isinstance(captioned, str) else ""})


def saved_settings(folder: Path) -> dict[str, Any] | None:
    """Return our settings in a folder that sentence-transformers saved again, None where it has none.

    It keeps its own files only, and all of their keys, which is why ours lie among them.
    """
    try:
        values = json.loads((folder / MODULE_SETTINGS).read_text(encoding="utf-8"))
        own = values["processing_kwargs"]["chat_template"]["mllm_embed"]
        return own if set(own) != {"prompts"} else None  # a plain model's, as `write_base_files` writes them
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _template(processor: Any, marks: Sequence[str]) -> str:
    """Return our template, then the model's own, or what `prompts.render` does for a processor without one.

    `marks` are the tokens that words must not spell.
    """
    names = {"IMAGE_TOKEN": getattr(processor, "image_token", None) or "", "MARKS": marks}
    given = (f"{{%- set {name} = {json.dumps(value, ensure_ascii=False)} -%}}\n" for name, value in names.items())
    return "".join((*given, _TEMPLATE, template_of(processor) or _PLAIN))


def _renders_the_same(items: ItemProcessor, settings: Settings, template: str) -> bool:
    """Return whether a template makes of every kind of input what the prompts make of it here."""
    picture, words = {"type": "image"}, {"type": "text", "text": 'a {text} of "words"'}
    changed = {"type": "text", "text": "an {instruction}"}
    cases: list[tuple[list[dict[str, str]], Item]] = [
        ([picture], Document(image=Path("picture"))),
        ([picture], Query(image=Path("picture"))),
        ([words], Document(text=words["text"])),
        ([words], Query(text=words["text"])),
        ([words, picture], Query(image=Path("picture"), instruction=words["text"])),
        ([words, picture, picture], Query(image=[Path("picture")] * 2, instruction=words["text"])),
        ([words, changed], Query(text=words["text"], instruction=changed["text"])),
    ]
    try:
        rendered = [
            render_chat(
                items.processor, [{"role": "user", "content": content}], template, mllm_embed=settings.to_dict()
            )
            for content, _ in cases
        ]
        return rendered == [items.render(item) for _, item in cases]
    except (ModelError, ConfigError):  # what is not rendered here either is asked of neither
        return False
