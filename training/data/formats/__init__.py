"""The known formats by name, one module each."""

from .cirr import CIRR
from .columns import COLUMNS
from .covr import COVR
from .fashioniq import FASHIONIQ
from .folder import FOLDER
from .format import Format
from .lasco import LASCO
from .llava import LLAVA
from .mbeir import MBEIR
from .megapairs import MEGAPAIRS
from .mmeb import MMEB
from .text_triplets import NLI, TEXT_TRIPLETS
from .tsv import TSV

FORMATS: dict[str, Format] = {
    "cirr": CIRR,
    "columns": COLUMNS,
    "covr": COVR,
    "fashioniq": FASHIONIQ,
    "folder": FOLDER,
    "lasco": LASCO,
    "llava": LLAVA,
    "mbeir": MBEIR,
    "megapairs": MEGAPAIRS,
    "mmeb": MMEB,
    "nli": NLI,
    "text-triplets": TEXT_TRIPLETS,
    "tsv": TSV,
}

__all__ = ["FORMATS", "Format"]
