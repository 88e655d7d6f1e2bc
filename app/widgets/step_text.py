"""What is said about a step in words: tooltips and descriptions, the same in every view."""

from __future__ import annotations

import math
from html import escape

import numpy as np

from app.state.run import RunView
from app.state.texts import tr
from app.widgets import numbers
from app.widgets.visible_text import one_line, visible
from core.contract import GenerationParams, ParamsApplied, StepSnapshot

LN2 = math.log(2.0)
ALTERNATIVES = 5
CONTEXT_CHARS = 18
LONGEST = 60  # characters of a token in a tooltip


def shown_text(step: StepSnapshot) -> str:
    """What a step adds to the text as shown: nothing inside an unfinished character; special tokens by their name."""
    if step.text or "\\x" in step.piece:
        return step.text
    return step.piece


def params_at(run: RunView, index: int) -> GenerationParams:
    """The parameters in force for a step."""
    before = [flag for flag in run.flags if flag.index <= index]
    return before[-1].params if before else run.started.params


def change_text(before: GenerationParams, flag: ParamsApplied) -> str:
    """`temperature 1.0 → 0.8`, several changes separated by commas."""

    def value(params: GenerationParams, name: str) -> str:
        found = getattr(params, name)
        if not isinstance(found, float):
            return str(found)
        return f"{found:.1f}" if found == round(found, 1) else f"{found:.4g}"

    return ", ".join(f"{name} {value(before, name)} → {value(flag.params, name)}" for name in flag.changed)


def context(run: RunView, index: int, chars: int = CONTEXT_CHARS) -> str:
    """The last characters before a step, for “after …”."""
    start = max(0, index - 12)
    text = "".join(shown_text(step) for step in run.steps(start)[: index - start])
    if len(text) < chars and start == 0:
        text = "".join(run.prompt.pieces[-8:]) + text
    cut = text[-chars:]
    if len(cut) < len(text) and " " in cut[:-1]:
        cut = cut[cut.index(" ") :]
    return cut.replace("\n", "⏎").replace("\t", "⇥")


def moments(run: RunView, index: int) -> tuple[str, ...]:
    """Which step it is, in fewer and fewer words: the pixel where a model paints, else what stands before it."""
    step = tr("step {0}").format(index)
    pixel = run.step(index).pixel
    if pixel is not None:
        return tr("step {0}, row {1}, column {2}").format(index, *pixel), step
    after = tr("step {0}, after “{1}”")
    return *(after.format(index, context(run, index, chars)) for chars in (CONTEXT_CHARS, 8)), step


def quoted(piece: str) -> str:
    """A token as it is named in a sentence: “␣light”."""
    text = one_line(piece[:LONGEST])
    return f"“{text}…”" if len(piece) > LONGEST else f"“{text}”"


def spoken(piece: str) -> str:
    """A token as it is read aloud: `“ light”`, its line breaks and tabs by their names, no marks."""
    text = piece[:LONGEST].replace("\r\n", "\n")
    if not text:
        return tr("part of a character")
    for mark, name in (("\n", tr("line break")), ("\t", tr("tab"))):
        if text.strip(" ") == mark:
            return name
        text = text.replace(mark, f" {name} ")
    return f"“{visible(text)}”" if text.strip() else (tr("a space") if len(text) == 1 else tr("spaces"))


def sentence(run: RunView, index: int) -> str:
    """A step in one sentence, for a screen reader: `Token 14 of 63: “ Paris”, 62 %, runner-up “ Lyon” 9 %; …`."""
    step = run.step(index)
    top = zip(step.top.token_ids.tolist(), step.top.pieces, np.exp(step.top.logprob).tolist(), strict=True)
    others = [(piece, raw) for token_id, piece, raw in top if token_id != step.token_id]
    said = tr("Token {0} of {1}: {2}, {3}").format(
        index, run.count, spoken(step.piece), numbers.percent(math.exp(step.logprob))
    )
    if others:
        name = tr("runner-up") if step.rank == 0 else tr("likeliest was")
        said += f", {name} {spoken(others[0][0])} {numbers.percent(others[0][1])}"
    entropy = tr("entropy {0} bits, rank {1}").format(numbers.significant(step.entropy_bits), step.rank)
    return f"{said}; {entropy}."


def token_tooltip(run: RunView, index: int) -> str:
    """A generated token with its numbers and the likeliest alternatives, as escaped rich text."""
    step = run.step(index)
    top = step.top
    lines = [
        f"<b>{escape(quoted(step.piece))}</b>  "
        + tr("id {0}, step {1}, position {2}").format(step.token_id, index, step.id.position),
        tr("probability {0}  final {1}").format(f"{math.exp(step.logprob):.4f}", f"{math.exp(step.final_logprob):.4f}"),
        tr("entropy {0} bits  surprisal {1} bits  rank {2}").format(
            f"{step.entropy_bits:.2f}", f"{-step.logprob / LN2:.2f}", step.rank
        ),
    ]
    if step.put:
        lines.append(tr("put there, not chosen by the model"))
    if not step.piece.isascii() or "\\x" in step.piece or not step.text:
        lines.append(tr("bytes {0}").format(_bytes_of_character(run, index)))
    rows = zip(
        top.token_ids.tolist(), top.pieces, np.exp(top.logprob).tolist(), top.final_logprob.tolist(), strict=True
    )
    others = [row for row in rows if row[0] != step.token_id][:ALTERNATIVES]
    if others:
        lines.append("")
        lines += [_alternative(piece, raw, final) for _, piece, raw, final in others]
    return "<div style='white-space:pre'>" + "<br>".join(lines) + "</div>"


def _alternative(piece: str, raw: float, final: float) -> str:
    after = tr("removed") if math.isinf(final) else f"{math.exp(final):.4f}"
    return f"<span style='font-family:monospace'>{raw:.4f}  {after:>7}  {escape(one_line(piece[:24]))}</span>"


def _bytes_of_character(run: RunView, index: int) -> str:
    """The bytes of a token, with those of the tokens before it that belong to the same character."""
    first = index
    while first > 0 and not run.step(first - 1).text and "\\x" in run.step(first - 1).piece:
        first -= 1
    return " + ".join(run.step(i).token_bytes.hex(" ").upper() or tr("none") for i in range(first, index + 1))


def prompt_sentence(run: RunView, position: int) -> str:
    """A token of the prompt in one sentence, for a screen reader."""
    piece = spoken(run.prompt.pieces[position])
    return tr("Prompt token {0} of {1}: {2}.").format(position, run.prompt_tokens, piece)


def prompt_tooltip(run: RunView, position: int) -> str:
    """A token of the prompt, as escaped rich text."""
    piece, token_id = run.prompt.pieces[position], run.prompt.token_ids[position]
    place = tr("id {0}, prompt position {1}").format(token_id, position)
    return f"<div style='white-space:pre'><b>{escape(quoted(piece))}</b>  {place}</div>"
