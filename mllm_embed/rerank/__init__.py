"""A second look at the first answers: a model that reads query and candidate together, and scores how well they fit."""
