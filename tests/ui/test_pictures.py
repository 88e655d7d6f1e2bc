"""Picture files: what is read, what is refused in a sentence, what is written; and how they come into the window."""

from __future__ import annotations

import struct
import sys
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import QMimeData, QPointF, Qt, QUrl
from PySide6.QtGui import QDropEvent, QImage

from app import drops, exports, picture_checks, pictures, vector_pictures
from app.state import image_draft
from app.state import intents as i
from app.state.image_intents import DrawPixels, KeepPixels, StartEmpty, StartPicture
from app.state.state import AppState
from app.state.update import update
from app.widgets import drawing, image_editor
from core.contract import ImageFacts, Picture
from core.domains.picture_files import read_picture
from tests.ui.fake_lab import FakeLab, model_info
from tests.ui.harness import driven

PIXELS = np.random.default_rng(4).integers(0, 256, (5, 7, 3)).astype(np.uint8)
PALETTE = np.array([[0, 0, 0], [250, 0, 0], [0, 250, 0], [255, 255, 255]], np.uint8)
FACTS = ImageFacts(4, 6, PALETTE, 4)


def save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    from PIL import Image

    Image.fromarray(pixels).save(path, **options)
    return path


def header_only(path: Path, width: int, height: int) -> Path:
    """A PNG of any size that holds no pixels: whoever decodes it before looking at its size is lost."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff", ".ppm", ".webp"])
def test_pictures_are_read_to_the_pixel(tmp_path: Path, suffix: str) -> None:
    options = {"lossless": True} if suffix == ".webp" else {}
    one = pictures.read_file(save(tmp_path / f"a{suffix}", PIXELS, **options))
    assert (one.problem, one.notes, one.title) == ("", (), f"a{suffix}")
    assert one.picture is not None
    assert np.array_equal(one.picture.array(), PIXELS)
    assert suffix in pictures.suffixes()


def test_transparent_parts_are_white_and_this_is_said(tmp_path: Path) -> None:
    clear = np.dstack([PIXELS, np.full((5, 7), 255, np.uint8)])
    clear[2, 3, 3] = 0
    one = pictures.read_file(save(tmp_path / "a.png", clear))
    assert one.notes == ("Transparent parts are white.",)
    assert one.picture is not None
    assert one.picture.array()[2, 3].tolist() == [255, 255, 255]
    assert np.array_equal(one.picture.array()[0], PIXELS[0])


def test_of_an_animation_the_first_frame_is_taken_and_this_is_said(tmp_path: Path) -> None:
    from PIL import Image

    first, second = (Image.fromarray(np.full((4, 4, 3), value, np.uint8)) for value in (200, 10))
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second], duration=50)
    one = pictures.read_file(tmp_path / "a.gif")
    assert one.notes == ("The first frame of an animation.",)
    assert one.picture is not None
    assert np.unique(one.picture.array()).tolist() == [200]


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_scripts_and_the_window_read_sixteen_bit_greys_alike(tmp_path: Path, suffix: str) -> None:
    ramp = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    path = save(tmp_path / f"ramp{suffix}", ramp)
    shown, script = pictures.read_file(path).picture, read_picture(path)
    assert shown is not None
    assert np.array_equal(script.array(), shown.array())
    assert np.array_equal(script.array()[:, :, 1], np.rint(ramp / 257))


def test_an_animated_png_is_told_too(tmp_path: Path) -> None:
    from PIL import Image

    first, second = (Image.fromarray(np.full((4, 4, 3), value, np.uint8)) for value in (200, 10))
    first.save(tmp_path / "a.png", save_all=True, append_images=[second], duration=50)
    assert pictures.read_file(tmp_path / "a.png").notes == ("The first frame of an animation.",)
    first.save(tmp_path / "b.png")
    assert pictures.read_file(tmp_path / "b.png").notes == ()


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_was_cut_is_refused(tmp_path: Path, progressive: bool) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    whole = save(tmp_path / "whole.jpg", noise, progressive=progressive)
    assert pictures.read_file(whole).problem == ""
    data = whole.read_bytes()
    for tail in (bytes(50), b"\xff\xda ftypmp42 \xff\xd8", data[: len(data) // 2]):  # phones append films and pictures
        (tmp_path / "more.jpg").write_bytes(data + tail)
        assert pictures.read_file(tmp_path / "more.jpg").problem == ""
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) * 2 // 3])
    assert pictures.read_file(tmp_path / "cut.jpg").picture is None


@pytest.mark.parametrize("suffix", [".gif", ".bmp"])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_a_gif_or_bmp_that_was_cut_is_refused(tmp_path: Path, suffix: str, mode: str) -> None:
    from PIL import Image

    noise = np.random.default_rng(1).integers(0, 256, (33, 47, 3)).astype(np.uint8)
    whole = tmp_path / f"whole{suffix}"
    Image.fromarray(noise).convert(mode).save(whole)
    assert pictures.read_file(whole).problem == ""
    data = whole.read_bytes()
    (tmp_path / f"more{suffix}").write_bytes(data + b"more")
    assert pictures.read_file(tmp_path / f"more{suffix}").problem == ""
    for share in (0.1, 0.6, 0.97):
        (tmp_path / f"cut{suffix}").write_bytes(data[: int(len(data) * share)])
        assert "damaged" in pictures.read_file(tmp_path / f"cut{suffix}").problem


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tiff"])
@pytest.mark.parametrize("held", range(1, 9))
def test_a_picture_is_turned_as_its_camera_says(tmp_path: Path, suffix: str, held: int) -> None:
    from PIL import Image

    exif = Image.Exif()
    exif[picture_checks.ORIENTATION] = held
    blocks = PIXELS.repeat(8, 0).repeat(8, 1)
    options = {".webp": {"lossless": True}, ".jpg": {"quality": 100, "subsampling": 0}}.get(suffix, {})
    path = save(tmp_path / f"held{suffix}", blocks, exif=exif, **options)
    shown, script = pictures.read_file(path).picture, read_picture(path)
    assert shown is not None
    assert (shown.height, shown.width) == (script.height, script.width) == ((40, 56) if held < 5 else (56, 40))
    difference = np.abs(shown.array().astype(int) - script.array())
    assert difference.max() <= (2 if suffix == ".jpg" else 0)


def test_of_an_icon_the_largest_is_taken(tmp_path: Path) -> None:
    from PIL import Image

    large = Image.fromarray(np.full((32, 32, 3), 90, np.uint8))
    large.save(tmp_path / "a.ico", sizes=[(16, 16), (32, 32)])
    one = pictures.read_file(tmp_path / "a.ico")
    assert one.picture == read_picture(tmp_path / "a.ico")
    assert one.picture is not None
    assert one.picture.width == 32


SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="{0}" height="{1}">'
    '<rect width="{0}" height="{1}" fill="#{2}"/></svg>'
)


def test_drawings_are_drawn_in_another_process_that_can_be_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.svg"
    path.write_text(SVG.format(9000, 6000, "336699"))
    one = pictures.read_file(path)
    assert one.problem == ""
    assert one.picture is not None
    assert (one.picture.width, one.picture.height) == (vector_pictures.MOST_SIDE_PX, 683)
    assert one.picture.array()[5, 7].tolist() == [0x33, 0x66, 0x99]
    monkeypatch.setattr(vector_pictures, "MOST_S", 0.01)
    assert pictures.read_file(path).problem == "“a.svg” takes longer than 0.01 s to draw; save it as a PNG first."
    monkeypatch.setattr(vector_pictures, "MOST_S", 60.0)
    path.write_text("<svg")
    assert "damaged" in pictures.read_file(path).problem


def test_a_large_picture_of_sixteen_bits_is_not_called_damaged(tmp_path: Path) -> None:
    deep = QImage(6_000, 6_000, QImage.Format.Format_RGBX64)  # 288 MB, more than Qt takes unasked
    deep.fill(0xFF336699)
    assert deep.save(str(tmp_path / "deep.png"))
    one = pictures.read_file(tmp_path / "deep.png")
    assert one.problem == ""
    assert one.picture is not None
    assert one.picture.array()[7, 5].tolist() == [0x33, 0x66, 0x99]


@pytest.mark.qt_log_ignore("")
def test_what_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "noise.png").write_bytes(np.random.default_rng(0).bytes(500))
    (tmp_path / "empty.png").write_bytes(b"")
    whole = save(tmp_path / "whole.png", np.zeros((64, 64, 3), np.uint8)).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:40])
    for name in ("noise.png", "empty.png", "cut.png"):
        one = pictures.read_file(tmp_path / name)
        assert (one.picture, one.problem) == (
            None,
            f"“{name}” cannot be read as a picture: it is damaged or of an unknown format.",
        )
    gone = pictures.read_file(tmp_path / "gone.png")
    assert gone.problem == "“gone.png” is not there, or is no regular file."
    huge = pictures.read_file(header_only(tmp_path / "huge.png", 10_000, 10_000))
    assert (
        huge.problem
        == "The picture has 100 megapixels (10,000 × 10,000), and at most 50 can be taken; make it smaller."
    )


def test_the_samples_are_there_and_small() -> None:
    assert len(pictures.samples()) >= 6
    assert all(one.picture is not None and one.picture.width == 16 for one in pictures.samples())
    assert (pictures.SAMPLES / "README.md").read_text().count("Apache-2.0") == 1


# dropping


def drop(one: object, path: Path) -> None:
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(path))])
    event = QDropEvent(
        QPointF(50, 50), Qt.DropAction.CopyAction, data, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    )
    one.window.dropEvent(event)  # type: ignore[attr-defined]


@pytest.mark.usefixtures("qapp")
def test_a_dropped_picture_is_begun_with_and_a_bad_one_is_a_sentence(tmp_path: Path) -> None:
    path = save(tmp_path / "cat.png", PIXELS)
    assert drops.accepts(path)
    with driven(tmp_path / "settings.json", FakeLab(), load=False) as one:
        one.store.state = update(one.state, _ready())
        one.frames(2)
        drop(one, path)
        one.until(lambda: one.state.draft.image.title == "cat.png", frames=20_000)
        assert one.state.draft.tab == "image"
        assert one.state.draft.image.picture == Picture.of(PIXELS)
        assert one.state.draft.image.keep == 12
        drop(one, header_only(tmp_path / "huge.png", 10_000, 10_000))
        one.until(lambda: bool(one.state.notices), frames=20_000)
        assert one.state.notices[-1].text.startswith("The picture has 100 megapixels")
        assert one.state.draft.image.title == "cat.png"


@pytest.mark.usefixtures("qapp")
def test_a_picture_is_known_by_its_content_and_may_come_without_a_file(tmp_path: Path) -> None:
    plain = save(tmp_path / "cat.png", PIXELS).rename(tmp_path / "cat")
    (tmp_path / "notes").write_text("no picture")
    assert drops.accepts(plain)
    assert not drops.accepts(tmp_path / "notes")
    with driven(tmp_path / "settings.json", FakeLab(), load=False) as one:
        one.store.state = update(one.state, _ready())
        one.frames(2)
        drop(one, plain)
        one.until(lambda: one.state.draft.image.title == "cat", frames=20_000)
        assert one.state.draft.image.picture == Picture.of(PIXELS)
        data, other = QMimeData(), 255 - PIXELS
        data.setImageData(QImage(other.tobytes(), 7, 5, 21, QImage.Format.Format_RGB888))
        data.setUrls([QUrl("https://example.org/cat.png")])  # as a browser does
        where, keys = QPointF(50, 50), Qt.KeyboardModifier.NoModifier
        event = QDropEvent(where, Qt.DropAction.CopyAction, data, Qt.MouseButton.LeftButton, keys)
        one.window.dropEvent(event)
        one.until(lambda: one.state.draft.image.title == "dropped picture", frames=20_000)
        assert one.state.draft.image.picture == Picture.of(other)


@pytest.mark.usefixtures("qapp")
def test_a_slow_file_does_not_overwrite_what_was_chosen_since(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [save(tmp_path / name, PIXELS) for name in ("slow.png", "fast.png")]
    gate, read = threading.Event(), pictures.read_file

    def slowly(path: Path) -> pictures.Opened:
        if path.name == "slow.png":
            assert gate.wait(60)
        return read(path)

    monkeypatch.setattr(pictures, "read_file", slowly)
    with driven(tmp_path / "settings.json", FakeLab(), load=False) as one:
        one.store.state = update(one.state, _ready())
        one.frames(2)
        files = one.panel("prompt")._files
        drop(one, paths[0])
        one.until(lambda: any("Reading “slow.png”…" in n.text for n in one.state.notices), frames=20_000)
        drop(one, paths[1])  # a later file counts
        one.until(lambda: one.state.draft.image.title == "fast.png", frames=20_000)
        gate.set()
        one.until(lambda: not files.busy, frames=20_000)
        assert one.state.draft.image.title == "fast.png"
        gate.clear()
        drop(one, paths[0])
        one.panel("prompt").image.samples.chosen.emit(3)  # and so does a sample
        one.frames(2)
        gate.set()
        one.until(lambda: not files.busy, frames=20_000)
        one.frames(2)
        assert one.state.draft.image.title == pictures.samples()[3].title
        for meanwhile in (DrawPixels((0,) * 24, 1), i.Undo(), StartEmpty()):  # and what is drawn or taken back
            gate.clear()
            drop(one, paths[0])
            one.do(meanwhile)
            one.frames(2)
            chosen = one.state.draft.image
            gate.set()
            one.until(lambda: not files.busy, frames=20_000)
            one.frames(2)
            assert one.state.draft.image == chosen
        gate.clear()
        drop(one, paths[0])
        one.do(KeepPixels(6))  # how much is given is no other picture
        one.until(lambda: any("Reading" in n.text for n in one.state.notices), frames=20_000)
        gate.set()
        one.until(lambda: one.state.draft.image.title == "slow.png", frames=20_000)
        one.frames(2)
        assert not any("Reading" in n.text for n in one.state.notices)


def test_of_a_large_picture_the_window_smooths_a_small_part(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    class Spy(QImage):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)  # type: ignore[call-overload]
            sizes.append((self.width(), self.height()))

    monkeypatch.setattr(image_editor, "QImage", Spy)
    ramp = np.linspace(0, 255, 4000).astype(np.uint8)
    wide = np.repeat(np.repeat(ramp[None, :, None], 2000, 0), 3, 2)
    square = image_editor._square(Picture.of(wide), 96)
    assert max(sizes[-1]) <= 96 * image_editor.SAMPLES * 2
    assert square.shape == (96, 96, 3)
    assert (square[:24] == 255).all()
    np.testing.assert_allclose(square[48, :, 0], np.linspace(0, 255, 97)[:-1] + 1.3, atol=3)
    for thin in ((1, 5000), (5000, 1)):
        line = image_editor._square(Picture.of(np.full((*thin, 3), 40, np.uint8)), 96)
        assert (line == 40).any()


@pytest.mark.usefixtures("qapp")
def test_a_picture_waits_for_an_image_model(tmp_path: Path) -> None:
    path = save(tmp_path / "cat.png", PIXELS)
    with driven(tmp_path / "settings.json") as one:
        drop(one, path)
        one.until(lambda: bool(one.state.notices), frames=20_000)
        assert one.state.notices[-1].text == "“cat.png” waits for an image model; load one, such as tiny-imagegpt."
        assert (one.state.draft.tab, one.state.draft.image.title) == ("text", "cat.png")
        loaded = one.state
        one.store.state = update(loaded, _ready())  # type: ignore[arg-type]
        one.frames(2)
        assert not any("waits" in n.text for n in one.state.notices)
        one.store.state = loaded
        one.frames(2)
        assert update(one.state, _ready()).draft.tab == "image"  # type: ignore[arg-type]
        assert update(one.state, _ready()).draft.image.keep == 12  # type: ignore[arg-type]
        tabs = one.panel("prompt").tabs
        assert not tabs.isTabEnabled(3)
        assert "reads text" in tabs.tabToolTip(3)


# the draft


def _ready() -> object:
    from core.contract import ModelReady

    return ModelReady(model_info(chat=False, image=FACTS, vocab_size=5))


def ready() -> AppState:
    return update(AppState(), _ready())  # type: ignore[arg-type]


def test_an_image_model_brings_its_tab_and_a_text_model_takes_it_away() -> None:
    from core.contract import ModelReady

    state = ready()
    assert (state.draft.tab, state.draft.text) == ("image", "")
    state = update(state, ModelReady(model_info()))
    assert (state.draft.tab, bool(state.draft.text)) == ("text", True)


def test_half_is_given_and_one_pixel_at_least_is_left_to_paint() -> None:
    state = update(ready(), StartPicture(Picture.of(PIXELS), "a"))
    assert state.draft.image.keep == 12
    assert update(state, KeepPixels(99)).draft.image.keep == 23
    assert update(state, KeepPixels(-1)).draft.image.keep == 0
    assert update(state, StartEmpty()).draft.image.given == 0


def test_a_picture_and_what_is_given_of_it_can_be_undone() -> None:
    begun = update(ready(), StartPicture(Picture.of(PIXELS), "a"))
    state = begun
    for keep in (13, 14, 15):
        state = update(state, KeepPixels(keep))
    state = update(state, i.Undo())
    assert (state.draft.image.keep, state.draft.image.title) == (12, "a")
    state = update(state, i.Undo())
    assert state.draft.image.picture is None
    state = update(update(state, i.Redo()), i.Redo())
    assert (state.draft.image.keep, state.draft.image.title) == (15, "a")
    offered = update(ready(), StartPicture(Picture.of(PIXELS), "a", offered=True))
    assert not offered.history.past


def test_another_model_keeps_the_picture_and_as_large_a_part_of_it() -> None:
    from core.contract import ModelReady

    state = update(ready(), StartPicture(Picture.of(PIXELS), "a", keep=18))
    larger = ImageFacts(8, 12, PALETTE, 4)
    state = update(state, ModelReady(model_info(2, chat=False, image=larger, vocab_size=5)))
    assert (state.draft.image.keep, state.draft.image.token_ids) == (72, None)
    assert state.draft.image.picture == Picture.of(PIXELS)
    state = update(state, ModelReady(model_info(3)))  # of text
    assert state.draft.image.keep == 72
    state = update(state, ModelReady(model_info(4, chat=False, image=FACTS, vocab_size=5)))
    assert state.draft.image.keep == 18


def test_strokes_give_what_they_touch_and_are_undone_one_by_one() -> None:
    state = update(ready(), DrawPixels(image_draft.ground(FACTS), 1))
    assert state.draft.image.given == 0
    ids = np.array(state.draft.image.token_ids).reshape(4, 6)
    assert np.unique(ids).tolist() == [3]  # white
    state = update(state, DrawPixels(tuple(drawing.drawn(ids, (0, 0), (1, 3), 1).reshape(-1).tolist()), 2))
    assert state.draft.image.keep == 12
    assert state.draft.image.picture is not None
    assert state.draft.image.picture.array()[0, 0].tolist() == [250, 0, 0]
    state = update(state, i.Undo())
    assert set(state.draft.image.token_ids or ()) == {3}


def test_lines_have_no_gaps_and_fills_stop_at_colours() -> None:
    ids = drawing.drawn(np.zeros((5, 5), np.int64), (0, 4), (4, 0), 1)
    assert ids.sum() == 5
    filled = drawing.filled(ids, (0, 0), 2)
    assert (filled == 2).sum() == 10
    assert (drawing.filled(ids, (4, 0), 1) == ids).all()


# files that are written


def test_exports_are_nearest_neighbour_pictures_and_animations(tmp_path: Path) -> None:
    from PIL import Image

    pixels = PALETTE[np.arange(24) % 4].reshape(4, 6, 3)
    assert exports.write_picture(tmp_path / "a.png", exports.enlarged(pixels)) == ""
    large = pictures.read_file(tmp_path / "a.png").picture
    assert large is not None
    scale = large.width // 6
    assert scale > 50
    assert np.array_equal(large.array()[:: large.height // 4, ::scale], pixels)
    assert np.array_equal(large.array(), pixels.repeat(scale, 0).repeat(scale, 1))
    sheet = exports.side_by_side([pixels] * 3)
    inner = sheet[exports.GAP_PX : -exports.GAP_PX, exports.GAP_PX : -exports.GAP_PX]
    assert np.array_equal(inner[0, 0], pixels[0, 0])
    assert (sheet[0] == 255).all()
    frames = exports.frames(pixels, 20, (9, 9, 9))
    assert len(frames) == 5
    assert (frames[0].reshape(-1, 3)[20:] == 9).all()
    for name in ("a.gif", "b.png"):
        assert exports.write_animation(tmp_path / name, frames) == ""
        with Image.open(tmp_path / name) as image:
            assert image.n_frames == 5
            image.seek(4)
            last = np.asarray(image.convert("RGB"))
        step = last.shape[1] // 6
        assert np.array_equal(last[step // 2 :: step, step // 2 :: step], pixels)


def test_animations_need_pillow_and_folders_that_can_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = np.zeros((2, 2, 3), np.uint8)
    file = tmp_path / "file"
    file.write_bytes(b"")
    assert exports.write_picture(file / "a.png", frame).startswith("“a.png” cannot be written: ")
    monkeypatch.setitem(sys.modules, "PIL", None)
    said = exports.write_animation(tmp_path / "a.gif", [frame])
    assert said == "Animations take Pillow; run “pip install 'tokenglass[image]'”."
    assert not (tmp_path / "a.gif").exists()
