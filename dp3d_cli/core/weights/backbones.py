"""The networks of other people that metrics and face detection use, and where each is found on this machine.

They are not ours to ship. A backbone is looked for in `$DP3D_WEIGHTS`, if that is set, then in the cache of
the library that uses it; below `$DP3D_WEIGHTS` folders are named as the libraries name theirs:

    torch hub      checkpoints/FILE          or  $TORCH_HOME/hub/checkpoints/FILE
    insightface    models/buffalo_l/         or  ~/.insightface/models/buffalo_l/
    Hugging Face   hub/models--OWNER--NAME/  or  $HF_HUB_CACHE/models--OWNER--NAME/

so that a library can be pointed at either (`torch.hub.set_dir(path.parents[1])`). Finding opens no socket and
needs no write permission; `core.weights.fetch` downloads.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dp3d_cli.core.errors import WeightsError

Library = Literal["torch-hub", "insightface", "hugging-face", "python-package"]


@dataclass(frozen=True)
class BackboneFile:
    """One file of a backbone, as published.

    Attributes:
        name: file name.
        size: bytes.
        sha256: hex digest; None: none is published, so that nothing can be compared.
        is_optional: dp3d works without it.
    """

    name: str
    size: int
    sha256: str | None
    is_optional: bool = False


@dataclass(frozen=True)
class Backbone:
    """Weights that a library of other people loads.

    Attributes:
        name: what dp3d calls it.
        title: what it is, in one line.
        library: whose cache it lives in and who loads it.
        files: what it consists of.
        licence: under which it may be used.
        source: who published it and where.
        url: of the file or archive; for Hugging Face the repository "OWNER/NAME".
        needed_by: metrics and stages that cannot do without it.
        commands: commands it is fetched for by `--for`.
        archive: the zip file at `url`, if the files come in one.
        revision: commit of the Hugging Face repository.
    """

    name: str
    title: str
    library: Library
    files: tuple[BackboneFile, ...]
    licence: str
    source: str
    url: str
    needed_by: tuple[str, ...]
    commands: tuple[str, ...] = ("evaluate",)
    archive: BackboneFile | None = None
    revision: str | None = None

    @property
    def is_folder(self) -> bool:
        """Whether `find_backbone` gives a folder; else the file."""
        return self.library in ("insightface", "hugging-face")

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


_IMAGENET = "BSD-3-Clause (torchvision); trained on ImageNet, whose terms allow research only"

BACKBONES: dict[str, Backbone] = {
    entry.name: entry
    for entry in (
        Backbone(
            name="alexnet",
            title="AlexNet trained on ImageNet, by torchvision",
            library="torch-hub",
            files=(
                BackboneFile(
                    "alexnet-owt-7be5be79.pth",
                    244_408_911,
                    "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
                ),
            ),
            licence=_IMAGENET,
            source="torchvision, AlexNet_Weights.IMAGENET1K_V1",
            url="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
            needed_by=("lpips_alex",),
        ),
        Backbone(
            name="vgg16",
            title="VGG-16 trained on ImageNet, by torchvision",
            library="torch-hub",
            files=(
                BackboneFile(
                    "vgg16-397923af.pth",
                    553_433_881,
                    "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
                ),
            ),
            licence=_IMAGENET,
            source="torchvision, VGG16_Weights.IMAGENET1K_V1",
            url="https://download.pytorch.org/models/vgg16-397923af.pth",
            needed_by=("lpips_vgg", "lpips_ref5", "dists@256", "dists@native"),
        ),
        Backbone(
            name="fid-inception",
            title="Inception-v3 of the TensorFlow FID, in PyTorch's layout",
            library="torch-hub",
            files=(
                BackboneFile(
                    "pt_inception-2015-12-05-6726825d.pth",
                    95_628_359,
                    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
                ),
            ),
            licence="Apache-2.0 (TensorFlow); trained on ImageNet, whose terms allow research only",
            source="pytorch-fid, converted from TensorFlow's inception-2015-12-05",
            url=(
                "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
                "pt_inception-2015-12-05-6726825d.pth"
            ),
            needed_by=("fid", "fid_clean", "kid"),
        ),
        Backbone(
            name="buffalo_l",
            title="SCRFD face detector, ArcFace identity and landmark networks of insightface",
            library="insightface",
            files=(
                BackboneFile(
                    "det_10g.onnx",
                    16_923_827,
                    "5838f7fe053675b1c7a08b633df49e7af5495cee0493c7dcf6697200b85b5b91",
                ),
                BackboneFile(
                    "w600k_r50.onnx",
                    174_383_860,
                    "4c06341c33c2ca1f86781dab0e829f88ad5b64be9fba56e56bc9ebdefc619e43",
                ),
                BackboneFile(
                    "1k3d68.onnx",
                    143_607_619,
                    "df5c06b8a0c12e422b2ed8947b8869faa4105387f199c477af038aa01f9a45cc",
                    is_optional=True,
                ),
                BackboneFile(
                    "2d106det.onnx",
                    5_030_888,
                    "f001b856447c413801ef5c42091ed0cd516fcd21f2d6b79635b1e733a7109dbf",
                    is_optional=True,
                ),
                BackboneFile(
                    "genderage.onnx",
                    1_322_532,
                    "4fde69b1c810857b88c64a335084f1c3fe8f01246c9a191b48c7bb756d6652fb",
                    is_optional=True,
                ),
            ),
            licence="non-commercial research only (insightface's model packages)",
            source="insightface, release model-zoo",
            url="https://github.com/deepinsight/insightface/releases/download/model-zoo/buffalo_l.zip",
            needed_by=("id_ref", "id_gt", "pose_* by insightface", "align --backend insightface"),
            commands=("evaluate", "align"),
            archive=BackboneFile(
                "buffalo_l.zip",
                288_621_354,
                "80ffe37d8a5940d59a7384c201a2a38d4741f2f3c51eef46ebb28218a7b0ca2f",
            ),
        ),
        Backbone(
            name="clip-vit-b32",
            title="CLIP ViT-B/32, image and text encoder of OpenAI",
            library="hugging-face",
            files=(
                BackboneFile(
                    "config.json",
                    4_186,
                    "b575ef3c36f2a057fa19e221650105052d61cc9c1a972ec15019c6261ec98770",
                ),
                BackboneFile(
                    "preprocessor_config.json",
                    316,
                    "910e70b3956ac9879ebc90b22fb3bc8a75b6a0677814500101a4c072bd7857bd",
                ),
                BackboneFile(
                    "pytorch_model.bin",
                    605_247_071,
                    "a63082132ba4f97a80bea76823f544493bffa8082296d62d71581a4feff1576f",
                ),
            ),
            licence="MIT (OpenAI CLIP)",
            source="OpenAI",
            url="openai/clip-vit-base-patch32",
            revision="3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268",
            needed_by=("clip_i",),
        ),
        Backbone(
            name="dists",
            title="Channel weights of DISTS; its network is vgg16",
            library="python-package",
            files=(
                BackboneFile(
                    "weights.pt",
                    12_288,
                    "f5e65c96230b7f6ca995691647d482237e4cab8a50c5c4a5784f219ef0748218",
                ),
            ),
            licence="MIT (DISTS)",
            source="inside the Python package torchmetrics or DISTS-pytorch",
            url="https://pypi.org/project/torchmetrics/",
            needed_by=("dists@256", "dists@native"),
        ),
    )
}

_PACKAGED = (
    ("torchmetrics", "functional/image/dists_models"),
    ("DISTS_pytorch", ""),
)
"""Python packages that bring the DISTS weights, and the folder within."""


def find_backbone(name: str) -> Path | None:
    """The file or folder of a backbone on this machine, None if it is not here. Opens no socket.

    Args:
        name: a key of `BACKBONES`.

    Returns:
        A file for torch hub and packages, a folder for insightface and Hugging Face. Its presence is checked,
        not its content (`core.weights.check`).
    """
    backbone = BACKBONES[name]
    needed = [file.name for file in backbone.files if not file.is_optional]
    for folder in backbone_folders(backbone):
        if all(is_file(folder / file) for file in needed):
            return folder if backbone.is_folder else folder / needed[0]
    return None


def is_file(path: Path) -> bool:
    """Whether there is a file that may be seen; a folder of someone else's that is closed to us has none."""
    try:
        return path.is_file()
    except PermissionError:
        return False


def require_backbone(name: str) -> Path:
    """The same, or an error that has the command that gets it.

    Raises:
        WeightsError: it is not on this machine.
    """
    found = find_backbone(name)
    if found is not None:
        return found
    backbone = BACKBONES[name]
    looked = " and ".join(str(folder) for folder in backbone_folders(backbone)) or "the installed packages"
    raise WeightsError(
        f"The weights '{name}' ({backbone.title}) are not on this machine; looked in {looked}. "
        f"Get them with `{how_to_get(backbone)}`.",
        reason="weights-missing",
    )


def how_to_get(backbone: Backbone) -> str:
    """The command that brings a backbone here."""
    if backbone.library == "python-package":
        return "pip install torchmetrics"
    return f"dp3d weights fetch {backbone.name}"


def backbone_folders(backbone: Backbone) -> list[Path]:
    """The folders in which a backbone's files may lie, the first one to win first."""
    if backbone.library == "python-package":
        return _package_folders()
    override = os.environ.get("DP3D_WEIGHTS")
    own = [_in_folder(backbone, Path(override).expanduser())] if override else []
    return [*own, library_folder(backbone)]


def library_folder(backbone: Backbone) -> Path:
    """The folder in the library's own cache in which it looks for the backbone's files."""
    if backbone.library == "torch-hub":
        return _torch_hub_folder() / "checkpoints"
    if backbone.library == "insightface":
        return Path("~/.insightface/models").expanduser() / backbone.name
    if backbone.library == "hugging-face":
        return hugging_face_snapshot(backbone, _hugging_face_cache())
    raise ValueError(f"{backbone.name} comes with a Python package and has no cache")


def hugging_face_snapshot(backbone: Backbone, cache: Path) -> Path:
    """The folder of a backbone's files in a Hugging Face cache."""
    return cache / f"models--{backbone.url.replace('/', '--')}" / "snapshots" / str(backbone.revision)


def _in_folder(backbone: Backbone, root: Path) -> Path:
    if backbone.library == "torch-hub":
        return root / "checkpoints"
    if backbone.library == "insightface":
        return root / "models" / backbone.name
    return hugging_face_snapshot(backbone, root / "hub")


def _torch_hub_folder() -> Path:
    """As `torch.hub.get_dir`, which costs the import of torch where that is not loaded already."""
    if hub := sys.modules.get("torch.hub"):
        return Path(hub.get_dir())
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("TORCH_HOME", f"{cache}/torch")).expanduser() / "hub"


def _hugging_face_cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _package_folders() -> list[Path]:
    folders = []
    for package, within in _PACKAGED:
        spec = importlib.util.find_spec(package)
        for root in (spec.submodule_search_locations or []) if spec else []:
            folders.append(Path(root) / within)
    return folders
