"""Results as a page for a browser: one HTML file with all in it, figures, queries and small pictures."""

MEGABYTES = 16.0  # of thumbnails in a page, as they stand in it: more than CIRR's whole gallery takes
