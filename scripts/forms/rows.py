"""The rows of the table: which form, of which model's vectors, and with which others it makes a line of the picture.

A new form is a row here and, where none of the classes makes it, a class with `train` and `build` beside the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .built import Form
from .models import MODELS, ONE, SEVERAL, WORDS, Sort
from .several import Encodings, Several
from .single import Codes, Numbers, TunedCodes
from .words import Dense, Fused, Words


@dataclass(frozen=True)
class Row:
    """A row.

    Args:
        model: whose vectors, of `MODELS`.
        series: the forms that it is drawn with, of `SERIES`.
        name: of the form among them.
        form: what is built.
    """

    model: str
    series: str
    name: str
    form: Form

    @property
    def title(self) -> str:
        """The row's name, which no other has."""
        return f"{self.model}: {self.series}, {self.name}"


EXACT: dict[Sort, Form] = {ONE: Numbers("float32"), SEVERAL: Several("float32"), WORDS: Dense("float32")}
"""Of each sort of model the form whose ranking is the exact one."""

# series -> names -> forms, of one vector a picture
_FLOATS = {"float": {"float32": Numbers("float32"), "float16": Numbers("float16")}}
_INT8 = {"int8": {"256": Numbers("int8")}}
_CUT = {
    "int8": {f"{dim}": Numbers("int8", dim) for dim in (128, 64, 32)},
    "signs": {f"{dim}": Codes("binary", dim) for dim in (128, 64)},
}
_CODES = {
    "signs": {"256": Codes("binary")},
    "BEBR": {"1/32": Codes("bebr")},
    "RaBitQ": {"1 bit": Codes("rabitq"), "4 bits": Codes("rabitq4")},
    "OPQ": {"32 bytes": Codes("pq")},
}
_MORE_CODES = {
    "learned signs": {"256": Codes("learned-signs")},
    "BEBR": {f"1/{part}": Codes(f"bebr 1/{part}") for part in (128, 64, 16)},
    "RaBitQ": {"1 bit, 128": Codes("rabitq", 128)},
    "PQ": {f"{size} bytes": Codes(f"pq {size}") for size in (16, 32, 64)},
    "OPQ": {f"{size} bytes": Codes(f"opq {size}") for size in (16, 64)},
}
_TUNED = {
    f"tuned-{size}": (
        {
            "float": {"float32": Numbers("float32")},
            "JPQ": {f"{size} bytes": TunedCodes(MODELS[f"tuned-{size}"].adapter)},
        },
    )
    for size in (32, 16)
}
# of a vector a token
_TOKENS = {
    "a token, float16": {f"factor {factor}": Several("float16", factor) for factor in (1, 2, 3, 4, 6, 9, 18)},
    "a token, int8": {f"factor {factor}": Several("int8", factor) for factor in (1, 2, 3, 4, 6, 9, 18)},
}
_SETS = Several("int8", 4)
_ENCODED = {
    "FDE": {
        "1,280, float32": Encodings(3, 10),
        "5,120, float32": Encodings(4, 20),
        "5,120, sq8": Encodings(4, 20, "sq8"),
        "5,120, rabitq": Encodings(4, 20, "rabitq"),
        "1,280, rabitq": Encodings(3, 10, "rabitq"),
    },
    "FDE and MaxSim": {
        "5,120, rabitq, int8": Encodings(4, 20, "rabitq", depth=5, sets=Several("int8")),
        "1,280, rabitq, int8, factor 4": Encodings(3, 10, "rabitq", depth=5, sets=_SETS),
    },
}
# of dense vectors and words
_WORDS = {
    "float": {"float32": Dense("float32")},
    "words": {"alone": Words()},
    "dense and words": {
        **{f"float32, weight {weight:g}": Fused(weight) for weight in (0.25, 0.5, 1.0, 2.0)},
        "int8, weight 0.5": Fused(0.5, "int8"),
    },
}
_OF_MODELS = {
    "shipped": (_FLOATS, _INT8, _CUT, _CODES, _MORE_CODES),
    **_TUNED,
    "demo": (_FLOATS, _INT8, _CUT, _CODES),
    "matryoshka": (_FLOATS, _INT8, _CUT),
    "multi": (_TOKENS, _ENCODED),
    "lexical": (_WORDS,),
}


def _rows() -> Iterator[Row]:
    for model, parts in _OF_MODELS.items():
        for part in parts:
            for series, forms in part.items():
                yield from (Row(model, series, name, form) for name, form in forms.items())


ROWS: dict[str, Row] = {row.title: row for row in _rows()}
SERIES: tuple[str, ...] = tuple(dict.fromkeys(row.series for row in ROWS.values()))
