"""Colour correction of multi-camera rigs by polynomials."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Powers of red, green and blue in the polynomials of Cheung et al. (2004), by group.
_LINEAR = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
_PRODUCTS = ((1, 1, 0), (1, 0, 1), (0, 1, 1))
_SQUARES = ((2, 0, 0), (0, 2, 0), (0, 0, 2))
_ALL = ((1, 1, 1),)
_MIXED = ((2, 1, 0), (0, 2, 1), (1, 0, 2))
_MIXED_BACK = ((2, 0, 1), (1, 2, 0), (0, 1, 2))
_CUBES = ((3, 0, 0), (0, 3, 0), (0, 0, 3))
_ONE = ((0, 0, 0),)
_POLYNOMIALS = {
    len(powers): powers
    for powers in (
        _LINEAR,
        _LINEAR + _ONE,
        _LINEAR + _ALL + _ONE,
        _LINEAR + _PRODUCTS + _ONE,
        _LINEAR + _PRODUCTS + _ALL + _ONE,
        _LINEAR + _PRODUCTS + _SQUARES + _ONE,
        _LINEAR + _PRODUCTS + _SQUARES + _ALL + _ONE,
        _LINEAR + _PRODUCTS + _SQUARES + _ALL + _CUBES + _ONE,
        _LINEAR + _PRODUCTS + _SQUARES + _ALL + _MIXED + _CUBES,
        _LINEAR + _PRODUCTS + _SQUARES + _ALL + _MIXED + _CUBES + _ONE,
        _LINEAR + _PRODUCTS + _SQUARES + _ALL + _MIXED + _MIXED_BACK + _CUBES,
        _LINEAR + _PRODUCTS + _SQUARES + _ALL + _MIXED + _MIXED_BACK + _CUBES + _ONE,
    )
}


def correct_colour(picture: NDArray[np.uint8], matrix: NDArray[np.float64]) -> NDArray[np.uint8]:
    """A picture in the colours that all cameras share.

    Args:
        picture: uint8 [H, W, 3] sRGB.
        matrix: version 2, [3, T]: a polynomial of T terms (Cheung et al. 2004) in linear light; or that of
            version 1, [4, 4]: row vectors times its upper left 3x3, plus its last column, on sRGB values.

    Raises:
        ValueError: a matrix of another shape.
    """
    colour = picture.astype(np.float32) / 255
    if matrix.shape == (4, 4):
        result = colour @ matrix[:3, :3] + matrix[:3, 3]
    elif len(matrix) == 3 and matrix.shape[1] in _POLYNOMIALS:
        linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
        powers = _POLYNOMIALS[matrix.shape[1]]
        terms = np.stack([np.prod(linear ** np.array(power), axis=-1) for power in powers], axis=-1)
        linear = np.clip(terms @ matrix.T, 0, 1)
        result = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    else:
        raise ValueError(f"A colour matrix is 4x4 or 3 x {list(_POLYNOMIALS)}, got {list(matrix.shape)}.")
    return np.asarray(np.clip(np.rint(result * 255), 0, 255), np.uint8)
