"""Backgrounds: far images that stand still while the camera moves."""

from __future__ import annotations

import torch
from torch import Tensor

from dp3d_cli.core.renderers.procedural.features import step
from dp3d_cli.core.renderers.procedural.subject import Subject, generator
from dp3d_cli.core.renderers.procedural.texture import colour_column, field


def paint_background(subject: Subject, size: int, device: torch.device) -> Tensor:
    """[3, size, size] sRGB in [0, 1]."""
    settings = subject.background
    rng = generator(subject.seed, "background")
    first, second, third = (colour_column(c, device) for c in settings.colours)
    line = (torch.arange(size, device=device) + 0.5) / size
    x, y = line[None, :], line[:, None]
    square = (size, size)
    if settings.kind == "plain":
        image = first * (1 - 0.25 * ((x - 0.5) ** 2 + (y - 0.45) ** 2))
    elif settings.kind == "gradient":
        turn = float(rng.uniform(-1, 1))
        image = torch.lerp(first, second, step(y + turn * (x - 0.5), 0.0, 1.0))
    elif settings.kind == "blur":
        cells = int(3 + 6 * (1 - settings.blur) ** 2)
        mix = field(rng, (cells, cells), square, device, "bicubic")
        image = torch.lerp(first, second, torch.sigmoid(1.6 * mix))
        image = torch.lerp(
            image,
            third,
            torch.sigmoid(2.0 * field(rng, (cells + 1, cells + 2), square, device, "bicubic") - 1),
        )
        image = image * (1 + 0.10 * field(rng, (2 * cells, 3 * cells), square, device, "bicubic"))
    elif settings.kind == "pattern":
        count = float(rng.uniform(5, 16))
        wave = torch.sin(x * count * 6.28 + float(rng.uniform(0, 6))) * torch.sin(
            y * count * float(rng.choice([0.0, 1.0])) * 6.28 + 1.57
        )
        image = torch.lerp(first, second, step(wave, -0.3, 0.3))
    else:
        image = first.expand(3, size, size)
        for _ in range(int(rng.integers(3, 8))):
            left, top = float(rng.uniform(-0.2, 0.9)), float(rng.uniform(-0.3, 0.9))
            wide, high = float(rng.uniform(0.1, 0.6)), float(rng.uniform(0.2, 1.0))
            soft = 0.01 + 0.05 * settings.blur
            inside = step(x, left - soft, left + soft) * step(x, left + wide + soft, left + wide - soft)
            inside = inside * step(y, top - soft, top + soft) * step(y, top + high + soft, top + high - soft)
            colour = torch.lerp(second, third, float(rng.random())) * float(rng.uniform(0.6, 1.2))
            image = torch.lerp(image, colour, inside * float(rng.uniform(0.5, 1)))
    return image.clamp(0, 1)
