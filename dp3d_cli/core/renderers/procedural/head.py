"""A procedural 3D head: the embedded source of camera conditions and of multi-view training pictures."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dp3d_cli.core.renderers.procedural import hair as hair_shapes
from dp3d_cli.core.renderers.procedural.background import paint_background
from dp3d_cli.core.renderers.procedural.features import NOSE_TIP_Y, eyes, mouth, step
from dp3d_cli.core.renderers.procedural.geometry import (
    Patch,
    ear_patches,
    front_columns,
    head_patch,
    torso_patch,
)
from dp3d_cli.core.renderers.procedural.lighting import shade
from dp3d_cli.core.renderers.procedural.splat import Rendering, pack_colours, resolve, splat
from dp3d_cli.core.renderers.procedural.subject import Subject, draw_subject, generator
from dp3d_cli.core.renderers.procedural.texture import (
    FACE_BOTTOM,
    FACE_TOP,
    FACE_X,
    FaceMap,
    cloth_colour,
    collar_colour,
    colour_column,
    field,
    hair_colour,
    hat_colour,
    paint_face,
)
from dp3d_cli.core.renderers.procedural.worn import worn_patches

BASE_RESOLUTION = 512  # pixels of the buffer that `detail` 1 fills without openings
FACE_POINTS = ("left_eye", "right_eye", "nose_tip", "left_mouth_corner", "right_mouth_corner")


class ProceduralHead:
    """A person made from a seed, as coloured surface samples that any camera can see.

    Colours are baked, light and highlights included, so views are exactly consistent; the background stands
    still. Equal seeds give the same person on every device (up to rounding).

    Args:
        seed: identity, 0 <= seed < 2**63. Splits into training and test people are made by whoever trains,
            as disjoint ranges of seeds.
        device: where samples live and views are rendered.
        detail: surface samples, as a factor; 1 is made for 256 pixel views, `size / 256` suits other sizes.
        expression_seed: another moment (expression and gaze) of the same person.
        subject: a person described by hand, instead of drawn from the seed.
    """

    def __init__(
        self,
        seed: int,
        *,
        device: str | torch.device = "cpu",
        detail: float = 1.0,
        expression_seed: int | None = None,
        subject: Subject | None = None,
    ) -> None:
        if not 0.1 <= detail <= 8:
            raise ValueError(f"detail {detail} is outside [0.1, 8]")
        self.subject = draw_subject(seed, expression_seed) if subject is None else subject
        self.device = torch.device(device)
        self.detail = detail
        self.landmarks: dict[str, Tensor] = {}
        with torch.autocast(self.device.type, enabled=False):
            self.points, self.colours = self._build()

    @property
    def parameters(self) -> dict[str, object]:
        """Everything that was drawn, as JSON-able values."""
        return self.subject.as_dict()

    @property
    def face_points(self) -> Tensor:
        """[5, 3] eyes, nose tip and mouth corners; what is left in the frontal image comes first."""
        return torch.stack([self.landmarks[name] for name in FACE_POINTS])

    @torch.no_grad()
    def render(self, labels: Tensor, size: int) -> Rendering:
        """Views from any cameras.

        Args:
            labels: [V, 25] EG3D camera labels.
            size: pixels along one side.

        Raises:
            ValueError: `labels` is not [V, 25], or `size` is not positive.
        """
        if labels.ndim != 2 or labels.shape[1] != 25:
            raise ValueError(f"labels are {tuple(labels.shape)}, expected [V, 25]")
        if size < 1:
            raise ValueError(f"size {size} is not positive")
        labels = labels.to(self.device, torch.float32)
        factor = min(2, max(1, round(BASE_RESOLUTION * self.detail / size)))
        with torch.autocast(self.device.type, enabled=False):
            backdrop = paint_background(self.subject, size, self.device)
            views = [
                resolve(splat(self.points, self.colours, label, size * factor), backdrop, size)
                for label in labels
            ]
        if not views:
            empty = backdrop.new_zeros(0, 1, size, size)
            return Rendering(backdrop.new_zeros(0, 3, size, size), empty, empty)
        image, depth, mask = (torch.stack(parts) for parts in zip(*views, strict=True))
        return Rendering(image, depth, mask)

    @torch.no_grad()
    def _build(self) -> tuple[Tensor, Tensor]:
        subject, detail, device = self.subject, self.detail, self.device
        head = head_patch(subject, detail, device)
        patches = [head, *ear_patches(subject, detail, device), torso_patch(subject, detail, device)]
        patches += worn_patches(subject, head, detail, device)
        shell = hair_shapes.hair_patch(subject, detail, device)
        if shell is not None:
            patches.append(shell)
            patches += hair_shapes.knot_patches(subject, detail, device)
        self.landmarks = _landmarks(subject, patches)
        face = paint_face(subject, detail, device)
        points, colours = [], []
        for patch, light in zip(patches, shade(subject, patches), strict=True):
            position, colour = _samples(subject, patch, light, face)
            points.append(position)
            colours.append(colour)
            if patch is shell:
                strands = hair_shapes.loose_strands(subject, patch, detail)
                if strands is not None:
                    points.append(strands.position)
                    colours.append(_strand_colours(subject, strands, light))
        return torch.cat(points, dim=1), pack_colours(torch.cat(colours, dim=1))


def _finish(albedo: Tensor, light: Tensor, gloss: Tensor | float, exposure: float) -> Tensor:
    """SRGB from sRGB paint and linear light; the square stands in for the sRGB curve."""
    linear = (albedo.clamp(0, 1) ** 2 * light[:3] + gloss * light[3:]) * exposure
    # Bright parts roll off softly instead of clipping.
    return torch.sqrt(linear / (1 + 0.22 * linear) * 1.1).clamp(0, 1)


def _samples(subject: Subject, patch: Patch, light: Tensor, face: FaceMap) -> tuple[Tensor, Tensor]:
    """Dense positions [3, N] and colours [3, N] of a patch."""
    device = patch.position.device
    rows, columns = patch.position.shape[1] * patch.finer, patch.position.shape[2] * patch.finer
    channels = torch.cat([patch.position, light] + ([] if patch.keep is None else [patch.keep[None]]))
    dense = F.interpolate(channels[None], size=(rows, columns), mode="bilinear", align_corners=True)[0]
    position, lit = dense[:3], dense[3:7]
    gloss: Tensor | float
    if patch.material in ("skin", "ear"):
        albedo, gloss = _skin_paint(subject, patch, position, face)
    elif patch.material == "cloth":
        along = torch.linspace(0, 1, rows, device=device)
        angle = torch.linspace(float(-torch.pi), float(torch.pi), columns, device=device)
        albedo, gloss = cloth_colour(subject, position, along, angle), 0.02
    elif patch.material == "collar":
        albedo, gloss = collar_colour(subject, position), 0.02
    elif patch.material in ("frame", "lens"):
        albedo = colour_column(subject.clothes.glasses_colour, device).expand_as(position)
        gloss = 0.35
    elif patch.material == "hat":
        albedo, gloss = hat_colour(subject, position, device), 0.01
    else:
        albedo = hair_colour(subject, (rows, columns), device, subject.hair.colour)
        gloss = 0.012 + 0.22 * albedo.mean(0, keepdim=True)
    colours = _finish(albedo, lit, gloss, subject.light.exposure)
    flat, flat_colours = position.reshape(3, -1), colours.reshape(3, -1)
    if patch.keep is None:
        return flat, flat_colours
    edge = dense[7]
    if patch.material == "hair":
        # Ends thin out hair by hair.
        rng = generator(subject.seed, "hair ends")
        edge = edge + 0.007 * field(rng, (10, max(columns * 3 // 4, 8)), (rows, columns), device)
    kept = (edge >= 0).flatten()
    return flat[:, kept], flat_colours[:, kept]


def _skin_paint(subject: Subject, patch: Patch, position: Tensor, face: FaceMap) -> tuple[Tensor, Tensor]:
    """Paint [3, H, W] and gloss [1, H, W] of skin: the face map in front, plain skin and scalp elsewhere."""
    device = position.device
    tone = colour_column(subject.skin.tone, device)
    if patch.material == "ear":
        ruddy = tone * torch.tensor([1.0, 0.90, 0.88], device=device)[:, None, None]
        return ruddy.expand_as(position), position.new_full((1, 1, 1), 0.06)
    grid = torch.stack(
        [position[0] / FACE_X, (FACE_TOP - position[1]) / (FACE_TOP - FACE_BOTTOM) * 2 - 1], dim=-1
    )
    source = torch.cat([face.colour, face.gloss[None]])[None]
    front = F.interpolate(
        step(torch.cos(patch.angle), 0.10, 0.36)[None, None],
        size=position.shape[2],
        mode="linear",
        align_corners=True,
    )[0]
    albedo = tone.repeat(1, *position.shape[1:])
    gloss = torch.full_like(position[0], 0.02 * subject.skin.gloss)
    columns = front_columns(position.shape[2])
    painted = F.grid_sample(source, grid[None, :, columns], align_corners=False, padding_mode="border")[0]
    albedo[:, :, columns].lerp_(painted[:3], front[:, columns])
    gloss[:, columns].lerp_(0.10 * painted[3], front[:, columns])
    if subject.hair.style not in ("bald", "hat"):
        line = hair_shapes.hairline(subject, patch.angle)[None, None]
        line = F.interpolate(line, size=position.shape[2], mode="linear", align_corners=True)[0]
        scalp = 0.88 * step(position[1] - line, -0.012, 0.014)
        albedo = torch.lerp(albedo, colour_column(subject.hair.colour, device) * 0.8, scalp)
        gloss = gloss * (1 - scalp)
    return albedo, gloss[None]


def _strand_colours(subject: Subject, strands: hair_shapes.Strands, light: Tensor) -> Tensor:
    lit = F.grid_sample(light[None], strands.grid[None, None], align_corners=True, padding_mode="border")[
        0, :, 0
    ]
    base = torch.tensor(subject.hair.colour, device=light.device)[:, None]
    return _finish(base * strands.tone, lit, 0.06, subject.light.exposure)


def _landmarks(subject: Subject, patches: list[Patch]) -> dict[str, Tensor]:
    """Named points on the surface."""
    head, left_ear, right_ear = patches[0].position, patches[1].position, patches[2].position
    x, y, z = head.unbind(0)
    front = torch.where(z > 0.05, torch.zeros_like(z), torch.full_like(z, 9.0))

    def at(px: float, py: float) -> Tensor:
        distance = (x - px) ** 2 + (y - py) ** 2 + front
        return head.reshape(3, -1)[:, distance.argmin()]

    left, right = eyes(subject)
    lips = mouth(subject)
    drop = 0.036 * subject.expression.open
    points = {
        "left_eye": at(left.x, left.y),
        "right_eye": at(right.x, right.y),
        "nose_tip": at(0.0, NOSE_TIP_Y),
        "left_mouth_corner": at(-lips.half_width, lips.y),
        "right_mouth_corner": at(lips.half_width, lips.y),
        "left_eye_outer": at(left.x - left.half_width, left.y + left.tilt * left.half_width),
        "left_eye_inner": at(left.x + left.half_width, left.y - left.tilt * left.half_width),
        "right_eye_inner": at(right.x - right.half_width, right.y - right.tilt * right.half_width),
        "right_eye_outer": at(right.x + right.half_width, right.y + right.tilt * right.half_width),
        "nasion": at(0.0, 0.085),
        "chin": at(0.0, -0.190 - drop - 0.10 * (subject.shape.chin - 1)),
        "left_ear": left_ear[:, left_ear.shape[1] // 3, left_ear.shape[2] // 2],
        "right_ear": right_ear[:, right_ear.shape[1] // 3, right_ear.shape[2] // 2],
    }
    for name, eye in (("left_pupil", left), ("right_pupil", right)):
        expression = subject.expression
        shift = 0.55 * expression.gaze_x * eye.half_width
        rise = (
            0.02 + 0.35 * expression.gaze_y + 0.55 * eye.tilt * expression.gaze_x * eye.side
        ) * eye.half_width
        points[name] = at(eye.x + shift, eye.y + rise)
    return points


@torch.no_grad()
def render_subjects(
    seeds: Sequence[int],
    labels: Tensor,
    size: int,
    *,
    detail: float | None = None,
    expression_seeds: Sequence[int | None] | None = None,
) -> Rendering:
    """Views of several subjects, each seen by its own cameras.

    Args:
        seeds: B subjects.
        labels: [B, V, 25] cameras, on the device to render on.
        size: S, pixels along one side.
        detail: surface samples; None suits `size`.
        expression_seeds: B expressions, or None.

    Returns:
        Image [B, V, 3, S, S], depth and mask [B, V, 1, S, S].

    Raises:
        ValueError: the numbers of seeds, labels and expressions differ.
    """
    moments = [None] * len(seeds) if expression_seeds is None else list(expression_seeds)
    if labels.ndim != 3 or not len(seeds) == labels.shape[0] == len(moments):
        raise ValueError(
            f"{len(seeds)} seeds, {len(moments)} expressions and labels {tuple(labels.shape)} do not match"
        )
    made = []
    for seed, moment, cameras in zip(seeds, moments, labels, strict=True):
        head = ProceduralHead(
            seed,
            device=labels.device,
            detail=size / 256 if detail is None else detail,
            expression_seed=moment,
        )
        made.append(head.render(cameras, size))
    return Rendering(
        torch.stack([m.image for m in made]),
        torch.stack([m.depth for m in made]),
        torch.stack([m.mask for m in made]),
    )
