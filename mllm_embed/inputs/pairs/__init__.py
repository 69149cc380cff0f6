"""A query and what may answer it in one prompt, as a re-ranker is asked: words with marks, their frame, model input."""
