"""Token text made visible: what a token looks like when spaces, line breaks and control characters may not hide."""

from __future__ import annotations

import html
from functools import lru_cache
from typing import NamedTuple

SPACE, LINE_BREAK, TAB = "␣", "⏎", "⇥"
# Characters that draw nothing or reorder their neighbours; joiners and variation selectors stay, emoji need them.
# Not so tags and the further variation selectors: whole texts are hidden in them.
_INVISIBLE = {
    *range(0x80, 0xA1), 0xAD, 0x034F, 0x061C, 0x115F, 0x1160, 0x17B4, 0x17B5, *range(0x180B, 0x1810), 0x200B, 0x200E,
    0x200F, 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2060, 0x2070), 0x3164, 0xFEFF, 0xFFA0,
    *range(0xFFF9, 0xFFFC), *range(0x1D173, 0x1D17B), *range(0xE0000, 0xE0200),
}  # fmt: skip
_LONGEST = 2000  # characters of one token that are drawn; the tooltip says how many there are


class Part(NamedTuple):
    """One unbroken piece of a token: `lead` spaces become a gap, `text` is drawn, then a line break may follow."""

    text: str
    lead: int
    quiet: bool  # nothing but whitespace marks
    breaks: bool


@lru_cache(maxsize=16384)
def parts(text: str) -> tuple[Part, ...]:
    """The pieces of a token's text, split at its line breaks; none for an empty text."""
    if not text:
        return ()
    lines = text[:_LONGEST].replace("\r\n", "\n").split("\n")
    last = len(lines) - 1
    return tuple(_part(line, i < last) for i, line in enumerate(lines) if line or i < last)


def _part(line: str, breaks: bool) -> Part:
    body = line.lstrip(" ")
    lead = len(line) - len(body)
    if not body:  # only spaces: marks of their own, so that there is something to see and to click
        return Part(SPACE * lead + (LINE_BREAK if breaks else ""), 0, True, breaks)
    quiet = not body.strip()
    return Part(visible(body) + (LINE_BREAK if breaks else ""), lead, quiet, breaks)


def visible(text: str) -> str:
    """The text with tabs, control and invisible characters replaced by marks; inner spaces stay spaces."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_mark, text))


def _mark(char: str) -> str:
    code = ord(char)
    if char == "\t":
        return TAB
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "␡"
    if code in _INVISIBLE or 0xD800 <= code < 0xE000:
        return f"⟨U+{code:04X}⟩"
    return char


def one_line(text: str) -> str:
    """A token for a list or an axis: every space as ␣, a line break as ⏎."""
    return visible(text.replace("\r\n", "\n").replace("\n", LINE_BREAK)).replace(" ", SPACE)


def plain_label(text: str) -> str:
    """A text for a menu or a button, where Qt takes & for the mark of a key."""
    return text.replace("&", "&&")


def plain_tip(text: str) -> str:
    """A tooltip that Qt shows as it is written: what looks like markup to it (a folder, a name) would be rendered."""
    if "<" not in text and "&" not in text:
        return text
    return "<span>" + html.escape(text).replace("\n", "<br>") + "</span>"
