import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from dp3d_cli.core.errors import InputError
from dp3d_cli.core.images import MAX_PIXELS, read_image, read_photo, resize, write_png


def picture(height: int = 12, width: int = 20, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def raw_png(samples: NDArray[np.uint16], colour_type: int) -> bytes:
    """A 16-bit PNG written by hand, so that no library's idea of it is involved."""
    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def reason_of(path: Path, **limits: int) -> str:
    with pytest.raises(InputError) as caught:
        read_image(path, **limits)
    assert str(path) in str(caught.value)
    return caught.value.reason


def test_plain_picture_comes_back_unchanged_and_writable(tmp_path: Path) -> None:
    expected = picture()
    write_png(tmp_path / "a.png", expected)
    pixels = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(pixels, expected)
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable


@pytest.mark.parametrize("suffix", ["png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_and_reported(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    options = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(picture()).save(path, exif=exif, **options)
    photo = read_photo(path)
    with Image.open(path) as image:
        np.testing.assert_array_equal(photo.pixels, np.asarray(ImageOps.exif_transpose(image).convert("RGB")))
    assert photo.exif_orientation == orientation
    assert photo.pixels.shape == ((20, 12, 3) if orientation >= 5 else (12, 20, 3))


def test_orientation_6_turns_the_left_edge_to_the_top(tmp_path: Path) -> None:
    stored = np.zeros((12, 20, 3), np.uint8)
    stored[:, 0] = 255  # left column as stored; 6 = "rotate 90 clockwise to show"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    shown = read_image(tmp_path / "a.png")
    assert (shown[0] == 255).all()
    assert (shown[1:] == 0).all()


def test_alpha_is_composited_over_white(tmp_path: Path) -> None:
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[..., 0] = 200
    rgba[..., 3] = np.array([0, 64, 128, 255], np.uint8)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    pixels = read_image(tmp_path / "a.png").astype(int)
    alpha = rgba[..., 3:] / 255
    expected = rgba[..., :3] * alpha + 255 * (1 - alpha)
    np.testing.assert_allclose(pixels, expected, atol=1)


def test_grey_with_alpha_is_composited_over_white(tmp_path: Path) -> None:
    Image.merge("LA", [Image.new("L", (4, 4), 40), Image.new("L", (4, 4), 128)]).save(tmp_path / "a.png")
    np.testing.assert_allclose(read_image(tmp_path / "a.png"), 40 * 128 / 255 + 127, atol=1.01)


def test_premultiplied_alpha_is_not_multiplied_twice(tmp_path: Path) -> None:
    # A TIFF with associated alpha (ExtraSamples 1): half-transparent pure red is stored as (128, 0, 0, 128).
    stored = Image.fromarray(np.full((4, 4, 4), (128, 0, 0, 128), np.uint8))
    stored.save(tmp_path / "a.tif")
    content = (tmp_path / "a.tif").read_bytes()
    extra_samples = struct.pack("<HHIH", 338, 3, 1, 2)  # what Pillow writes: unassociated
    assert content.count(extra_samples) == 1
    (tmp_path / "a.tif").write_bytes(content.replace(extra_samples, struct.pack("<HHIH", 338, 3, 1, 1)))
    with Image.open(tmp_path / "a.tif") as image:
        assert image.mode == "RGBA"
        assert image.tile[0].args[0] == "RGBa"
    np.testing.assert_allclose(read_image(tmp_path / "a.tif")[0, 0], (255, 127, 127), atol=2)


def test_palette_with_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (4, 2), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png", transparency=0)
    pixels = read_image(tmp_path / "a.png")
    assert pixels[0, 1].tolist() == [200, 100, 50]
    assert pixels[1, 1].tolist() == [255, 255, 255]


def test_palette_with_graded_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (4, 2), 1)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.save(tmp_path / "a.png", transparency=bytes([0, 128]))
    np.testing.assert_allclose(read_image(tmp_path / "a.png")[0, 0], (227, 177, 152), atol=1)


def test_one_bit_picture(tmp_path: Path) -> None:
    image = Image.new("1", (4, 4), 0)
    image.putpixel((2, 1), 1)
    image.save(tmp_path / "a.png")
    pixels = read_image(tmp_path / "a.png")
    assert pixels[1, 2].tolist() == [255, 255, 255]
    assert int(pixels.sum()) == 3 * 255


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3)])
def test_16_bit_samples_are_scaled_not_clipped(tmp_path: Path, colour_type: int, channels: int) -> None:
    samples = np.random.default_rng(0).integers(0, 1 << 16, (5, 7, channels)).astype(np.uint16)
    (tmp_path / "a.png").write_bytes(raw_png(samples, colour_type))
    pixels = read_image(tmp_path / "a.png")
    assert pixels.shape == (5, 7, 3)
    np.testing.assert_allclose(pixels, np.broadcast_to(samples / 257.0, pixels.shape), atol=1)


def test_16_bit_alpha_is_composited(tmp_path: Path) -> None:
    samples = np.full((2, 2, 4), (60000, 30000, 0, 32768), np.uint16)
    (tmp_path / "a.png").write_bytes(raw_png(samples, 6))
    np.testing.assert_allclose(read_image(tmp_path / "a.png")[0, 0], (244, 186, 127), atol=2)


def test_16_bit_grey_tiff(tmp_path: Path) -> None:
    samples = np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000
    Image.fromarray(samples).save(tmp_path / "a.tif")
    np.testing.assert_allclose(read_image(tmp_path / "a.tif")[..., 1], samples / 257.0, atol=1)


def test_cmyk_jpeg_has_the_colours_of_paint_on_paper(tmp_path: Path) -> None:
    cmyk = np.zeros((16, 16, 4), np.uint8)
    cmyk[:, 8:] = (0, 255, 255, 0)  # full magenta and yellow: red
    Image.fromarray(cmyk, "CMYK").save(tmp_path / "a.jpg", quality=95)
    pixels = read_image(tmp_path / "a.jpg").astype(int)
    np.testing.assert_allclose(pixels[:, :6], 255, atol=6)
    np.testing.assert_allclose(pixels[:, 10:], np.broadcast_to((255, 0, 0), (16, 6, 3)), atol=8)


def test_embedded_colour_profile_is_converted_to_srgb(tmp_path: Path) -> None:
    # In a linear-light profile a dark grey stands for a much brighter one.
    profile = linear_srgb_profile()
    Image.new("RGB", (4, 4), (55, 55, 55)).save(tmp_path / "a.png", icc_profile=profile)
    expected = 255 * (1.055 * (55 / 255) ** (1 / 2.4) - 0.055)
    np.testing.assert_allclose(read_image(tmp_path / "a.png"), expected, atol=2)


def linear_srgb_profile() -> bytes:
    """sRGB's own profile with its three tone curves replaced by the identity."""
    content = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = struct.unpack(">I", content[128:132])[0]
    for index in range(tags):
        start = 132 + 12 * index
        name, offset, _ = struct.unpack(">4sII", content[start : start + 12])
        if name in (b"rTRC", b"gTRC", b"bTRC"):
            content[offset : offset + 12] = b"curv" + bytes(4) + struct.pack(">I", 0)
            content[start + 8 : start + 12] = struct.pack(">I", 12)
    return bytes(content)


def test_srgb_profile_changes_nothing(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(picture()).save(tmp_path / "a.png", icc_profile=profile)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), picture())


def test_broken_colour_profile_is_ignored_with_a_note(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), (1, 2, 3)).save(tmp_path / "a.png", icc_profile=b"not a profile")
    photo = read_photo(tmp_path / "a.png")
    assert photo.pixels[0, 0].tolist() == [1, 2, 3]
    assert "colour profile" in photo.notes[0]


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_first_frame_of_an_animation(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    options = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], **options)
    photo = read_photo(tmp_path / f"a.{suffix}")
    assert photo.pixels[0, 0].tolist() == [255, 0, 0]
    assert "first of 3 frames" in photo.notes[0]


def test_missing_file(tmp_path: Path) -> None:
    assert reason_of(tmp_path / "a.png") == "missing-file"


def test_folder_is_not_a_picture(tmp_path: Path) -> None:
    assert reason_of(tmp_path) == "unreadable-image"


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    assert reason_of(tmp_path / "a.jpg") == "empty-file"


def test_text_named_png(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("dear diary\n" * 20)
    assert reason_of(tmp_path / "a.png") == "unreadable-image"


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "webp", "tif"])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.9])
def test_truncated_file(tmp_path: Path, suffix: str, kept: float) -> None:
    whole = io.BytesIO()
    options = {"lossless": True} if suffix == "webp" else {}
    kind = {"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix)
    Image.fromarray(picture(64, 64)).save(whole, kind, **options)
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(whole.getvalue()[: max(int(len(whole.getvalue()) * kept), 12)])
    assert reason_of(path) == "truncated-image"


def test_png_whose_pixels_do_not_decode_is_not_a_black_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write_png(path, np.full((16, 16, 3), 90, np.uint8))
    content = path.read_bytes()
    start = content.index(b"IDAT") + 4
    path.write_bytes(content[:start] + bytes(2) + content[start + 2 :])  # zlib's header
    assert reason_of(path) == "truncated-image"


def test_damaged_bytes_never_escape_as_another_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "a"
    for kind in ("png", "jpeg", "gif", "tiff", "webp", "bmp"):
        whole = io.BytesIO()
        Image.fromarray(picture(24, 24)).save(whole, kind)
        for _ in range(40):
            content = bytearray(whole.getvalue())
            for position in rng.integers(0, min(len(content), 200), 4):
                content[position] = rng.integers(0, 256)
            path.write_bytes(content)
            try:
                pixels = read_image(path, max_pixels=1_000_000)
            except InputError:
                continue
            assert pixels.dtype == np.uint8
            assert pixels.shape[2] == 3


def test_one_pixel_picture_is_too_small_for_a_face(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1)).save(tmp_path / "a.png")
    assert reason_of(tmp_path / "a.png", min_side=32) == "image-too-small"
    assert read_image(tmp_path / "a.png").shape == (1, 1, 3)


def bomb(width: int, height: int) -> bytes:
    """A PNG header that promises much and holds nothing: decoding it would fail, so it must not be tried."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = (
        png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(b"\0" * 100)) + png_chunk(b"IEND", b"")
    )
    return b"\x89PNG\r\n\x1a\n" + data


@pytest.mark.parametrize(("width", "height"), [(20000, 20000), (14000, 13000), (2_000_000, 100)])
def test_decompression_bomb_is_refused_by_its_header(tmp_path: Path, width: int, height: int) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    (tmp_path / "a.png").write_bytes(bomb(width, height))
    assert reason_of(tmp_path / "a.png") == "image-too-large"
    assert limit == Image.MAX_IMAGE_PIXELS


def test_a_picture_over_pillows_own_warning_is_still_tried(tmp_path: Path) -> None:
    # 100 megapixels are legal here, so the answer is about the missing data and not about the size.
    assert MAX_PIXELS > 100_000_000
    (tmp_path / "a.png").write_bytes(bomb(10_000, 10_000))
    assert reason_of(tmp_path / "a.png") == "truncated-image"


def test_heic_and_raw_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0" + bytes(64))
    assert reason_of(tmp_path / "a.heic") == "unsupported-format"
    (tmp_path / "a.nef").write_bytes(b"RAWDATA" * 10)
    assert reason_of(tmp_path / "a.nef") == "unsupported-format"


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "a.tif")
    assert reason_of(tmp_path / "a.tif") == "unsupported-format"


def test_written_png_is_the_same_bytes_each_time_and_makes_folders(tmp_path: Path) -> None:
    write_png(tmp_path / "x/y/a.png", picture())
    write_png(tmp_path / "b.png", np.asfortranarray(picture()))
    assert (tmp_path / "x/y/a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("bad", [np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8), np.zeros(4, np.uint8)])
def test_write_png_takes_only_8_bit_rgb_or_grey(tmp_path: Path, bad: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match="expected uint8"):
        write_png(tmp_path / "a.png", bad)


def test_resize_is_antialiased_and_keeps_the_mean() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    small = resize(stripes, (16, 8))
    assert small.shape == (16, 8, 3)
    assert small[4:-4, 2:-2].std() < 2
    np.testing.assert_allclose(small.mean(), 127.5, atol=3)
    same = resize(stripes, 64)
    np.testing.assert_array_equal(same, stripes)
    assert same is not stripes
