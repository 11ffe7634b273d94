"""dp3d: portraits in, 3D-consistent novel views out (DiffPortrait3D as a batch toolkit)."""

__version__ = "0.1.0"
