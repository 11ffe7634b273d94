"""Many images in one: rows of tiles with labels, for people to look at. Ours."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from dp3d_cli.core.images import resize

Picture = NDArray[np.uint8]

_PAPER = (255, 255, 255)
_INK = (40, 40, 40)


def contact_sheet(
    rows: Sequence[Sequence[Picture]],
    labels: Sequence[str] | None = None,
    *,
    headers: Sequence[str] | None = None,
    tile: int | None = None,
    columns: int | None = None,
    gap: int = 4,
) -> Picture:
    """Lay out rows of images on white paper.

    Each image is scaled to fit a square tile, keeping its aspect ratio, and centred in it.

    Args:
        rows: rows of uint8 [H, W, 3] RGB images of any sizes. Rows may differ in length; an empty row is left
            out together with its label.
        labels: one text per row, written to the left of it.
        headers: one text per column, written above it; only where no row is wrapped.
        tile: side of a tile [px]; the longest side of any image if None.
        columns: a row longer than this goes on in the next line.
        gap: white space between tiles and around them [px].

    Returns:
        uint8 [H, W, 3] RGB.

    Raises:
        ValueError: no image at all, labels that do not fit the rows, or an image of another kind.
    """
    if labels is not None and len(labels) != len(rows):
        raise ValueError(f"{len(labels)} labels for {len(rows)} rows; give one label per row.")
    for row in rows:
        for image in row:
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
                raise ValueError(f"Tiles must be uint8 [H, W, 3], got {image.dtype} {image.shape}.")
    lines = _wrap(rows, labels, columns)
    if not lines:
        raise ValueError("A contact sheet needs at least one image.")
    side = tile or max(max(image.shape[:2]) for _, line in lines for image in line)
    text_px = max(9, side // 12)
    font = ImageFont.load_default(size=text_px)
    left = gap + max((math.ceil(font.getlength(label)) + gap for label, _ in lines if label), default=0)
    top = gap + (text_px + gap if headers else 0)
    width = left + max(len(line) for _, line in lines) * (side + gap)
    height = top + len(lines) * (side + gap)
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for column, header in enumerate(headers or ()):
        draw.text(
            (left + column * (side + gap) + side // 2, top - gap), header, fill=_INK, font=font, anchor="mb"
        )
    for number, (label, line) in enumerate(lines):
        y = top + number * (side + gap)
        if label:
            draw.text((gap, y + side // 2), label, fill=_INK, font=font, anchor="lm")
        for column, image in enumerate(line):
            picture = fit(image, side)
            x = left + column * (side + gap)
            inset = ((side - picture.shape[1]) // 2, (side - picture.shape[0]) // 2)
            sheet.paste(Image.fromarray(picture), (x + inset[0], y + inset[1]))
    return np.array(sheet, dtype=np.uint8)


def fit(image: Picture, side: int) -> Picture:
    """Scale so that the longer side is `side` pixels, aspect ratio kept (Lanczos, antialiased)."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if size == (width, height):
        return image
    return resize(image, (size[1], size[0]))


def _wrap(
    rows: Sequence[Sequence[Picture]], labels: Sequence[str] | None, columns: int | None
) -> list[tuple[str, Sequence[Picture]]]:
    """Lines of the sheet, each with the label of the row that begins there."""
    lines: list[tuple[str, Sequence[Picture]]] = []
    for number, row in enumerate(rows):
        length = columns or max(1, len(row))
        for start in range(0, len(row), length):
            label = labels[number] if labels is not None and start == 0 else ""
            lines.append((label, row[start : start + length]))
    return lines
