"""Images that teach the codec what pictures look like: dead leaves, generated textures, photographs.

Dead leaves (overlapping shapes of power-law sizes) have the edge and scale statistics of natural images, so
a codec trained on them carries over to photographs. Photographs come from a folder, or from those that
scikit-image installs with itself. Every crop is a function of its random generator alone. Source of the idea:
Lee, Mumford and Huang, "Occlusion models for natural images" (2001); the code is ours.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
"""[H, W, 3] RGB."""

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png")
INSTALLED_PHOTOS = (
    "astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "coins.png", "grass.png",
    "gravel.png", "hubble_deep_field.jpg", "ihc.png", "motorcycle_left.png", "motorcycle_right.png",
    "page.png", "rocket.jpg",
)  # fmt: skip
_OCTAVES = 5


def installed_photos() -> list[Path]:
    """The photographs that scikit-image's wheel carries (no download), in a fixed order."""
    import skimage

    folder = Path(skimage.__file__).parent / "data"
    return [folder / name for name in INSTALLED_PHOTOS if (folder / name).is_file()]


def folder_photos(folder: Path) -> list[Path]:
    """All photographs below `folder`, sorted by path.

    Raises:
        ValueError: there is none.
    """
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PHOTO_SUFFIXES)
    if not found:
        raise ValueError(f"{folder}: no {', '.join(PHOTO_SUFFIXES)} file below this folder.")
    return found


def read_photos(paths: list[Path]) -> list[Image]:
    """Photographs as [H, W, 3] uint8 RGB; grey ones become RGB.

    Raises:
        ValueError: a file cannot be decoded.
    """
    photos = []
    for path in paths:
        bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if bgr is None:
            raise ValueError(
                f"{path}: cannot be decoded as an image; remove it from the training photographs."
            )
        photos.append(np.ascontiguousarray(bgr[..., ::-1]).astype(np.uint8))
    return photos


def noise_texture(size: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """[size, size] in [0, 1]: a sum of octaves of smooth noise with random weights (cloth, hair, marble)."""
    total = np.zeros((size, size), np.float32)
    stretch = math.exp(rng.uniform(-1.2, 1.2))
    roughness = rng.uniform(0.35, 0.95)
    for octave in range(_OCTAVES):
        cells = 2 ** (octave + 1)
        grid = rng.random((max(2, round(cells * stretch)), max(2, round(cells / stretch))), np.float32)
        total += roughness**octave * cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)
    low, high = float(total.min()), float(total.max())
    return (total - low) / max(high - low, 1e-6)


def dead_leaves(size: int, rng: np.random.Generator) -> Image:
    """[size, size, 3]: overlapping textured discs, polygons and strokes, large ones first."""
    saturation = rng.uniform(0, 1) ** 2
    canvas: npt.NDArray[np.floating] = _paint(noise_texture(size, rng), saturation, rng)
    count = int(rng.integers(15, 120))
    radii = np.sort(np.minimum(size * 0.02 * (1 + rng.pareto(1.2, count)), size * 0.6))[::-1]
    scale = 8  # cv2 takes sub-pixel coordinates as fixed-point numbers with 3 fractional bits
    for radius in radii:
        centre = rng.uniform(0, size, 2)
        mask = np.zeros((size, size), np.uint8)
        kind = rng.random()
        if kind < 0.45:
            middle, axes = _fixed(centre, scale), _fixed(radius * rng.uniform(0.3, 1.0, 2), scale)
            cv2.ellipse(mask, middle, axes, rng.uniform(0, 180), 0, 360, 255, -1, cv2.LINE_AA, 3)
        elif kind < 0.75:
            angles = np.sort(rng.uniform(0, 2 * math.pi, int(rng.integers(3, 8))))
            corners = centre + radius * np.stack([np.cos(angles), np.sin(angles)], 1)
            cv2.fillPoly(mask, [np.round(corners * scale).astype(np.int32)], 255, cv2.LINE_AA, 3)
        else:
            steps = rng.normal(0, radius, (4, 2)).cumsum(0)
            points = np.round((centre + steps) * scale).astype(np.int32)
            cv2.polylines(mask, [points], False, 255, max(1, int(rng.integers(1, 5))), cv2.LINE_AA, 3)
        alpha = mask[..., None].astype(np.float32) / 255
        textured = rng.random() < 0.15
        paint = _paint(noise_texture(size, rng), saturation, rng) if textured else _colour(saturation, rng)
        canvas = canvas * (1 - alpha) + paint * alpha
    if rng.random() < 0.5:
        canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.4, 1.4))
    if rng.random() < 0.3:
        canvas = canvas + rng.normal(0, rng.uniform(1, 8), canvas.shape)
    return np.clip(np.round(canvas), 0, 255).astype(np.uint8)


def photo_crop(photos: Sequence[Image], size: int, rng: np.random.Generator) -> Image:
    """[size, size, 3]: a random square of a random photograph, scaled, mirrored and recoloured."""
    photo = photos[int(rng.integers(len(photos)))]
    height, width = photo.shape[:2]
    largest = min(height, width)
    side = round(math.exp(rng.uniform(math.log(min(size * 0.75, largest)), math.log(largest))))
    top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    crop = photo[top : top + side, left : left + side]
    method = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
    crop = cv2.resize(crop, (size, size), interpolation=method)
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    return recolour(crop, rng)


def recolour(image: npt.NDArray[np.uint8] | npt.NDArray[np.float32], rng: np.random.Generator) -> Image:
    """Random gain, contrast and tint, sometimes permuted channels; [H, W, 3] in 0..255."""
    colour = image.astype(np.float32)
    if rng.random() < 0.4:
        colour = colour[..., rng.permutation(3)]
    gain = rng.uniform(0.6, 1.25) * rng.normal(1, 0.07, 3).astype(np.float32)
    offset = rng.normal(0, 12, 3).astype(np.float32)
    return np.clip(np.round(colour * gain + offset), 0, 255).astype(np.uint8)


def _colour(saturation: float, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """[3] in 0..255: a random grey, tinted by up to `saturation`."""
    grey, vivid = rng.uniform(0, 255), rng.uniform(0, 255, 3)
    colour: npt.NDArray[np.float32] = (grey + saturation * (vivid - vivid.mean())).astype(np.float32)
    return colour


def _paint(
    texture: npt.NDArray[np.float32], saturation: float, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    first, second = _colour(saturation, rng), _colour(saturation, rng)
    if rng.random() < 0.6:
        second = first + (second - first) * rng.uniform(0.1, 0.5)
    painted: npt.NDArray[np.float32] = first + (second - first) * texture[..., None]
    return painted


def _fixed(point: npt.NDArray[np.float64], scale: int) -> tuple[int, int]:
    return round(point[0] * scale), round(point[1] * scale)
