"""Which two pictures make a pair: the rules of three papers as data, each number of which can be set.

    megapairs   arXiv 2412.14475, section 3.1: pictures that one of three similarities finds, at cosines within
                (0.8, 0.96), five hard negatives of what else it found, three instructions a pair
    spn4cir     arXiv 2404.11317, zscir/get_cir_data.py of its repository: one picture at random of a window of ranks
    magiclens   arXiv 2403.19651, section 3: pictures of one web page, without duplicates and what has nothing in common

What a paper does not say, or what cannot be had here, is said in the rule's `differs`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from textwrap import fill
from typing import Any

from mllm_embed.errors import ConfigError

PICTURE, PATTERN, CAPTION = "picture", "pattern", "caption"
SIMILARITIES = {  # and by which cosines
    PICTURE: "the pictures' vectors, by --model or in the store that DATA is",
    PATTERN: "those of --pattern-store, by a model of looks more than of meaning",
    CAPTION: "their captions' vectors, by --model or in --caption-store",
}
FOLDER = "folder"
"""What groups pictures by the folder that they lie in, in the place of a column."""
CHOICES = ("nearest", "random")
Window = tuple[float, float]


@dataclass(frozen=True)
class PairRule:
    """How the pairs of a reference picture are chosen.

    Args:
        title: its paper, in a word.
        differs: what is otherwise than in the paper, for a person.
        by: similarities of `SIMILARITIES` that propose pairs, each by itself.
        cosines: a pair's cosine, by the similarity that proposes it, lies between these and is neither of them.
        ranks: and its rank from 1 among all other pictures is one of these or between them. Numbers below 1 are shares
            of how many others there are. None looks at the nearest `depth`.
        depth: how many of the nearest are looked at where `ranks` does not say so.
        caption_cosines: the cosine of their captions lies between these too, where both have one; None for any.
        duplicate: pictures with this cosine or a higher one are one picture, and neither a pair nor a hard negative.
        grouped: both are of one group.
        choice: "nearest" takes the nearest of those that fit, "random" any.
        pairs: of one reference at most, by each similarity.
        per_target: references of one target at most; None for any number.
        negatives: hard negatives of a pair: of what else was looked at for the reference, the nearest first.
        instructions: asked for a pair.
    """

    title: str
    differs: str
    by: tuple[str, ...] = (PICTURE,)
    cosines: Window = (-1.0, 1.0)
    ranks: Window | None = None
    depth: int = 50
    caption_cosines: Window | None = None
    duplicate: float = 0.96
    grouped: bool = False
    choice: str = "random"
    pairs: int = 1
    per_target: int | None = None
    negatives: int = 0
    instructions: int = 1

    def with_settings(self, given: Mapping[str, Any]) -> PairRule:
        """Return the rule with other numbers; None leaves the rule's own. Raises ConfigError for one that is none."""
        rule = replace(self, **{name: value for name, value in given.items() if value is not None})
        rule._check()
        return rule

    def window(self, others: int) -> tuple[int, int]:
        """Return the first and the last rank that is looked at, from 1, where there are so many other pictures.

        Raises ConfigError where the ranks begin past the end.
        """
        if self.ranks is None:
            return 1, min(self.depth, others)
        first, last = (_rank(value, others) for value in self.ranks)
        if first > others:
            raise ConfigError(
                f"ranks {self.ranks[0]:g} to {self.ranks[1]:g} begin past the {others:,} other pictures; give shares "
                f"of them, as --ranks {_SHARES}"
            )
        return first, min(last, others)

    def numbers(self) -> dict[str, Any]:
        """Return the settings as plain JSON."""
        return {part.name: getattr(self, part.name) for part in fields(self) if part.name not in ("title", "differs")}

    def _check(self) -> None:
        self._check_windows()
        if not -1 < self.duplicate <= 1:
            raise ConfigError(f"--duplicate is a cosine up to 1, not {self.duplicate:g}")
        if self.choice not in CHOICES:
            raise ConfigError(f"--choice is {' or '.join(CHOICES)}, not '{self.choice}'")
        if self.negatives < 0:
            raise ConfigError(f"--negatives must be 0 or more, not {self.negatives}")
        unknown = [name for name in self.by if name not in SIMILARITIES]
        if unknown or not self.by:
            raise ConfigError(f"--by takes some of {', '.join(SIMILARITIES)}, not '{' '.join(unknown)}'")

    def _check_windows(self) -> None:
        for option, window in (("cosines", self.cosines), ("caption-cosines", self.caption_cosines)):
            if window is not None and not -1 <= window[0] < window[1] <= 1:
                raise ConfigError(f"--{option} are two cosines, the lower one first, not {window[0]:g} {window[1]:g}")
        if self.ranks is None:
            return
        first, last = self.ranks
        if not 0 < first <= last:
            raise ConfigError(f"--ranks are two ranks from 1, or two shares, not {first:g} {last:g}")
        if (first < 1) != (last < 1):
            raise ConfigError("--ranks are two ranks from 1, or two shares below 1, not one of each")


def _rank(value: float, others: int) -> int:
    return max(1, round(value * others)) if value < 1 else round(value)


_SHARES = "0.59 0.89"  # what ranks 10,000 to 14,999 are of the 16,939 pictures of CIRR's training split
RULES = {
    "megapairs": PairRule(
        "MegaPairs",
        "its similarities are EVA-CLIP's and DINOv2's, with whose cosines 0.8 and 0.96 go: see what yours are by "
        "--dry-run; how many pairs it takes of a reference, and of how many neighbours, is chosen here; instructions "
        "are asked of one model in one step, where it has a model describe both and another write",
        by=(PICTURE, PATTERN, CAPTION),
        cosines=(0.8, 0.96),
        negatives=5,
        instructions=3,
    ),
    "spn4cir": PairRule(
        "SPN4CIR",
        "ranks 10,000 to 14,999 are those of CIRR's 16,939 training pictures; FashionIQ's window is 10,000 to 19,999; "
        "near-duplicates are left out by cosine, where it removes them before",
        ranks=(10_000, 14_999),
    ),
    "magiclens": PairRule(
        "MagicLens",
        "web pages are not to be had: a folder or a column of the source stands for one; its limits and numbers are "
        "not published with its models, and those here are chosen here",
        cosines=(0.3, 0.96),
        caption_cosines=(0.2, 0.96),
        grouped=True,
        choice="nearest",
        pairs=3,
        per_target=3,
    ),
}


def rules_in_words() -> str:
    """Return each rule with the options that it sets, and how it differs from its paper, for a person."""
    return "\n".join(
        fill(f"{rule.title}{_by_groups(rule)}: {_options(rule)}. {rule.differs[0].upper()}{rule.differs[1:]}.", 118,
             initial_indent=f"  {name:<12}", subsequent_indent=" " * 14, break_on_hyphens=False)
        for name, rule in RULES.items()
    )  # fmt: skip


def _by_groups(rule: PairRule) -> str:
    return " by groups" if rule.grouped else ""


def _options(rule: PairRule) -> str:
    given = {key: value for key, value in rule.numbers().items() if value is not None and key != "grouped"}
    return " ".join(f"--{key.replace('_', '-')} {_shown(value)}" for key, value in given.items())


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
