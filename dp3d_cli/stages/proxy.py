"""The proxy stage: one aligned portrait in, its proxy from every target camera out.

One item is one subject with one or several references. Below the output folder stand `<id>/<view>.png`,
`<id>/confidence/<view>.png`, `<id>/coverage/<view>.png` (grey) and `<id>/proxy.json` (how they were made).
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dp3d_cli.core.cameras.camera import Camera, Trajectory
from dp3d_cli.core.errors import InputError
from dp3d_cli.core.faces.face import FaceBox
from dp3d_cli.core.faces.files import read_face_box
from dp3d_cli.core.faces.opencv import OpenCVDetector
from dp3d_cli.core.faces.pose import portrait_camera, portrait_camera_weights
from dp3d_cli.core.images import read_image, resize, write_png
from dp3d_cli.core.proxies.foreground import WEIGHTS as FOREGROUND_WEIGHTS
from dp3d_cli.core.proxies.images import (
    CONFIDENCE_FOLDER,
    COVERAGE_FOLDER,
    find_proxy_images,
    map_files,
    read_proxy_images,
)
from dp3d_cli.core.proxies.placement import Box, Placement
from dp3d_cli.core.proxies.portrait import portrait_proxies
from dp3d_cli.core.proxies.segmentation import segment_head
from dp3d_cli.core.weights.manifest import sha256
from dp3d_cli.stages.engine.stage import Item, Json, Product, StepProgress

if TYPE_CHECKING:
    from dp3d_cli.core.proxies.volume import VolumeProxy

FORMAT, VERSION = "dp3d-proxy", 1

_MUCH_DOUBT = 0.15  # share of the picture of which the segmentation is not sure
_MUCH_TURNED = 0.35  # of a portrait [rad]


@dataclass(frozen=True, eq=False)
class ProxyPictures:
    """Proxies of one subject from every target camera.

    Attributes:
        images: uint8 [V, S, S, 3] RGB.
        confidences: uint8 [V, S, S]: 255 seen well in the portrait, 0 stretched, hidden or invented.
        coverages: uint8 [V, S, S]: 255 head, hair and torso, 0 background.
        facts: how they were made; the same on every run.
        warnings: sentences for the user.
    """

    images: NDArray[np.uint8]
    confidences: NDArray[np.uint8]
    coverages: NDArray[np.uint8]
    facts: Mapping[str, Json] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class ProxyStage:
    """Proxies of subjects. Build the items with `items_of`.

    Attributes:
        trajectory: the target cameras.
        size: side of the proxies [px]; even, at least 32.
        images: folder of proxies made elsewhere, one folder per id; None makes them here.
        volume: weights whose volume proxy makes them, as in a preset; None: the head template.
    """

    trajectory: Trajectory
    size: int = 256
    images: Path | None = None
    volume: str | None = None
    name: str = field(default="proxy", init=False)

    @property
    def settings(self) -> Mapping[str, Json]:
        """The cameras, by digest, and how the proxies are made."""
        digest = hashlib.sha256(self.trajectory.labels.astype("<f4").tobytes()).hexdigest()
        known: dict[str, Json] = {"cameras": digest, "num_views": len(self.trajectory), "size": self.size}
        if self.images is not None:
            return known | {"backend": "images"}
        if self.volume is not None:
            return known | {"backend": "volume"}
        return known | {"backend": "template"}

    @cached_property
    def weights(self) -> Mapping[str, str]:
        """Digests of the volume proxy, if it makes the proxies, and of what looks at portraits.

        Raises:
            WeightsError: there is no volume proxy.
        """
        if self.images is not None:
            return {}
        return portrait_weights() | ({} if self.volume is None else volume_weights(self.volume))

    @cached_property
    def _network(self) -> VolumeProxy:
        """The volume proxy, loaded once for all items."""
        assert self.volume is not None
        return load_network(self.volume)

    def items_of(self, subjects: Sequence[Item]) -> list[Item]:
        """The subjects with every file that decides their proxies: references, JSONs, given images."""
        items = []
        for subject in subjects:
            extra = [path for path in map(sidecar_of, subject.inputs) if path.is_file()]
            if self.images is not None:
                extra += proxy_files(self.images, subject.id)
            items.append(replace(subject, inputs=(*subject.inputs, *extra)))
        return items

    def process(self, item: Item, draft: Path, progress: StepProgress) -> Product:
        """Make or take over the proxies of one subject.

        Raises:
            InputError: a reference or an image made elsewhere cannot be used, or there is no face
                ("no-face").
        """
        started = time.perf_counter()
        names = self.trajectory.view_names
        progress.step(0, len(names), "views")
        if self.images is not None:
            proxies = read_proxies(self.images, item.id, names, self.size)
        elif self.volume is not None:
            reference = choose_reference(references_of(item))
            proxies = volume_proxies(reference, self.trajectory.labels, self.size, self._network)
        else:
            reference = choose_reference(references_of(item))
            proxies = template_proxies(reference, self.trajectory.labels, self.size)
        made = time.perf_counter()

        folder = draft / item.id
        files = [f"{name}.png" for name in names]
        for inner in ("", CONFIDENCE_FOLDER, COVERAGE_FOLDER):
            (folder / inner).mkdir(parents=True, exist_ok=True)
        outputs = ["proxy.json", *files]
        for index, file in enumerate(files):
            write_png(folder / file, proxies.images[index])
            for inner, maps in (
                (CONFIDENCE_FOLDER, proxies.confidences),
                (COVERAGE_FOLDER, proxies.coverages),
            ):
                write_png(folder / inner / file, np.repeat(maps[index][..., None], 3, axis=2))
                outputs.append(f"{inner}/{file}")
            progress.step(index + 1, len(files), "views")
        description = {
            "format": FORMAT,
            "version": VERSION,
            "id": item.id,
            "size": self.size,
            "trajectory": self.trajectory.name,
            "settings": dict(self.settings),
            **({"weights": dict(self.weights)} if self.weights else {}),
            **proxies.facts,
            "views": [{"view": name, "file": file} for name, file in zip(names, files, strict=True)],
        }
        text = json.dumps(description, indent=1) + "\n"
        (folder / "proxy.json").write_text(text, encoding="utf-8", newline="\n")
        return Product(
            outputs=tuple(f"{item.id}/{output}" for output in outputs),
            info={"num_views": len(files), "size": self.size, **proxies.facts},
            timings={"proxies_s": made - started, "write_s": time.perf_counter() - made},
            warnings=proxies.warnings,
        )


def sidecar_of(portrait: Path) -> Path:
    """The JSON that `dp3d align` writes beside a portrait."""
    return portrait.with_suffix(".json")


def references_of(item: Item) -> tuple[Path, ...]:
    """The portraits among an item's inputs: those before the JSONs and whatever follows them."""
    first = next((at for at, path in enumerate(item.inputs) if path.suffix == ".json"), len(item.inputs))
    return item.inputs[:first]


def choose_reference(references: Sequence[Path]) -> Path:
    """The reference that proxies are made of: the most frontal where all cameras are known, else the first.

    Raises:
        InputError: a reference is no aligned portrait, or the JSON beside it not what `dp3d align` writes.
    """
    if len(references) == 1:
        return references[0]
    cameras = [_camera_of(path) for path in references]
    known = [camera for camera in cameras if camera is not None]
    if len(known) < len(cameras):
        return references[0]
    turns = [abs(camera.yaw) for camera in known]
    return references[turns.index(min(turns))]


def _camera_of(reference: Path) -> Camera | None:
    """The camera that saw a reference; None also where no face is found, as on heads that are turned far."""
    try:
        return _Portrait.read(reference).camera
    except InputError as error:
        if error.reason != "no-face":
            raise
        return None


def template_proxies(reference: Path, labels: NDArray[np.float32], size: int) -> ProxyPictures:
    """Proxies of an aligned portrait by the head template.

    The face box and the camera come from the portrait's JSON. Without them the face is looked for, the camera
    estimated.

    Args:
        reference: the portrait, square.
        labels: [V, 25] target cameras.
        size: side of the proxies [px].

    Raises:
        InputError: the portrait cannot be read, is not square ("not-aligned") or shows no face ("no-face").
    """
    portrait = _Portrait.read(reference)
    made = portrait_proxies(
        portrait.image, portrait.area, labels, size=size,
        camera=portrait.camera, is_exact=portrait.camera_from == "alignment",
    )  # fmt: skip
    facts = portrait.facts(made.doubt, made.reference_camera, made.placement)
    warnings = _warnings(made.doubt, made.reference_camera)
    return ProxyPictures(made.images, made.confidences, made.coverages, facts, warnings)


def volume_proxies(
    reference: Path, labels: NDArray[np.float32], size: int, network: VolumeProxy
) -> ProxyPictures:
    """Proxies of an aligned portrait by the volume proxy.

    The face box and the camera come from the portrait's JSON. Without them the face is looked for, the camera
    estimated. The portrait is taken to fill its frame: a box says less about where it lies than the alignment
    did.

    Args:
        reference: the portrait, square.
        labels: [V, 25] target cameras.
        size: side of the proxies [px]; what the network makes is resized to it.
        network: from `core.proxies.volume_weights.load_volume`.

    Raises:
        InputError: the portrait cannot be read, is not square ("not-aligned") or shows no face ("no-face").
    """
    import torch

    from dp3d_cli.core.proxies.template import default_reference_label, to_uint8
    from dp3d_cli.core.proxies.volume import see

    own_size = int(network.config.size)
    portrait = _Portrait.read(reference)
    found = segment_head(portrait.image, portrait.area)
    camera = portrait.camera or Camera.from_label(default_reference_label().numpy())
    image = resize(portrait.image, own_size)
    mask = resize((found.mask * 255).round().astype(np.uint8), own_size)
    made = see(
        network,
        torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float() / 255,
        torch.from_numpy(mask).float().unsqueeze(0) / 255,
        torch.from_numpy(np.array(labels, np.float32)),
        torch.from_numpy(np.array(camera.label, np.float32)),
    )
    confidences, coverages = (
        np.stack([resize(grey[..., 0], size) for grey in to_uint8(maps)])
        for maps in (made.confidence, made.coverage)
    )
    facts = portrait.facts(found.doubt, camera, Placement()) | {"network_size": own_size}
    pictures = np.stack([resize(picture, size) for picture in to_uint8(made.images)])
    return ProxyPictures(pictures, confidences, coverages, facts, _warnings(found.doubt, camera))


def load_network(weights: str) -> VolumeProxy:
    """The volume proxy of some weights, named as in a preset.

    Raises:
        WeightsError: there is none, or it is damaged.
    """
    from dp3d_cli.core.proxies.volume_weights import find_volume, load_volume

    return load_volume(find_volume(weights))


def portrait_weights() -> dict[str, str]:
    """Digests of the networks that find a portrait's camera and foreground, for records."""
    return {**portrait_camera_weights(), "foreground": sha256(FOREGROUND_WEIGHTS)}


def volume_weights(weights: str) -> dict[str, str]:
    """Digest of the volume proxy of some weights, for records.

    Raises:
        WeightsError: there is none.
    """
    from dp3d_cli.core.proxies.volume_weights import find_volume, volume_digest

    return {f"{weights}/proxy": volume_digest(find_volume(weights))}


def proxy_files(folder: Path, subject_id: str) -> list[Path]:
    """Every file of a subject's proxies, which decide what is made with them. Empty if there are none."""
    subject = folder / subject_id
    if not subject.is_dir():
        return []
    files = sorted(path for path in subject.iterdir() if path.is_file() and path.suffix.lower() != ".json")
    return [*files, *map_files(subject, files)]


def read_proxies(folder: Path, subject_id: str, view_names: Sequence[str], size: int) -> ProxyPictures:
    """Proxies that `dp3d proxy` wrote, or made elsewhere as one folder of images per id.

    Raises:
        InputError: there is none, not one per view, or one cannot be used.
    """
    subject = folder / subject_id
    files = find_proxy_images(subject, view_names)
    read = read_proxy_images(subject, view_names, size)
    warnings: tuple[str, ...] = ()
    if not map_files(subject, files):
        warnings = (f"{subject}: no confidence maps, so these proxies are trusted everywhere",)
    return ProxyPictures(read.images, read.confidences, read.coverages, {}, warnings)


@dataclass(frozen=True, eq=False)
class _Portrait:
    """An aligned portrait, and what its JSON, or else a look at it, says of the face.

    Attributes:
        name: of the file.
        image: uint8 [H, H, 3] RGB.
        box: of the face.
        box_from: "alignment" or "detected".
        camera: that saw it; None: not known.
        camera_from: "alignment", "estimated" (`portrait_camera`) or "usual" (no estimate).
    """

    name: str
    image: NDArray[np.uint8]
    box: FaceBox
    box_from: str
    camera: Camera | None
    camera_from: str

    @property
    def area(self) -> Box:
        """The box as x, y, width, height."""
        return self.box.x, self.box.y, self.box.width, self.box.height

    @classmethod
    def read(cls, reference: Path) -> _Portrait:
        """Raises what `template_proxies` says."""
        image = _read_aligned(reference)
        box, camera = _read_sidecar(reference)
        box_from, camera_from = "alignment", "alignment"
        if box is None:
            box, box_from = _detect(image, reference), "detected"
        if camera is None:
            camera = portrait_camera(image, box)
            camera_from = "usual" if camera is None else "estimated"
        return cls(reference.name, image, box, box_from, camera, camera_from)

    def facts(self, doubt: float, camera: Camera, placement: Placement) -> dict[str, Json]:
        """For proxy.json: `doubt` of the segmentation, `camera` and `placement` as taken."""
        return {
            "reference": self.name,
            "box": [round(number, 2) for number in self.box.as_list()],
            "box_from": self.box_from,
            "outline_doubt": round(doubt, 4),
            "placement": {name: round(value, 5) for name, value in asdict(placement).items()},
            "reference_camera": {
                "from": self.camera_from,
                "label": [round(float(number), 7) for number in camera.label],
            },
        }


def _read_aligned(reference: Path) -> NDArray[np.uint8]:
    image = read_image(reference)
    if image.shape[0] != image.shape[1]:
        raise InputError(
            f"{reference}: {image.shape[1]}x{image.shape[0]} is not square, so not an aligned portrait. "
            "Run `dp3d align` first.",
            reason="not-aligned",
        )
    return image


def _read_sidecar(portrait: Path) -> tuple[FaceBox | None, Camera | None]:
    path = sidecar_of(portrait)
    if not path.is_file():
        return None, None
    box = read_face_box(path)
    stored = json.loads(path.read_bytes()).get("camera")
    return box, None if stored is None else Camera.from_label(stored["label"])


def _detect(image: NDArray[np.uint8], reference: Path) -> FaceBox:
    faces = OpenCVDetector().detect(image)
    if not faces:
        raise InputError(
            f"{reference}: no face found, so the head cannot be placed. "
            "Run `dp3d align` first; its --box names a face that is not found.",
            reason="no-face",
        )
    return faces[0].box


def _warnings(doubt: float, camera: Camera) -> tuple[str, ...]:
    sentences = []
    if doubt > _MUCH_DOUBT:
        sentences.append("head and background are hard to tell apart; look at the outline of the head")
    if abs(camera.yaw) > _MUCH_TURNED:
        degrees = abs(math.degrees(camera.yaw))
        sentences.append(f"the head is turned by {degrees:.0f} degrees; the side that it hides is a guess")
    return tuple(sentences)
