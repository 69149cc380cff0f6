"""What stages of every kind have: rows in batches, an optimiser, and sides of a search on which the rows stand."""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

from pydantic import model_validator

from ..data.roles import ROLES, RoleName
from ..data.source import DataSource
from .sides import Sides
from .stage_keys.batches import BatchKeys
from .stage_keys.optimizer import OptimizerKeys
from .stage_keys.rows import RowKeys


class Searched(NamedTuple):
    """A search for hard negatives of a stage, by an embedder.

    Args:
        query, positive: the role that asks, and the one that is found.
        query_task, document_task: the tasks of both.
    """

    query: RoleName
    positive: RoleName
    query_task: str | None = None
    document_task: str | None = None


class RowStage(OptimizerKeys, BatchKeys, RowKeys):  # pydantic lists the keys of the last base first
    """A stage that trains on rows."""

    @model_validator(mode="after")
    def _roles_fit_rows(self) -> RowStage:
        for role in self.roles:
            if role not in ROLES[self.rows]:
                raise ValueError(
                    f"role '{role}' does not exist in rows: {self.rows}, which offer {', '.join(ROLES[self.rows])}"
                )
        return self

    @model_validator(mode="after")
    def _clusters_are_mined(self) -> RowStage:
        if self.per_cluster > 1 and not self.mined:
            raise ValueError("per_cluster needs a mined file with clusters: mllm-embed-train mine --clusters")
        return self

    @property
    @abstractmethod
    def roles(self) -> list[RoleName]:
        """Every role that the loss needs, once, in order."""

    @property
    @abstractmethod
    def sides(self) -> Sides:
        """What of its rows is asked as a query, and the tasks of both sides."""

    @property
    @abstractmethod
    def searched(self) -> Searched:
        """What hard negatives that are mined before it are for."""

    @property
    def data_to_mine(self) -> tuple[DataSource, ...]:
        """Its sources as the embedder that mines is asked about them."""
        return self.data

    @property
    def rows_bring_negatives(self) -> bool:
        """Whether hard negatives are needed that its rows, or the file `mined`, must bring."""
        return "hard_negative" in self.roles
