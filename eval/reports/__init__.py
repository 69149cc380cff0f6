"""Results for people, programs and servers: tables, contact sheets, comparisons, submissions.

`published.yaml` holds the rows that papers report.
"""
