"""Image files: decoders of OpenCV and Pillow, the EXIF standard and values set by hand are the oracles."""

import importlib.util
import io
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import distilpose
from distilpose.data import images
from distilpose.data.images import (
    NamedBytes,
    as_image,
    check_decodes,
    list_images,
    read_image,
    read_image_size,
    write_image,
)
from distilpose.errors import InputError

Pixels = NDArray[np.uint8]

# EXIF 2.3, tag 0x0112: how the stored rows and columns are to be shown
SHOWN = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: stored[::-1].transpose(1, 0, 2),
    7: lambda stored: stored[::-1, ::-1].transpose(1, 0, 2),
    8: lambda stored: stored[:, ::-1].transpose(1, 0, 2),
}


@pytest.fixture
def photo() -> Pixels:
    """A smooth colored image of odd size without any symmetry."""
    noise = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)


def save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize("sampling", [0x111111, 0x211111, 0x221111, 0x411111])
@pytest.mark.parametrize("progressive", [0, 1])
def test_jpeg_pixels_equal_opencv(tmp_path: Path, photo: Pixels, sampling: int, progressive: int) -> None:
    path = tmp_path / "photo.jpg"
    options = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling, cv2.IMWRITE_JPEG_PROGRESSIVE, progressive]
    cv2.imwrite(str(path), photo, [*options, cv2.IMWRITE_JPEG_QUALITY, 80])
    np.testing.assert_array_equal(read_image(path), cv2.imread(str(path))[..., ::-1])


@pytest.mark.parametrize("orientation", SHOWN)
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
def test_exif_orientation_is_obeyed(tmp_path: Path, photo: Pixels, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}.get(suffix, {})
    path = save(tmp_path / f"turned.{suffix}", Image.fromarray(photo), exif=exif, **options)
    image = read_image(path)
    expected = SHOWN[orientation](photo)
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).max() <= (6 if suffix == "jpg" else 0)
    assert image.flags["C_CONTIGUOUS"]
    assert image.flags["WRITEABLE"]


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bit_gray_is_scaled_over_the_full_range(tmp_path: Path, suffix: str) -> None:
    values = np.array([[0, 128, 129, 257, 32768, 65406, 65407, 65535]], dtype=np.uint16)
    cv2.imwrite(str(tmp_path / f"deep.{suffix}"), values)
    image = read_image(tmp_path / f"deep.{suffix}")
    np.testing.assert_array_equal(image, np.repeat([[[0], [0], [1], [1], [128], [254], [255], [255]]], 3, axis=2))


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bit_color_equals_8_bit_color(tmp_path: Path, photo: Pixels, suffix: str) -> None:
    cv2.imwrite(str(tmp_path / f"deep.{suffix}"), photo[..., ::-1].astype(np.uint16) * 257)
    np.testing.assert_array_equal(read_image(tmp_path / f"deep.{suffix}"), photo)


def test_gray_one_bit_palette_and_cmyk_become_rgb(tmp_path: Path, photo: Pixels) -> None:
    gray = read_image(save(tmp_path / "gray.png", Image.fromarray(photo[..., 0])))
    np.testing.assert_array_equal(gray, np.repeat(photo[..., :1], 3, axis=2))
    one_bit = Image.fromarray(photo[..., 0] > 127)
    assert one_bit.mode == "1"
    black_white = read_image(save(tmp_path / "bit.png", one_bit))
    np.testing.assert_array_equal(black_white[..., 1], np.where(photo[..., 0] > 127, 255, 0))
    palette = Image.fromarray(np.array([[0, 1, 1]], dtype=np.uint8), "P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    image = read_image(save(tmp_path / "palette.png", palette))
    assert image.tolist() == [[[10, 20, 30], [40, 50, 60], [40, 50, 60]]]
    red = read_image(save(tmp_path / "print.tiff", Image.new("CMYK", (2, 2), (0, 255, 255, 0))))
    assert (red == [255, 0, 0]).all()


def test_every_color_of_every_transparency_lies_exactly_on_white(tmp_path: Path) -> None:
    """A shade c of opacity a on white, rounded to the nearest: (c a + 255 (255 - a)) / 255."""
    shade, opacity = (values.astype(np.uint8) for values in np.meshgrid(np.arange(256), np.arange(256)))
    file = tmp_path / "all.png"
    Image.fromarray(np.stack([shade, 255 - shade, shade, opacity], axis=-1)).save(file)
    exact = (shade.astype(float) * opacity + 255.0 * (255 - opacity.astype(float))) / 255
    assert np.array_equal(read_image(file)[..., 0], np.rint(exact))


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "CMYK", "I;16", "1"])
def test_a_large_image_is_read_in_bands_like_a_small_one(
    tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    if mode == "I;16":
        image = Image.fromarray(rng.integers(0, 65536, (37, 53), dtype=np.uint16))
    elif mode == "RGBA":
        image = Image.fromarray(rng.integers(0, 256, (37, 53, 4), dtype=np.uint8))
    else:
        image = Image.fromarray(rng.integers(0, 256, (37, 53, 3), dtype=np.uint8)).convert(mode)
    file = tmp_path / "image.tiff"
    image.save(file)
    whole = read_image(file)
    monkeypatch.setattr(images, "_BAND_PIXELS", 300)  # five rows; the last band has two
    assert np.array_equal(read_image(file), whole)


def test_transparent_pixels_lie_on_white(tmp_path: Path) -> None:
    colors = np.array([[[200, 0, 0, 255], [200, 0, 0, 0], [200, 0, 0, 51]]], dtype=np.uint8)
    expected = np.array([[[200, 0, 0], [255, 255, 255], [244, 204, 204]]])  # 51 / 255 = one fifth
    for name in ("alpha.png", "alpha.tiff"):
        image = read_image(save(tmp_path / name, Image.fromarray(colors)))
        assert np.abs(image.astype(int) - expected).max() <= 1
    palette = Image.fromarray(np.array([[0, 1]], dtype=np.uint8), "P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    image = read_image(save(tmp_path / "palette.png", palette, transparency=1))
    assert image.tolist() == [[[10, 20, 30], [255, 255, 255]]]
    gray = read_image(save(tmp_path / "gray.png", Image.fromarray(np.array([[[80, 255], [80, 0]]], np.uint8), "LA")))
    assert gray.tolist() == [[[80] * 3, [255] * 3]]


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_animation_gives_its_first_frame(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ((0, 0, 0), (255, 255, 255))]
    path = save(tmp_path / f"moving.{suffix}", frames[0], save_all=True, append_images=frames[1:])
    assert not read_image(path).any()


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "folder.jpg").mkdir()
    Image.fromarray(np.ones((4, 4), dtype=np.float32)).save(tmp_path / "float.tiff")
    for name in ("empty.jpg", "text.png", "folder.jpg", "float.tiff", "missing.jpg"):
        with pytest.raises(InputError, match=name):
            read_image(tmp_path / name)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    for read in (read_image, read_image_size, check_decodes):
        with pytest.raises(InputError, match=r"pipe.jpg: expected a file, got a pipe"):
            read(tmp_path / "pipe.jpg")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff", "gif"])
def test_truncated_file_is_refused(tmp_path: Path, photo: Pixels, suffix: str) -> None:
    path = save(tmp_path / f"cut.{suffix}", Image.fromarray(photo))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(InputError, match="cut"):
        read_image(path)


def test_decompression_bomb_is_refused_unopened(tmp_path: Path) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    with pytest.raises(InputError, match="bomb"):
        read_image(tmp_path / "bomb.png")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "gif"])
def test_broken_bytes_give_an_image_or_an_input_error(tmp_path: Path, photo: Pixels, suffix: str) -> None:
    rng = np.random.default_rng(0)
    sound = save(tmp_path / f"sound.{suffix}", Image.fromarray(photo)).read_bytes()
    path = tmp_path / f"broken.{suffix}"
    refused = 0
    for _ in range(60):
        content = np.frombuffer(sound, dtype=np.uint8).copy()
        content[rng.integers(0, len(content), 12)] = rng.integers(0, 256, 12)
        path.write_bytes(content.tobytes())
        try:
            assert read_image(path).dtype == np.uint8
        except InputError:
            refused += 1
    assert refused > 0


def test_written_images_read_back(tmp_path: Path, photo: Pixels) -> None:
    write_image(tmp_path / "a.png", photo)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), photo)
    write_image(tmp_path / "a.JPG", photo)
    with Image.open(io.BytesIO((tmp_path / "a.JPG").read_bytes())) as image:
        assert image.format == "JPEG"
    assert np.abs(read_image(tmp_path / "a.JPG").astype(int) - photo).mean() < 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.JPG", "a.png"]


def test_failed_write_keeps_the_old_file(tmp_path: Path, photo: Pixels) -> None:
    write_image(tmp_path / "a.png", photo)
    with pytest.raises(InputError, match="uint8"):
        write_image(tmp_path / "a.png", photo.astype(np.float32))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="suffix"):
        write_image(tmp_path / "a.xyz", photo)
    for name, width in (("a.webp", 16_384), ("a.jpg", 65_536)):  # one more than the format holds
        with pytest.raises(InputError, match=f"{width} x 1"):
            write_image(tmp_path / name, np.zeros((1, width, 3), np.uint8))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), photo)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("name", ["x" * 246 + ".jpg", "é" * 120 + ".png"])
def test_long_names_are_written(tmp_path: Path, photo: Pixels, name: str) -> None:
    write_image(tmp_path / name, photo)
    assert read_image_size(tmp_path / name) == photo.shape[:2]
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(("suffix", "name"), [("jfif", "JPEG"), ("mpo", "MPO"), ("jp2", "JPEG2000")])
def test_further_formats_are_read(tmp_path: Path, photo: Pixels, suffix: str, name: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(photo).save(path, format=name, quality=95, quality_layers=[1] if name == "JPEG2000" else None)
    assert np.abs(read_image(path).astype(int) - photo).mean() < 3
    assert list_images([tmp_path]) == [path]


def test_heic_is_read_where_pillow_heif_is_installed(tmp_path: Path, photo: Pixels) -> None:
    path = tmp_path / "a.heic"
    Image.fromarray(photo).save(path, format="PNG")  # some phones give other formats this suffix
    assert np.array_equal(read_image(path), photo)
    if importlib.util.find_spec("pillow_heif") is None:
        path.write_bytes(b"x")
        with pytest.raises(InputError, match=r"a.heic .*HEIC files need pillow-heif.*pip install pillow-heif"):
            read_image(path)
        return
    importlib.import_module("pillow_heif").from_pillow(Image.fromarray(photo)).save(path, quality=95)
    assert np.abs(read_image(path).astype(int) - photo).mean() < 3


@pytest.mark.parametrize("orientation", SHOWN)
def test_the_size_in_the_header_is_that_of_the_read_image(tmp_path: Path, photo: Pixels, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(photo).save(tmp_path / "a.jpg", exif=exif)
    assert read_image_size(tmp_path / "a.jpg") == read_image(tmp_path / "a.jpg").shape[:2]
    assert check_decodes(tmp_path / "a.jpg") == orientation


def test_folders_become_their_images_each_once(tmp_path: Path) -> None:
    (tmp_path / "deeper").mkdir()
    for name in ("b.PNG", "a.jpg", ".hidden.jpg", "notes.txt", "deeper/c.jpg"):
        (tmp_path / name).touch()
    missing = tmp_path / "missing.jpg"
    found = list_images([missing, tmp_path / "b.PNG", tmp_path])
    assert found == [missing, tmp_path / "b.PNG", tmp_path / "a.jpg"]
    assert list_images([tmp_path / "notes.txt"]) == [tmp_path / "notes.txt"]  # a named file is taken at its word


def test_no_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no image"):
        list_images([tmp_path])
    with pytest.raises(InputError, match="at least one"):
        list_images([])


def test_a_jpeg_of_endless_scans_is_refused_wherever_it_would_be_decoded(tmp_path: Path) -> None:
    """A progressive JPEG whose last scan comes again and again: ten thousand passes over the pixels take minutes."""
    file = io.BytesIO()
    Image.new("L", (2400, 2400)).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    last = content[content.rindex(b"\xff\xc4") : -2]
    path = tmp_path / "endless.jpg"
    path.write_bytes(content[:-2] + last * 10_000 + content[-2:])
    named = NamedBytes(path.read_bytes(), "in memory")
    for decode, source in (
        (read_image, path),
        (check_decodes, path),
        (as_image, Image.open(path)),
        (read_image, named),
    ):
        with pytest.raises(InputError, match="at most 100 scans"):
            decode(source)
    path.write_bytes(content[:-2] + last * 50 + content[-2:])
    assert read_image(path).shape == (2400, 2400, 3)


def test_what_is_no_image_is_told_as_it_was_given(tmp_path: Path, photo: Pixels) -> None:
    with pytest.raises(InputError, match=r"got float64 of shape \(4, 5\)"):
        as_image(np.zeros((4, 5)))
    write_image(tmp_path / "photo.png", photo)
    with (tmp_path / "photo.png").open("rb") as file, pytest.raises(InputError, match=r"PIL\.Image\.open\(file\)"):
        distilpose.predict(file)  # type: ignore[call-overload]
