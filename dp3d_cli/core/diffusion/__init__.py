"""The diffusion core: networks, noise, samplers, pipeline and converter of DiffPortrait3D."""
