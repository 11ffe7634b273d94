"""Where facial features lie, as curves and masks over the frontal plane.

`x` and `y` are world coordinates of face points seen from the front (x to the viewer's right, y up). Relief
and paint use the same functions, so that a lip's colour lies on the lip's bulge.

Placement follows EG3D's standard face: its five points times 0.2512 (300 pixels of a 700 pixel crop that is
0.586 world units wide), with its origin at (0, 0, 0.161).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dp3d_cli.core.renderers.procedural.subject import Subject

EYE_X, EYE_Y = 0.078, 0.073
MOUTH_Y = -0.096
MOUTH_HALF_WIDTH = 0.0615
NOSE_TIP_Y = -0.014
EYE_HALF_WIDTH = 0.0385
IRIS_RADIUS = 0.0152
EYE_DEPTH = 0.207  # z of the cornea
JAW_DROP = 0.036  # how far the chin sinks for a fully opened mouth


def bump(x: Tensor, y: Tensor, cx: float, cy: float, sx: float, sy: float) -> Tensor:
    """Gaussian of height 1 at (cx, cy); cheap where x and y are a row and a column."""
    across, up = ((x - cx) / sx) ** 2, ((y - cy) / sy) ** 2
    if across.shape == up.shape:
        return torch.exp(-0.5 * (across + up))
    return torch.exp(-0.5 * across) * torch.exp(-0.5 * up)


def step(value: Tensor, low: float, high: float) -> Tensor:
    """Smooth step from 0 at `low` to 1 at `high` (which may be below `low`)."""
    t = ((value - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def unit(vectors: Tensor) -> Tensor:
    """Vectors [3, ...] at length 1 (`Tensor.norm` over the first axis is several times slower on a CPU)."""
    x, y, z = vectors.unbind(0)
    return vectors * (x * x + y * y + z * z).clamp_min(1e-18).rsqrt()


@dataclass(frozen=True)
class Eye:
    """One eye: centre and half width of the opening, and which side it lies on (-1 left in the image)."""

    side: float
    x: float
    y: float
    half_width: float
    upper: float
    lower: float
    tilt: float

    def local(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates in half widths: u grows towards the temple, v up, tilt removed."""
        u = (x - self.x) / self.half_width * self.side
        return u, (y - self.y) / self.half_width - self.tilt * u

    def lids(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Heights of the upper and lower lid margins over u."""
        open_span = (1 - u * u).clamp_min(0)
        skew = 1 - 0.22 * u
        return self.upper * open_span.pow(0.75) * skew, -self.lower * open_span.pow(0.9) * (1 + 0.25 * u)


def eyes(subject: Subject) -> tuple[Eye, Eye]:
    """The eye on the left of the image, then the one on the right."""
    shape, expression = subject.shape, subject.expression
    half = EYE_HALF_WIDTH * (0.5 + 0.5 * shape.eye_size)
    opening = expression.eye_open * shape.eye_size * (1 - 0.12 * shape.age)
    squint = 0.06 * max(expression.smile, 0.0)

    def eye(side: float) -> Eye:
        return Eye(
            side=side,
            x=side * EYE_X * shape.eye_distance,
            y=EYE_Y,
            half_width=half,
            upper=0.335 * opening,
            lower=0.215 * (0.5 + 0.5 * opening) - squint,
            tilt=shape.eye_tilt,
        )

    return eye(-1.0), eye(1.0)


@dataclass(frozen=True)
class Mouth:
    """Lip outlines over s in [-1, 1] (corner to corner), in world units."""

    y: float
    half_width: float
    rise: float
    upper: float
    lower: float
    gap_upper: float
    gap_lower: float

    def span(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """s, and the clamped 1 - s^2 from which all outlines are made."""
        s = x / self.half_width
        return s, (1 - s * s).clamp_min(0)

    def outlines(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Heights of the upper lip's top, its bottom, the lower lip's top, its bottom."""
        s, w = self.span(x)
        seam = self.y - self.rise * w + 0.003 * torch.exp(-((s / 0.3) ** 2))
        bow = 1 - 0.22 * torch.exp(-((s / 0.13) ** 2)) + 0.10 * torch.exp(-(((s.abs() - 0.26) / 0.13) ** 2))
        gap_top = seam + self.gap_upper * w.pow(0.8)
        gap_bottom = seam - self.gap_lower * w.pow(0.7)
        return (
            gap_top + self.upper * w.pow(0.85) * bow,
            gap_top,
            gap_bottom,
            gap_bottom - self.lower * w.pow(0.7),
        )


def mouth(subject: Subject) -> Mouth:
    """The mouth with its expression."""
    shape, expression = subject.shape, subject.expression
    smile = expression.smile
    stretch = 1 - 0.22 * max(smile, 0.0)
    return Mouth(
        y=MOUTH_Y + 0.004 * smile,
        half_width=MOUTH_HALF_WIDTH * shape.mouth_width * (1 + 0.10 * smile - 0.06 * expression.open),
        rise=0.013 * smile,
        upper=0.0155 * shape.lip_upper * stretch,
        lower=0.0185 * shape.lip_lower * stretch,
        gap_upper=0.006 * expression.open,
        gap_lower=0.030 * expression.open * (1 - 0.35 * max(smile, 0.0)),
    )


def brow(subject: Subject, x: Tensor, y: Tensor, eye: Eye) -> tuple[Tensor, Tensor]:
    """Distance along (0 inner end, 1 outer end) and height above the brow's middle line, in half widths."""
    expression = subject.expression
    u = (x - eye.x) / eye.half_width * eye.side
    along = (u + 1.12) / 2.6
    arch = 1.18 + 0.22 * expression.brow_raise + 0.05 * eye.upper
    curve = arch + 0.34 * torch.sin(along.clamp(0, 1.15) * 2.45) - 0.26 * along.clamp_min(0) ** 2.2
    inner = torch.exp(-((along / 0.3) ** 2))
    curve = curve - (0.22 * expression.frown - 0.10 * max(expression.brow_raise, 0.0)) * inner
    return along, (y - eye.y) / eye.half_width - curve
