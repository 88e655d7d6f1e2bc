"""Prompts from whatever a script has at hand: texts, ids, chats, pictures."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.contract import (
    Breakpoint,
    ChatMessage,
    Intervention,
    ParameterError,
    Picture,
    Prompt,
    PromptError,
    TextMatches,
    check_breakpoint,
    parse_breakpoint,
    parse_intervention,
)
from core.patterns import check_pattern

Text = str | Sequence[str]
Ids = Sequence[int] | Sequence[Sequence[int]]
Message = ChatMessage | Mapping[str, str]
Messages = Sequence[Message] | Sequence[Sequence[Message]]
Image = str | os.PathLike[str] | Picture | NDArray[np.uint8]
Images = Image | list[Image]


def to_prompts(
    prompt: Text | None,
    prompt_ids: Ids | None,
    messages: Messages | None,
    image: Images | None = None,
    keep_rows: int | None = None,
    keep_pixels: int | None = None,
) -> tuple[Prompt, ...]:
    """The prompts of a batch from whichever way they were given. Raises `PromptError`."""
    if sum(given is not None for given in (prompt, prompt_ids, messages, image)) != 1:
        raise PromptError("Give the prompt in exactly one way: prompt, prompt_ids, messages or image.")
    if image is not None:
        images = image if isinstance(image, list | tuple) else [image]
        return tuple(Prompt(image=to_picture(i), keep_rows=keep_rows, keep_pixels=keep_pixels) for i in images)
    if keep_rows is not None or keep_pixels is not None:
        raise PromptError("keep_rows and keep_pixels belong to a picture; give it as image.")
    if prompt is not None:
        return tuple(Prompt(text=text) for text in ([prompt] if isinstance(prompt, str) else prompt))
    if prompt_ids is not None:
        values = list(_plain(prompt_ids))
        rows = values if values and isinstance(values[0], list | tuple) else [values]
        return tuple(Prompt(ids=_integers(row)) for row in rows)
    chats: list[Any] = list(messages or ())
    batch = chats if chats and isinstance(chats[0], list | tuple) else [chats]
    return tuple(Prompt(messages=tuple(map(_message, chat))) for chat in batch)


def to_picture(image: Image) -> Picture:
    """A picture from a file, an array or a picture. Raises `PromptError`."""
    if isinstance(image, Picture):
        return image
    if isinstance(image, str | os.PathLike):
        from core.domains.picture_files import read_picture

        return read_picture(Path(image))
    if hasattr(image, "convert"):  # a Pillow image, whose array may be numbers of a palette
        from core.domains.picture_files import of_image

        return Picture.of(of_image(image, "The image"))
    return Picture.of(np.asarray(image))


def to_negative(prompt: str | Sequence[int] | None) -> Prompt | None:
    """A negative prompt from text or token ids. Raises `PromptError`."""
    if prompt is None or isinstance(prompt, str):
        return None if prompt is None else Prompt(text=prompt)
    return Prompt(ids=_integers(_plain(prompt)))


def _plain(values: Any) -> Iterable[Any]:
    """Lists out of numpy arrays and tensors."""
    plain: Iterable[Any] = values.tolist() if hasattr(values, "tolist") else values
    return plain


def to_ids(given: Any, name: str) -> tuple[int, ...]:
    """Token ids, also out of an array. Raises `PromptError`, which calls them `name`."""
    return _integers(given, name)


def to_whole(value: Any, name: str) -> int:
    """A whole number from 0 on, of any library. Raises `ParameterError`, which calls it `name`."""
    try:
        whole = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        whole = -1
    if whole < 0:
        raise ParameterError(f"{name} is a whole number from 0 on, not {value!r}.")
    return whole


def _integers(row: Iterable[Any], name: str = "prompt_ids") -> tuple[int, ...]:
    ids = tuple(_plain(row))
    wrong = next((i for i in ids if isinstance(i, bool) or not isinstance(i, int | np.integer)), None)
    if wrong is not None:
        raise PromptError(f"{wrong!r} is no token id; {name} takes whole numbers.")
    return tuple(map(int, ids))


def _message(message: Message) -> ChatMessage:
    if isinstance(message, ChatMessage):
        return message
    if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
        raise PromptError(f"{message!r} is no chat message; each is a dictionary with role and content.")
    return ChatMessage(str(message["role"]), str(message["content"]))


def to_interventions(given: Sequence[Intervention | str]) -> tuple[Intervention, ...]:
    """Values, or texts in their notation. Raises `ParameterError`."""
    several = [given] if isinstance(given, str) else given
    return tuple(parse_intervention(one) if isinstance(one, str) else one for one in several)


def to_breakpoints(given: Sequence[Breakpoint | str]) -> tuple[Breakpoint, ...]:
    """Values, or texts in their notation. Raises `ParameterError`."""
    several = [given] if isinstance(given, str) else given
    found = tuple(parse_breakpoint(one) if isinstance(one, str) else one for one in several)
    for one in found:
        check_breakpoint(one)
        if isinstance(one, TextMatches):
            check_pattern(one.pattern)
    return found
