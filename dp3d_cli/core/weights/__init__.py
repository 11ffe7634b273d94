"""Weights as files: which exist, where they are found, and whether they are what they should be.

Nothing here builds a network; what fills one lives beside it (`core.diffusion.convert`).
"""
