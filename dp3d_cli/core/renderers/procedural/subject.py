"""Who a procedural head is: every number that decides its looks, drawn from one seed.

Lengths are EG3D world units (1 unit is about 40 cm of a real head), colours are sRGB in [0, 1]. All draws
are made by numpy on the CPU, so a seed names the same person on every device.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

Colour = tuple[float, float, float]
HairStyle = Literal["bald", "buzz", "short", "bob", "long", "tied", "curly", "fringe", "hat"]
Garment = Literal["plain", "stripes", "check", "knit", "speckle"]
Backdrop = Literal["plain", "gradient", "blur", "pattern", "room"]

# Skin from light to dark; a subject lies between two neighbours.
SKIN_TONES: tuple[Colour, ...] = (
    (0.93, 0.77, 0.69),
    (0.90, 0.72, 0.62),
    (0.85, 0.65, 0.53),
    (0.78, 0.57, 0.44),
    (0.67, 0.46, 0.34),
    (0.53, 0.35, 0.26),
    (0.40, 0.26, 0.20),
    (0.30, 0.20, 0.16),
)
HAIR_COLOURS: tuple[Colour, ...] = (
    (0.07, 0.06, 0.06),
    (0.11, 0.085, 0.075),
    (0.17, 0.115, 0.085),
    (0.25, 0.165, 0.11),
    (0.36, 0.24, 0.15),
    (0.52, 0.37, 0.22),
    (0.70, 0.56, 0.36),
    (0.45, 0.19, 0.09),
    (0.58, 0.56, 0.54),
    (0.80, 0.79, 0.77),
)
IRIS_COLOURS: tuple[Colour, ...] = (
    (0.20, 0.12, 0.07),
    (0.30, 0.18, 0.09),
    (0.38, 0.28, 0.13),
    (0.30, 0.36, 0.22),
    (0.30, 0.42, 0.52),
    (0.42, 0.50, 0.54),
)


def generator(seed: int, stream: str) -> np.random.Generator:
    """Independent random numbers for one purpose of one subject.

    Args:
        seed: the subject, 0 <= seed < 2**63.
        stream: a name; different names give unrelated numbers.

    Raises:
        ValueError: the seed is out of range.
    """
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed {seed} is outside [0, 2**63)")
    digest = hashlib.sha256(f"dp3d procedural head, {stream}, {seed}".encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, dtype=np.uint32))


@dataclass(frozen=True)
class Shape:
    """Proportions of the skull and the face; factors are 1 for the average adult."""

    width: float
    jaw: float
    chin: float
    forehead: float
    neck: float
    cheeks: float
    brow_ridge: float
    eye_size: float
    eye_distance: float
    eye_tilt: float
    lid_fold: float
    nose_length: float
    nose_width: float
    nose_height: float
    nose_bridge: float
    lip_upper: float
    lip_lower: float
    mouth_width: float
    ear_size: float
    age: float


@dataclass(frozen=True)
class Skin:
    """Complexion; amounts are 0 (none) to 1 (strong)."""

    tone: Colour
    lips: Colour
    redness: float
    freckles: float
    mottle: float
    gloss: float
    wrinkles: float
    stylised: bool


@dataclass(frozen=True)
class Makeup:
    """Eye shadow, eye line and lipstick amounts in [0, 1]."""

    lipstick: float
    liner: float
    shadow: float
    shadow_colour: Colour
    blush: float


@dataclass(frozen=True)
class Expression:
    """What a face does at one moment; drawn from its own seed, so that one person has many."""

    smile: float
    open: float
    teeth: bool
    brow_raise: float
    frown: float
    eye_open: float
    gaze_x: float
    gaze_y: float


@dataclass(frozen=True)
class Hair:
    """Head and facial hair."""

    style: HairStyle
    colour: Colour
    volume: float
    length: float
    hairline: float
    parting: float
    wave: float
    streaks: float
    brow_weight: float
    brow_colour: Colour
    beard: float
    moustache: float
    hat_colour: Colour


@dataclass(frozen=True)
class Clothes:
    """Garment and glasses."""

    garment: Garment
    colour: Colour
    second_colour: Colour
    neckline: float
    v_neck: float
    collar: float
    glasses: Literal["none", "round", "square", "dark"]
    glasses_colour: Colour


@dataclass(frozen=True)
class Light:
    """One soft key light and a two-coloured surrounding; angles in radians as seen from the front."""

    yaw: float
    pitch: float
    key: Colour
    sky: Colour
    ground: Colour
    softness: float
    exposure: float


@dataclass(frozen=True)
class Background:
    """What lies behind; it does not move with the camera."""

    kind: Backdrop
    colours: tuple[Colour, Colour, Colour]
    blur: float


@dataclass(frozen=True)
class Subject:
    """A person, fully described."""

    seed: int
    expression_seed: int
    shape: Shape
    skin: Skin
    makeup: Makeup
    expression: Expression
    hair: Hair
    clothes: Clothes
    light: Light
    background: Background

    def as_dict(self) -> dict[str, object]:
        """All parameters as JSON-able values."""
        return asdict(self)


def _mix(a: Colour, b: Colour, t: float) -> Colour:
    return (a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t)


def _clip(colour: Colour) -> Colour:
    r, g, b = (min(max(c, 0.02), 0.98) for c in colour)
    return (r, g, b)


def _hsv(rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]) -> Colour:
    hue, s, v = rng.uniform(0, 6), rng.uniform(*saturation), rng.uniform(*value)
    r, g, b = (v * (1 - s * min(max(abs((hue + k) % 6 - 3) - 1, 0), 1)) for k in (3, 1, 5))
    return (float(r), float(g), float(b))


def _near(rng: np.random.Generator, spread: float, centre: float = 1.0) -> float:
    return float(centre + spread * np.clip(rng.standard_normal(), -2.2, 2.2))


def _pick(
    rng: np.random.Generator, palette: tuple[Colour, ...], weights: list[float] | None = None
) -> Colour:
    p = None if weights is None else np.asarray(weights) / sum(weights)
    i = int(rng.choice(len(palette), p=p))
    return _mix(
        palette[i], palette[int(np.clip(i + rng.choice([-1, 1]), 0, len(palette) - 1))], rng.uniform(0, 0.5)
    )


def draw_subject(seed: int, expression_seed: int | None = None) -> Subject:
    """The person with this seed.

    Args:
        seed: identity, 0 <= seed < 2**63.
        expression_seed: another moment of the same person; None is the person's own first expression.
    """
    rng = generator(seed, "subject")
    feminine = bool(rng.random() < 0.5)
    age = float(rng.beta(1.6, 2.2))  # 0 young adult, 1 old
    child = bool(rng.random() < 0.08)
    shape = _draw_shape(rng, feminine, age, child)
    skin = _draw_skin(rng, age, child)
    expression_seed = seed if expression_seed is None else expression_seed
    return Subject(
        seed=seed,
        expression_seed=expression_seed,
        shape=shape,
        skin=skin,
        makeup=_draw_makeup(rng, feminine and not child),
        expression=_draw_expression(generator(expression_seed, "expression")),
        hair=_draw_hair(rng, feminine, age, child, skin),
        clothes=_draw_clothes(rng),
        light=_draw_light(rng),
        background=_draw_background(rng),
    )


def _draw_shape(rng: np.random.Generator, feminine: bool, age: float, child: bool) -> Shape:
    f = 1.0 if feminine else 0.0
    c = 1.0 if child else 0.0
    return Shape(
        width=_near(rng, 0.045, 1.0 + 0.02 * c),
        jaw=_near(rng, 0.05, 1.03 - 0.09 * f - 0.04 * c),
        chin=_near(rng, 0.05, 1.02 - 0.04 * f - 0.10 * c),
        forehead=_near(rng, 0.035, 1.0 + 0.02 * c),
        neck=_near(rng, 0.05, 1.06 - 0.14 * f - 0.10 * c),
        cheeks=_near(rng, 0.3, 0.9 + 0.5 * c),
        brow_ridge=max(_near(rng, 0.25, 1.05 - 0.6 * f - 0.4 * c), 0.0),
        eye_size=_near(rng, 0.06, 1.0 + 0.05 * f + 0.12 * c),
        eye_distance=_near(rng, 0.025),
        eye_tilt=_near(rng, 0.05, 0.05),
        lid_fold=float(np.clip(_near(rng, 0.3, 0.6), 0.05, 1.0)),
        nose_length=_near(rng, 0.06, 1.0 - 0.06 * c),
        nose_width=_near(rng, 0.12, 1.0 - 0.05 * f),
        nose_height=_near(rng, 0.10, 1.0 - 0.05 * f - 0.15 * c),
        nose_bridge=_near(rng, 0.25, 0.9 - 0.4 * c),
        lip_upper=max(_near(rng, 0.22, 0.95 + 0.15 * f), 0.4),
        lip_lower=max(_near(rng, 0.20, 1.0 + 0.12 * f), 0.4),
        mouth_width=_near(rng, 0.06),
        ear_size=_near(rng, 0.08, 1.0 - 0.06 * f),
        age=0.0 if child else age,
    )


def _draw_skin(rng: np.random.Generator, age: float, child: bool) -> Skin:
    position = rng.beta(0.95, 1.4) * (len(SKIN_TONES) - 1)
    i = min(int(position), len(SKIN_TONES) - 2)
    tone = _mix(SKIN_TONES[i], SKIN_TONES[i + 1], position - i)
    r, g, b = tone
    tone = _clip((r * _near(rng, 0.02), g * _near(rng, 0.025), b * _near(rng, 0.05)))
    stylised = bool(rng.random() < 0.06)
    if stylised:
        tone = _mix(tone, _hsv(rng, (0.15, 0.6), (0.45, 0.9)), rng.uniform(0.4, 0.9))
    lips = _mix((tone[0] * 0.86, tone[1] * 0.60, tone[2] * 0.60), (0.66, 0.36, 0.34), rng.uniform(0.1, 0.4))
    return Skin(
        tone=tone,
        lips=_clip(lips),
        redness=float(rng.uniform(0.2, 1.0)),
        freckles=float(rng.uniform(0.3, 1.0)) if rng.random() < 0.15 and position < 3.5 else 0.0,
        mottle=float(rng.uniform(0.3, 1.0)),
        gloss=float(rng.uniform(0.15, 0.9)),
        wrinkles=0.0 if child else float(np.clip(age * 1.2 - 0.1, 0, 1)),
        stylised=stylised,
    )


def _draw_makeup(rng: np.random.Generator, wears: bool) -> Makeup:
    amount = float(rng.random()) if wears and rng.random() < 0.7 else 0.0
    return Makeup(
        lipstick=amount * float(rng.uniform(0.2, 1)),
        liner=amount * float(rng.uniform(0.3, 1)) + (0.25 if wears else 0.0),
        shadow=amount * float(rng.uniform(0, 0.8)),
        shadow_colour=_hsv(rng, (0.1, 0.6), (0.2, 0.6)),
        blush=amount * float(rng.uniform(0, 0.8)),
    )


def _draw_expression(rng: np.random.Generator) -> Expression:
    mood = rng.random()
    smile = rng.uniform(0.3, 1.0) if mood < 0.55 else rng.uniform(-0.25, 0.3)
    opening = float(rng.uniform(0.25, 1.0)) if rng.random() < 0.45 else 0.0
    if mood < 0.55 and opening:
        opening = opening * 0.6 + 0.2
    return Expression(
        smile=float(smile),
        open=opening,
        teeth=bool(rng.random() < 0.85),
        brow_raise=float(np.clip(rng.normal(0, 0.4), -0.8, 1)),
        frown=float(max(rng.normal(-0.3, 0.5), 0)),
        eye_open=float(np.clip(rng.normal(1.0, 0.1) - 0.14 * max(smile, 0), 0.6, 1.25)),
        gaze_x=float(np.clip(rng.normal(0, 0.28), -0.8, 0.8)),
        gaze_y=float(np.clip(rng.normal(0, 0.14), -0.5, 0.4)),
    )


def _draw_hair(rng: np.random.Generator, feminine: bool, age: float, child: bool, skin: Skin) -> Hair:
    styles: tuple[HairStyle, ...] = (
        "bald", "buzz", "short", "bob", "long", "tied", "curly", "fringe", "hat"
    )  # fmt: skip
    weights = (0.01, 0.02, 0.10, 0.17, 0.30, 0.13, 0.12, 0.11, 0.04)
    if not feminine:
        weights = (0.09, 0.13, 0.43, 0.03, 0.04, 0.03, 0.10, 0.09, 0.06)
    style = styles[int(rng.choice(len(styles), p=np.asarray(weights) / sum(weights)))]
    dark = sum(skin.tone) < 1.5
    colour_weights = [3.0, 4, 4, 3, 2, 1.5, 1.5, 0.8, 0.2, 0.2]
    if dark:
        colour_weights = [5.0, 4, 2, 0.5, 0.2, 0.1, 0.1, 0.1, 0.2, 0.2]
    colour = _pick(rng, HAIR_COLOURS, colour_weights)
    if rng.random() < 0.75:
        colour = _mix(
            colour, HAIR_COLOURS[8 + int(rng.integers(2))], float(np.clip(age * 2.2 - 1.0, 0, 0.95))
        )
    if rng.random() < 0.05:
        colour = _hsv(rng, (0.3, 0.8), (0.3, 0.8))
    stubble = 0.0 if feminine or child else float(rng.uniform(0, 1)) ** 1.5
    return Hair(
        style=style,
        colour=_clip(colour),
        volume=float(rng.uniform(0.6, 1.5)),
        length=float(rng.uniform(0, 1)),
        hairline=float(np.clip(rng.normal(0, 0.5) - (0 if feminine else 0.7 * age), -1.4, 1)),
        parting=float(rng.uniform(-0.7, 0.7)),
        wave=float(rng.uniform(0, 1)),
        streaks=float(rng.uniform(0.4, 1.0)),
        brow_weight=float(rng.uniform(0.55, 1.0)) * (0.85 if feminine else 1.1),
        brow_colour=_clip(_mix(colour, (0.12, 0.09, 0.07), 0.45)),
        beard=stubble if rng.random() < 0.55 else 0.12 * stubble,
        moustache=stubble if rng.random() < 0.5 else 0.12 * stubble,
        hat_colour=_hsv(rng, (0.0, 0.8), (0.08, 0.8)),
    )


def _draw_clothes(rng: np.random.Generator) -> Clothes:
    garments: tuple[Garment, ...] = ("plain", "stripes", "check", "knit", "speckle")
    kinds: tuple[Literal["none", "round", "square", "dark"], ...] = ("none", "round", "square", "dark")
    return Clothes(
        garment=garments[int(rng.choice(5, p=[0.5, 0.12, 0.13, 0.17, 0.08]))],
        colour=_hsv(rng, (0.0, 0.35) if rng.random() < 0.6 else (0.3, 0.8), (0.08, 0.92)),
        second_colour=_hsv(rng, (0.0, 0.7), (0.1, 0.95)),
        neckline=float(rng.uniform(-0.02, 0.06)),
        v_neck=float(rng.uniform(0.02, 0.12)) if rng.random() < 0.4 else 0.0,
        collar=float(rng.uniform(0.4, 1)) if rng.random() < 0.35 else 0.0,
        glasses=kinds[int(rng.choice(4, p=[0.78, 0.09, 0.11, 0.02]))],
        glasses_colour=_hsv(rng, (0.0, 0.6), (0.03, 0.45)),
    )


def _draw_light(rng: np.random.Generator) -> Light:
    warm = rng.uniform(-1, 1)
    strength = rng.uniform(0.6, 1.25)
    ambient = rng.uniform(0.26, 0.62)
    tint = 0.10 if rng.random() < 0.85 else 0.35
    return Light(
        yaw=float(np.clip(rng.normal(0, 0.55), -1.25, 1.25)),
        pitch=float(rng.uniform(0.12, 0.95)),
        key=(strength * (1 + 0.08 * warm), strength, strength * (1 - 0.12 * warm)),
        sky=(ambient * (1 - tint * warm * 0.6), ambient, ambient * (1 + tint * warm)),
        ground=(ambient * 0.62, ambient * 0.55, ambient * 0.5),
        softness=float(rng.uniform(0.3, 1.0)),
        exposure=float(rng.uniform(0.95, 1.3)),
    )


def _draw_background(rng: np.random.Generator) -> Background:
    kinds: tuple[Backdrop, ...] = ("plain", "gradient", "blur", "pattern", "room")
    saturation = (0.0, 0.3) if rng.random() < 0.78 else (0.2, 0.8)
    return Background(
        kind=kinds[int(rng.choice(5, p=[0.14, 0.2, 0.42, 0.08, 0.16]))],
        colours=tuple(_hsv(rng, saturation, (0.12, 0.95)) for _ in range(3)),  # type: ignore[arg-type]
        blur=float(rng.uniform(0.15, 1)),
    )
