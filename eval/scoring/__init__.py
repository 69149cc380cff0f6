"""From a benchmark and vectors to estimates: suites, exact ranks, metrics, intervals, paired tests.

Nothing here knows a benchmark's name.
"""
