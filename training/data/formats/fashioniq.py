"""FashionIQ: captions/cap.{dress,shirt,toptee}.train.json, two remarks a row."""

from .format import Format, joined

FASHIONIQ = Format(
    description='captions/cap.*.train.json; the two captions are joined by "and"',
    columns={"image": "candidate", "target_image": "target", "instruction": "captions"},
    kinds=("triplets",),
    cells={"instruction": joined},
    extensions=(".png", ".jpg", ".jpeg"),
    hint="images is the folder with ASIN.png or ASIN.jpg",
)
