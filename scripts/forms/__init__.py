"""The forms in which vectors may be kept, for `bytes_a_picture.py`: how each is built, searched, measured and drawn."""
