"""First floor: one module per stage (what happens to one item) over a shared engine."""
