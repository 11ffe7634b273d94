"""Reading video frames with decord, writing MP4, WebM and GIF with PyAV; no shell and no ffmpeg program.

Frames are uint8 [N, H, W, 3] RGB. Writing is deterministic: the same frames give the same bytes on every run
with the same PyAV wheel (one encoder thread, "bitexact" container, no clock in any header).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.filter
import cv2
import decord
import numpy as np
from av.codec.context import Flags
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from numpy.typing import NDArray

from dp3d_cli.core.errors import InputError

logger = logging.getLogger(__name__)

Frames = NDArray[np.uint8]

_READ_CHUNK = 32  # frames decoded at a time, so that `max_side` bounds the memory
# Constant-quality levels at which the portraits used for development keep > 39 dB through encode and decode.
_X264 = {"crf": "18", "preset": "medium"}
_VP9 = {"crf": "24", "b": "0", "deadline": "good", "cpu-used": "3", "row-mt": "0"}


def count_frames(path: Path) -> int:
    """Number of frames in a video file.

    Raises:
        InputError: the file cannot be read as a video (reason "unreadable-video").
    """
    return len(_open(path))


def read_frames(path: Path, indices: Sequence[int] | None = None, max_side: int | None = None) -> Frames:
    """Decode frames of a video; rotation stated in the file is applied.

    Args:
        path: any container and codec that decord's ffmpeg knows (MP4, MOV, WebM, MKV, AVI, ...; not GIF).
            decord cannot hand out frames of a few small widths (16 and less, 24, 48, 72 pixels).
        indices: frame numbers from 0, in the order wanted, repeats allowed; all frames if None.
        max_side: shrink so that the longer side is at most this many pixels (area average); never enlarges.

    Returns:
        uint8 [N, H, W, 3] RGB.

    Raises:
        InputError: unreadable ("unreadable-video"), or an index beyond the last frame ("no-such-frame").
        ValueError: `max_side` is not positive, or an index is negative.
    """
    if max_side is not None and max_side < 1:
        raise ValueError(f"max_side must be positive, got {max_side}.")
    reader = _open(path)
    count = len(reader)
    wanted = list(range(count)) if indices is None else [int(index) for index in indices]
    if any(index < 0 for index in wanted):
        raise ValueError(f"Frame indices must not be negative, got {min(wanted)}.")
    if wanted and max(wanted) >= count:
        raise InputError(
            f"{path}: there is no frame {max(wanted)}; the video has {count} frames, numbered from 0.",
            reason="no-such-frame",
        )
    chunks = []
    for start in range(0, len(wanted), _READ_CHUNK):
        try:
            batch = reader.get_batch(wanted[start : start + _READ_CHUNK]).asnumpy()
        except (decord.DECORDError, RuntimeError) as error:
            raise _unreadable(path, error) from error
        chunks.append(_shrink(batch, max_side))
    if not chunks:
        height, width = _shrink(reader[0].asnumpy()[None], max_side).shape[1:3]
        return np.zeros((0, height, width, 3), np.uint8)
    return np.concatenate(chunks)


def write_video(path: Path, frames: Frames, fps: float, *, loop: bool = True) -> None:
    """Write frames as MP4, WebM or GIF, chosen by the suffix.

    MP4 is H.264 (libx264) in yuv420p with the index in front ("faststart"), WebM is VP9; both are tagged
    BT.709. Sides that are odd grow by one pixel, a copy of the border, because yuv420p has half-size colour
    planes. GIF has one 256-colour palette for the whole clip, ordered dithering that stands still between
    frames; its clock ticks in 1/100 s, so more than 50 frames per second are refused.

    Args:
        path: target; its suffix (.mp4, .webm, .gif) decides the format. Overwritten.
        frames: uint8 [N, H, W, 3] RGB, N >= 1.
        fps: frames per second, > 0.
        loop: whether a GIF begins again at its end; the other formats leave that to the player.

    Raises:
        ValueError: unknown suffix, wrong frames, or wrong rate.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
        raise ValueError(f"Frames must be uint8 [N, H, W, 3] with N >= 1, got {frames.dtype} {frames.shape}.")
    if not 0 < fps <= 1000:
        raise ValueError(f"fps must lie in (0, 1000], got {fps}.")
    rate = Fraction(fps).limit_denominator(1001)
    writers: dict[str, Callable[[], None]] = {
        ".mp4": lambda: _write_yuv(path, frames, rate, "mp4", "libx264", _X264),
        ".webm": lambda: _write_yuv(path, frames, rate, "webm", "libvpx-vp9", _VP9),
        ".gif": lambda: _write_gif(path, frames, rate, loop),
    }
    writer = writers.get(path.suffix.lower())
    if writer is None:
        raise ValueError(f"{path.name}: unknown video suffix; use one of {', '.join(writers)}.")
    writer()


def _open(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"{path}: no such video file.", reason="unreadable-video")
    decord.logging.set_level(
        decord.logging.QUIET
    )  # our own sentence says it; ffmpeg's lines would come on top
    try:
        reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
    except UnicodeEncodeError:  # a name that is no valid text: decord takes only UTF-8, so hand it the bytes
        with path.open("rb") as file:
            reader = decord.VideoReader(file, ctx=decord.cpu(0), num_threads=1)
    except (decord.DECORDError, RuntimeError) as error:
        raise _unreadable(path, error) from error
    if len(reader) == 0:
        raise _unreadable(path, ValueError("no frames"))
    return reader


def _unreadable(path: Path, error: Exception) -> InputError:
    logger.debug("decord on %s: %s", path, error)  # decord's text is a C++ stack; of no use to a person
    return InputError(
        f"{path}: cannot be read as a video (damaged, empty, or an unknown format). "
        "Check that a player opens it, or convert it to MP4.",
        reason="unreadable-video",
    )


def _shrink(frames: Frames, max_side: int | None) -> Frames:
    height, width = frames.shape[1:3]
    if max_side is None or max(height, width) <= max_side:
        return frames
    scale = max_side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames])


def _write_yuv(
    path: Path, frames: Frames, rate: Fraction, container: str, codec: str, options: dict[str, str]
) -> None:
    height, width = frames.shape[1:3]
    frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    flags = {"fflags": "+bitexact"}
    if container == "mp4":
        flags["movflags"] = "+faststart"
    with av.open(str(path), "w", format=container, options=flags) as output:
        stream = output.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        context = stream.codec_context
        context.thread_count = 1
        context.flags |= Flags.bitexact
        context.colorspace = Colorspace.ITU709
        context.color_primaries = ColorPrimaries.BT709
        context.color_trc = ColorTrc.BT709
        context.color_range = ColorRange.MPEG
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(
                format="yuv420p",
                dst_colorspace=Colorspace.ITU709,
                src_color_range=ColorRange.JPEG,
                dst_color_range=ColorRange.MPEG,
                interpolation="AREA",
            )
            frame.pts, frame.time_base = number, 1 / rate
            output.mux(stream.encode(frame))
        output.mux(stream.encode())


def _write_gif(path: Path, frames: Frames, rate: Fraction, loop: bool) -> None:
    if rate > 50:
        raise ValueError(
            f"{path.name}: GIF players cannot show more than 50 frames per second, got {float(rate):g}."
        )
    height, width = frames.shape[1:3]
    graph = av.filter.Graph()
    source = graph.add(
        "buffer",
        f"video_size={width}x{height}:pix_fmt=rgb24:time_base={1 / rate}:frame_rate={rate}:pixel_aspect=1/1",
    )
    split = graph.add("split")
    palette = graph.add("palettegen", "stats_mode=full:reserve_transparent=0")
    apply = graph.add("paletteuse", "dither=bayer:bayer_scale=5")
    sink = graph.add("buffersink")
    source.link_to(split)
    split.link_to(palette, 0, 0)
    split.link_to(apply, 1, 0)
    palette.link_to(apply, 0, 1)
    apply.link_to(sink)
    graph.configure()
    with av.open(
        str(path), "w", format="gif", options={"loop": "0" if loop else "-1", "fflags": "+bitexact"}
    ) as output:
        stream = output.add_stream("gif", rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "pal8"
        stream.codec_context.thread_count = 1
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number, 1 / rate
            source.push(frame)
        source.push(None)
        while True:
            try:
                mapped = sink.pull()
            except (av.BlockingIOError, av.EOFError):
                break
            output.mux(stream.encode(mapped))
        output.mux(stream.encode())
