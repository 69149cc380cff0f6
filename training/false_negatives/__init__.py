"""Right answers that stand among the candidates of a query: those known from all rows, twins, and what a guide finds.

A right answer must not be taught as wrong, whatever its name and whatever row or batch it stands in.
"""
