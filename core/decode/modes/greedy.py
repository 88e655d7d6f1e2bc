"""Greedy search: the likeliest token, the first of equals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from core.decode.modes.mode import Choice, Mode

if TYPE_CHECKING:
    from core.decode.observe import Processed
    from core.decode.session import Session


class Greedy(Mode):
    """Takes the likeliest token of each row; nothing is drawn."""

    name = "greedy_search"
    copies = True

    def choose(self, run: Session, processed: Processed, place: int) -> Choice:
        """The likeliest one of each lane."""
        token_ids: list[int] = torch.argmax(processed.final, dim=-1).tolist()
        return Choice(token_ids, [None] * len(token_ids))
