"""Published re-rankers as data: how each is asked, what its answer is, and how it is shown pictures."""
