"""CIReVL's view: the language model says what is looked for, and the text alone searches."""

from __future__ import annotations

from ..studies.method import Method, MethodContext, Ranking


def caption_rewrite(context: MethodContext) -> Ranking:
    """e(what the model says the changed picture shows)."""
    return Ranking(context.llm_texts.rewrites(), context.gallery)


METHOD = Method(
    caption_rewrite,
    source="CIReVL (arXiv 2310.09291), with one model that sees the picture in place of a captioner and a chat model",
    needs="one answer in words a query",
)
