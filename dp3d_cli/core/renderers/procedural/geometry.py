"""Surfaces of a head as grids of points: head and neck, ears, hair, shoulders, glasses.

The head is a stack of closed slices from the crown to the neck. A slice is given by its front, back and side
points; front and back may lie at different heights, which makes jaw and nape. Facial relief is then added
along +z as a function of the frontal position. World units throughout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from torch import Tensor

from dp3d_cli.core.renderers.procedural.features import (
    EYE_DEPTH,
    JAW_DROP,
    NOSE_TIP_Y,
    bump,
    eyes,
    mouth,
    step,
    unit,
)
from dp3d_cli.core.renderers.procedural.subject import Subject

Material = Literal["skin", "ear", "hair", "cloth", "hat", "collar", "frame", "lens"]

# y front, z front, y back, z back, y side, half width, z of the widest point, roundness (2 is an ellipse).
_HEAD_SLICES = (
    (0.350, -0.035, 0.350, -0.035, 0.350, 0.000, -0.035, 2.00),
    (0.347, 0.022, 0.345, -0.085, 0.346, 0.055, -0.030, 2.00),
    (0.333, 0.078, 0.330, -0.135, 0.331, 0.100, -0.030, 2.10),
    (0.305, 0.128, 0.298, -0.178, 0.302, 0.136, -0.030, 2.15),
    (0.265, 0.166, 0.255, -0.212, 0.262, 0.160, -0.030, 2.20),
    (0.220, 0.190, 0.205, -0.234, 0.215, 0.174, -0.030, 2.30),
    (0.175, 0.203, 0.155, -0.245, 0.170, 0.182, -0.030, 2.35),
    (0.135, 0.210, 0.105, -0.247, 0.125, 0.185, -0.030, 2.40),
    (0.095, 0.210, 0.060, -0.242, 0.085, 0.184, -0.030, 2.40),
    (0.055, 0.203, 0.015, -0.228, 0.045, 0.180, -0.030, 2.35),
    (0.015, 0.203, -0.025, -0.208, 0.005, 0.175, -0.030, 2.30),
    (-0.025, 0.206, -0.060, -0.188, -0.030, 0.170, -0.030, 2.20),
    (-0.065, 0.210, -0.090, -0.175, -0.062, 0.163, -0.030, 2.10),
    (-0.105, 0.213, -0.115, -0.167, -0.090, 0.154, -0.030, 2.00),
    (-0.145, 0.207, -0.137, -0.161, -0.115, 0.141, -0.030, 1.86),
    (-0.178, 0.204, -0.158, -0.157, -0.137, 0.126, -0.035, 1.78),
    (-0.203, 0.180, -0.178, -0.154, -0.158, 0.116, -0.040, 1.85),
    (-0.213, 0.125, -0.200, -0.152, -0.182, 0.110, -0.045, 2.00),
    (-0.235, 0.078, -0.230, -0.150, -0.215, 0.106, -0.045, 2.00),
    (-0.275, 0.062, -0.270, -0.152, -0.262, 0.106, -0.045, 2.00),
    (-0.330, 0.065, -0.320, -0.160, -0.320, 0.114, -0.045, 2.00),
    (-0.400, 0.085, -0.380, -0.180, -0.390, 0.135, -0.045, 2.00),
)
_TORSO_SLICES = (
    (-0.235, 0.050, -0.215, -0.140, -0.215, 0.100, -0.050, 2.0),
    (-0.275, 0.070, -0.245, -0.165, -0.248, 0.128, -0.050, 2.0),
    (-0.320, 0.090, -0.270, -0.190, -0.285, 0.190, -0.055, 2.0),
    (-0.365, 0.110, -0.300, -0.215, -0.322, 0.280, -0.060, 2.0),
    (-0.420, 0.125, -0.340, -0.235, -0.365, 0.380, -0.065, 2.1),
    (-0.490, 0.140, -0.400, -0.250, -0.430, 0.450, -0.065, 2.2),
    (-0.580, 0.155, -0.520, -0.260, -0.540, 0.480, -0.065, 2.3),
    (-0.680, 0.160, -0.660, -0.265, -0.670, 0.490, -0.065, 2.3),
)
FRONT_CROWDING = 0.35  # how much closer samples lie at the front than at the back


@dataclass(frozen=True)
class Patch:
    """A surface sampled on a grid.

    Attributes:
        material: what it is made of.
        position: [3, T, A]; T runs down from the crown (or out from the centre), A around it.
        along: [T] in [0, 1], the first grid coordinate.
        angle: [A] radians, 0 at the front (only for closed surfaces).
        keep: [T, A], samples with a value below 0 are left out; None keeps all.
        finer: how many samples are placed between two grid points along each axis.
    """

    material: Material
    position: Tensor
    along: Tensor
    angle: Tensor
    finer: int
    keep: Tensor | None = None


def front_angles(count: int, device: torch.device) -> Tensor:
    """[count] angles once round the head from the back, closer together in front."""
    q = torch.linspace(-1, 1, count, device=device)
    return math.pi * ((1 - FRONT_CROWDING) * q + FRONT_CROWDING * q**3)


def _slices(table: NDArray[np.float64], rows: int, device: torch.device) -> list[Tensor]:
    """Smooth columns of a table of slices at `rows` levels of equal arc length along the front."""
    spline = CubicSpline(np.arange(len(table)), table)
    fine = spline(np.linspace(0, len(table) - 1, 2000))
    pace = np.hypot(np.diff(fine[:, 0]), np.diff(fine[:, 1])) + 0.5 * np.hypot(
        np.diff(fine[:, 4]), np.diff(fine[:, 5])
    )
    length = np.concatenate([[0], np.cumsum(pace)])
    t = np.interp(np.linspace(0, length[-1], rows), length, np.linspace(0, len(table) - 1, 2000))
    values = torch.from_numpy(spline(t).astype(np.float32)).to(device)
    return [column[:, None] for column in values.unbind(1)]


def loft(table: NDArray[np.float64], rows: int, angle: Tensor) -> Tensor:
    """[3, rows, A] points on closed slices."""
    y_front, z_front, y_back, z_back, y_side, width, z_side, power, *shift = _slices(
        table, rows, angle.device
    )
    s, c = torch.sin(angle)[None], torch.cos(angle)[None]
    reach = torch.where(c > 0, z_front - z_side, z_side - z_back).clamp_min(1e-5)
    width = width.clamp_min(1e-5)
    radius = ((s.abs() / width) ** power + (c.abs() / reach) ** power).pow(-1 / power)
    x = radius * s + (shift[0] if shift else 0)
    z = z_side + radius * c
    y = y_side + torch.where(c > 0, y_front - y_side, y_back - y_side) * c * c
    return torch.stack([x, y, z])


def head_table(subject: Subject) -> NDArray[np.float64]:
    """Slices of this subject's bare head."""
    shape, opening = subject.shape, subject.expression.open
    table = np.array(_HEAD_SLICES)
    level = table[:, 4]
    jaw = np.clip((0.02 - level) / 0.12, 0, 1) * np.clip((level + 0.21) / 0.05, 0, 1)
    neck = np.clip((-0.15 - level) / 0.05, 0, 1)
    table[:, 5] *= shape.width * (1 + (shape.jaw - 1) * jaw) * (1 + (shape.neck - 1) * neck)
    table[:, 1] += (shape.neck - 1) * 0.06 * neck
    chin = np.clip((-0.115 - table[:, 0]) / 0.06, 0, 1) * np.clip((table[:, 0] + 0.30) / 0.08, 0, 1)
    table[:, 0] -= chin * (0.10 * (shape.chin - 1) + JAW_DROP * opening)
    table[:, 4] -= 0.35 * jaw * JAW_DROP * opening * np.clip((-0.08 - level) / 0.05, 0, 1)
    brow = np.clip((table[:, 0] - 0.1) / 0.08, 0, 1)
    table[:, 1] += (shape.forehead - 1) * 0.25 * brow * np.clip((0.34 - table[:, 0]) / 0.1, 0, 1)
    return table


def _nose(subject: Subject, x: Tensor, y: Tensor) -> Tensor:
    """Height of the nose above the face."""
    shape = subject.shape
    top, tip, base = 0.112, NOSE_TIP_Y, NOSE_TIP_Y - 0.038 * (0.6 + 0.4 * shape.nose_length)
    height = 0.064 * shape.nose_height
    up = ((y - tip) / (top - tip)).clamp(0, 1)
    bridge = (1 - up) ** (1.50 - 0.35 * shape.nose_bridge) * (1 - 0.06 * torch.sin(up * math.pi))
    bridge = bridge + 0.10 * shape.nose_bridge * torch.exp(-(((up - 0.72) / 0.25) ** 2)) * (1 - up)
    under = ((y - base) / (tip - base)).clamp(0, 1)
    # The bridge and the underside meet in a rounded tip.
    profile = -torch.logaddexp(-14 * bridge, -14 * (1 - (1 - under) ** 2.2)) / 14
    width = (0.0215 - 0.0085 * up) * (0.55 + 0.45 * shape.nose_width)
    flank = 0.024 * (0.5 + 0.5 * shape.nose_width) * torch.exp(-(((y - tip + 0.012) / 0.016) ** 2)) * 0.42
    ridge = torch.exp(-((x.abs() / (width + flank)).clamp_max(6) ** 2.3))
    nose = height * profile * ridge
    tip_ball = 0.009 * bump(x, y, 0.0, tip - 0.004, 0.016, 0.014)
    side = 0.031 * shape.nose_width
    wings = 0.036 * torch.exp(
        -((((x.abs() - side) / 0.0125) ** 2 + ((y - tip + 0.016) / 0.0145) ** 2) ** 1.3)
    )
    nostril = 0.016 * torch.exp(-(((x.abs() - 0.55 * side) / 0.008) ** 2 + ((y - base - 0.007) / 0.006) ** 2))
    return torch.maximum(nose, wings * (0.4 + 0.6 * shape.nose_height)) + tip_ball - nostril


def _lips(subject: Subject, x: Tensor, y: Tensor) -> Tensor:
    shape = subject.shape
    lips = mouth(subject)
    top, gap_top, gap_bottom, bottom = lips.outlines(x)
    _, w = lips.span(x)
    upper = ((y - gap_top) / (top - gap_top).clamp_min(1e-4)).clamp(0, 1)
    lower = ((y - bottom) / (gap_bottom - bottom).clamp_min(1e-4)).clamp(0, 1)
    round_up = (
        0.012
        * shape.lip_upper
        * torch.sqrt((1 - upper) * (0.25 + upper) + 1e-5)
        * (y >= gap_top)
        * (y <= top)
    )
    round_low = (
        0.015
        * shape.lip_lower
        * torch.sqrt(lower * (1.25 - lower) + 1e-5)
        * (y <= gap_bottom)
        * (y >= bottom)
    )
    inside = step(gap_top - y, -0.001, 0.003) * step(y - gap_bottom, -0.001, 0.003)
    seam = -0.006 * torch.exp(-(((y - 0.5 * (gap_top + gap_bottom)) / 0.0035) ** 2)) * (1 - inside)
    muzzle = 0.012 * bump(x, y, 0.0, lips.y, 0.055, 0.04)
    philtrum = (
        -0.004
        * torch.exp(-((x / 0.006) ** 2))
        * step(y, lips.y + 0.012, lips.y + 0.03)
        * step(y, -0.04, -0.055)
    )
    corner = -0.007 * torch.exp(-(((x.abs() - lips.half_width) / 0.010) ** 2 + ((y - lips.y) / 0.010) ** 2))
    return (round_up + round_low + seam) * w.pow(0.3) + muzzle + philtrum + corner - 0.017 * inside


def _relief(subject: Subject, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Depth of the face with its features, from the smooth face's depth; all [T, A]."""
    shape, expression = subject.shape, subject.expression
    side = x.abs()
    smile = max(expression.smile, 0.0)
    z = z + 0.007 * shape.brow_ridge * bump(side, y, 0.055, 0.118, 0.045, 0.018)
    z = z + 0.004 * bump(x, y, 0.0, 0.11, 0.024, 0.022) - 0.003 * bump(x, y, 0.0, 0.083, 0.018, 0.014)
    z = z - 0.019 * bump(side, y, 0.068, 0.070, 0.042, 0.028)
    z = z + 0.012 * shape.cheeks * bump(side, y, 0.105, 0.012, 0.035, 0.030)
    z = z + 0.015 * smile * bump(side, y, 0.088, -0.012, 0.028, 0.024)
    hollow = 0.5 * (1.6 - shape.cheeks) + 0.5 * shape.age
    z = z - 0.010 * hollow * bump(side, y, 0.105, -0.075, 0.030, 0.038)
    fold_x = 0.048 + 0.35 * (-0.03 - y) + 0.012 * smile
    fold = torch.exp(-(((side - fold_x) / 0.008) ** 2)) * step(y, -0.115, -0.08) * step(y, -0.018, -0.045)
    z = z - (0.0025 + 0.0045 * smile + 0.003 * shape.age) * fold
    drop = JAW_DROP * expression.open
    z = z + 0.014 * bump(x, y, 0.0, -0.185 - 0.9 * drop, 0.030, 0.020)
    z = z - 0.010 * bump(x, y, 0.0, -0.143 - 0.8 * drop, 0.045, 0.012)
    z = z + _nose(subject, x, y) + _lips(subject, x, y)
    for eye in eyes(subject):
        u, v = eye.local(x, y)
        upper, lower = eye.lids(u)
        inside = step(upper - v, -0.03, 0.05) * step(v - lower, -0.03, 0.05) * step(u.abs(), 1.0, 0.94)
        distance = (x - eye.x) ** 2 + (y - eye.y) ** 2
        temple = ((x - eye.x) * eye.side).clamp_min(0)
        ball = EYE_DEPTH - 11 * distance - 14 * temple * temple
        cover = ball + 0.0035 - 0.035 * step(distance.sqrt(), 0.024, 0.050)
        cover = cover - 0.006 * step(lower - v, 0.1, 0.6)
        lidded = torch.logaddexp(z * 110, cover * 110) / 110 - 0.002
        crease = 0.004 * shape.lid_fold * torch.exp(-(((v - upper.clamp_min(0.1) - 0.26) / 0.06) ** 2))
        # The lower lid runs out into the cheek.
        lidded = torch.lerp(lidded, torch.maximum(z, lidded - 0.010), step(lower - v, 0.05, 0.75))
        lidded = lidded - crease * step(u.abs(), 1.25, 0.8)
        bag = 0.003 * shape.age * torch.exp(-(((v - lower + 0.45) / 0.16) ** 2)) * step(u.abs(), 1.1, 0.6)
        z = torch.lerp(lidded + bag, ball, inside)
    return z


def head_patch(subject: Subject, detail: float, device: torch.device) -> Patch:
    """Head, face and neck."""
    rows = round(330 * detail**0.5)
    columns = 2 * round(150 * detail**0.5) + 1  # odd: one column is the middle of the face
    angle = front_angles(columns, device)
    position = loft(head_table(subject), rows, angle)
    columns_in_front = front_columns(columns)
    x, y, z = position[:, :, columns_in_front].unbind(0)
    face = step(y, -0.24, -0.21) * step(torch.cos(angle[columns_in_front])[None], 0.02, 0.30)
    position[2, :, columns_in_front] = torch.lerp(z, _relief(subject, x, y, z), face)
    along = torch.linspace(0, 1, rows, device=device)
    return Patch("skin", position, along, angle, finer=finer_of(detail))


def front_columns(count: int) -> slice:
    """The columns of `front_angles` that look forward (those of the front half)."""
    # A quarter turn is reached at q = 0.68, where 0.65 q + 0.35 q^3 = 0.55.
    margin = int(count * (0.5 - 0.34))
    return slice(margin, count - margin)


def finer_of(detail: float) -> int:
    """Samples per grid spacing; grids and this factor both grow with the root of `detail`."""
    return max(1, round(3 * math.sqrt(detail)))


def ear_patches(subject: Subject, detail: float, device: torch.device) -> list[Patch]:
    """Both ears: dished discs that stand off the head."""
    scale = subject.shape.ear_size
    rows, columns = round(40 * detail**0.5), round(72 * detail**0.5)
    rho = torch.linspace(0, 1, rows, device=device)[:, None]
    theta = torch.linspace(-math.pi, math.pi, columns, device=device)
    across, up = torch.sin(theta)[None], torch.cos(theta)[None]
    half_height = 0.064 * scale * (1 - 0.10 * torch.clamp(-up, 0, 1))
    half_width = 0.037 * scale * (1 + 0.18 * up)
    u = rho * across * half_width
    v = rho * up * half_height
    helix = torch.exp(-(((rho - 0.86) / 0.10) ** 2)) * (0.6 + 0.4 * up)
    concha = torch.exp(-(((u / scale - 0.006) / 0.016) ** 2 + ((v / scale + 0.012) / 0.024) ** 2))
    antihelix = torch.exp(-(((rho - 0.55) / 0.12) ** 2)) * (across < 0.2)
    relief = 0.010 * helix - 0.020 * concha + 0.004 * antihelix - 0.022 * step(rho, 0.93, 1.0)
    patches = []
    for side in (-1.0, 1.0):
        # Ear axes: u to the front, v up, n outward; the rear edge stands off by about 25 degrees.
        lean = 0.45
        front, out = math.cos(lean), math.sin(lean)
        x = side * (0.172 * subject.shape.width + 0.008 - out * u + front * relief + 0.10 * v)
        y = 0.022 + v + 0.12 * u
        z = -0.032 + front * u + out * relief - 0.12 * v
        grid = torch.stack([x, y.expand_as(x), z.expand_as(x)])
        patches.append(Patch("ear", grid, rho[:, 0], theta, finer=finer_of(detail)))
    return patches


def torso_patch(subject: Subject, detail: float, device: torch.device) -> Patch:
    """Shoulders and chest; its skin or cloth is told apart by colour."""
    rows, columns = round(130 * detail**0.5), round(240 * detail**0.5)
    table = np.array(_TORSO_SLICES)
    build = 0.5 * subject.shape.neck + 0.5
    table[:, 5] *= build
    q = torch.linspace(-1, 1, columns, device=device)
    return Patch(
        "cloth",
        loft(table, rows, math.pi * q),
        torch.linspace(0, 1, rows, device=device),
        math.pi * q,
        finer_of(detail),
    )


def normals(position: Tensor, closed: bool) -> Tensor:
    """Unit normals of a grid, pointing out of a surface whose rows run down and columns anticlockwise.

    Args:
        position: [3, T, A].
        closed: whether the last column repeats the first.
    """
    if closed:
        padded = torch.cat([position[:, :, -2:-1], position, position[:, :, 1:2]], dim=2)
    else:
        padded = torch.cat([position[:, :, :1], position, position[:, :, -1:]], dim=2)
    around = padded[:, :, 2:] - padded[:, :, :-2]
    down = torch.cat(
        [
            position[:, 1:2] - position[:, :1],
            position[:, 2:] - position[:, :-2],
            position[:, -1:] - position[:, -2:-1],
        ],
        dim=1,
    )
    return unit(torch.linalg.cross(down, around, dim=0))
