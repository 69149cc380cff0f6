"""The section `thoughts` of a recipe: a model that writes what a composed query looks for before it embeds it."""

from __future__ import annotations

from pydantic import Field

from ..section import Section


class ThoughtsSection(Section):
    """Think, then embed: the target's caption is the thought that a query is taught."""

    tokens: int = Field(gt=0, description="of a thought at most; a longer caption is cut")
    weight: float = Field(default=1.0, gt=0, description="share in the loss of the thought's next-token cross-entropy")
    dropped: float = Field(
        default=0.5,
        ge=0,
        lt=1,
        description="share of the rows whose query gets no thought, or another row's, half of them each, so that its "
        "vector is read off picture and instruction too",
    )
