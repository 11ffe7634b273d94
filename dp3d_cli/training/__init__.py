"""Training of every network in `dp3d_cli.core`."""
