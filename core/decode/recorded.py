"""A session as views read it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from core.decode import again, branch
from core.decode.interventions import hidden_keys, preview_logits
from core.decode.kv.sight import CacheSight
from core.decode.replay import final_scores, replay
from core.decode.sequences import strand_at
from core.trace.recording import Recording

if TYPE_CHECKING:
    from core.decode.session import Session


def recording_of(run: Session) -> Recording:
    """What views are derived from."""
    return Recording(
        trace=run.trace,
        strand=partial(strand_at, run),
        source=CacheSight(run.cache, partial(branch.check_held, run)),
        anatomy=run.forward.anatomy,
        info=run.loaded.info,
        piece=run.loaded.text.piece,
        recompute=partial(again.recompute, run),
        final_scores=partial(final_scores, run),
        replay=partial(replay, run),
        read_out=run.read_out,
        hidden=partial(hidden_keys, run),
        encode=partial(run.loaded.text.encode, add_special_tokens=False, cancelled=run.cancelled),
        preview=partial(preview_logits, run),
    )
