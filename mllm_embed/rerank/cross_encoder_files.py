"""The files by which sentence-transformers' `CrossEncoder` loads a whole re-ranker, with stock modules alone.

Its `Transformer` module makes of a pair one message of a query and one of a document, and renders them through a chat
template that it takes from its own settings (sentence-transformers 6, base/modules/transformer.py); its `LogitScore`
subtracts the logits of two tokens. The template written here turns the two messages into the prompt, and goes on with
the model's own: no code of ours runs. What differs where it reads pictures itself is said in
saving/sentence_transformers_files.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import MLLMEmbedError
from ..files import write_json
from ..inputs.chat_template import render_chat, template_of
from ..inputs.pairs.pair_processor import PairProcessor
from ..inputs.pairs.prompt import CANDIDATE, QUERY, RerankPrompt
from ..inputs.prompts import CHAT, IMAGE, INSTRUCTION, TASK, TEXT
from ..model.families import Family
from ..model.heads.projection import MODULES_FILE
from ..saving.reranker_settings import RerankSettings
from ..saving.sentence_transformers_files import MODEL_SETTINGS, MODULE_SETTINGS
from ..types import Document, Item, Query
from .words import Answers

_LOGITS = {"method": "forward", "method_output_name": "logits"}
_MODULES = {
    "": "sentence_transformers.base.modules.transformer.Transformer",
    "1_LogitScore": "sentence_transformers.cross_encoder.modules.logit_score.LogitScore",
}
_ACTIVATIONS = {
    "difference": "torch.nn.modules.linear.Identity",
    "sigmoid": "torch.nn.modules.activation.Sigmoid",
}
# A system message is what sentence-transformers calls a prompt: here it is the task.
_TEMPLATE = """\
{%- set seen = namespace(task=TASK, query_pictures=0, document_pictures=0, query='', document='') -%}
{%- for message in messages -%}
  {%- for part in ([{'type': 'text', 'text': message.content}] if message.content is string else message.content) -%}
    {%- if part.type == 'image' and message.role == 'query' -%}
      {%- set seen.query_pictures = seen.query_pictures + 1 -%}
    {%- elif part.type == 'image' -%}
      {%- set seen.document_pictures = seen.document_pictures + 1 -%}
    {%- elif part.type != 'text' -%}
      {{- raise_exception('this model judges texts and pictures, not ' ~ part.type) -}}
    {%- elif message.role == 'system' -%}{%- set seen.task = part.text -%}
    {%- elif message.role == 'query' -%}{%- set seen.query = seen.query ~ part.text -%}
    {%- elif message.role == 'document' -%}{%- set seen.document = seen.document ~ part.text -%}
    {%- else -%}{{- raise_exception('this model judges pairs of a query and a document') -}}
    {%- endif -%}
  {%- endfor -%}
{%- endfor -%}
{%- if STRIP -%}
  {%- set seen.query = seen.query | trim -%}
  {%- set seen.document = seen.document | trim -%}
{%- endif -%}
{%- for mark in MARKS if mark in seen.query ~ seen.document -%}
  {{- raise_exception("the words spell a token of the model's own, " ~ mark ~ '; take it out, or use mllm_embed') -}}
{%- endfor -%}
{%- set query = ('composed' if seen.query else 'query_image') if seen.query_pictures else 'query_text' -%}
{%- set document = ('captioned' if seen.document else 'image') if seen.document_pictures else 'text' -%}
{%- set made = namespace(parts=[], text='') -%}
{%- for piece in START + FORMS[query] + BETWEEN + FORMS[document] + END -%}
  {%- if piece.kind == 'text' -%}{%- set made.text = made.text ~ piece.text -%}
  {%- elif piece.kind == 'query' -%}{%- set made.text = made.text ~ seen.query -%}
  {%- elif piece.kind == 'document' -%}{%- set made.text = made.text ~ seen.document -%}
  {%- elif piece.kind == 'task' -%}
    {%- if seen.task -%}{%- set made.text = made.text ~ FORM[0] ~ seen.task ~ FORM[1] -%}{%- endif -%}
  {%- else -%}
    {%- if made.text -%}{%- set made.parts = made.parts + [{'type': 'text', 'text': made.text}] -%}{%- endif -%}
    {%- set made.text = '' -%}
    {%- for _ in range(seen.query_pictures if piece.kind == 'query_pictures' else seen.document_pictures) -%}
      {%- set made.parts = made.parts + [{'type': 'image'}] -%}
    {%- endfor -%}
  {%- endif -%}
{%- endfor -%}
{%- if made.text -%}{%- set made.parts = made.parts + [{'type': 'text', 'text': made.text}] -%}{%- endif -%}
{%- set messages = [{'role': 'user', 'content': made.parts}] -%}
{%- if SYSTEM -%}
  {%- set messages = [{'role': 'system', 'content': [{'type': 'text', 'text': SYSTEM}]}] + messages -%}
{%- endif -%}
{%- set add_generation_prompt = GENERATION -%}
{{- '' }}"""
_REFUSAL = "{{ raise_exception('sentence-transformers cannot ask as this re-ranker was trained; use mllm_embed') }}"


def write_cross_encoder_files(
    folder: Path, pairs: PairProcessor, family: Family, settings: RerankSettings, answers: Answers
) -> None:
    """Write what makes a saved folder one that `CrossEncoder(folder)` loads.

    Where its modules cannot ask exactly so, or read the answer otherwise, the files make it refuse: without them it
    would score something else, which no error would show.
    """
    prompt = settings.prompt
    single = len(answers.yes) == len(answers.no) == 1
    plain = single and not family.texts_apart and not settings.reading.recipe and settings.reading.max_tokens is None
    template = _template(pairs, prompt)
    if not (plain and template and _renders_the_same(pairs, template)):
        template = _REFUSAL
    module = {
        "transformer_task": "any-to-any",
        "modality_config": {"text": _LOGITS, "image": _LOGITS, "message": {**_LOGITS, "format": "structured"}},
        "module_output_name": "causal_logits",
        "processing_kwargs": {"text": {"truncation": False}, "chat_template": {"chat_template": template}},
    }
    write_json(folder / MODULE_SETTINGS, module)
    activation = _ACTIVATIONS[prompt.score]
    write_json(folder / MODEL_SETTINGS, {"model_type": "CrossEncoder", "activation_fn": activation})
    modules = enumerate(_MODULES.items())
    write_json(
        folder / MODULES_FILE,
        [{"idx": at, "name": str(at), "path": path, "type": kind} for at, (path, kind) in modules],
    )
    tokens = {"true_token_id": answers.yes[0], "false_token_id": answers.no[0], "module_input_name": "causal_logits"}
    write_json(folder / "1_LogitScore/config.json", tokens)


def _template(pairs: PairProcessor, prompt: RerankPrompt) -> str | None:
    """Return our template and then the model's own; None for a prompt that is not put into that."""
    own = template_of(pairs.items.processor)
    if prompt.template != CHAT or own is None or prompt.append or TASK in prompt.system:
        return None
    start, _, rest = prompt.words.partition(QUERY)
    between, _, end = rest.partition(CANDIDATE)
    forms = {name: list(_pieces(getattr(prompt, name), "query")) for name in ("composed", "query_image", "query_text")}
    forms |= {name: list(_pieces(getattr(prompt, name), "document")) for name in ("image", "text", "captioned")}
    values = {
        "TASK": prompt.task, "STRIP": prompt.strip, "MARKS": sorted(pairs.items.words.marks), "FORMS": forms,
        "START": list(_pieces(start, "")), "BETWEEN": list(_pieces(between, "")), "END": list(_pieces(end, "")),
        "FORM": list(prompt.task_form.partition(TASK)[::2]), "SYSTEM": prompt.system,
        "GENERATION": prompt.generation_prompt,
    }  # fmt: skip
    given = (f"{{%- set {name} = {json.dumps(value, ensure_ascii=False)} -%}}\n" for name, value in values.items())
    return "".join((*given, _TEMPLATE, own))


def _pieces(form: str, of: str) -> Iterator[dict[str, str]]:
    """Yield what a part of the prompt is made of: text, pictures, the words of a query or document, and the task."""
    kinds = {IMAGE: f"{of}_pictures", TEXT: of, INSTRUCTION: of, TASK: "task"}
    while form:
        at, mark = min(((form.index(mark), mark) for mark in kinds if mark in form), default=(len(form), ""))
        if at:
            yield {"kind": "text", "text": form[:at]}
        if mark:
            yield {"kind": kinds[mark]}
        form = form[at + len(mark) :]


def _renders_the_same(pairs: PairProcessor, template: str) -> bool:
    """Return whether a template makes of pairs of all kinds what the prompt makes of them here."""
    picture, words = {"type": "image"}, {"type": "text", "text": ' a "word" '}
    path = Path("picture")
    queries: list[tuple[list[dict[str, str]], Item]] = [
        ([picture, words], Query(image=path, instruction=words["text"])),
        ([picture, picture, words], Query(image=[path, path], instruction=words["text"])),
        ([picture], Query(image=path)),
        ([words], Query(text=words["text"])),
    ]
    documents: list[tuple[list[dict[str, str]], Item]] = [
        ([picture], Document(image=path)),
        ([words], Document(text=words["text"])),
        ([picture, words], Document(image=path, text=words["text"])),
    ]
    try:
        return all(
            _rendered(pairs, template, asked, shown) == pairs.written.text(query, [document])
            for asked, query in queries
            for shown, document in documents
        )
    except MLLMEmbedError:  # what is not rendered here either is asked of neither
        return False


def _rendered(pairs: PairProcessor, template: str, query: Any, document: Any) -> str:
    messages = [{"role": "query", "content": query}, {"role": "document", "content": document}]
    return render_chat(pairs.items.processor, messages, template)
