"""Scores of views against ground truth: what is paired, by which rule it is scored, and the report.

`pairing` finds the pairs, `protocol` states the rule and holds the table of metrics, `score` computes one
subject, `report` sums up. A new metric is a file in `core/metrics` and a line in the protocol's table.
"""
