"""Notices: sentences for the user, kept in the state until dismissed."""

from __future__ import annotations

from dataclasses import replace

from app.state.state import AppState, Notice, NoticeKind
from core.contract import ErrorReport

MOST_NOTICES = 8


def announce(state: AppState, kind: NoticeKind, text: str, detail: str = "") -> AppState:
    """With a notice at the end; the same sentence again only raises its count."""
    number = state.last_notice_id + 1
    same = next((n for n in state.notices if (n.kind, n.text) == (kind, text)), None)
    others = tuple(n for n in state.notices if n is not same)
    count = same.count + 1 if same else 1
    notice = Notice(number, kind, text, detail, count)
    return replace(state, notices=(*others, notice)[-MOST_NOTICES:], last_notice_id=number)


def report(state: AppState, error: ErrorReport) -> AppState:
    """With the sentence of a core error."""
    return announce(state, "error", error.message, error.detail)


def dismiss(state: AppState, notice_id: int) -> AppState:
    """Without one notice."""
    return replace(state, notices=tuple(n for n in state.notices if n.notice_id != notice_id))


def without_errors(state: AppState) -> AppState:
    """Without error notices: the user goes on to something new."""
    return replace(state, notices=tuple(n for n in state.notices if n.kind != "error"))
