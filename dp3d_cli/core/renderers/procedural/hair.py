"""Hair: shells over the head, cut along a hairline, with loose strands.

A shell is a stack of slices like the head's, whose rows run the way the hair is combed: from the crown
downwards, or from a parting above the forehead to the sides and back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dp3d_cli.core.renderers.procedural.features import step, unit
from dp3d_cli.core.renderers.procedural.geometry import Patch, finer_of, front_angles, head_table, loft
from dp3d_cli.core.renderers.procedural.subject import HairStyle, Subject, generator
from dp3d_cli.core.renderers.procedural.texture import field

# Angle from the front [radians] and the height of the hairline there on an average head.
_LINE_ANGLES = (0.0, 0.35, 0.62, 0.85, 1.02, 1.15, 1.28, 1.55, 1.80, 2.05, 2.4, math.pi)
_LINE_HEIGHTS = (0.232, 0.236, 0.230, 0.170, 0.110, 0.045, 0.030, 0.075, 0.080, -0.01, -0.085, -0.115)

# The first slices of a head combed from a point above the forehead (columns as the head's).
_PARTED_SLICES = (
    (0.252, 0.178, 0.252, 0.178, 0.252, 0.000, 0.178),
    (0.240, 0.188, 0.318, 0.100, 0.282, 0.064, 0.146),
    (0.228, 0.193, 0.347, -0.020, 0.300, 0.110, 0.092),
    (0.216, 0.197, 0.335, -0.125, 0.292, 0.141, 0.038),
    (0.206, 0.199, 0.280, -0.195, 0.260, 0.160, 0.000),
    (0.196, 0.201, 0.212, -0.232, 0.214, 0.174, -0.020),
)


@dataclass(frozen=True)
class Cut:
    """Measures of a hair style in world units.

    Attributes:
        top: thickness on top of the head; `side` and `back` likewise.
        length: height at which hanging hair ends; None for hair that follows the hairline all round.
        opening: angle from which hair hangs freely.
        fringe: how far the front hangs over the forehead.
        bumps: relief of the locks.
        locks: number of locks around the head.
        parted: combed from above the forehead instead of from the crown.
    """

    top: float
    side: float
    back: float
    length: float | None
    opening: float
    fringe: float
    bumps: float
    locks: int
    parted: bool


def hair_cut(subject: Subject) -> Cut | None:
    """The measures of this subject's hair; None without a shell."""
    hair = subject.hair
    v = hair.volume
    cuts: dict[HairStyle, Cut | None] = {
        "bald": None,
        "buzz": Cut(0.006, 0.004, 0.005, None, 0, 0, 0.0, 60, False),
        "short": Cut(0.030 * v, 0.011 * v, 0.016 * v, None, 0, 0.004, 0.007, 40, True),
        "fringe": Cut(
            0.028 * v, 0.020 * v, 0.024 * v, -0.02 - 0.18 * hair.length, 1.10, 0.075, 0.006, 60, False
        ),
        "bob": Cut(0.028 * v, 0.028 * v, 0.034 * v, -0.10 - 0.14 * hair.length, 0.95, 0.0, 0.007, 42, True),
        "long": Cut(0.026 * v, 0.024 * v, 0.032 * v, -0.24 - 0.36 * hair.length, 0.92, 0.0, 0.008, 40, True),
        "tied": Cut(0.014 * v, 0.010 * v, 0.012 * v, None, 0, 0.0, 0.003, 70, True),
        "curly": Cut(
            0.048 * v, 0.044 * v, 0.048 * v, -0.02 - 0.22 * hair.length, 1.05, 0.010, 0.015, 34, False
        ),
        "hat": Cut(0.016, 0.012, 0.014, None, 0, 0.0, 0.001, 60, False),
    }
    return cuts[hair.style]


def hairline(subject: Subject, angle: Tensor) -> Tensor:
    """[A] height above which hair grows, per angle around the head."""
    hair = subject.hair
    heights = np.array(_LINE_HEIGHTS)
    heights[:4] -= np.array([0.022, 0.024, 0.034, 0.020]) * hair.hairline
    if hair.style == "hat":
        heights = np.array([0.185, 0.183, 0.178, 0.170, 0.160, 0.15, 0.145, 0.13, 0.12, 0.11, 0.10, 0.10])
    line = np.interp(angle.abs().cpu().numpy(), _LINE_ANGLES, heights)
    kernel = np.hanning(13)
    line = np.convolve(np.pad(line, 6, mode="edge"), kernel / kernel.sum(), mode="valid")
    return torch.from_numpy(line.astype(np.float32)).to(angle.device)


def _shell_table(subject: Subject, cut: Cut) -> NDArray[np.float64]:
    """Slices of the hair's outside; the last column shifts them sideways."""
    table = np.concatenate([head_table(subject), np.zeros((22, 1))], axis=1)
    level = table[:, 4].copy()
    if cut.parted:
        scale = table[5, 5] / 0.174
        table[:6, :7] = _PARTED_SLICES
        table[:6, 5] *= scale
        table[:4, 8] = subject.hair.parting * np.array([0.075, 0.065, 0.04, 0.012])
    crown = np.clip((level - 0.05) / 0.25, 0, 1)
    for column in (0, 2, 4):
        table[:, column] += cut.top * crown
    away = np.minimum(1.0, np.arange(len(table)) / 3.0)
    table[:, 5] += (cut.side + (cut.top - cut.side) * crown**2 * 0.5) * away
    table[:, 1] += (0.5 * cut.top + 0.004) * away
    table[:, 3] -= cut.back * away
    if cut.length is not None:
        # Below the ears hair hangs from where it stood out most.
        widest = float(table[level > 0.0, 5].max())
        hang = np.clip((0.06 - level) / 0.10, 0, 1)
        table[:, 5] = table[:, 5] * (1 - hang) + (widest - 0.012 + 0.02 * subject.hair.wave) * hang
        table[:, 3] = table[:, 3] * (1 - hang) + (-0.235 - 0.5 * cut.back) * hang
        table[:, 1] = table[:, 1] * (1 - hang) + 0.20 * hang
        table[:, 7] = table[:, 7] * (1 - hang) + 2.2 * hang
        table[-3:, 0] = table[-3:, 2] = table[-3:, 4] = (-0.30, -0.45, -0.66)
        table[-6:-3, 0] = np.minimum(table[-6:-3, 0], (-0.19, -0.21, -0.25))
    return table


def _outward(position: Tensor) -> Tensor:
    """Unit directions away from the middle of the skull."""
    centre = torch.tensor([0.0, 0.05, -0.03], device=position.device)[:, None, None]
    away = (position - centre) * torch.tensor([1.0, 0.6, 1.0], device=position.device)[:, None, None]
    return unit(away)


def hair_patch(subject: Subject, detail: float, device: torch.device) -> Patch | None:
    """The hair's surface; rows run the way the hair is combed."""
    cut = hair_cut(subject)
    if cut is None:
        return None
    rows, columns = round(250 * detail**0.5), round(280 * detail**0.5)
    angle = front_angles(columns, device)
    along = torch.linspace(0, 1, rows, device=device)
    position = loft(_shell_table(subject, cut), rows, angle)
    rng = generator(subject.seed, "hair shape")
    size = (rows, columns)
    clumps = field(rng, (6, cut.locks), size, device) + 0.5 * field(rng, (9, 3 * cut.locks), size, device)
    if subject.hair.style == "curly":
        clumps = (
            clumps * 0.3
            + 0.8 * field(rng, (30, 46), size, device, "bicubic")
            + 0.4 * field(rng, (70, 100), size, device, "bicubic")
        )
    blend = step(angle.abs(), math.pi - 0.25, math.pi - 0.05)  # the grid's ends meet at the back
    clumps = torch.lerp(clumps, 0.5 * (clumps + clumps.flip(1)), blend)
    keep = _kept(subject, cut, position, angle, rng)
    outward = _outward(position)
    hanging = cut.length is not None
    low = step(position[1], 0.02, -0.10)
    rise = step(along, 0.0, 0.06)[:, None]
    wave = 0.007 * subject.hair.wave * torch.sin(position[1] * (50 + 30 * subject.hair.wave) + clumps)
    lift = cut.bumps * clumps * rise + (wave * low if hanging else 0)
    # Towards the hairline the shell comes down to the skin.
    thickness = 0.75 * min(cut.side, 0.5 * cut.top)
    settle = (1 - step(keep, 0.0, 0.035)) * (1 - low if hanging else 1)
    lift = lift * (1 - 0.7 * settle) - thickness * settle * (subject.hair.style != "hat")
    shell = Patch(
        "hat" if subject.hair.style == "hat" else "hair",
        position + outward * lift,
        along,
        angle,
        finer_of(detail),
        keep,
    )
    return shell


def _kept(subject: Subject, cut: Cut, position: Tensor, angle: Tensor, rng: np.random.Generator) -> Tensor:
    """Positive inside the hair's outline, in world units of height; [T, A]."""
    device = position.device
    size = (position.shape[1], position.shape[2])
    y = position[1]
    line = hairline(subject, angle)
    front = step(angle.abs(), 0.95, 0.45)
    locks = field(rng, (2, 90), size, device)[0]
    line = line - cut.fringe * front * (1 + 0.22 * locks)
    if cut.length is not None:
        loose = step(angle.abs(), cut.opening - 0.10, cut.opening + 0.14)
        end = cut.length * (1 + 0.07 * locks)
        line = torch.minimum(line, line + (end - line) * loose)
    if subject.hair.style == "hat":
        return y - line[None]
    ragged = field(rng, (3, 200), size, device)
    return y - line[None] + (0.002 if subject.hair.style == "buzz" else 0.006) * ragged


def knot_patches(subject: Subject, detail: float, device: torch.device) -> list[Patch]:
    """The knot of tied hair, behind and above the head."""
    if subject.hair.style != "tied":
        return []
    rows, columns = round(70 * detail**0.5), round(110 * detail**0.5)
    rng = generator(subject.seed, "knot")
    height, size = float(rng.uniform(0, 1)), float(rng.uniform(0.055, 0.085))
    turn = math.pi * torch.linspace(-1, 1, columns, device=device)[None]
    rise = math.pi * torch.linspace(0, 1, rows, device=device)[:, None]
    relief = size * (1 + 0.05 * torch.sin(7 * turn + 5 * rise) * torch.sin(rise))
    across = relief * torch.sin(rise)
    x, y, z = (
        across * torch.sin(turn),
        0.85 * relief * torch.cos(rise).expand(rows, columns),
        across * torch.cos(turn),
    )
    grid = torch.stack([x, y + 0.08 + 0.25 * height, z - 0.275 + 0.08 * height])
    return [Patch("hair", grid, rise[:, 0] / math.pi, turn[0], finer_of(detail))]


@dataclass(frozen=True)
class Strands:
    """Loose hairs: [3, N] positions, [N, 2] column and row in the shell's grid in [-1, 1], [N] brightness."""

    position: Tensor
    grid: Tensor
    tone: Tensor


def loose_strands(subject: Subject, shell: Patch, detail: float) -> Strands | None:
    """Hairs that lie on and stand off the shell and break its edges."""
    cut = hair_cut(subject)
    if cut is None or shell.keep is None or subject.hair.style == "hat":
        return None
    device = shell.position.device
    rng = generator(subject.seed, "strands")
    hairs, steps = round(320 * detail**0.5), round(260 * detail**0.5)
    reach = {"buzz": 0.01, "short": 0.09, "tied": 0.12, "curly": 0.10}.get(subject.hair.style, 0.22)
    draws = torch.from_numpy(rng.random((7, hairs), dtype=np.float32)).to(device)
    start_row, start_column, length, drift, lift, tone, curl = draws[:, :, None].unbind(0)
    t = torch.linspace(0, 1, steps, device=device)[None]
    row = start_row * 1.02 + (t - 0.5) * reach * (0.4 + 1.2 * length)
    swirl = 0.012 if subject.hair.style == "curly" else 0.001 + 0.003 * subject.hair.wave
    column = start_column + (drift - 0.5) * 0.05 * t + swirl * torch.sin(t * 9 * (0.5 + curl) + 6.28 * drift)
    grid = torch.stack([column * 2 - 1, row * 2 - 1], dim=-1)[None]
    source = torch.cat([shell.position, shell.keep[None]])[None]
    sampled = F.grid_sample(source, grid, align_corners=True, padding_mode="border")[0]
    position, keep = sampled[:3], sampled[3]
    spread = (0.20 * cut.side + 0.5 * cut.bumps) * (2.0 * lift**3 - 0.10) * step(t, 0.0, 0.5)
    position = position + _outward(position) * (spread + 0.3 * spread * torch.sin(t * 6 + 6.28 * curl))
    edge = 0.004 + 0.010 * length * length
    inside = (keep + edge > 0) & (row > 0.01) & (row < 1) & (column > 0) & (column < 1)
    chosen = inside.flatten()
    flat = position.reshape(3, -1)[:, chosen]
    brightness = (0.8 + 0.4 * tone).expand_as(inside).flatten()[chosen]
    return Strands(flat, grid[0].reshape(-1, 2)[chosen], brightness)
