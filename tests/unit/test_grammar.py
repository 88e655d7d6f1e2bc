"""What a constraint allows: everything it says and nothing else, as a pure function of the generated ids."""

from __future__ import annotations

import gc
import json
import re
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import regex
import torch
from transformers import AutoTokenizer

from core.contract import Grammar, GrammarError
from core.decode.grammar import Constraint, choices
from core.decode.pipeline import Rows
from core.domains.byte_tokenizer import build_byte_tokenizer
from core.domains.text import IdDomain, TextDomain
from core.models.loaded import LoadedModel
from tests.models import build_sentencepiece_tokenizer

PATTERN = r"(yes|no), [a-z]{2,9}( é!)?"
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 6}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
TEXTS = ["red", "blue", "blue sky", 'a "quoted" \\ one', "日本"]
GRAMMARS = [Grammar("regex", PATTERN), Grammar("json_schema", json.dumps(SCHEMA)), Grammar("choice", "\n".join(TEXTS))]
SEEDS = range(6)


@pytest.fixture(params=["bytes", "sentencepiece", "tiny_gpt2"])
def text(request: pytest.FixtureRequest, tmp_path: Path) -> TextDomain:
    if request.param == "bytes":
        return TextDomain(build_byte_tokenizer())
    if request.param == "sentencepiece":
        return TextDomain(AutoTokenizer.from_pretrained(build_sentencepiece_tokenizer(tmp_path)))
    loaded: LoadedModel = request.getfixturevalue("tiny_gpt2")
    return loaded.text


def vocab_size(text: TextDomain) -> int:
    return len(text.tokenizer)


def spell(text: TextDomain, ids: list[int]) -> bytes:
    return b"".join(text.token_bytes(i) for i in ids)


def walk(text: TextDomain, constraint: Constraint, seed: int, most: int = 400) -> tuple[list[int], bool]:
    """Any allowed token, again and again; the ids and whether the text could end there."""
    rng = np.random.default_rng(seed)
    ids: list[int] = []
    while len(ids) < most:
        allowed = constraint.after(ids)
        assert allowed is not None
        assert allowed.count == int(allowed.tokens.sum())
        if allowed.count == 0 or (allowed.end and rng.random() < 0.4):
            return ids, allowed.end
        ids.append(int(rng.choice(np.flatnonzero(allowed.tokens))))
    return ids, False


def rows(ids: torch.Tensor) -> Rows:
    """Rows without padding."""
    return Rows(ids, (0,) * len(ids))


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_is_allowed_ends_in_a_text_that_fits(text: TextDomain, seed: int) -> None:
    fits = {
        "regex": lambda said: re.fullmatch(PATTERN, said) is not None,
        "json_schema": lambda said: fits_schema(json.loads(said)),
        "choice": lambda said: said in TEXTS,
    }
    for grammar in GRAMMARS:
        ids, ended = walk(text, Constraint(text, vocab_size(text), grammar), seed)
        assert ended, grammar.kind
        said = spell(text, ids).decode()
        assert fits[grammar.kind](said), said


def fits_schema(value: Any) -> bool:
    return (
        set(value) == {"name", "age"}
        and isinstance(value["name"], str)
        and len(value["name"]) <= 6
        and isinstance(value["age"], int)
        and 0 <= value["age"] <= 99
    )


def test_first_tokens_are_exactly_those_that_a_text_can_begin_with(text: TextDomain) -> None:
    constraint = Constraint(text, vocab_size(text), Grammar("regex", PATTERN))
    first = constraint.after(())
    assert first is not None
    special = set(text.tokenizer.all_special_ids)
    wanted = set()
    for token_id in range(vocab_size(text)):
        piece = text.token_bytes(token_id)
        if piece and token_id not in special and regex.fullmatch(PATTERN.encode(), piece, partial=True):
            wanted.add(token_id)
    assert set(np.flatnonzero(first.tokens).tolist()) == wanted


def test_the_state_depends_on_the_ids_alone(text: TextDomain) -> None:
    """Beams that are re-ordered, forks, rewinds: questions in any order have the answers of a fresh constraint."""
    for grammar in GRAMMARS:
        shared = Constraint(text, vocab_size(text), grammar)
        walks = [walk(text, shared, seed)[0] for seed in SEEDS]
        questions = [ids[:stop] for ids in walks for stop in range(0, len(ids) + 1, 3)]
        np.random.default_rng(0).shuffle(questions)  # type: ignore[arg-type]
        fresh = Constraint(text, vocab_size(text), grammar)
        for ids in questions:
            assert fresh.after(ids) == shared.after(ids)


def test_what_is_forgotten_is_found_again(text: TextDomain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.decode.grammar.MOST_KEPT", 2)
    constraint = Constraint(text, vocab_size(text), GRAMMARS[0])
    ids, _ = walk(text, constraint, 1)
    answers = [constraint.after(ids[:stop]) for stop in range(len(ids) + 1)]
    assert len(constraint._states) <= 2
    assert [constraint.after(ids[:stop]) for stop in reversed(range(len(ids) + 1))] == answers[::-1]


def test_the_stage_forbids_the_rest_and_lets_eos_end_what_is_complete(tiny_gpt2: LoadedModel) -> None:
    text, size = tiny_gpt2.text, tiny_gpt2.info.vocab_size
    constraint = Constraint(text, size, Grammar("choice", "red\nred apple"))
    encode = lambda said: text.encode(said, add_special_tokens=False)  # noqa: E731
    prompt, red, apple = encode("The"), encode("red"), encode("red apple")
    stage = constraint.stage((0,), len(prompt))
    scores = torch.arange(2 * size, dtype=torch.float32).reshape(2, size)

    def alive(generated: list[int], ends: tuple[int, ...] = (0,)) -> set[int]:
        fn = stage if ends else constraint.stage((), len(prompt))
        out = fn.fn(rows(torch.tensor([prompt + generated] * 2)), scores)
        kept = out > -torch.inf
        assert torch.equal(out[kept], scores[kept])
        assert torch.equal(kept[0], kept[1])
        return set(torch.nonzero(kept[0]).flatten().tolist())

    assert 0 not in alive([])
    assert alive(red) >= {0, apple[len(red)]}
    assert alive(apple) == {0}
    assert len(alive([*apple, 0])) == size  # the row has ended
    assert len(alive(apple, ())) == size  # and here, too: there is no EOS token
    assert len(alive(encode("blue"))) == size  # forced out of the grammar
    assert constraint.allowed_tokens(apple, (0, 5)) == 2
    assert constraint.allowed_tokens([*apple, 0], (0, 5)) is None
    assert constraint.allowed_tokens(encode("blue"), (0,)) is None
    assert constraint.finished(apple)
    assert not constraint.finished(red)


def test_rows_of_a_batch_are_constrained_each_by_what_they_said(tiny_gpt2: LoadedModel) -> None:
    text, size = tiny_gpt2.text, tiny_gpt2.info.vocab_size
    constraint = Constraint(text, size, Grammar("regex", "[ab]c|[xy]z"))
    one, other = (text.encode(c, add_special_tokens=False)[0] for c in "ax")
    out = constraint.stage((0,), 1).fn(rows(torch.tensor([[7, one], [7, other]])), torch.zeros(2, size))
    said = [{text.token_bytes(i) for i in torch.nonzero(row > -1).flatten().tolist()} for row in out]
    assert said == [{b"c"}, {b"z"}]


def test_scores_may_be_narrower_or_wider_than_the_vocabulary(tiny_gpt2: LoadedModel) -> None:
    constraint = Constraint(tiny_gpt2.text, tiny_gpt2.info.vocab_size, Grammar("regex", ".*"))
    for width in (100, tiny_gpt2.info.vocab_size + 64):
        out = constraint.stage((0,), 1).fn(rows(torch.tensor([[7]])), torch.zeros(1, width))
        assert out.shape == (1, width)
        assert bool((out[0, tiny_gpt2.info.vocab_size :] == -torch.inf).all())


@pytest.mark.parametrize(
    ("grammar", "says"),
    [
        (Grammar("regex", "("), "unclosed group"),
        (Grammar("regex", "a(?=b)"), "look-around"),
        (Grammar("regex", "  "), "is empty"),
        (Grammar("regex", r"[^\s\S]"), "allows no first token"),
        (Grammar("json_schema", '{"type":\n'), "line 2 column 1"),
        (Grammar("json_schema", '{"type": "objec"}'), "objec"),
        (Grammar("json_schema", "[1]"), "no JSON object"),
        (Grammar("json_schema", '{"items":' * 50_000 + "1" + "}" * 50_000), "nested too deeply"),
        (Grammar("json_schema", '{"not": {}}'), "not"),
        (Grammar("json_schema", '{"$ref": "http://127.0.0.1:1/x"}'), "cannot be used"),
        (Grammar("choice", "\n\n"), "empty"),
        (Grammar("choice", "[]"), "empty"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.text[:20].strip() or "blank",
)
def test_a_constraint_that_cannot_be_used_is_one_sentence(
    grammar: Grammar, says: str, tiny_gpt2: LoadedModel, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(GrammarError) as refused:
        Constraint(tiny_gpt2.text, tiny_gpt2.info.vocab_size, grammar)
    message = refused.value.message
    assert says in message
    assert message.endswith(".")
    assert "\n" not in message
    assert len(message) < 250
    assert capfd.readouterr() == ("", "")


def test_what_no_token_can_spell_is_said_at_the_token(tmp_path: Path) -> None:
    text = TextDomain(AutoTokenizer.from_pretrained(build_sentencepiece_tokenizer(tmp_path)))
    known = min(i for i in range(len(text.tokenizer)) if text.token_bytes(i) == b"a")
    text._bytes_of = lambda i: b"a" if i == known else b""  # a vocabulary that knows one letter
    constraint = Constraint(text, known + 1, Grammar("regex", "ab"))
    with pytest.raises(GrammarError, match="allows no token at token 1"):
        constraint.stage((0,), 1).fn(rows(torch.tensor([[7, known]])), torch.zeros(1, known + 1))


def test_choices_are_lines_or_a_json_array() -> None:
    assert choices("a\n\nb\na") == ("a", "b")
    assert choices('["two\\nlines", "x"]') == ("two\nlines", "x")
    assert choices("[not json") == ("[not json",)
    assert choices("one\u2028line\r\ntwo") == ("one\u2028line", "two")
    assert choices("[" * 50_000) == ("[" * 50_000,)


def test_no_tokenizer_and_no_package_are_said_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GrammarError, match="no tokenizer"):
        Constraint(IdDomain(), 10, GRAMMARS[0])
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(GrammarError, match="pip install llguidance"):
        Constraint(TextDomain(build_byte_tokenizer()), 257, GRAMMARS[0])


def test_a_model_that_goes_is_not_kept_by_its_constraints() -> None:
    text = TextDomain(build_byte_tokenizer())
    gone = weakref.ref(text)
    walk(text, Constraint(text, vocab_size(text), GRAMMARS[0]), 1)
    del text
    gc.collect()
    assert gone() is None


def test_choices_that_are_no_text_are_refused_in_a_sentence() -> None:
    with pytest.raises(GrammarError, match="A grammar is a text, not a tuple; write choices one a line"):
        Grammar("choice", ("a", "b"))  # type: ignore[arg-type]
