"""Scores of views against ground truth or reference portraits: what is paired, by which rule, and the report.

`plan` turns a request into a `protocol` and pairs (`pairing`); `metrics` is the table of metrics, `networks`
what computes some of them, `availability` what can be computed here; `score` computes one subject, `collect`
sums up into `results`, and `report` writes them. A new metric is a file in `core/metrics` and a line in the
table.
"""
