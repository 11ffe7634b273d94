"""Whether a backbone's files are what their publishers say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dp3d_cli.core.weights.backbones import Backbone, BackboneFile, backbone_folders, is_file
from dp3d_cli.core.weights.manifest import sha256


@dataclass(frozen=True)
class CheckedFile:
    """One file of a backbone as it lies here.

    Attributes:
        file: what it should be.
        path: where it lies.
        problem: what is wrong, as a clause; empty if nothing is.
        sha256: digest of its content; None if it was not read.
    """

    file: BackboneFile
    path: Path
    problem: str = ""
    sha256: str | None = None


def check_backbone(backbone: Backbone, place: Path, *, read: bool = True) -> list[CheckedFile]:
    """Compare the files that are present; those that may be absent are passed over if they are.

    Args:
        backbone: what to compare with.
        place: the file or folder, as `find_backbone` gives it.
        read: read every byte; else compare sizes only.
    """
    checked = []
    for file in backbone.files:
        path = place / file.name if backbone.is_folder else place
        if is_file(path) or not file.is_optional:
            checked.append(_check_file(file, path, read=read))
    return checked


def partial_place(backbone: Backbone) -> Path | None:
    """The first folder that has any file of a backbone that is a folder: where an incomplete one lies."""
    for folder in backbone_folders(backbone) if backbone.is_folder else ():
        if any(is_file(folder / file.name) for file in backbone.files):
            return folder
    return None


def _check_file(file: BackboneFile, path: Path, *, read: bool) -> CheckedFile:
    if not is_file(path):
        return CheckedFile(file, path, "missing")
    if (size := path.stat().st_size) != file.size:
        return CheckedFile(file, path, f"{size} bytes, expected {file.size}")
    if not read:
        return CheckedFile(file, path)
    try:
        digest = sha256(path)
    except OSError as error:
        return CheckedFile(file, path, f"cannot be read ({error.strerror})")
    wrong = file.sha256 is not None and digest != file.sha256
    return CheckedFile(file, path, f"sha256 {digest}, expected {file.sha256}" if wrong else "", digest)
