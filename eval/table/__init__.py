"""Every model on every benchmark: what is named, what was made of it, and the table of it all."""
