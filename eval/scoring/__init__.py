"""From a benchmark and vectors to figures: suites, exact ranks, metrics, intervals, paired tests.

Nothing here knows a benchmark's name.
"""
