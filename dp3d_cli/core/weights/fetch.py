"""Getting weights onto this machine: the only part of dp3d that opens a socket, and not when kept offline.

Files are whole or absent: each is brought under another name in its folder, compared with its published
digest and then renamed. What is present and intact is not brought again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dp3d_cli.core.errors import WeightsError
from dp3d_cli.core.weights.backbones import Backbone, backbone_folders, find_backbone, how_to_get
from dp3d_cli.core.weights.check import CheckedFile, check_backbone
from dp3d_cli.core.weights.manifest import problems, write_manifest
from dp3d_cli.core.weights.registry import CHECKPOINT_NAME, WeightsEntry, find, user_folder
from dp3d_cli.core.weights.transfer import Report, bring, drafted, is_address

if TYPE_CHECKING:
    import torch

    from dp3d_cli.core.diffusion.convert import Conversion

_TRUE = frozenset(("1", "ON", "YES", "TRUE"))  # as huggingface_hub reads HF_HUB_OFFLINE

_CANNOT_WRITE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR)


@dataclass(frozen=True)
class Fetched:
    """Where weights are after a fetch.

    Attributes:
        path: file or folder.
        was_present: nothing had to be brought.
    """

    path: Path
    was_present: bool


def offline_because(environment: Mapping[str, str]) -> str | None:
    """The setting that forbids the network ("HF_HUB_OFFLINE=1"), None if it may be used."""
    for name in ("DP3D_OFFLINE", "HF_HUB_OFFLINE"):
        if environment.get(name, "").upper() in _TRUE:
            return f"{name}={environment[name]}"
    return None


def fetch_backbone(
    backbone: Backbone, report: Report, *, source: str | None = None, offline: str | None = None
) -> Fetched:
    """Bring a backbone into `$DP3D_WEIGHTS`, if that is set, else into its library's own cache.

    Args:
        backbone: an entry of `BACKBONES`.
        report: told how far it is.
        source: address or path of the published file or archive, if not from `backbone.url`.
        offline: why the network may not be used; None: it may.

    Raises:
        WeightsError: offline, no connection, not the published bytes, or no permission to write.
    """
    found = find_backbone(backbone.name)
    if found is not None and not any(file.problem for file in check_backbone(backbone, found)):
        return Fetched(found, was_present=True)
    if backbone.library == "python-package":
        raise WeightsError(
            f"The weights '{backbone.name}' come {backbone.source}; nothing to download. "
            f"Get them with `{how_to_get(backbone)}`.",
            reason="comes-with-package",
        )
    if source is not None and backbone.library == "hugging-face":
        raise WeightsError(
            f"The weights '{backbone.name}' are several files of the repository {backbone.url}; --from "
            "cannot give them. A mirror of Hugging Face is named by $HF_ENDPOINT.",
            reason="no-such-source",
        )
    if offline is not None and (source is None or is_address(source)):
        raise _offline(backbone.name, offline, backbone_folders(backbone)[0])
    folder = backbone_folders(backbone)[0]
    if backbone.library == "torch-hub":
        (file,) = backbone.files
        bring(source or backbone.url, folder / file.name, size=file.size, sha256=file.sha256, report=report)
        return Fetched(folder / file.name, was_present=False)
    if backbone.library == "insightface":
        _bring_archive(source or backbone.url, backbone, folder, report)
    else:
        _bring_from_hugging_face(backbone, folder, report)
    return Fetched(folder, was_present=False)


def fetch_diffusion(
    entry: WeightsEntry, report: Report, *, source: str | None = None, offline: str | None = None
) -> Fetched:
    """Convert the published checkpoint into the user's folder, from a file or an address that the user gives.

    Its authors publish it behind a page for people, so that there is no address to take it from unasked.

    Raises:
        WeightsError: no source given, offline, no connection, or the file is not the published checkpoint.
    """
    found = find(entry.name)
    if found is not None and not problems(found):
        return Fetched(found, was_present=True)
    target = user_folder() / entry.name
    if entry.is_embedded:
        raise WeightsError(
            f"The embedded weights '{entry.name}' are missing or damaged. Install dp3d again.",
            reason="weights-damaged",
        )
    if source is None:
        raise WeightsError(
            f"The weights '{entry.name}' cannot be fetched unasked: their authors publish them on a page "
            f"that needs a browser. To get them, {entry.how_to_get}.",
            reason="needs-source",
        )
    if not is_address(source):
        install_checkpoint(Path(source), target, replace=True)
        return Fetched(target, was_present=False)
    if offline is not None:
        raise _offline(entry.name, offline, target)
    with drafted(target.parent / CHECKPOINT_NAME) as checkpoint:
        bring(source, checkpoint, size=None, sha256=None, report=report)
        install_checkpoint(checkpoint, target, replace=True)
    return Fetched(target, was_present=False)


def install_checkpoint(
    checkpoint: Path,
    folder: Path,
    *,
    replace: bool = False,
    config: Path | None = None,
    dtype: torch.dtype | None = None,
    max_shard_size: str = "10GB",
) -> Conversion:
    """Convert a published checkpoint into a folder with a manifest, whole or not at all.

    Args:
        checkpoint: the file.
        folder: made.
        replace: whether weights that are there already give way, once the new ones are complete.
        config: JSON file of sizes; None: those of the released model.
        dtype: of the written weights; None: float32.
        max_shard_size: larger files are split.

    Raises:
        WeightsError: the file is not a checkpoint, or `folder` cannot be written.
    """
    import torch

    from dp3d_cli.core.diffusion.convert import convert_checkpoint

    if not checkpoint.is_file():
        raise WeightsError(
            f"{checkpoint}: no such file. Give the downloaded {CHECKPOINT_NAME}.", reason="no-such-source"
        )
    with _drafted_folder(folder, replace=replace) as draft:
        result = convert_checkpoint(
            checkpoint, draft, config=config, dtype=dtype or torch.float32, max_shard_size=max_shard_size
        )
        write_manifest(draft)
    return result


def _offline(name: str, reason: str, place: Path) -> WeightsError:
    return WeightsError(
        f"offline ({reason}), so '{name}' is not fetched. Fetch it where there is a network, and copy it to "
        f"{place}.",
        reason="offline",
    )


def _bring_archive(source: str, backbone: Backbone, folder: Path, report: Report) -> None:
    """Unpack the listed files of a zip archive, each of which must be the published one, and nothing else."""
    archive = backbone.archive
    if archive is None:
        raise ValueError(f"{backbone.name} does not come in an archive")
    with drafted(folder.parent / archive.name) as packed:
        bring(source, packed, size=archive.size, sha256=archive.sha256, report=report)
        with tempfile.TemporaryDirectory(prefix=f".{backbone.name}.", dir=folder.parent) as drafts:
            unpack(packed, backbone, Path(drafts))
            damaged = [file for file in check_backbone(backbone, Path(drafts)) if file.problem]
            if damaged:
                raise WeightsError(
                    f"{source}: {damaged[0].file.name} in it is not the published one "
                    f"({damaged[0].problem}). Nothing was kept.",
                    reason="wrong-hash",
                )
            folder.mkdir(parents=True, exist_ok=True)
            for path in sorted(Path(drafts).iterdir()):
                path.replace(folder / path.name)


def unpack(archive: Path, backbone: Backbone, folder: Path) -> None:
    """Write the members of a zip archive that are files of the backbone into `folder`.

    Raises:
        WeightsError: not a zip archive, or one that would write outside `folder`.
    """
    wanted = {file.name: file for file in backbone.files}
    try:
        with zipfile.ZipFile(archive) as members:
            for member in members.infolist():
                path = Path(member.filename.replace("\\", "/"))
                if path.is_absolute() or ".." in path.parts:
                    raise WeightsError(
                        f"The archive of '{backbone.name}' holds {member.filename!r}, a path outside its "
                        "folder. It was not unpacked.",
                        reason="unsafe-archive",
                    )
                if member.is_dir() or path.name not in wanted:
                    continue
                with members.open(member) as packed, (folder / path.name).open("wb") as file:
                    left = wanted[path.name].size + 1  # one more shows that it is too long
                    while block := packed.read(min(left, 1 << 20)):
                        file.write(block)
                        left -= len(block)
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise WeightsError(
            f"The archive of '{backbone.name}' cannot be unpacked ({error}). Nothing was kept.",
            reason="damaged-archive",
        ) from error


def _bring_from_hugging_face(backbone: Backbone, snapshot: Path, report: Report) -> None:
    """Let huggingface_hub fill its cache, then compare; a file with another digest is taken out again."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils.tqdm import tqdm

    done = 0

    class Reporting(tqdm):
        """Draws nothing and passes the bytes on."""

        def __init__(self, *_args: object, initial: float = 0, **_settings: object) -> None:
            super().__init__(disable=True)  # type: ignore[no-untyped-call]
            self.update(initial)  # from an earlier run that was interrupted

        def update(self, n: float | None = 1) -> bool | None:
            nonlocal done
            done += int(n or 0)
            report(done, backbone.size)
            return None

    cache = snapshot.parents[2]
    _take_out_damaged(backbone, snapshot)  # or the hub would keep them
    for file in backbone.files:
        try:
            hf_hub_download(
                backbone.url,
                file.name,
                revision=backbone.revision,
                cache_dir=cache,
                tqdm_class=Reporting,
                token=False,
            )
        except Exception as error:  # those of its HTTP library too, which differs between its versions
            if isinstance(error, OSError) and error.errno in _CANNOT_WRITE:
                raise WeightsError(
                    f"{cache}: cannot be written ({error.strerror}). Name another folder in $DP3D_WEIGHTS.",
                    reason="cannot-write",
                ) from error
            raise WeightsError(
                f"{backbone.url}, {file.name}: cannot be downloaded from Hugging Face "
                f"({' '.join(str(error).split())[:300]}). Check the connection, then run the same command "
                "again.",
                reason="download-failed",
            ) from error
    if damaged := _take_out_damaged(backbone, snapshot):
        raise WeightsError(
            f"{backbone.url}, {damaged[0].file.name}: {damaged[0].problem}. This is not the published file; "
            "it was removed.",
            reason="wrong-hash",
        )


def _take_out_damaged(backbone: Backbone, snapshot: Path) -> list[CheckedFile]:
    damaged = [file for file in check_backbone(backbone, snapshot) if file.problem and file.path.exists()]
    for file in damaged:
        file.path.resolve().unlink()  # the content, to which the name in the snapshot links
        file.path.unlink(missing_ok=True)
    return damaged


@contextlib.contextmanager
def _drafted_folder(folder: Path, *, replace: bool) -> Iterator[Path]:
    """A folder to fill beside `folder`, which takes its place at the end of a body that succeeds."""
    draft = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    aside = draft.with_name(f"{draft.name}.old")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        yield draft
        if replace and folder.exists():
            folder.rename(aside)
        draft.rename(folder)
    except OSError as error:
        raise WeightsError(
            f"{folder.parent}: cannot be written ({error.strerror or error}). Name another folder in "
            "$DP3D_WEIGHTS.",
            reason="cannot-write",
        ) from error
    finally:
        if aside.exists() and not folder.exists():
            aside.rename(folder)
        for leftover in (draft, aside):
            if os.path.lexists(leftover):
                shutil.rmtree(leftover, ignore_errors=True)
