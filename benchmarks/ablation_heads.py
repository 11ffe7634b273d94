"""The subjects of `ablations.py`, and where their results are kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ablation_scores import Truth
from ablation_variants import Inputs, Pictures

import dp3d_cli
from dp3d_cli.core.cameras.camera import Camera
from dp3d_cli.core.images import read_image, resize, write_png
from dp3d_cli.core.proxies.template import to_uint8
from dp3d_cli.core.renderers.procedural import ProceduralHead
from dp3d_cli.stages.proxy import ProxyPictures, read_proxies
from dp3d_cli.stages.targets import Targets
from dp3d_cli.training.data import SPLITS

DETAIL = 2.0  # as `quality.py` builds its heads
EXTRA_YAWS = (0.5, -0.5)  # rad: where the second and third reference stand
UNALIGNED = (0.75, 0.62, 0.55)  # focal length as a factor; principal point, 0.5 is the centre
DECIDING = ("core/diffusion", "core/metrics", "core/renderers", "core/faces")
"""Parts of the package that a result depends on beside its inputs."""


@dataclass(frozen=True, eq=False)
class Head:
    """One subject of WORK.

    Attributes:
        seed: of the procedural head.
        portrait: [S, S, 3], aligned.
        proxies: as `dp3d proxy` wrote them.
        stranger: another subject's portrait.
    """

    seed: int
    portrait: Pictures
    proxies: ProxyPictures
    stranger: Pictures

    @cached_property
    def digest(self) -> str:
        """Sha256 of everything that comes from files."""
        hasher = hashlib.sha256(str(self.seed).encode())
        made = self.proxies
        for part in (self.portrait, self.stranger, made.images, made.confidences, made.coverages):
            hasher.update(part.tobytes())
        return hasher.hexdigest()

    def model(self) -> ProceduralHead:
        """The head, as `quality.py` builds it: some hundred MB."""
        return ProceduralHead(self.seed, detail=DETAIL)

    def truth(self, model: ProceduralHead, targets: Targets) -> Truth:
        """The true views with their geometry."""
        rendering = model.render(torch.from_numpy(targets.labels), len(self.portrait))
        return Truth(
            to_uint8(rendering.image),
            rendering.depth[:, 0].numpy(),
            rendering.mask[:, 0].numpy(),
            cameras_of(targets),
            targets.closed,
            self.proxies.confidences,
        )

    def inputs(self, model: ProceduralHead, targets: Targets, other_identity: Pictures) -> Inputs:
        """What the pipeline may be given."""
        size, views = len(self.portrait), len(targets.conditions)
        frontal = Camera.look_at(0.0, 0.0).label
        focal, x, y = UNALIGNED
        shrunk = frontal.copy()
        shrunk[[16, 20]] *= focal
        shrunk[[18, 21]] = x, y
        labels = np.stack([shrunk, *(Camera.look_at(yaw, 0.0).label for yaw in EXTRA_YAWS)])
        unaligned, second, third = to_uint8(model.render(torch.from_numpy(labels), size).image)
        return Inputs(
            str(self.seed),
            targets.view_names,
            targets.closed,
            {
                "own": self.portrait,
                "stranger": self.stranger,
                "unaligned": unaligned,
                "second": second,
                "third": third,
            },
            {
                "own": targets.conditions,
                "wrong-camera": np.roll(targets.conditions, views // 2, axis=0),
                "other-identity": other_identity,
            },
            self.proxies.images,
            self.proxies.confidences,
            self.proxies.coverages,
        )


def cameras_of(targets: Targets) -> tuple[Camera, ...]:
    known = tuple(camera for camera in targets.cameras if camera is not None)
    if len(known) < len(targets.cameras):
        raise SystemExit("ablations need targets whose cameras are all known")
    return known


def read_heads(work: Path, count: int, targets: Targets, size: int) -> list[Head]:
    """The heads whose face was found. The stranger of one is the next one."""
    run = work / "run"
    seeds = [seed for seed in SPLITS["test"][:count] if (run / "proxy" / str(seed)).is_dir()]
    if len(seeds) < 2:
        raise SystemExit(f"{work}: ablations need two heads or more whose faces are found")
    portraits = [resize(read_image(run / "aligned" / f"{seed}.png"), size) for seed in seeds]
    return [
        Head(
            seed,
            portraits[i],
            read_proxies(run / "proxy", str(seed), targets.view_names, size),
            portraits[(i + 1) % len(seeds)],
        )
        for i, seed in enumerate(seeds)
    ]


class Store:
    """Scores of one head and variant each.

    Args:
        folder: of all results that were made alike; see `digest_of`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, variant: str, seed: int, suffix: str) -> Path:
        """Where one result is."""
        return self.folder / variant.replace("/", "--") / f"{seed}{suffix}"

    def write(self, variant: str, head: Head, content: Mapping[str, Any], strip: Pictures | None) -> None:
        """Keep scores, and a picture for the sheet."""
        path = self.path(variant, head.seed, ".json")
        path.parent.mkdir(parents=True, exist_ok=True)
        if strip is not None:
            write_png(self.path(variant, head.seed, ".png"), strip)
        draft = path.with_suffix(".part")
        draft.write_text(json.dumps({"inputs": head.digest, **content}) + "\n", encoding="utf-8")
        draft.replace(path)

    def has(self, variant: str, head: Head, *, with_strip: bool) -> bool:
        """Whether nothing is left to do."""
        path = self.path(variant, head.seed, ".json")
        if not path.is_file() or (with_strip and not path.with_suffix(".png").is_file()):
            return False
        return bool(self.read(variant, head)["inputs"] == head.digest)

    def read(self, variant: str, head: Head) -> dict[str, Any]:
        """The content that was written."""
        content: dict[str, Any] = json.loads(
            self.path(variant, head.seed, ".json").read_text(encoding="utf-8")
        )
        return content


def digest_of(settings: Mapping[str, Any]) -> str:
    """A name for settings, together with the source that makes and scores views."""
    hasher = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for path in _source_files():
        hasher.update(path.read_bytes())
    return hasher.hexdigest()[:16]


def _source_files() -> Iterator[Path]:
    for part in DECIDING:
        yield from sorted((Path(dp3d_cli.__file__).parent / part).rglob("*.py"))
    yield from (Path(__file__).with_name(f"ablation_{name}.py") for name in ("heads", "scores", "variants"))
