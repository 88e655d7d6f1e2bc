"""What can be done with one token, as entries of a context menu: the same wherever tokens stand."""

from __future__ import annotations

from PySide6.QtWidgets import QMenu

from app.panels.panel import Dispatch
from app.state.acting_intents import AddBreakpoint, DeletePosition, MutePosition, PinToken, RemoveBreakpoint, UnpinToken
from app.state.acting_state import Acting
from app.state.texts import tr
from app.widgets import step_text
from core.contract import MutePositions, TokenIn, deleted_positions


def cannot_be_undone() -> str:
    """What is to be known before a position is deleted."""
    return tr("Its keys and values leave every layer for good; only a branch from before has them")


def add_token(menu: QMenu, dispatch: Dispatch, acting: Acting, token_id: int, piece: str) -> None:
    """Watch the token; stop where it is chosen."""
    named = step_text.quoted(piece)
    if any(pin.token == token_id for pin in acting.pins):
        menu.addAction(tr("Watch {0} no more").format(named), lambda: dispatch(UnpinToken(token_id)))
    else:
        menu.addAction(tr("Watch {0}").format(named), lambda: dispatch(PinToken(token_id, piece)))
    stop = TokenIn((token_id,))
    known = next((one for one in acting.breaks if one.on and one.breakpoint == stop), None)
    if known is not None:
        text = tr("Stop no more at {0}").format(named)
        menu.addAction(text, lambda: dispatch(RemoveBreakpoint(known.break_id)))
    else:
        menu.addAction(tr("Stop at {0}").format(named), lambda: dispatch(AddBreakpoint(stop)))


def add_position(
    menu: QMenu, dispatch: Dispatch, acting: Acting, row: int, position: int, fed: int, goes_on: bool
) -> None:
    """Hide a cached position from what comes, or delete it while the run goes on; the newest is in no cache yet."""
    if position in deleted_positions(acting.interventions, row):
        menu.addAction(tr("Position {0} is deleted from the cache").format(position)).setEnabled(False)
        return
    own = [one for one in acting.interventions if isinstance(one, MutePositions) and one.row == row]
    muted = any(position in one.positions for one in own)
    text = tr("Unmute position {0}") if muted else tr("Mute position {0}")
    action = menu.addAction(text.format(position), lambda: dispatch(MutePosition(row, position)))
    action.setEnabled(muted or position < fed)
    text = tr("Delete position {0} from the cache").format(position)
    action = menu.addAction(text, lambda: dispatch(DeletePosition(row, position)))
    action.setEnabled(goes_on and position < fed)
    action.setToolTip(cannot_be_undone())
    menu.setToolTipsVisible(True)
