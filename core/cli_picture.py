"""`tokenglass generate` for image models: a picture in, pictures out."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from core.contract import ModelInfo, Prompt, RunFinished, TokenglassError

SCALE = 16


class PictureError(TokenglassError):
    """Picture arguments that do not go together, or a folder that cannot be written to."""

    code = "picture"


def add_image_arguments(parser: argparse.ArgumentParser, prompt: Any) -> None:
    """A picture as the prompt. prompt: the group of which one must be given."""
    prompt.add_argument("--image", metavar="FILE", help="a picture to begin with, for image models")
    parser.add_argument("--keep-rows", type=int, metavar="N", help="rows of the picture that are given")
    parser.add_argument("--keep-pixels", type=int, metavar="N", help="the same, counted in pixels")
    parser.add_argument("--num-return-sequences", type=int, metavar="K", help="how many different continuations")


def add_out_arguments(parser: argparse.ArgumentParser) -> None:
    """Where pictures go."""
    parser.add_argument("--out", metavar="FOLDER", help="write what an image model paints as PNG files")
    parser.add_argument("--scale", type=int, metavar="N", help=f"squares of N pixels in those files (default {SCALE})")


def picture_prompt(options: argparse.Namespace) -> Prompt | None:
    """The prompt that `--image` asks for, if it does. Raises `PromptError`, `PictureError`."""
    if options.image is None:
        if options.keep_rows is not None or options.keep_pixels is not None:
            raise PictureError("--keep-rows and --keep-pixels need a picture; give it with --image.")
        return None
    from core.domains.picture_files import read_and_note

    path = Path(options.image)
    picture, notes = read_and_note(path)
    if notes:
        print(f"“{path.name[:80]}”:", *notes, file=sys.stderr)
    return Prompt(image=picture, keep_rows=options.keep_rows, keep_pixels=options.keep_pixels)


def check_out(options: argparse.Namespace, info: ModelInfo) -> None:
    """Find out before the run what would fail after it. Raises `PictureError`."""
    if options.scale is not None and options.out is None:
        raise PictureError("--scale is for the files of --out; say where to write them.")
    if not 1 <= _scale(options) <= 256:
        raise PictureError(f"--scale is a number from 1 to 256, not {options.scale}.")
    if options.out is None:
        return
    if info.image is None:
        raise PictureError(f"--out is for pictures, but {info.title} writes text; leave it out.")
    try:
        Path(options.out).mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise PictureError(f"“{options.out}” cannot be made: {problem.strerror}.") from problem


def write_pictures(options: argparse.Namespace, info: ModelInfo, finished: RunFinished) -> list[Path]:
    """A PNG of each row, and of what was given, if anything; unpainted pixels are grey. Raises `PictureError`."""
    from core.domains.picture_files import enlarged, write_png

    image = info.image
    if options.out is None or image is None:
        return []
    folder, given = Path(options.out), finished.prompt_tokens[0]
    pictures = {f"painted-{n}.png": ids for n, ids in enumerate(finished.sequences, 1)}
    if given > 1:
        pictures = {"given.png": finished.sequences[0][:given], **pictures}
    try:
        for name, ids in pictures.items():
            write_png(folder / name, enlarged(image.paint(ids), _scale(options)))
    except OSError as problem:
        raise PictureError(f"“{folder}” cannot be written to: {problem.strerror}.") from problem
    return [folder / name for name in pictures]


def _scale(options: argparse.Namespace) -> int:
    return SCALE if options.scale is None else int(options.scale)
