"""Hair: shells over the head, cut along a hairline, with loose strands."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dp3d_cli.core.renderers.procedural.features import step
from dp3d_cli.core.renderers.procedural.geometry import Patch, _angles, _finer, _head_table, _loft
from dp3d_cli.core.renderers.procedural.subject import HairStyle, Subject, generator
from dp3d_cli.core.renderers.procedural.texture import field

# Angle from the front [radians] and the height of the hairline there on an average head.
_LINE_ANGLES = (0.0, 0.35, 0.62, 0.85, 1.02, 1.15, 1.28, 1.55, 1.80, 2.05, 2.4, math.pi)
_LINE_HEIGHTS = (0.232, 0.236, 0.232, 0.165, 0.105, 0.045, 0.030, 0.075, 0.080, -0.01, -0.085, -0.115)


@dataclass(frozen=True)
class Cut:
    """Measures of a hair style: thickness at top, sides and back, and how far down it hangs."""

    top: float
    side: float
    back: float
    length: float | None
    opening: float  # angle from which long hair falls freely
    fringe: float  # how far the front hangs over the forehead
    bumps: float
    finest: int


def hair_cut(subject: Subject) -> Cut | None:
    """The measures of this subject's hair; None without a shell."""
    hair = subject.hair
    v = hair.volume
    long_end = -0.24 - 0.36 * hair.length
    cuts: dict[HairStyle, Cut | None] = {
        "bald": None,
        "buzz": Cut(0.005, 0.004, 0.005, None, 0, 0, 0.0, 60),
        "short": Cut(0.026 * v, 0.012 * v, 0.016 * v, None, 0, 0.012, 0.006, 46),
        "fringe": Cut(0.026 * v, 0.020 * v, 0.024 * v, -0.02 - 0.18 * hair.length, 1.10, 0.085, 0.005, 60),
        "bob": Cut(0.026 * v, 0.030 * v, 0.034 * v, -0.10 - 0.14 * hair.length, 0.98, 0.0, 0.006, 50),
        "long": Cut(0.024 * v, 0.026 * v, 0.032 * v, long_end, 0.95, 0.0, 0.007, 46),
        "tied": Cut(0.013 * v, 0.010 * v, 0.012 * v, None, 0, 0.0, 0.003, 70),
        "curly": Cut(0.050 * v, 0.045 * v, 0.050 * v, -0.02 - 0.22 * hair.length, 1.05, 0.012, 0.016, 34),
        "hat": Cut(0.014, 0.011, 0.012, None, 0, 0.0, 0.003, 60),
    }
    return cuts[hair.style]


def hairline(subject: Subject, angle: Tensor) -> Tensor:
    """[A] height above which hair grows, per angle around the head."""
    hair = subject.hair
    heights = np.array(_LINE_HEIGHTS)
    heights[0] -= 0.022 * hair.hairline
    heights[1] -= 0.024 * hair.hairline
    heights[2] -= 0.034 * hair.hairline
    heights[3] -= 0.020 * hair.hairline
    line = np.interp(angle.abs().cpu().numpy(), _LINE_ANGLES, heights)
    kernel = np.hanning(13)
    line = np.convolve(np.pad(line, 6, mode="edge"), kernel / kernel.sum(), mode="valid")
    return torch.from_numpy(line.astype(np.float32)).to(angle.device)


def _shell_table(subject: Subject, cut: Cut) -> NDArray[np.float64]:
    """Slices of the hair's outside."""
    table = _head_table(subject)
    level = table[:, 4].copy()
    crown = np.clip((level - 0.05) / 0.25, 0, 1)
    table[:, 0] += cut.top * crown
    table[:, 2] += cut.top * crown
    table[:, 4] += cut.top * crown
    open_top = np.minimum(1.0, np.arange(len(table)) / 3.0)
    table[:, 5] += (cut.side + (cut.top - cut.side) * crown**2 * 0.5) * open_top
    table[:, 1] += (0.6 * cut.top + 0.004) * open_top
    table[:, 3] -= cut.back * open_top
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


def hair_patch(subject: Subject, detail: float, device: torch.device) -> Patch | None:
    """The hair's surface; rows run from the crown downwards."""
    cut = hair_cut(subject)
    if cut is None:
        return None
    rows, columns = round(250 * detail**0.5), round(280 * detail**0.5)
    angle = _angles(columns, device)
    along = torch.linspace(0, 1, rows, device=device)
    position = _loft(_shell_table(subject, cut), rows, angle)
    rng = generator(subject.seed, "hair shape")
    clumps = field(rng, (7, cut.finest), (rows, columns), device)
    clumps[:, -1] = clumps[:, 0]
    if subject.hair.style == "curly":
        clumps = clumps * 0.4 + field(rng, (30, 44), (rows, columns), device)
    centre = torch.tensor([0.0, 0.05, -0.03], device=device)[:, None, None]
    outward = position - centre
    outward = outward * torch.tensor([1.0, 0.6, 1.0], device=device)[:, None, None]
    outward = outward / outward.norm(dim=0, keepdim=True).clamp_min(1e-6)
    rise = step(along, 0.0, 0.06)[:, None]
    wave = 0.006 * subject.hair.wave * torch.sin(position[1] * (50 + 30 * subject.hair.wave) + clumps)
    hang = step(position[1], 0.02, -0.10) if cut.length is not None else torch.zeros_like(position[1])
    position = position + outward * (cut.bumps * clumps * rise + wave * hang)
    return Patch(
        "hair", position, along, angle, _finer(detail), keep=_kept(subject, cut, position, angle, rng)
    )


def _kept(subject: Subject, cut: Cut, position: Tensor, angle: Tensor, rng: np.random.Generator) -> Tensor:
    """Positive inside the hair's outline, in world units of height; [T, A]."""
    device = position.device
    size = (position.shape[1], position.shape[2])
    y = position[1]
    line = hairline(subject, angle)
    front = step(angle.abs(), 0.85, 0.45)
    locks = field(rng, (2, 110), size, device)[0]
    line = line - cut.fringe * front * (1 + 0.22 * locks)
    if cut.length is not None:
        loose = step(angle.abs(), cut.opening - 0.10, cut.opening + 0.14)
        # A parting uncovers a little more of the forehead on its side.
        line = line + 0.012 * step((angle - subject.hair.parting * 0.4).abs(), 0.3, 0.0) * (
            1 if not cut.fringe else 0
        )
        end = cut.length * (1 + 0.07 * locks)
        line = torch.where(loose > 0, torch.minimum(line, line + (end - line) * loose), line)
    ragged = 0.010 * field(rng, (3, 200), size, device)
    return y - line[None] + ragged * (0.4 if subject.hair.style == "buzz" else 1.0)


@dataclass(frozen=True)
class Strands:
    """Loose hairs: [3, N] positions, [N] row and column in the shell's grid in [-1, 1], [N] brightness."""

    position: Tensor
    grid: Tensor
    tone: Tensor


def loose_strands(subject: Subject, shell: Patch, detail: float) -> Strands | None:
    """Hairs that lie on and stand off the shell and break its edges."""
    cut = hair_cut(subject)
    if cut is None or shell.keep is None or subject.hair.style in ("hat",):
        return None
    device = shell.position.device
    rng = generator(subject.seed, "strands")
    hairs, steps = round(2600 * detail), round(64 * detail**0.5)
    reach = {"buzz": 0.01, "short": 0.07, "tied": 0.10, "curly": 0.10}.get(subject.hair.style, 0.22)
    draws = torch.from_numpy(rng.random((7, hairs), dtype=np.float32)).to(device)
    start_row, start_column, length, drift, lift, tone, curl = draws[:, :, None].unbind(0)
    t = torch.linspace(0, 1, steps, device=device)[None]
    row = start_row * 1.02 + (t - 0.5) * reach * (0.4 + 1.2 * length)
    swirl = 0.012 if subject.hair.style == "curly" else 0.002 + 0.004 * subject.hair.wave
    column = start_column + (drift - 0.5) * 0.06 * t + swirl * torch.sin(t * 9 * (0.5 + curl) + 6.28 * drift)
    grid = torch.stack([column * 2 - 1, row * 2 - 1], dim=-1)[None]
    source = torch.cat([shell.position, shell.keep[None]])[None]
    sampled = F.grid_sample(source, grid, align_corners=True, padding_mode="border")[0]
    position, keep = sampled[:3], sampled[3]
    centre = torch.tensor([0.0, 0.05, -0.03], device=device)[:, None, None]
    outward = position - centre
    outward = outward / outward.norm(dim=0, keepdim=True).clamp_min(1e-6)
    spread = (0.25 * cut.side + 0.6 * cut.bumps) * (2.2 * lift**3 - 0.15)
    position = position + outward * (spread + 0.3 * spread * torch.sin(t * 6 + 6.28 * curl))
    edge = 0.012 + 0.010 * length
    inside = (keep + edge > 0) & (row > 0.01) & (row < 1) & (column > 0) & (column < 1)
    chosen = inside.flatten()
    flat = position.reshape(3, -1)[:, chosen]
    brightness = (0.75 + 0.6 * tone).expand_as(inside).flatten()[chosen]
    return Strands(flat, grid[0].reshape(-1, 2)[chosen], brightness)
