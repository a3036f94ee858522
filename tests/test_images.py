"""Image files of every kind <-> pixels: depth, channels and order kept, bad files told."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from nmcompile.errors import NmcompileError
from nmcompile.images import list_images, read_image, write_image

LOSSLESS = (".png", ".tif", ".bmp", ".webp")
U16 = np.uint16
PNG_COLOUR_TYPE = {1: 0, 2: 4, 3: 2, 4: 6}


def noise(channels, dtype=np.uint8, size=(11, 14)):
    return np.random.default_rng(channels).integers(
        0, np.iinfo(dtype).max + 1, (*size, channels), dtype
    )


def write_png(path, pixels):
    """A PNG by the specification, with no library's opinion on depth or alpha."""
    height, width, channels = pixels.shape
    depth = 8 * pixels.dtype.itemsize
    rows = b"".join(b"\0" + row.tobytes() for row in pixels.astype(pixels.dtype.newbyteorder(">")))
    header = struct.pack(">IIBBBBB", width, height, depth, PNG_COLOUR_TYPE[channels], 0, 0, 0)

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_keeps_every_bit(tmp_path, channels, dtype):
    pixels = noise(channels, dtype)
    write_png(tmp_path / "a.png", pixels)
    found = read_image(tmp_path / "a.png")
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, pixels)


@pytest.mark.parametrize("ending", [".png", ".tif", ".TIFF"])
@pytest.mark.parametrize(
    ("channels", "dtype"),
    [*((channels, np.uint8) for channels in (1, 2, 3, 4)), (1, U16), (3, U16), (4, U16)],
)
def test_what_is_written_is_read_back(tmp_path, channels, dtype, ending):
    pixels = noise(channels, dtype)
    write_image(tmp_path / f"a{ending}", pixels)
    found = read_image(tmp_path / f"a{ending}")
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, pixels)


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_deep_grey_with_alpha_is_written_as_colour(tmp_path, ending):
    pixels = noise(2, np.uint16)
    write_image(tmp_path / f"a{ending}", pixels)
    np.testing.assert_array_equal(read_image(tmp_path / f"a{ending}"), pixels[..., [0, 0, 0, 1]])


@pytest.mark.parametrize(("ending", "channels"), [(".bmp", 1), (".bmp", 3), (".webp", 3)])
def test_other_lossless_formats(tmp_path, ending, channels):
    pixels = noise(channels)
    write_image(tmp_path / f"a{ending}", pixels)
    np.testing.assert_array_equal(read_image(tmp_path / f"a{ending}"), pixels)


def test_webp_keeps_alpha_and_what_is_under_it(tmp_path):
    write_image(tmp_path / "a.webp", noise(4))
    np.testing.assert_array_equal(read_image(tmp_path / "a.webp"), noise(4))


def test_height_x_width_is_written_as_grey(tmp_path):
    write_image(tmp_path / "a.png", noise(1)[..., 0])
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), noise(1))


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_decoded_as_libjpeg_does(tmp_path, channels):
    smooth = cv2.resize(noise(channels), (80, 60), interpolation=cv2.INTER_CUBIC)
    Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=60)
    found = read_image(tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as image:
        np.testing.assert_array_equal(found, np.asarray(image).reshape(60, 80, channels))


def test_jpeg_is_written_with_little_loss(tmp_path):
    smooth = cv2.resize(noise(3), (80, 60), interpolation=cv2.INTER_CUBIC)
    write_image(tmp_path / "a.jpg", smooth)
    error = read_image(tmp_path / "a.jpg").astype(float) - smooth
    assert np.sqrt((error**2).mean()) < 4


@pytest.mark.parametrize("ending", [".png", ".bmp", ".tif"])
def test_a_palette_becomes_rgb(tmp_path, ending):
    image = Image.fromarray(noise(3)).quantize(16)
    image.save(tmp_path / f"a{ending}")
    found = read_image(tmp_path / f"a{ending}")
    np.testing.assert_array_equal(found, np.asarray(image.convert("RGB")))


def test_a_transparent_colour_becomes_alpha(tmp_path):
    image = Image.fromarray(noise(3)).quantize(16)
    image.save(tmp_path / "a.png", transparency=3)
    found = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(found[..., 3], np.where(np.asarray(image) == 3, 0, 255))


def test_grey_bmp_stays_grey(data_dir):
    found = read_image(data_dir / "deblock" / "classic5" / "lena.bmp")
    assert found.shape == (512, 512, 1)


def test_one_bit_becomes_eight(tmp_path):
    bits = noise(1)[..., 0] > 127
    Image.fromarray(bits).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png")[..., 0], bits * 255)


def test_an_image_stored_on_its_side_is_turned(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(3)).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.rot90(noise(3), -1))


@pytest.mark.parametrize(
    ("name", "pixels", "said"),
    [
        ("a.jpg", noise(3, np.uint16), "JPEG does not hold 16 bits; write a .png or .tif"),
        ("a.bmp", noise(1, np.uint16), "BMP does not hold 16 bits"),
        ("a.webp", noise(3, np.uint16), "WEBP does not hold 16 bits"),
        ("a.jpeg", noise(4), "JPEG does not hold alpha"),
        ("a.bmp", noise(2), "BMP does not hold alpha"),
        ("a.gif", noise(3), "not as .gif"),
        ("a", noise(3), "without an ending"),
        ("a.webp", np.zeros((1, 20000, 3), np.uint8), "cannot be written"),
        ("none/a.png", noise(3), "cannot be written"),
    ],
)
def test_what_cannot_be_written_is_said_and_leaves_nothing(tmp_path, name, pixels, said):
    with pytest.raises(NmcompileError, match=said):
        write_image(tmp_path / name, pixels)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    write_image(tmp_path / "a.png", noise(3))

    def full(self, data):
        with self.open("wb") as stream:
            stream.write(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(NmcompileError, match="No space left"):
        write_image(tmp_path / "a.png", noise(4))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), noise(3))
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def save_animation(path):
    frames = [Image.fromarray(noise(channels=3)), Image.fromarray(255 - noise(3))]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def save_deep_with_exif(path, orientation=6):
    exif = Image.Exif()
    exif[0x0112] = orientation
    block = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    write_png(path, noise(3, np.uint16))
    data = path.read_bytes()
    chunk = struct.pack(">I", len(block) - 4) + block + struct.pack(">I", zlib.crc32(block))
    path.write_bytes(data[:33] + chunk + data[33:])


def save_float(path):
    Image.fromarray(np.zeros((4, 4), np.float32)).save(path)


def save_32_bit(path):
    Image.fromarray(np.full((4, 4), 70000, np.int32)).save(path)


def save_text(path):
    path.write_text("not an image\n")


@pytest.mark.parametrize(
    ("name", "save", "said"),
    [
        ("a.tif", save_animation, "2 pictures"),
        ("a.png", save_deep_with_exif, "on its side"),
        ("a.tif", save_float, "floating-point"),
        ("a.tif", save_32_bit, "32-bit"),
        ("a.png", save_text, "not an image that nmcompile reads"),
        ("a.png", Path.mkdir, "no image file"),
        ("a.png", Path.exists, "no image file"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path, name, save, said):
    save(tmp_path / name)
    with pytest.raises(NmcompileError, match=said) as caught:
        read_image(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize(
    ("ending", "dtype"),
    [
        *((ending, np.uint8) for ending in LOSSLESS),
        (".jpg", np.uint8),
        (".png", U16),
        (".tif", U16),
    ],
)
def test_half_a_file_is_said(tmp_path, capfd, ending, dtype, share):
    path = tmp_path / f"a{ending}"
    write_image(path, noise(3, dtype, (40, 50)))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(NmcompileError, match=f"a{ending} (cannot be read|is not an image)"):
        read_image(path)
    assert capfd.readouterr() == ("", "")


def test_half_a_deep_png_is_said_whatever_precedes_its_pixels(tmp_path, capfd):
    path = tmp_path / "a.png"
    save_deep_with_exif(path, orientation=1)
    np.testing.assert_array_equal(read_image(path), noise(3, np.uint16))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(NmcompileError, match="cannot be read"):
        read_image(path)
    assert capfd.readouterr() == ("", "")


def test_a_folder_is_listed_by_name(tmp_path):
    for name in ("b.png", "a.bmp", "c.jpg", "10.png", "9.png"):
        write_image(tmp_path / name, noise(3))
    (tmp_path / ".hidden").write_text("not an image")
    (tmp_path / "sub").mkdir()
    found = [path.name for path in list_images(tmp_path)]
    assert found == ["10.png", "9.png", "a.bmp", "b.png", "c.jpg"]


def test_a_folder_that_is_not_one_of_images_is_said(tmp_path):
    with pytest.raises(NmcompileError, match="holds no images"):
        list_images(tmp_path)
    with pytest.raises(NmcompileError, match="is not a folder"):
        list_images(tmp_path / "none")
    write_image(tmp_path / "a.png", noise(3))
    (tmp_path / "b.txt").write_text("notes")
    (tmp_path / "c.txt").write_text("notes")
    with pytest.raises(NmcompileError, match=r"b\.txt is not an image"):
        list_images(tmp_path)
