"""Pixels as tokens: quantising, showing, painting, pictures as data and as files."""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest

from core.contract import ImageFacts, Picture, PromptError
from core.domains.image import START, ImageDomain, canvas_of, colour_cube
from core.domains.picture_files import enlarged, read_picture, write_png
from core.domains.resampling import resized
from core.domains.text import IdDomain

RNG = np.random.default_rng(7)
CLUSTERS = RNG.uniform(-1, 1, (40, 3)).astype(np.float32)


@pytest.fixture
def domain() -> ImageDomain:
    return ImageDomain(CLUSTERS, 6, 5)


def noise(height: int, width: int) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3)).astype(np.uint8)


def blocks(height: int, width: int) -> np.ndarray:
    return noise(-(-height // 9), -(-width // 9)).repeat(9, 0).repeat(9, 1)[:height, :width]


def nearest(pixels: np.ndarray) -> np.ndarray:
    """The formula of `ImageGPTImageProcessor`, in float64."""
    distance = ((pixels[..., None, :] / 127.5 - 1 - CLUSTERS.astype(np.float64)) ** 2).sum(-1)
    return distance.argmin(-1)


def test_every_pixel_becomes_its_nearest_colour(domain: ImageDomain) -> None:
    pixels = noise(6, 5)
    ids = domain.encode_picture(Picture.of(pixels))
    assert ids[0] == domain.facts.sos_token_id == 40
    assert ids[1:] == nearest(pixels).reshape(-1).tolist()


def test_of_equally_near_colours_the_first_counts() -> None:
    twins = np.array([[0.5, 0, 0], [-0.5, 0, 0], [0.5, 0, 0]], np.float32)
    assert ImageDomain(twins, 1, 1).encode("#ff8080", add_special_tokens=False) == [0]


def test_the_palette_s_own_colours_survive_the_round_trip(domain: ImageDomain) -> None:
    for token_id in range(40):
        assert domain.encode(domain.piece(token_id), add_special_tokens=False) == [token_id]


def test_tokens_are_shown_as_colours(domain: ImageDomain) -> None:
    red, green, blue = np.rint(127.5 * (CLUSTERS[3].astype(float) + 1)).astype(int)
    assert domain.facts.rgb(3) == (red, green, blue)
    assert domain.piece(3) == f"#{red:02x}{green:02x}{blue:02x}"
    assert domain.token_bytes(3) == bytes([red, green, blue])
    assert (domain.piece(40), domain.token_bytes(40), domain.facts.rgb(40)) == (START, b"", None)
    assert domain.piece(41) == "⟨41⟩"
    assert domain.decode([40, 3], skip_special_tokens=True) == domain.piece(3) + " "
    stream = domain.stream([40])
    assert stream.push(3) + stream.fork().push(4) + stream.flush() == domain.decode([3, 4])


@pytest.mark.parametrize("text", ["hello", "#12345", "#12345g", "ff0000"])
def test_text_that_is_no_colour_is_refused(domain: ImageDomain, text: str) -> None:
    with pytest.raises(PromptError, match="is no colour"):
        domain.encode("#ff0000 " + text)


def test_each_kind_of_model_refuses_what_is_for_the_other(domain: ImageDomain) -> None:
    with pytest.raises(PromptError, match="cannot chat"):
        domain.render_chat([])
    with pytest.raises(PromptError, match="reads text, not pictures"):
        IdDomain().encode_picture(Picture.of(noise(2, 2)))
    assert IdDomain().image is None


def test_positions_are_pixels_row_by_row_after_the_start() -> None:
    facts = ImageFacts(3, 4, np.zeros((2, 3), np.uint8), 2)
    assert [facts.pixel(p) for p in (0, 1, 4, 5, 12, 13)] == [None, (0, 0), (0, 3), (1, 0), (2, 3), None]


def test_a_sequence_is_painted_and_the_rest_stays_grey(domain: ImageDomain) -> None:
    facts = domain.facts
    painted = facts.paint([40, 5, 40, 7])
    assert painted.shape == (6, 5, 3)
    assert painted[0, 0].tolist() == facts.palette[5].tolist()
    assert painted[0, 2].tolist() == facts.palette[7].tolist()
    assert (painted[0, 1] == 128).all()
    assert (painted[1:] == 128).all()
    full = domain.encode_picture(Picture.of(noise(6, 5)))
    assert np.array_equal(facts.paint([*full, 1, 2]), facts.palette[full[1:]].reshape(6, 5, 3))


@pytest.mark.parametrize("resample", range(6))
@pytest.mark.parametrize("size", [(6, 5), (12, 10), (60, 45), (3, 4), (1, 1), (1, 300)])
def test_pictures_of_any_size_fit_the_canvas(size: tuple[int, int], resample: int) -> None:
    domain = ImageDomain(CLUSTERS, 6, 5, resample)
    plain = np.full((*size, 3), [255, 0, 128], np.uint8)
    assert (domain.resized(Picture.of(plain)) == [255, 0, 128]).all()
    assert domain.resized(Picture.of(noise(*size))).shape == (6, 5, 3)


@pytest.mark.parametrize("resample", range(6))
@pytest.mark.parametrize("size", [(6, 5), (24, 24), (100, 57), (5, 9)])
def test_ids_are_those_of_the_reference_processor(size: tuple[int, int], resample: int) -> None:
    pytest.importorskip("PIL")
    from transformers.models.imagegpt.image_processing_pil_imagegpt import ImageGPTImageProcessorPil

    processor = ImageGPTImageProcessorPil(clusters=CLUSTERS, size={"height": 6, "width": 5}, resample=resample)
    pixels = blocks(*size)
    expected = processor(pixels, return_tensors="np")["input_ids"][0]
    ids = np.array(ImageDomain(CLUSTERS, 6, 5, resample).encode_picture(Picture.of(pixels))[1:])
    assert ids.tolist() == expected.tolist()


@pytest.mark.parametrize("resample", range(6))
@pytest.mark.parametrize(("before", "after"), [((70, 100), (16, 16)), ((3, 4), (32, 31)), ((600, 5), (7, 9))])
def test_pictures_are_resized_as_pillow_does_it(before: tuple[int, int], after: tuple[int, int], resample: int) -> None:
    image = pytest.importorskip("PIL.Image")
    pixels = noise(*before)
    expected = np.asarray(image.fromarray(pixels).resize(after[::-1], resample))
    assert np.array_equal(resized(pixels, after, resample), expected)


def test_transparent_parts_lie_on_white_and_grey_is_spread() -> None:
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, 3] = [0, 255, 51]
    assert Picture.of(rgba).array()[0].tolist() == [[255] * 3, [0] * 3, [204] * 3]
    assert Picture.of(np.array([[7, 9]], np.uint8)).array()[0].tolist() == [[7] * 3, [9] * 3]


@pytest.mark.parametrize(
    ("pixels", "sentence"),
    [
        (np.zeros((2, 2, 3)), "from 0 to 255"),
        (np.zeros((2, 2, 2), np.uint8), "is an array"),
        (np.zeros((0, 2, 3), np.uint8), "is empty"),
        (np.broadcast_to(np.uint8(0), (10_000, 10_000, 3)), "100 megapixels .* at most 50"),
        (np.broadcast_to(np.uint8(0), (10_000, 10_000)), "100 megapixels"),
    ],
)
def test_what_is_no_picture_is_refused(pixels: np.ndarray, sentence: str) -> None:
    with pytest.raises(PromptError, match=sentence):
        Picture.of(pixels)


def test_a_picture_of_the_wrong_number_of_bytes_is_refused() -> None:
    with pytest.raises(PromptError, match="takes 12 bytes, but 5"):
        Picture(2, 2, b"12345")


def test_canvases_are_as_square_as_whole_rows_allow() -> None:
    assert [canvas_of(n) for n in (1024, 64, 60, 7, 1)] == [(32, 32), (8, 8), (6, 10), (1, 7), (1, 1)]


@pytest.mark.parametrize("count", [1, 2, 8, 16, 512, 700])
def test_a_palette_out_of_nothing_has_different_colours(count: int) -> None:
    cube = colour_cube(count)
    assert cube.shape == (count, 3)
    assert np.abs(cube).max() <= 1
    assert len({tuple(colour) for colour in cube.tolist()}) == count


def test_a_png_holds_exactly_the_pixels(tmp_path: Path) -> None:
    pixels = noise(3, 4)
    write_png(tmp_path / "a.png", enlarged(pixels, 2))
    data = (tmp_path / "a.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">IIBBBBB", data[16:29]) == (8, 6, 8, 2, 0, 0, 0)
    length = struct.unpack(">I", data[33:37])[0]
    lines = np.frombuffer(zlib.decompress(data[41 : 41 + length]), np.uint8).reshape(6, 1 + 8 * 3)
    assert (lines[:, 0] == 0).all()
    assert np.array_equal(lines[:, 1:].reshape(6, 8, 3)[::2, ::2], pixels)
    assert data.endswith(struct.pack(">I", zlib.crc32(b"IEND")))


def test_a_missing_reader_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(PromptError, match=r"pip install 'tokenglass\[image\]'"):
        read_picture(tmp_path / "a.png")


def test_sixteen_bit_greys_of_a_pgm_are_scaled(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    ramp = np.linspace(0, 65535, 20).astype(">u2").reshape(5, 4)
    (tmp_path / "a.pgm").write_bytes(b"P5 4 5 65535\n" + ramp.tobytes())
    assert np.array_equal(read_picture(tmp_path / "a.pgm").array()[:, :, 2], np.rint(ramp / 257))


def test_files_are_read_to_the_pixel_and_bad_ones_refused(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    pixels = noise(5, 4)
    write_png(tmp_path / "a.png", pixels)
    assert np.array_equal(read_picture(tmp_path / "a.png").array(), pixels)
    frames = [image.fromarray(np.full((5, 4, 3), level, np.uint8)) for level in (10, 200)]
    frames[0].save(tmp_path / "b.gif", save_all=True, append_images=frames[1:])
    assert (read_picture(tmp_path / "b.gif").array() == 10).all()
    image.new("RGBA", (4, 5), (255, 0, 0, 0)).save(tmp_path / "c.png")
    assert (read_picture(tmp_path / "c.png").array() == 255).all()
    image.new("L", (10_000, 10_000)).save(tmp_path / "huge.png")
    (tmp_path / "bad.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    (tmp_path / "text.png").write_text("hello")
    image.fromarray(np.linspace(0, 1, 20, dtype=np.float32).reshape(5, 4)).save(tmp_path / "float.tif")
    os.mkfifo(tmp_path / "pipe.png")  # it is not waited for
    for name, sentence in {
        "huge.png": "megapixels|far more pixels",
        "bad.png": "damaged",
        "text.png": "damaged or of an unknown format",
        "none.png": "There is no file",
        "float.tif": "holds 32-bit numbers",
        "pipe.png": "is no regular file",
        "": "cannot be read",
    }.items():
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # nothing raw beside the sentence
            with pytest.raises(PromptError, match=sentence):
                read_picture(tmp_path / name)
