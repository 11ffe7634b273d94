"""Proxies: blurry but 3D-consistent images of a person from any camera, before any diffusion.

`template` makes them from one portrait with a head-shaped template and no weights; `images` reads proxies
that were made elsewhere.
"""
