"""`tokenglass shot`: a real generation in the offscreen window, and pictures of it."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from app.panels.canvas import CanvasPanel
from app.panels.canvas_overlays import TITLES
from app.pictures import read_file
from app.state.image_intents import StartPicture
from app.state.modes import MODES
from app.state.state import LayoutName
from app.widgets.parameter_text import whole_number
from core.contract import EXPERIMENTS, TokenglassError, parse_cache

if TYPE_CHECKING:
    from app.offscreen import Stage

SIZES = ((1440, 900), (1024, 640))
SMALLEST = (1024, 640)
LARGEST = (7680, 4320)
MOST_TOKENS = 100_000
EXIT_ERROR = 2
# As a user might set them: killed candidates and marks of changes are seen.
PARAMS = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "repetition_penalty": 1.1}
IMAGE_PARAMS = {"top_p": 0.95}
TOKENS = 64
IMAGE_MODEL = "tiny-imagegpt"


def main(argv: Sequence[str]) -> int:
    """Take the pictures; returns the exit status. One line on stderr says what went wrong."""
    try:
        options = _parser().parse_args(argv)
        for path in take(options):
            print(path)
    except (TokenglassError, OSError) as error:
        print(error, file=sys.stderr)
        return EXIT_ERROR
    return 0


def _parser() -> argparse.ArgumentParser:
    from core.cli import OneLineParser

    parser = OneLineParser(prog="tokenglass shot", description="Pictures of the window, of a real run.")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="where the PNG files go")
    parser.add_argument("--layout", default="everything", type=str.lower, choices=get_args(LayoutName))
    parser.add_argument(
        "--model",
        metavar="NAME|FOLDER",
        help=f"default: {IMAGE_MODEL} for pictures, else smollm2 where installed, else tiny-gpt2",
    )
    parser.add_argument("--theme", default="both", choices=("light", "dark", "contrast", "both"))
    parser.add_argument("--size", action="append", type=_size, metavar="WxH", help="may be given more than once")
    prompt = parser.add_mutually_exclusive_group()
    prompt.add_argument("--prompt", metavar="TEXT")
    prompt.add_argument("--batch", type=Path, metavar="FILE", help="prompts, one a line")
    parser.add_argument(
        "--set", dest="params", action="extend", nargs="+", default=[], metavar="KEY=VALUE",
        help="generation parameters instead of those the pictures usually have",
    )  # fmt: skip
    parser.add_argument("--mode", choices=[mode.key for mode in MODES], help="how to decode, and its card")
    parser.add_argument(
        "--mode-text", default="", metavar="TEXT",
        help="what the mode asks for: phrases (one a line, alternatives after |), a negative prompt, a draft model",
    )  # fmt: skip
    parser.add_argument("--cache", default="growing", metavar="KIND[,window=N…]", help="how keys and values are kept")
    parser.add_argument("--experiment", choices=EXPERIMENTS, help="run this of the Cache lab afterwards")
    parser.add_argument("--show", action="append", default=[], metavar="CARD", help="open this card, too")
    prompt.add_argument("--image", type=Path, metavar="FILE", help="a picture to begin with, for image models")
    parser.add_argument("--keep-rows", type=int, metavar="N", help="rows of it that are given; default: half of them")
    parser.add_argument("--overlay", default="none", choices=tuple(TITLES), help="what lies over the painting")
    what = f"how many to generate; default: {TOKENS}, or the rest of the picture"
    parser.add_argument("--tokens", type=_tokens, metavar="N", help=what)
    parser.add_argument("--seed", type=int, default=11)
    return parser


def _tokens(text: str) -> int:
    number = whole_number(text, 1, MOST_TOKENS)
    if number is None:
        raise argparse.ArgumentTypeError(f"“{text}” is not a number of tokens from 1 to {MOST_TOKENS:,}")
    return number


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", text.lower())
    if found is None:
        raise argparse.ArgumentTypeError(f"“{text}” is not a size; write it like 1440x900")
    size = int(found[1]), int(found[2])
    if not all(least <= n <= most for least, n, most in zip(SMALLEST, size, LARGEST, strict=True)):
        raise argparse.ArgumentTypeError(f"“{text}” is outside of 1024x640 to 7680x4320")
    return size


def take(options: argparse.Namespace) -> list[Path]:
    """One run, a picture for every theme and size."""
    from app.compose import default_model, model_choices
    from app.offscreen import stage
    from app.state import intents as i
    from app.theme.palette import ThemeName
    from core.cli_run import parse_settings

    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    themes: tuple[ThemeName, ...] = ("light", "dark") if options.theme == "both" else (options.theme,)
    sizes = options.size or SIZES
    paths = []
    model = options.model or (IMAGE_MODEL if _wants_picture(options) else default_model(model_choices()))
    with stage(model, options.layout, sizes[0]) as scene:
        scene.load()
        scene.store.dispatch(i.SetSeed(options.seed))
        _begin_picture(scene, options)
        image = scene.state.model.image if scene.state.model is not None else None
        usual: Mapping[str, object] = IMAGE_PARAMS if image is not None else {} if options.mode else PARAMS
        for name, value in (parse_settings(options.params) if options.params else usual).items():
            scene.store.dispatch(i.SetParameter(name, value))
        scene.store.dispatch(i.SetCache(parse_cache(options.cache)))
        if options.batch is not None:
            scene.store.dispatch(i.SelectTab("batch"))
            scene.store.dispatch(i.EditBatch(options.batch.read_text(encoding="utf-8")))
        if options.mode is not None:
            _choose(scene, options.mode, options.mode_text)
        scene.run(options.prompt, options.tokens or (TOKENS if image is None else image.pixels))
        run = scene.state.run
        if run is not None and run.count > 4:
            scene.store.dispatch(i.SelectStep(run.count * 3 // 4))  # a past moment, so that marks are seen
        if options.experiment is not None:
            scene.experiment(options.experiment)
        for theme in themes:
            scene.store.dispatch(i.SetTheme(theme))
            for width, height in sizes:
                scene.window.resize(width, height)
                scene.app.processEvents()
                scene.store.dispatch(i.SetLayout(options.layout))
                scene.settle()
                own = "" if run is None or options.mode is None else "beams" if run.has_beams else "mode"
                for name in filter(None, (*options.show, own)):
                    scene.open(name)
                _lay_over(scene, options.overlay)
                scene.settle()
                path = out / f"{options.mode or options.layout}-{theme}-{width}x{height}.png"
                if not scene.window.grab().save(str(path)):
                    raise TokenglassError(f"The picture {path} could not be written.")
                paths.append(path)
    return paths


def _wants_picture(options: argparse.Namespace) -> bool:
    """Whether only a model that paints has something to show."""
    return options.image is not None or (options.layout == "image" and options.prompt is None and not options.batch)


def _choose(scene: Stage, key: str, text: str) -> None:
    """The mode as chosen in the window, after the parameters, which it may change."""
    from app.state import intents as i

    scene.store.dispatch(i.ChooseMode(key))
    field = next(mode.text for mode in MODES if mode.key == key)
    if field:
        scene.store.dispatch(i.SetModeText(field, text))


def _begin_picture(scene: Stage, options: argparse.Namespace) -> None:
    """Begin with a picture file, if one is named."""
    image = scene.state.model.image if scene.state.model is not None else None
    if options.image is None:
        return
    if image is None:
        raise TokenglassError("--image is for image models; name one with --model, such as tiny-imagegpt.")
    one = read_file(options.image)
    if one.picture is None:
        raise TokenglassError(one.problem)
    rows = image.height // 2 if options.keep_rows is None else options.keep_rows
    scene.store.dispatch(StartPicture(one.picture, one.title, one.notes, keep=rows * image.width))


def _lay_over(scene: Stage, overlay: str) -> None:
    card = scene.window.workspace.cards["canvas"]
    if overlay != "none" and isinstance(card.panel, CanvasPanel):
        card.panel.choose_overlay(overlay)
