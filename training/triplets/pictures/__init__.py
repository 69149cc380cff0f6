"""Triplets with a target picture, made from pictures alone: pairs, the words that lead from one to the other, a check.

`rules` says which pictures make a pair and `pairs` finds them in stores of vectors, `question` asks a model for the
instruction that leads from the one to the other, `judge` takes or drops what it answers, `check` asks an embedder or a
model whether the target is what was asked for, `make` wires them and `written` writes the folder.
"""
