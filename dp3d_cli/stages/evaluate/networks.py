"""The networks that metrics use, each loaded once, and what they say of a picture, each computed once.

A picture is known by the sha256 of its pixels. What a network says of the truth or of a reference is kept in
a cache folder too, so that it is not computed anew for every method and every run.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from dp3d_cli.core.metrics.pictures import Picture
from dp3d_cli.stages.engine.stage import Json

if TYPE_CHECKING:
    from dp3d_cli.core.metrics.dists import Dists
    from dp3d_cli.core.metrics.lpips import Lpips
    from dp3d_cli.core.metrics.pose import HeadAngles, PoseEstimator

Features = NDArray[np.float32]
NetworkName = Literal[
    "lpips-alex",
    "lpips-vgg",
    "dists-256",
    "dists-native",
    "inception",
    "inception-clean",
    "clip",
    "face",
    "pose",
]
PoseBackend = Literal["auto", "insightface", "landmarks"]
Role = Literal["prediction", "truth", "reference"]


class _Describes(Protocol):
    def describe(self) -> Mapping[str, object]: ...


@dataclass(frozen=True)
class Sight:
    """A picture as the metrics see it.

    Attributes:
        pixels: uint8 [S, S, 3] RGB at the protocol's size.
        sha256: of these pixels.
    """

    pixels: Picture
    sha256: str

    @classmethod
    def of(cls, pixels: Picture) -> Sight:
        """With its digest."""
        return cls(pixels, pixels_digest(pixels))


def pixels_digest(pixels: Picture) -> str:
    """Sha256 of a picture's size and pixels."""
    digest = hashlib.sha256(f"{pixels.shape}".encode())
    digest.update(np.ascontiguousarray(pixels).tobytes())
    return digest.hexdigest()


class Networks:
    """Loads on demand; what cannot be loaded is a WeightsError each time it is asked for.

    Args:
        device: torch device of the torch networks.
        pose: which pose estimator.
        cache: folder for features of truths and references; None keeps them in memory only.
    """

    def __init__(self, device: str = "cpu", pose: PoseBackend = "auto", cache: Path | None = None) -> None:
        self._device, self._pose, self._cache = device, pose, cache
        self._loaded: dict[NetworkName, Any] = {}
        self._descriptions: dict[NetworkName, dict[str, Json]] = {}
        self._known: dict[tuple[NetworkName, str], Features | None] = {}
        self._current: dict[tuple[NetworkName, str], Features | None] = {}  # of the last prediction

    def describe(self, name: NetworkName) -> dict[str, Json]:
        """What decides this network's numbers; loads it.

        Raises:
            WeightsError: its weights or a package are missing, or damaged.
        """
        if name not in self._descriptions:
            described = cast(_Describes, self._network(name)).describe()
            self._descriptions[name] = cast(dict[str, Json], dict(described))
        return self._descriptions[name]

    def lpips(self, trunk: Literal["alex", "vgg"], prediction: Picture, truth: Picture) -> float:
        """Distance of a pair."""
        network: Lpips = self._network("lpips-alex" if trunk == "alex" else "lpips-vgg")
        return network(prediction, truth)

    def dists(self, resize: Literal["256", "native"], prediction: Picture, truth: Picture) -> float:
        """Distance of a pair."""
        network: Dists = self._network("dists-256" if resize == "256" else "dists-native")
        return network(prediction, truth)

    def features(self, name: NetworkName, sight: Sight, role: Role) -> Features | None:
        """What a network says of one picture, [D]; None where it finds no face.

        The three angles of a head [pitch, yaw, roll] are features like others.

        Args:
            name: "inception", "inception-clean", "clip", "face" or "pose".
            sight: the picture.
            role: features of truths and references are kept.
        """
        key = name, sight.sha256
        if role == "prediction":
            if any(digest != sight.sha256 for _, digest in self._current):
                self._current.clear()
            if key not in self._current:
                self._current[key] = self._compute(name, sight)
            return self._current[key]
        if key not in self._known:
            self._known[key] = self._from_cache(name, sight)
        return self._known[key]

    def angles(self, sight: Sight, role: Role) -> HeadAngles | None:
        """How the head is turned; None without a face."""
        from dp3d_cli.core.metrics.pose import HeadAngles

        found = self.features("pose", sight, role)
        return None if found is None else HeadAngles(*(float(angle) for angle in found))

    def forget(self) -> None:
        """Drop the features held in memory: what belongs to one subject is not asked for again."""
        self._known.clear()

    def _network(self, name: NetworkName) -> Any:
        if name not in self._loaded:
            self._loaded[name] = _LOADERS[name](self._device, self._pose, self._loaded)
        return self._loaded[name]

    def _compute(self, name: NetworkName, sight: Sight) -> Features | None:
        network = self._network(name)
        if name == "pose":
            angles = cast("PoseEstimator", network).estimate(sight.pixels)
            return None if angles is None else np.array([angles.pitch, angles.yaw, angles.roll])
        return cast(Features | None, network.features(sight.pixels))

    def _from_cache(self, name: NetworkName, sight: Sight) -> Features | None:
        if self._cache is None:
            return self._compute(name, sight)
        digest = hashlib.sha256(json.dumps(self.describe(name), sort_keys=True).encode()).hexdigest()
        path = self._cache / f"{name}-{digest[:16]}" / sight.sha256[:2] / f"{sight.sha256}.npy"
        try:
            found = np.load(path)
        except (OSError, ValueError, EOFError):  # not there, or cut off
            computed = self._compute(name, sight)
            _store(path, np.zeros(0, np.float32) if computed is None else computed)
            return computed
        return found if found.size else None


def _store(path: Path, array: NDArray[np.floating[Any]]) -> None:
    """Write an array completely or not at all; other processes may do the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.stem[:16]}.{secrets.token_hex(4)}.npy")
    try:
        np.save(draft, array)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _lpips(trunk: Literal["alex", "vgg"], device: str) -> Lpips:
    from dp3d_cli.core.metrics.lpips import Lpips

    return Lpips.load(trunk, device)


def _dists(resize: Literal["256", "native"], device: str, loaded: Mapping[NetworkName, Any]) -> Dists:
    from dp3d_cli.core.metrics.dists import Dists

    other: Dists | None = loaded.get("dists-native" if resize == "256" else "dists-256")
    return Dists.load(resize, device) if other is None else other.with_resize(resize)


def _inception(convention: Literal["pytorch-fid", "clean-fid"], device: str) -> Any:
    from dp3d_cli.core.metrics.fid import FidFeatures

    return FidFeatures.load(convention, device)


def _clip(device: str) -> Any:
    from dp3d_cli.core.metrics.clip_i import ClipFeatures

    return ClipFeatures.load(device)


def _face() -> Any:
    from dp3d_cli.core.metrics.identity import FaceIdentity

    return FaceIdentity.load()


def _estimator(backend: PoseBackend, device: str) -> Any:
    from dp3d_cli.core.metrics.pose import load_pose

    return load_pose(backend, device)


_LOADERS: dict[NetworkName, Callable[[str, PoseBackend, Mapping[NetworkName, Any]], Any]] = {
    "lpips-alex": lambda device, pose, loaded: _lpips("alex", device),
    "lpips-vgg": lambda device, pose, loaded: _lpips("vgg", device),
    "dists-256": lambda device, pose, loaded: _dists("256", device, loaded),
    "dists-native": lambda device, pose, loaded: _dists("native", device, loaded),
    "inception": lambda device, pose, loaded: _inception("pytorch-fid", device),
    "inception-clean": lambda device, pose, loaded: _inception("clean-fid", device),
    "clip": lambda device, pose, loaded: _clip(device),
    "face": lambda device, pose, loaded: _face(),
    "pose": lambda device, pose, loaded: _estimator(pose, device),
}
