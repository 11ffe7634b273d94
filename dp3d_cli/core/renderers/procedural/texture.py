"""Paint: the face map, hair, cloth and small random fields.

Colours are sRGB in [0, 1]. The face map is painted over the frontal plane and carried to the surface by its
x and y, so that paint and relief (`features`) meet.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dp3d_cli.core.renderers.procedural.features import (
    EYE_X,
    IRIS_RADIUS,
    NOSE_TIP_Y,
    Eye,
    brow,
    bump,
    eyes,
    mouth,
    step,
)
from dp3d_cli.core.renderers.procedural.subject import IRIS_COLOURS, Colour, Subject, generator

FACE_X, FACE_BOTTOM, FACE_TOP = 0.21, -0.30, 0.36  # extent of the face map [world units]


def field(
    rng: np.random.Generator,
    cells: tuple[int, int],
    size: tuple[int, int],
    device: torch.device,
    mode: str = "bilinear",
) -> Tensor:
    """Smooth noise [size], about N(0, 1) at its `cells` lattice points."""
    lattice = torch.from_numpy(rng.standard_normal(cells).astype(np.float32)).to(device)
    return F.interpolate(lattice[None, None], size=size, mode=mode, align_corners=True)[0, 0]


def colour_column(colour: Colour, device: torch.device) -> Tensor:
    """[3, 1, 1]."""
    return torch.tensor(colour, device=device)[:, None, None]


@dataclass
class FaceMap:
    """The painted face: [3, H, W] colour, [H, W] gloss, over x [1, W] and y [H, 1] (rows run downwards)."""

    colour: Tensor
    gloss: Tensor
    x: Tensor
    y: Tensor

    def window(self, cx: float, cy: float, hx: float, hy: float) -> tuple[slice, slice]:
        """Rows and columns within (hx, hy) of a point."""
        height, width = self.gloss.shape
        texel_x, texel_y = 2 * FACE_X / width, (FACE_TOP - FACE_BOTTOM) / height
        rows = slice(max(0, int((FACE_TOP - cy - hy) / texel_y)), int((FACE_TOP - cy + hy) / texel_y) + 1)
        columns = slice(max(0, int((cx - hx + FACE_X) / texel_x)), int((cx + hx + FACE_X) / texel_x) + 1)
        return rows, columns

    def mix(
        self, where: tuple[slice, slice], colour: Tensor, amount: Tensor, gloss: float | None = None
    ) -> None:
        """Lay paint over a window."""
        rows, columns = where
        old = self.colour[:, rows, columns]
        self.colour[:, rows, columns] = old + (colour - old) * amount
        if gloss is not None:
            part = self.gloss[rows, columns]
            self.gloss[rows, columns] = part + (gloss - part) * amount


def paint_face(subject: Subject, detail: float, device: torch.device) -> FaceMap:
    """The whole face map of a subject."""
    width = round(400 * detail**0.5)
    height = round(width * (FACE_TOP - FACE_BOTTOM) / (2 * FACE_X))
    x = ((torch.arange(width, device=device) + 0.5) / width * 2 - 1)[None] * FACE_X
    y = FACE_TOP - ((torch.arange(height, device=device) + 0.5) / height)[:, None] * (FACE_TOP - FACE_BOTTOM)
    rng = generator(subject.seed, "face paint")
    face = FaceMap(
        torch.empty(3, height, width, device=device), torch.empty(height, width, device=device), x, y
    )
    _paint_skin(face, subject, rng, device)
    _paint_lips(face, subject, rng, device)
    for eye in eyes(subject):
        _paint_eye(face, subject, eye, device)
        _paint_brow(face, subject, eye, rng, device)
    _paint_beard(face, subject, rng, device)
    return face


def _paint_skin(face: FaceMap, subject: Subject, rng: np.random.Generator, device: torch.device) -> None:
    skin, shape = subject.skin, subject.shape
    x, y = face.x, face.y
    size = (y.shape[0], x.shape[1])
    base = colour_column(skin.tone, device)
    mottle = 0.5 * field(rng, (12, 8), size, device) + 0.5 * field(rng, (48, 32), size, device)
    pores = field(rng, (size[0] // 2, size[1] // 2), size, device)
    face.colour = base * (1 + 0.022 * skin.mottle * mottle + 0.022 * pores)
    red = bump(x.abs(), y, 0.09, -0.015, 0.045, 0.035) + 0.9 * bump(x, y, 0.0, NOSE_TIP_Y, 0.03, 0.022)
    red = red + 0.4 * bump(x, y, 0.0, -0.19, 0.04, 0.03)
    red = (0.10 * skin.redness + 0.16 * subject.makeup.blush) * red * (1 + 0.25 * mottle)
    face.colour = face.colour * (1 + red * torch.tensor([0.25, -0.9, -0.75], device=device)[:, None, None])
    # Thin skin around the eyes, shade of lids and sockets.
    around = bump(x.abs(), y, EYE_X, 0.064, 0.042, 0.026)
    tint = torch.tensor([-0.07, -0.13, -0.09], device=device)[:, None, None]
    face.colour = face.colour * (1 + around * tint * (0.6 + 0.7 * shape.age))
    fold_x = 0.048 + 0.35 * (-0.03 - y) + 0.012 * max(subject.expression.smile, 0)
    fold = torch.exp(-(((x.abs() - fold_x) / 0.005) ** 2)) * step(y, -0.115, -0.08) * step(y, -0.02, -0.05)
    lines = (
        torch.sin(y * 210 + 1.2 * mottle + torch.sin(x * 18)) ** 12
        * (0.5 + 0.4 * mottle).clamp(0, 1)
        * step(y, 0.14, 0.16)
        * step(y, 0.225, 0.19)
    )
    crow = torch.sin((y - 0.07) / (x.abs() - 0.06).clamp_min(0.02) * 14) ** 6 * bump(
        x.abs(), y, 0.138, 0.07, 0.012, 0.02
    )
    frown = (
        torch.exp(-(((x.abs() - 0.014) / 0.003) ** 2))
        * bump(x, y, 0, 0.105, 0.1, 0.016)
        * subject.expression.frown
    )
    smile = max(subject.expression.smile, 0)
    wrinkle = fold * (0.25 * smile + 0.8 * skin.wrinkles) + skin.wrinkles * (
        lines + crow * (0.4 + 0.6 * smile)
    )
    wrinkle = wrinkle * step(x.abs(), 0.17, 0.11) + 0.8 * frown
    face.colour = face.colour * (1 - 0.20 * wrinkle.clamp(0, 1.5))
    if skin.freckles:
        spots = step(field(rng, (size[0] // 3, size[1] // 3), size, device), 1.15, 1.9)
        zone = bump(x, y, 0.0, 0.01, 0.11, 0.06) + 0.25
        face.colour = face.colour * (
            1 - skin.freckles * zone * spots * torch.tensor([0.22, 0.36, 0.44], device=device)[:, None, None]
        )
    nostril_x = 0.016 * shape.nose_width
    hole = torch.exp(
        -(
            (
                ((x.abs() - nostril_x) / 0.0085) ** 2
                + ((y - NOSE_TIP_Y + 0.0275 + 0.25 * (x.abs() - nostril_x)) / 0.0048) ** 2
            )
            ** 1.5
        )
    )
    face.colour = face.colour * (1 - 0.80 * hole)
    oily = (
        bump(x, y, 0, 0.16, 0.07, 0.03)
        + bump(x, y, 0, 0.02, 0.016, 0.05)
        + 0.7 * bump(x.abs(), y, 0.1, 0.02, 0.03, 0.02)
    )
    face.gloss = skin.gloss * (0.35 + 0.65 * oily.clamp_max(1)) * (1 + 0.35 * pores).clamp_min(0)


def _paint_lips(face: FaceMap, subject: Subject, rng: np.random.Generator, device: torch.device) -> None:
    lips = mouth(subject)
    where = face.window(0.0, lips.y - 0.02, 0.09, 0.065)
    x, y = face.x[:, where[1]], face.y[where[0]]
    size = (y.shape[0], x.shape[1])
    top, gap_top, gap_bottom, bottom = lips.outlines(x)
    s, _ = lips.span(x)
    edge = 0.0022
    body = step(top - y, -edge, edge) * step(y - bottom, -edge, edge) * step(s.abs(), 1.02, 0.93)
    colour = colour_column(subject.skin.lips, device)
    stick = colour * 0.25 + 0.75 * colour_column((0.66, 0.14, 0.20), device) * (0.6 + 0.4 * colour)
    colour = torch.lerp(colour, stick, subject.makeup.lipstick)
    cracks = field(rng, (6, 60), size, device)
    shade = 1 + 0.05 * cracks - 0.18 * step(y, float(lips.y), float(lips.y) + 0.012)
    face.mix(
        where,
        colour * shade,
        body * (0.80 + 0.2 * subject.makeup.lipstick),
        gloss=0.5 + 0.5 * subject.makeup.lipstick,
    )
    gap = (gap_top - gap_bottom).clamp_min(0)
    middle = 0.5 * (gap_top + gap_bottom)
    seam = torch.exp(-(((y - middle) / (0.0016 + 0.5 * gap)) ** 4)) * step(s.abs(), 1.06, 0.9)
    face.mix(where, colour * 0.28, seam * 0.85, gloss=0.0)
    inside = (
        step(gap_top - y, -0.0005, 0.0015) * step(y - gap_bottom, -0.0005, 0.0015) * step(gap, 0.0004, 0.003)
    )
    face.mix(where, colour_column((0.16, 0.05, 0.05), device), inside, gloss=0.1)
    if subject.expression.teeth:
        _paint_teeth(face, where, subject, x, y, gap_top, gap_bottom, inside, device)


def _paint_teeth(
    face: FaceMap,
    where: tuple[slice, slice],
    subject: Subject,
    x: Tensor,
    y: Tensor,
    gap_top: Tensor,
    gap_bottom: Tensor,
    inside: Tensor,
    device: torch.device,
) -> None:
    """A row of upper teeth, darker towards the corners of the mouth."""
    depth = gap_top - y
    tooth = 0.0165
    phase = (x.abs() / tooth) % 1.0
    between = torch.exp(-(((phase - phase.round()) / 0.055) ** 2))
    rim = 0.0160 - 0.0008 * torch.cos(x / tooth * 2 * math.pi) - 9.0 * x * x
    row = inside * torch.sigmoid((rim - depth) / 0.0007)
    corner = step(x.abs(), 0.058, 0.02)
    ivory = colour_column((0.93, 0.90, 0.84), device) * (0.35 + 0.65 * corner) * (1 - 0.16 * between)
    upper_shade = 0.72 + 0.28 * step(depth, 0.0, 0.005)
    face.mix(where, ivory * upper_shade, row, gloss=0.8)
    tongue = inside * torch.sigmoid((0.011 - (y - gap_bottom)) / 0.002) * (1 - row)
    face.mix(where, colour_column((0.50, 0.20, 0.20), device), tongue * 0.7)


def _paint_eye(face: FaceMap, subject: Subject, eye: Eye, device: torch.device) -> None:
    makeup = subject.makeup
    where = face.window(eye.x, eye.y + 0.01, 0.075, 0.06)
    u, v = eye.local(face.x[:, where[1]], face.y[where[0]])
    upper, lower = eye.lids(u)
    soft = 0.045
    inside = step(upper - v, -soft, soft) * step(v - lower, -soft, soft) * step(u.abs(), 1.02, 0.96)
    if makeup.shadow:
        lid = step(v - upper, -0.05, 0.08) * step(v - upper, 0.85, 0.25) * step(u.abs(), 1.35, 0.85)
        face.mix(where, colour_column(makeup.shadow_colour, device), lid * makeup.shadow * 0.7)
    crease = torch.exp(-(((v - upper.clamp_min(0.12) - 0.22) / 0.055) ** 2)) * step(u.abs(), 1.2, 0.75)
    face.mix(where, face.colour[:, where[0], where[1]] * 0.55, crease * (0.25 + 0.5 * subject.shape.lid_fold))
    # The ball: white, shaded by the lid above and towards the corners.
    shade = 1 - 0.45 * step(upper - v, 0.26, 0.0) - 0.22 * u.abs() ** 2
    white = colour_column((0.90, 0.87, 0.85), device) * shade
    corner = torch.exp(-(((u + 0.93) / 0.10) ** 2))
    white = torch.lerp(white, colour_column((0.72, 0.42, 0.40), device), corner * 0.8)
    face.mix(where, white, inside, gloss=0.2)
    _paint_iris(face, where, subject, eye, u, v, inside, upper, device)
    lash = 0.055 + 0.06 * makeup.liner
    line = torch.exp(-(((v - upper - 0.3 * lash) / lash) ** 2)) * step(u.abs(), 1.12, 0.98)
    wing = (
        step(u, 0.5, 1.0)
        * makeup.liner
        * torch.exp(-(((v - 0.25 * (u - 0.8) - 0.06) / 0.09) ** 2))
        * step(u, 1.35, 1.0)
    )
    face.mix(
        where,
        colour_column((0.07, 0.05, 0.045), device),
        (line + wing).clamp_max(1) * (0.72 + 0.26 * makeup.liner),
    )
    below = torch.exp(-(((v - lower) / 0.045) ** 2)) * step(u.abs(), 1.05, 0.85)
    face.mix(where, face.colour[:, where[0], where[1]] * 0.5, below * (0.45 + 0.4 * makeup.liner))


def _paint_iris(
    face: FaceMap,
    where: tuple[slice, slice],
    subject: Subject,
    eye: Eye,
    u: Tensor,
    v: Tensor,
    inside: Tensor,
    upper: Tensor,
    device: torch.device,
) -> None:
    rng = generator(subject.seed, "iris")
    weights = np.array([5.0, 4, 2, 1.5, 2, 1])
    if sum(subject.skin.tone) < 1.5:
        weights = np.array([8.0, 3, 0.5, 0.1, 0.1, 0.1])
    colour = IRIS_COLOURS[int(rng.choice(len(weights), p=weights / weights.sum()))]
    rays = torch.from_numpy(rng.standard_normal((1, 1, 1, 40)).astype(np.float32)).to(device)
    radius = IRIS_RADIUS / eye.half_width
    du = u - 0.55 * subject.expression.gaze_x * eye.side
    dv = v - 0.02 - 0.35 * subject.expression.gaze_y
    r = torch.sqrt(du * du + dv * dv) / radius
    turn = torch.atan2(dv, du) / math.pi
    grid = torch.stack([turn, torch.zeros_like(turn)], dim=-1)[None]
    streak = F.grid_sample(rays, grid, align_corners=True, padding_mode="border")[0, 0]
    iris = inside * step(r, 1.05, 0.93)
    bright = (0.80 + 0.55 * r.clamp(0, 1) ** 2 + 0.12 * streak) * (1 - 0.65 * step(r, 0.80, 1.0))
    bright = bright * (1 - 0.45 * step(upper - v, 0.30, 0.0)) * (1 + 0.25 * step(dv, 0.0, -0.2))
    face.mix(where, colour_column(colour, device) * bright, iris, gloss=0.3)
    face.mix(where, colour_column((0.02, 0.018, 0.018), device), inside * step(r, 0.46, 0.36))
    towards = math.sin(subject.light.yaw) * eye.side
    glint = step(torch.sqrt((du - 0.20 * towards - 0.03) ** 2 + (dv - 0.13) ** 2), 0.105, 0.06)
    face.mix(where, colour_column((1.0, 1.0, 1.0), device), glint * inside * 0.95)
    second = step(torch.sqrt((du + 0.16 * towards) ** 2 + (dv + 0.17) ** 2), 0.07, 0.02)
    face.mix(where, colour_column((0.85, 0.88, 0.95), device), second * inside * 0.3)


def _paint_brow(
    face: FaceMap, subject: Subject, eye: Eye, rng: np.random.Generator, device: torch.device
) -> None:
    hair = subject.hair
    where = face.window(eye.x + 0.008 * eye.side, eye.y + 0.045, 0.075, 0.045)
    x, y = face.x[:, where[1]], face.y[where[0]]
    along, above = brow(subject, x, y, eye)
    thickness = (
        (0.10 + 0.085 * hair.brow_weight) * step(along, -0.10, 0.10) * (1 - 0.80 * step(along, 0.45, 1.15))
    )
    across = above / thickness.clamp_min(0.02)
    body = torch.exp(-(across.abs() ** 2.6)) * step(along, -0.06, 0.08) * step(along, 1.08, 0.9)
    # Single hairs lean outwards: noise that is fine across them and long along them.
    lattice = torch.from_numpy(rng.standard_normal((1, 1, 6, 64)).astype(np.float32)).to(device)
    grid = torch.stack([(along + 0.10 * across.clamp(-2, 2)) * 1.6 - 0.8, 0.5 * across.clamp(-2, 2)], dim=-1)[
        None
    ]
    hairs = F.grid_sample(lattice, grid, align_corners=True, padding_mode="reflection")[0, 0]
    amount = (body * (0.72 + 0.30 * hairs) * (0.55 + 0.42 * hair.brow_weight)).clamp(0, 0.96)
    face.mix(where, colour_column(hair.brow_colour, device) * (1 + 0.15 * hairs), amount, gloss=0.05)


def _paint_beard(face: FaceMap, subject: Subject, rng: np.random.Generator, device: torch.device) -> None:
    hair, lips = subject.hair, mouth(subject)
    if hair.beard < 0.02 and hair.moustache < 0.02:
        return
    x, y = face.x, face.y
    size = (y.shape[0], x.shape[1])
    grain = 0.6 * field(rng, (size[0] // 2, size[1] // 2), size, device) + 0.4 * field(
        rng, (size[0] // 8, size[1] // 3), size, device
    )
    top, _, _, bottom = lips.outlines(x)
    side = x.abs()
    line = -0.085 + 1.6 * (side - 0.09).clamp_min(0) + 1.2 * (side - 0.13).clamp_min(0)
    off_lips = 1 - step(y - bottom, -0.007, -0.001) * step(top - y, -0.006, 0.0) * step(
        side, lips.half_width + 0.008, lips.half_width
    )
    jaw = (
        step(line - y + 0.010 * grain, -0.012, 0.040)
        * off_lips
        * step(side - 0.052, -0.012, 0.014).clamp_min(step(y, -0.118, -0.135))
    )
    # A moustache follows the upper lip and hangs at its ends.
    middle = top + 0.011 - 0.20 * (side - 0.03).clamp_min(0)
    lip = (
        torch.exp(-(((y - middle + 0.003 * grain) / 0.0125).abs() ** 3)) * step(side, 0.076, 0.048) * off_lips
    )
    lip = lip * (1 - 0.5 * torch.exp(-((x / 0.006) ** 2)))
    amount = torch.maximum(jaw * hair.beard, lip * hair.moustache)
    amount = (amount * (1.08 + 0.20 * grain)).clamp(0, 0.93)
    colour = colour_column(hair.brow_colour, device) * (1 + 0.30 * grain)
    everywhere = (slice(None), slice(None))
    face.mix(everywhere, colour, amount, gloss=0.05)


def cloth_colour(subject: Subject, position: Tensor, along: Tensor, angle: Tensor) -> Tensor:
    """[3, H, W] colours of the torso: garment below its neckline, skin above.

    Args:
        subject: whose clothes.
        position: [3, H, W] world positions.
        along: [H] row coordinate.
        angle: [W] radians.
    """
    clothes, device = subject.clothes, position.device
    x, y, z = position.unbind(0)
    rng = generator(subject.seed, "cloth")
    size = (position.shape[1], position.shape[2])
    first, second = colour_column(clothes.colour, device), colour_column(clothes.second_colour, device)
    weave = 0.035 * field(rng, (size[0] // 2, size[1] // 2), size, device)
    folds = 0.07 * field(rng, (7, 26), size, device)
    if clothes.garment == "stripes":
        paint = torch.lerp(first, second, step(torch.sin(y * 170 + 1.5 * folds), -0.2, 0.2))
    elif clothes.garment == "check":
        cross = 0.5 * step(torch.sin(y * 110), -0.15, 0.15) + 0.5 * step(torch.sin(x * 110), -0.15, 0.15)
        paint = torch.lerp(first, second, cross)
    elif clothes.garment == "speckle":
        paint = torch.lerp(
            first, second, step(field(rng, (size[0] // 3, size[1] // 3), size, device), 0.6, 1.0)
        )
    elif clothes.garment == "knit":
        paint = first * (1 + 0.16 * torch.sin(angle * 260)[None] * torch.sin(y * 420))
    else:
        paint = first.expand(3, *size)
    paint = paint * (1 + weave + folds)
    rim = -0.262 - clothes.neckline + 0.055 * step(-z, -0.08, 0.12)
    rim = rim - clothes.v_neck * (1 - (x.abs() / 0.10).clamp(0, 1)) * step(z, 0.0, 0.06)
    hem = (rim - y) / 0.014
    paint = paint * (1 - 0.22 * torch.exp(-((hem - 1.0) ** 2) * 3))
    skin = colour_column(subject.skin.tone, device) * (1 + 0.5 * weave)
    return torch.lerp(skin, paint, step(rim - y, -0.0015, 0.0015))


def hair_colour(subject: Subject, size: tuple[int, int], device: torch.device, colour: Colour) -> Tensor:
    """[3, H, W] strands that run down the rows."""
    rng = generator(subject.seed, "hair paint")
    wide = field(rng, (5, 46), size, device)
    fine = field(rng, (10, 330), size, device)
    hairs = field(rng, (24, max(size[1] * 2 // 3, 8)), size, device)
    tone = 1 + subject.hair.streaks * (0.12 * wide + 0.16 * fine + 0.17 * hairs)
    return colour_column(colour, device) * tone.clamp_min(0.3)


def hat_colour(subject: Subject, position: Tensor, device: torch.device) -> Tensor:
    """[3, H, W] knitted cloth with a turned-up rim."""
    x, y, z = position.unbind(0)
    turn = torch.atan2(x, z)
    knit = 1 + 0.10 * torch.sin(turn * 120) * torch.sin(y * 500)
    rim = step(y, 0.235, 0.228)
    return colour_column(subject.hair.hat_colour, device) * knit * (1 + 0.25 * rim * torch.sin(turn * 90))


def collar_colour(subject: Subject, position: Tensor) -> Tensor:
    """[3, H, W] the garment's colour, lighter or darker, with a fine weave."""
    shade = 0.8 + 0.4 * subject.clothes.collar
    weave = 1 + 0.03 * torch.sin(position[0] * 900) * torch.sin(position[1] * 900)
    return colour_column(subject.clothes.colour, position.device) * shade * weave
