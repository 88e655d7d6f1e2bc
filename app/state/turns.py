"""Which tokens of a rendered chat belong to which turn. Pure."""

from __future__ import annotations

from core.contract import ChatMessage, PromptRow

NEAR = 12  # characters within which the text is found again after a piece that is no text


def spans(row: PromptRow) -> tuple[tuple[int, int], ...]:
    """Each token's characters [start, end) in `row.rendered`; empty for bytes of an unfinished character."""
    found: list[tuple[int, int]] = []
    at = 0
    for piece in row.pieces:
        start = at if row.rendered.startswith(piece, at) else row.rendered.find(piece, at, at + NEAR + len(piece))
        if piece and start >= 0:
            at = start + len(piece)
            found.append((start, at))
        else:
            found.append((at, at))
    return tuple(found)


def turn_rows(row: PromptRow | None, turns: tuple[ChatMessage, ...]) -> tuple[PromptRow | None, ...]:
    """The tokens of each turn's content; None where the template does not show it as it was written."""
    if row is None or not turns:
        return (None,) * len(turns)
    places, at = spans(row), 0
    found: list[PromptRow | None] = []
    for turn in turns:
        content = turn.content.strip()
        start = row.rendered.find(content, at) if content else -1
        if start < 0:
            found.append(None)
            continue
        at = start + len(content)
        inside = [n for n, (a, b) in enumerate(places) if a < at and b > start]
        ids, pieces = tuple(row.token_ids[n] for n in inside), tuple(row.pieces[n] for n in inside)
        found.append(PromptRow(ids, pieces, content))
    return tuple(found)
