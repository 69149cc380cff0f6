"""Captions in a TSV file without a header: CC3M's layout, with the paths of downloaded pictures for its URLs.

a caption<TAB>path/of/picture.jpg    a line
"""

from .format import Format

TSV = Format(
    description="lines of caption, tab, path of the downloaded picture: CC3M, CC12M",
    columns={"caption": "caption", "image": "image"},
    kinds=("pairs",),
    suffixes=(".tsv", ".txt"),
    header=("caption", "image"),
    hint="the release holds URLs: download the pictures first and write a TSV file with their paths",
)
