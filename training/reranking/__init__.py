"""Training of a re-ranker: queries with their candidates in one prompt, and the loss over what it says of them."""
