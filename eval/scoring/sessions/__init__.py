"""Sessions of several turns: each turn is a task, rules carry what was said, and what counts is when it is found."""
