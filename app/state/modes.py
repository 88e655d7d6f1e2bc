"""The modes by the names people know them by: which parameters choose each, and which belong to it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from app.state import params, select
from app.state.state import AppState, ModeTexts
from app.state.texts import tr
from core.contract import GenerationParams

_GREEDY: Mapping[str, object] = {"do_sample": False}


@dataclass(frozen=True, slots=True)
class ModeChoice:
    """A way to decode.

    values: what choosing it sets. rows: the parameters that belong to it. text: the field of `ModeTexts` it needs.
    drawn: what is to be said besides where do_sample is on; empty for modes that do not sample.
    """

    key: str
    title: str
    doc: str
    values: Mapping[str, object] = field(default_factory=dict)
    rows: tuple[str, ...] = ()
    text: str = ""
    drawn: str = ""


_DRAWN = "Tokens are drawn, because do_sample is on."
_BEAMS = ("num_beams", "length_penalty", "early_stopping")
_DRAFTS = ("num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold")
MODES: tuple[ModeChoice, ...] = (
    ModeChoice("plain", "Greedy or sampling", "One token after the other, the likeliest or drawn."),
    ModeChoice("beams", "Beam search", "Several continuations side by side; the best as a whole wins.",
               {"num_beams": 4, **_GREEDY}, _BEAMS,
               drawn="This is beam sampling: they are drawn, because do_sample is on."),
    ModeChoice("groups", "Diverse beams", "Groups of beams that are kept from saying the same.",
               {"num_beams": 6, "num_beam_groups": 3, "diversity_penalty": 1.0, **_GREEDY},
               (*_BEAMS, "num_beam_groups", "diversity_penalty")),
    ModeChoice("constrained", "Constrained beams", "Beams that must say certain phrases.",
               {"num_beams": 6, **_GREEDY}, _BEAMS, "force_words"),
    ModeChoice("contrastive", "Contrastive search", "Likely, and unlike what was said before.",
               {"penalty_alpha": 0.6, "top_k": 4, **_GREEDY}, ("penalty_alpha", "top_k")),
    ModeChoice("dola", "DoLa", "What the last layer knows better than an earlier one.",
               {"dola_layers": "high", "repetition_penalty": 1.2, **_GREEDY}, ("dola_layers",), drawn=_DRAWN),
    ModeChoice("draft", "Assisted by a draft model", "A smaller model drafts, this one checks several tokens at once.",
               {}, _DRAFTS, "assistant", _DRAWN),
    ModeChoice("early_exit", "Assisted by its own first layers", "The first layers draft, the whole model checks.",
               {"assistant_early_exit": 2, "num_assistant_tokens": 4}, ("assistant_early_exit", *_DRAFTS),
               drawn=_DRAWN),
    ModeChoice("lookup", "Prompt lookup", "What followed the same words before is tried as a draft.",
               {"prompt_lookup_num_tokens": 10}, ("prompt_lookup_num_tokens", "max_matching_ngram_size"),
               drawn=_DRAWN),
    ModeChoice("guidance", "Guidance", "Away from what the model would say to a negative prompt.",
               {"guidance_scale": 1.5}, ("guidance_scale",), "negative", _DRAWN),
)  # fmt: skip
_OWN = frozenset(name for mode in MODES for name in (*mode.rows, *mode.values, "force_words_ids")) - {
    "do_sample", "top_k", "repetition_penalty"
}  # fmt: skip
# What chooses a mode; where a model's own defaults do, another mode has to take them back.
_DECISIVE = (
    "num_beams", "num_beam_groups", "diversity_penalty", "force_words_ids", "penalty_alpha", "dola_layers",
    "prompt_lookup_num_tokens", "assistant_early_exit", "guidance_scale",
)  # fmt: skip


def is_particular(name: str) -> bool:
    """Whether a parameter is shown with its mode only."""
    return name in _OWN


def current(state: AppState) -> ModeChoice:
    """The mode that the parameters give."""
    now, texts = select.params(state), state.mode_texts
    if texts.force_words is not None or now.force_words_ids:
        key = "constrained"
    elif now.num_beams > 1:
        key = "groups" if now.num_beam_groups > 1 else "beams"
    elif texts.assistant is not None:
        key = "draft"
    elif now.assistant_early_exit is not None:
        key = "early_exit"
    elif now.prompt_lookup_num_tokens is not None:
        key = "lookup"
    elif now.penalty_alpha > 0:
        key = "contrastive"
    elif now.dola_layers is not None:
        key = "dola"
    else:
        key = "guidance" if now.guidance_scale != 1.0 else "plain"
    return next(mode for mode in MODES if mode.key == key)


def explained(state: AppState) -> str:
    """What the mode chosen will do, drawing included, and phrases that no field shows."""
    mode, now = current(state), select.params(state)
    said = [tr(mode.doc)]
    if mode.drawn and now.samples:
        said.append(tr(mode.drawn))
    if count := len(now.force_words_ids):
        more = tr("{0} phrases are given as token ids; what is typed is added to them.")
        said.append(more.format(count) if count > 1 else tr("A phrase is given as token ids; what is typed is added."))
    return " ".join(said)


def missing(state: AppState) -> str:
    """What the mode chosen needs and has not been given yet; empty where it can run."""
    texts = state.mode_texts
    given = select.params(state).force_words_ids
    if texts.force_words is not None and not (given or select.phrases(texts.force_words)):
        return tr("Constrained beams need a phrase to say; type one below the mode, or choose another mode.")
    if texts.assistant == "":
        return tr("No draft model is chosen; choose one below the mode, or choose another mode.")
    return ""


def choose(state: AppState, key: str) -> AppState:
    """The parameters that choose this mode; those of the one before go back to their defaults."""
    before, after = current(state), next((mode for mode in MODES if mode.key == key), None)
    if after is None or after == before:
        return state
    gone = _OWN | {
        name for name in before.values if name in _GREEDY or before.values[name] == state.overrides.get(name)
    }
    values = {n: v for n, v in state.overrides.items() if n not in gone}
    if key == "early_exit" and state.model is not None:
        values["assistant_early_exit"] = max(1, state.model.layers // 2)
    own = params.differences(select.defaults(state), GenerationParams())
    values = {**{n: own[n] for n in _DECISIVE if n in own}, **after.values, **values}
    texts = ModeTexts(**({after.text: ""} if after.text else {}))
    return params.with_overrides(replace(state, mode_texts=texts), values)


def set_text(state: AppState, name: str, text: str) -> AppState:
    """What is typed for the mode: phrases, a draft model, a negative prompt."""
    return replace(state, mode_texts=replace(state.mode_texts, **{name: text}))
