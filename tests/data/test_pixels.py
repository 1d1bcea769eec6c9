"""Pixels of strange images: one rule for each kind."""

import struct

import numpy as np
import pytest
from PIL import Image

from sotglp_jax.data import loader, pictures
from sotglp_jax.data.pixels import read_image
from sotglp_jax.data.sources import image_files
from sotglp_jax.data.transforms import Resize


def decoded(image, path, **options):
    image.save(path, **options)
    return np.asarray(read_image(path)), np.asarray(read_image(path, upright=True))


def test_sixteen_bits_keep_their_high_byte(tmp_path):
    pixels = np.array([[0, 256, 65535]], np.uint16)
    for pixels_of in (pixels, pixels.astype(">u2")):
        plain, _ = decoded(Image.fromarray(pixels_of), tmp_path / "x.tif")
        np.testing.assert_array_equal(plain[0, :, 0], [0, 1, 255])


@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        (np.array([[0, 4095]], np.uint16), "nearly black"),
        (np.array([[0, 255]], np.int32), "32-bit integer"),
        (np.array([[0, 70000]], np.int32), "32-bit integer"),
        (np.array([[0.5, 1]], np.float32), "floating-point"),
    ],
)
def test_pixels_without_a_known_white_are_refused(tmp_path, pixels, said):
    Image.fromarray(pixels).save(tmp_path / "x.tif")
    with pytest.raises(OSError, match=said):
        read_image(tmp_path / "x.tif")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_what_is_transparent_is_white_where_asked_for(tmp_path, mode):
    image = Image.new("RGBA", (2, 1), (10, 10, 10, 255))
    image.putpixel((0, 0), (0, 0, 0, 0))
    path = tmp_path / ("x.tif" if mode == "PA" else "x.png")
    if mode == "PA":
        image, path = image.quantize(4), tmp_path / "x.png"
    elif mode == "LA":
        image = image.convert("LA")
    plain, upright = decoded(image, path)
    np.testing.assert_array_equal(plain[0, 0], [0, 0, 0])
    np.testing.assert_array_equal(upright[0, 0], [255] * 3)
    np.testing.assert_allclose(upright[0, 1], plain[0, 1], atol=1)


def test_orientation_counts_where_asked_for(tmp_path):
    exif, wide = Image.Exif(), np.zeros((2, 4, 3), np.uint8)
    exif[0x0112] = 6
    plain, upright = decoded(Image.fromarray(wide), tmp_path / "x.png", exif=exif)
    assert plain.shape == (2, 4, 3) and upright.shape == (4, 2, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_orientations_end_upright(tmp_path, orientation):
    upright = np.zeros((2, 3, 3), np.uint8)
    upright[0, 0], upright[0, 2] = 255, 90
    turns = [np.array, np.fliplr, lambda x: np.rot90(x, 2), np.flipud, lambda x: x.swapaxes(0, 1)]
    turns += [np.rot90, lambda x: np.rot90(x, 2).swapaxes(0, 1), lambda x: np.rot90(x, -1)]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(turns[orientation - 1](upright)))
    np.testing.assert_array_equal(decoded(stored, tmp_path / "x.png", exif=exif)[1], upright)


@pytest.mark.parametrize("ending", ["png", "webp"])
@pytest.mark.parametrize("exif", [b"MM", b"none", b"Exif\0\0MM\0*\0\0\0"])
def test_damaged_exif_means_as_stored_in_check_reading_and_prediction(tmp_path, ending, exif):
    path = tmp_path / f"x.{ending}"
    plain, upright = decoded(Image.new("RGB", (4, 2)), path, exif=exif)
    np.testing.assert_array_equal(upright, plain)
    assert loader.unreadable([image_files(tmp_path, [path.name], [0], upright=True)]) == []
    assert pictures.load(path, Resize(2)).shape == (2, 2, 3)


def test_an_orientation_that_can_be_read_counts_beside_what_cannot(tmp_path):
    entries = struct.pack(">HHLHxx", 0x0112, 3, 1, 6) + struct.pack(">HHLL", 0x8769, 4, 1, 10**9)
    exif = b"Exif\0\0MM\0*" + struct.pack(">LH", 8, 2) + entries + bytes(4)  # the second: nowhere
    assert decoded(Image.new("RGB", (4, 2)), tmp_path / "x.png", exif=exif)[1].shape == (4, 2, 3)
