"""One file per metric: plain functions from two pictures to a number, each with its range and formula stated.

Pictures are uint8 [H, W, 3] RGB, 0..255, and of equal size: a metric never resizes and never guesses a
range, so that the one who reports a number states both. Sums are float64. What is undefined is NaN, never a
made-up number.
"""
