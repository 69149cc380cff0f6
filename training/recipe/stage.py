"""One stage of a recipe: its keys by subject, and what they must have in common."""

from __future__ import annotations

from pydantic import Field, model_validator

from ..data.roles import ASKING, ROLES, RoleName
from .row_stage import RowStage, Searched
from .sides import Sides
from .stage_keys.evaluate import Evaluate
from .stage_keys.guide import Guide
from .stage_keys.jpq import Jpq, check_jpq
from .stage_keys.judge import JudgeSection
from .stage_keys.loss import LossKeys
from .stage_keys.mine import Mine
from .stage_keys.terms import Term


class Stage(LossKeys, RowStage):  # pydantic lists the keys of the last base first
    """One stage of a run: its rows, its loss, the order and size of its batches, its optimiser."""

    evaluate: Evaluate | None = Field(
        default=None, description="validate while training, and keep the adapter with the best recall@1; see below"
    )

    guide: Guide | None = Field(
        default=None, description="an embedder that masks probable right answers among the negatives; see below"
    )

    mine: Mine | None = Field(
        default=None, description="hard negatives by the model as it is, found anew every few steps; see below"
    )

    judge: JudgeSection | None = Field(
        default=None, description="a re-ranker whose judgement of lists terms with judged: true teach; see below"
    )

    jpq: Jpq | None = Field(
        default=None, description="tune codes of its bank and its queries together, for a small index; see below"
    )

    @model_validator(mode="after")
    def _tunes_what_it_codes(self) -> Stage:
        if self.jpq:
            check_jpq(self)
        return self

    @model_validator(mode="after")
    def _judges_for_a_term(self) -> Stage:
        judged = any(term.judged for term in self.terms)
        if judged and self.judge is None:
            raise ValueError("a term with judged: true needs a judge")
        if self.judge and not judged:
            raise ValueError("judge is for terms with judged: true, and there is none; leave it out")
        if judged and self.mine:
            raise ValueError(
                "judge looks at lists once, and mine makes other ones while it trains; give a mined file instead"
            )
        return self

    @model_validator(mode="after")
    def _mines_for_a_term(self) -> Stage:
        if self.mine is None:
            return self
        reading = [term for term in self.terms if "hard_negative" in term.negatives]
        if not reading:
            raise ValueError("mine finds hard negatives, and no term lists hard_negative in its negatives")
        if any(term.uses_bank for term in reading):
            raise ValueError("mine goes with no bank, whose candidates are those of all rows, and stay what they are")
        for role in self.mined_roles:
            if role == "hard_negative" or role not in ROLES[self.rows]:
                raise ValueError(f"mine: role '{role}' is none that rows: {self.rows} ask or find with")
        if self.guide and not set(self.mined_roles[1:]) <= set(self.roles):
            raise ValueError(
                "mine: with a guide, `positive` and `also` are roles of the terms alone: it knows no other inputs"
            )
        return self

    @model_validator(mode="after")
    def _tasks_have_their_side(self) -> Stage:
        asks = self.sides.queries.union(ASKING).intersection(self.encoded)
        for task, side in (("query_task", asks), ("document_task", set(self.encoded) - asks)):
            given = any(getattr(part, task) for part in (self, *self.data))
            if given and not side:
                what = "only asks" if task == "query_task" else "is only found"
                raise ValueError(f"{task} is given, and no role of the terms {what}; leave it out")
        return self

    @model_validator(mode="after")
    def _streams_keep_their_order(self) -> Stage:
        near = self.per_image > 1 or self.per_cluster > 1 or self.per_source > 1
        if self.streaming and (near or any(term.uses_bank for term in self.terms)):
            raise ValueError(
                "streamed sources come in their own order: no per_image, per_cluster, per_source, bank, taught"
            )
        return self

    @model_validator(mode="after")
    def _rates_have_their_part(self) -> Stage:
        if self.rates.temperature and not self.learn_temperature:
            raise ValueError("rates.temperature is given, and the temperature is fixed; give learn_temperature too")
        if self.rates.centroids and not self.jpq:
            raise ValueError("rates.centroids is given, and no codes are tuned; give jpq too")
        return self

    @property
    def sides(self) -> Sides:
        """What of its rows is asked as a query, and the tasks of both sides."""
        asks = {role for term in self.terms for role in term.query}
        found = {role for term in self.terms for role in (*term.positive, *term.negatives)}
        return Sides(frozenset(asks - found), self.query_task, self.document_task)

    @property
    def rows_bring_negatives(self) -> bool:
        """Whether hard negatives are needed that it does not mine itself."""
        return super().rows_bring_negatives and self.mine is None

    @property
    def searched(self) -> Searched:
        """What hard negatives that are mined before it are for: its first term with any, or else the first."""
        term = next((term for term in self.terms if "hard_negative" in term.negatives), self.terms[0])
        return Searched(term.query[0], term.positive[0], self.query_task, self.document_task)

    @property
    def mined_for(self) -> Term:
        """The first term with hard negatives: those that are mined while it trains are for it."""
        return next(term for term in self.terms if "hard_negative" in term.negatives)

    @property
    def mined_roles(self) -> list[RoleName]:
        """What asks, what is found, and what else is a candidate when hard negatives are mined while it trains."""
        if self.mine is None:
            return []
        term = self.mined_for
        return [self.mine.query or term.query[0], self.mine.positive or term.positive[0], *self.mine.also]

    @property
    def tasks(self) -> tuple[str | None, str | None]:
        """The tasks of queries and gallery in its validation."""
        own = self.evaluate
        asks, found = (own.query_task, own.document_task) if own else (None, None)
        return asks or self.query_task, found or self.document_task
