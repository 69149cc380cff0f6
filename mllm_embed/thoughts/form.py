"""The setting of a model that thinks before it embeds a query, as it is saved beside its weights.

After TTE (arXiv 2510.05014) and UME-R1 (arXiv 2511.00405), whose models write about an input before they embed it;
their embeddings are read off a token or a head of its own, ours off the last token, as of any other input here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Thoughts:
    """How a composed query thinks.

    Args:
        tokens: of a thought at most.
        then: the words between the end of a thought and the vector.

    Raises ConfigError for tokens that are no whole number over 0, and for words that are none.
    """

    tokens: int
    then: str = "\nin one word:"

    def __post_init__(self) -> None:
        if type(self.tokens) is not int or self.tokens < 1:
            raise ConfigError(f"thoughts are at most so many tokens, a whole number over 0, not {self.tokens!r:.60}")
        if not isinstance(self.then, str) or not self.then.strip():
            raise ConfigError(f"thoughts.then are the words between thought and vector, not {self.then!r:.60}")

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON, as `from_dict` reads it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Thoughts:
        """Return what `to_dict` wrote. Raises ValueError, which names the key, for anything else."""
        known = cls.__dataclass_fields__
        unknown = next((key for key in values if key not in known), None)
        if unknown is not None:
            raise ValueError(f"thoughts.{unknown} is no key of it" + did_you_mean(str(unknown), known))
        if "tokens" not in values:
            raise ValueError("no thoughts.tokens")
        return cls(**values)
