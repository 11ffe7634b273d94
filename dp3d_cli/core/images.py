"""Pictures as files: any photo in, one plain form out.

Everything above this module sees a picture as uint8 [H, W, 3], RGB in sRGB, upright, without alpha. What a
file may hold instead (EXIF rotation, alpha, palettes, CMYK, 16 bits, animations) is resolved here, and what
cannot be resolved is an `InputError` with a reason of its own:

    missing-file, empty-file, unreadable-image (not a picture), truncated-image (cut short or damaged),
    image-too-small, image-too-large (checked before any pixel is decoded),
    unsupported-format (HEIC, camera raw, floating-point pixels).
"""

from __future__ import annotations

import io
import logging
import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, UnidentifiedImageError

from dp3d_cli.core.errors import InputError

logger = logging.getLogger(__name__)

# Files that a folder search takes for pictures. HEIC cannot be decoded, but telling so beats passing it over.
IMAGE_SUFFIXES = frozenset(
    (
        ".jpg",
        ".jpeg",
        ".png",
        ".webp",
        ".bmp",
        ".gif",
        ".tif",
        ".tiff",
        ".avif",
        ".ppm",
        ".pgm",
        ".jp2",
        ".heic",
        ".heif",
    )
)
VIDEO_SUFFIXES = frozenset((".mp4", ".mov", ".webm", ".avi", ".mkv", ".m4v"))

# Just under the 178.96 megapixels at which Pillow refuses by itself; 178 MP decode to about 1.3 GB.
MAX_PIXELS = 178_000_000

_RAW_SUFFIXES = frozenset((".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".orf", ".rw2"))
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\x00", b"MM\x00*")
_EXIF_ORIENTATION = 0x0112
_BACKGROUND = (255, 255, 255)
_BAND_ROWS = 512

# What Pillow's decoders raise on damaged data. SyntaxError is its word for a broken chunk.
_DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    TypeError,
    KeyError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True)
class Photo:
    """A decoded picture file.

    Attributes:
        pixels: uint8 [H, W, 3] RGB, upright, contiguous and writable.
        exif_orientation: the EXIF value 1..8 that the file carried and that has been applied; 1 is upright.
        notes: sentences about what had to be decided (a broken colour profile, frames left out).
    """

    pixels: NDArray[np.uint8]
    exif_orientation: int = 1
    notes: tuple[str, ...] = ()


def read_image(path: Path, *, min_side: int = 1, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Read a picture file as uint8 [H, W, 3] RGB; see `read_photo`."""
    return read_photo(path, min_side=min_side, max_pixels=max_pixels).pixels


def read_photo(path: Path, *, min_side: int = 1, max_pixels: int = MAX_PIXELS) -> Photo:
    """Read a picture file of any common kind.

    Alpha is composited over white. CMYK and RGB with an embedded colour profile are converted to sRGB. 16-bit
    samples keep their high byte. Of an animation the first frame is taken.

    Args:
        path: the file.
        min_side: smallest width and height accepted [px].
        max_pixels: largest width x height accepted, read from the header before decoding.

    Returns:
        The picture and what was done to it.

    Raises:
        InputError: the file cannot be used; `reason` is one of those in the module's description.
    """
    head = _read_head(path)
    # Pillow warns about oversized pictures, which is checked here, and about odd metadata, which is noise.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = Image.open(path)
        except Image.DecompressionBombError as error:
            raise _too_large(path, "", max_pixels) from error
        except UnidentifiedImageError as error:
            raise _unidentified(path, head) from error
        except _DECODE_ERRORS as error:
            raise _damaged(path, error) from error
        with image:
            width, height = image.size
            if width * height > max_pixels:
                raise _too_large(path, f" ({width} x {height})", max_pixels)
            if min(width, height) < min_side:
                raise InputError(
                    f"{path}: the picture is {width} x {height} pixels, at least {min_side} each way are "
                    "needed. Give a larger one.",
                    reason="image-too-small",
                )
            return _decode(path, image)


def write_png(path: Path, image: NDArray[np.uint8]) -> None:
    """Write uint8 [H, W, 3] RGB or [H, W] grey as PNG, equal bytes for equal pixels. Makes parent folders."""
    if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
        raise ValueError(f"expected uint8 [H, W, 3] or [H, W], got {image.dtype} {list(image.shape)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(image)).save(path, format="PNG", compress_level=6)


def resize(image: NDArray[np.uint8], size: int | tuple[int, int]) -> NDArray[np.uint8]:
    """Resize by an antialiased Lanczos filter.

    Args:
        image: uint8 [H, W, 3] or [H, W].
        size: side of the square result, or (height, width) [px].

    Returns:
        uint8 [height, width, 3] or [height, width]; a copy even if the size is already right.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ValueError(f"size must be positive, got {height} x {width}")
    if image.shape[:2] == (height, width):
        return np.copy(image)
    source = Image.fromarray(np.ascontiguousarray(image))
    resized: NDArray[np.uint8] = np.array(source.resize((width, height), Image.Resampling.LANCZOS))
    return resized


def _read_head(path: Path) -> bytes:
    """The first bytes of the file, which tell its kind."""
    try:
        with path.open("rb") as file:
            head = file.read(32)
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file.", reason="missing-file") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).", reason="unreadable-image") from error
    if not head:
        raise InputError(f"{path}: the file is empty. Copy it again from its source.", reason="empty-file")
    return head


def _unidentified(path: Path, head: bytes) -> InputError:
    """The error for a file whose header Pillow does not understand."""
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS:
        return InputError(
            f"{path}: HEIC pictures cannot be read. Export it as JPEG or PNG.", reason="unsupported-format"
        )
    if path.suffix.lower() in _RAW_SUFFIXES:
        return InputError(
            f"{path}: camera raw files cannot be read. Export it as JPEG or PNG.", reason="unsupported-format"
        )
    if head.startswith(_MAGIC) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        return _damaged(path, None)
    return InputError(
        f"{path}: this is not a picture, whatever its name says. Give a JPEG, PNG, WebP or TIFF file.",
        reason="unreadable-image",
    )


def _damaged(path: Path, error: Exception | None) -> InputError:
    detail = f" ({error})" if error is not None and str(error) else ""
    return InputError(
        f"{path}: the picture is cut short or damaged{detail}. Copy or export it again.",
        reason="truncated-image",
    )


def _too_large(path: Path, size: str, max_pixels: int) -> InputError:
    return InputError(
        f"{path}: the picture{size} has more than {max_pixels / 1e6:.0f} megapixels. Scale it down first.",
        reason="image-too-large",
    )


def _decode(path: Path, image: Image.Image) -> Photo:
    """Decode the first frame and bring it to upright RGB."""
    notes: list[str] = []
    try:
        # Pillow decodes a PNG to look for EXIF behind the pixels; after a failure there, `load` finds nothing
        # left to do and the picture is black. A TIFF's tag has to be read before it is loaded.
        if image.format == "PNG":
            image.load()
        tagged = _orientation(image)
        frames = getattr(image, "n_frames", 1)
        if frames > 1:
            notes.append(f"only the first of {frames} frames is used")
        image.load()
        pixels = _to_rgb(path, image, notes)
        # Pillow applies a TIFF's orientation while loading and drops the tag; what is left is done here.
        remaining = _orientation(image)
    except InputError:
        raise
    except MemoryError as error:
        raise InputError(f"{path}: not enough memory to decode it.", reason="image-too-large") from error
    except _DECODE_ERRORS as error:
        raise _damaged(path, error) from error
    image.close()  # frees its pixels before turning makes another copy
    upright = np.ascontiguousarray(_apply_orientation(pixels, remaining))
    return Photo(upright, tagged if tagged != 1 else remaining, tuple(notes))


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8, 1 if absent or nonsense."""
    try:
        value = image.getexif().get(_EXIF_ORIENTATION, 1)
    except _DECODE_ERRORS:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _apply_orientation(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """The upright picture, as a view, for an EXIF orientation (EXIF 2.3, tag 274).

    Values 5..8 store rows as columns: transpose first, then mirror.
    """
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    mirror_x = orientation in (2, 3, 6, 7)
    mirror_y = orientation in (3, 4, 7, 8)
    return pixels[:: -1 if mirror_y else 1, :: -1 if mirror_x else 1]


def _to_rgb(path: Path, image: Image.Image, notes: list[str]) -> NDArray[np.uint8]:
    """Pixels of a loaded image as uint8 [H, W, 3] in sRGB, not yet upright."""
    mode = image.mode
    if mode.startswith("I"):
        samples = np.asarray(image)
        if samples.min() < 0 or samples.max() > 0xFFFF:
            raise _unsupported(path, "32-bit integer")
        # The high byte, as Pillow takes it for 16-bit colour.
        grey = (samples >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if mode == "F":
        raise _unsupported(path, "floating-point")
    if mode in ("RGBa", "La"):  # premultiplied alpha, undone here
        image = image.convert(mode.upper())
    has_alpha = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
    if has_alpha:
        rgba = image.convert("RGBA")
        alpha = rgba.getchannel("A")
        opaque = _to_srgb(rgba.convert("RGB"), image.info.get("icc_profile"), notes)
        image = Image.new("RGB", rgba.size, _BACKGROUND)
        image.paste(opaque, mask=alpha)
    elif mode in ("RGB", "CMYK"):
        image = _to_srgb(image, image.info.get("icc_profile"), notes)
    else:
        image = image.convert("RGB")
    return _band_copy(image)


def _unsupported(path: Path, samples: str) -> InputError:
    return InputError(
        f"{path}: {samples} pixels have no stated range. Save it with 8 or 16 bits per channel.",
        reason="unsupported-format",
    )


def _to_srgb(image: Image.Image, profile: bytes | None, notes: list[str]) -> Image.Image:
    """An RGB or CMYK image as sRGB, by its embedded colour profile if it has a usable one."""
    if not profile:
        return image if image.mode == "RGB" else image.convert("RGB")  # convert copies in any case
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        target = ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(source, target, image.mode, "RGB")
        if image.mode == "RGB" and _changes_nothing(transform):  # most are sRGB under some name
            return image
        converted = transform.apply(image)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        logger.debug("colour profile ignored: %s", error)
        notes.append("the embedded colour profile is unusable and was ignored")
        return image.convert("RGB")
    return converted


def _changes_nothing(transform: ImageCms.ImageCmsTransform) -> bool:
    """Whether a transform from RGB to RGB moves no colour by more than one step; tries 5 x 5 x 5."""
    steps = np.linspace(0, 255, 5).astype(np.uint8)
    colours = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(25, 5, 3)
    moved = np.asarray(transform.apply(Image.fromarray(colours)))
    return int(np.abs(moved.astype(int) - colours).max()) <= 1


def _band_copy(image: Image.Image) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] of an RGB image, copied in bands so that no second full copy exists meanwhile."""
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, _BAND_ROWS):
        bottom = min(top + _BAND_ROWS, height)
        pixels[top:bottom] = np.asarray(image.crop((0, top, width, bottom)))
    return pixels
