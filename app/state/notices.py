"""Notices: sentences for the user, kept in the state until dismissed."""

from __future__ import annotations

from dataclasses import replace

from app.state.state import AppState, Notice, NoticeKind
from core.contract import ErrorReport

MOST_NOTICES = 8
MOST_ERRORS = 100


def announce(state: AppState, kind: NoticeKind, text: str, detail: str = "") -> AppState:
    """With a notice at the end; the same sentence again only raises its count."""
    number = state.last_notice_id + 1
    notice = Notice(number, kind, text, detail)
    errors = _grouped(state.errors, notice)[-MOST_ERRORS:] if kind == "error" else state.errors
    return replace(state, notices=_grouped(state.notices, notice)[-MOST_NOTICES:], errors=errors, last_notice_id=number)


def _grouped(notices: tuple[Notice, ...], new: Notice) -> tuple[Notice, ...]:
    same = next((n for n in notices if (n.kind, n.text) == (new.kind, new.text)), None)
    others = tuple(n for n in notices if n is not same)
    return (*others, replace(new, count=same.count + 1 if same else 1))


def report(state: AppState, error: ErrorReport) -> AppState:
    """With the sentence of a core error."""
    return announce(state, "error", error.message, error.detail)


def dismiss(state: AppState, notice_id: int) -> AppState:
    """Without one notice."""
    return replace(state, notices=tuple(n for n in state.notices if n.notice_id != notice_id))


def dismiss_error(state: AppState, notice_id: int | None) -> AppState:
    """Without one error (or any) in the list, nor its notice."""
    errors = tuple(n for n in state.errors if notice_id is not None and n.notice_id != notice_id)
    gone = {(n.kind, n.text) for n in state.errors} - {(n.kind, n.text) for n in errors}
    return replace(state, errors=errors, notices=tuple(n for n in state.notices if (n.kind, n.text) not in gone))


def without_errors(state: AppState) -> AppState:
    """Without error notices: the user goes on to something new."""
    return replace(state, notices=tuple(n for n in state.notices if n.kind != "error"))
