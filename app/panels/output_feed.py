"""What a sequence adds to a token flow: its tokens as they come, coloured by a quantity."""

from __future__ import annotations

import numpy as np

from app.state import select
from app.state.run import RunView
from app.state.state import AppState, ColourBy
from app.theme.colormaps import indices
from app.widgets import step_text
from app.widgets.flow_painter import NO_FILL
from app.widgets.token_flow import TokenFlow


class FlowFeed:
    """Hands a flow only what is new of the sequence it shows. coloured: what its fills say now."""

    def __init__(self, flow: TokenFlow) -> None:
        self.flow = flow
        self.coloured: tuple[object, ...] = ()
        self._key: object = None
        self._count = 0

    def forget(self) -> None:
        """Show nothing."""
        if self.flow.tokens:
            self.flow.clear()
        self._key, self._count = None, 0

    def show(self, run: RunView, state: AppState, source: ColourBy | None) -> None:
        """The tokens so far; source: the quantity that colours them, None leaves the fills to the caller."""
        if run.key != self._key:
            self._key, self._count, self.coloured = run.key, 0, ()
            self.flow.set_prompt(run.prompt.pieces)
        if run.count > self._count:
            steps = run.steps(self._count)
            levels = np.full(len(steps), NO_FILL, np.int16)
            if source is not None:
                levels = indices(select.colour_values(run, source, self._count)).astype(np.int16)
            self.flow.append([step_text.shown_text(s) for s in steps], levels, [s.text for s in steps])
            self._count = run.count
        if source is not None and self.coloured != (source,):
            fills = indices(select.colour_values(run, source)).astype(np.int16)
            self.flow.set_levels(np.concatenate([np.full(run.prompt_tokens, NO_FILL, np.int16), fills]))
            self.coloured = (source,)


def tooltip(run: RunView | None, token: int) -> str:
    """Everything about a token of the sequence."""
    if run is None:
        return ""
    if token < run.prompt_tokens:
        return step_text.prompt_tooltip(run, token)
    return step_text.token_tooltip(run, token - run.prompt_tokens)
