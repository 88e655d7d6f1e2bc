"""Tokens as text: exact bytes, exact streams, whatever the tokenizer does to hide them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordPiece
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerFast

from core.contract import ChatMessage, PromptError
from core.domains.text import IdDomain, TextDomain
from tests.models import CHAT_TEMPLATE, END, build_sentencepiece_tokenizer, build_tokenizer

TORTURE = [
    "Once upon a time",
    "  two  spaces, a\ttab\nand a line\r\n",
    "naïve café, Ångström",
    "e\u0301 and " + "o" + "\u0308" * 100,
    "👨‍👩‍👧‍👦 family, 🏳️‍🌈 flag, 👍🏽 thumb",
    "🇨🇳🇩🇪🇧🇷",
    "你好，世界。日本語テキスト 한국어",
    "العربية עברית \u202ereversed\u202c",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐍈 😀",
    "NUL \x00, bell \x07, BOM \ufeff, line \u2028 end",
    "\ufffd is a character, too \ufffd",
    "<img src=x onerror=alert(1)> &lt; <|im_start|>",
    "\U0010ffff\U0001f600" * 20,
    " ",
    "a",
]


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> TextDomain:
    return _domain(build_tokenizer(tmp_path_factory.mktemp("bytes"), chat_template=CHAT_TEMPLATE))


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory: pytest.TempPathFactory) -> TextDomain:
    return _domain(build_sentencepiece_tokenizer(tmp_path_factory.mktemp("sentencepiece")))


@pytest.fixture(scope="module")
def python_only() -> TextDomain:
    return TextDomain(ByT5Tokenizer())


@pytest.fixture(params=["byte_level", "sentencepiece", "python_only"])
def domain(request: pytest.FixtureRequest) -> TextDomain:
    return request.getfixturevalue(request.param)


def _domain(folder: Path) -> TextDomain:
    return TextDomain(AutoTokenizer.from_pretrained(folder))


def _streamed(domain: TextDomain, ids: list[int], prompt: list[int] | None = None) -> str:
    stream = domain.stream(prompt or ())
    return "".join(map(stream.push, ids)) + stream.flush()


@pytest.mark.parametrize("text", TORTURE)
def test_streamed_text_equals_the_decoded_text(domain: TextDomain, text: str) -> None:
    ids = domain.encode(text, add_special_tokens=False)
    assert _streamed(domain, ids) == domain.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("text", TORTURE)
def test_byte_level_text_survives_the_round_trip(byte_level: TextDomain, text: str) -> None:
    ids = byte_level.encode(text)
    assert byte_level.decode(ids) == text
    assert b"".join(map(byte_level.token_bytes, ids)).decode() == text


@pytest.mark.parametrize("text", TORTURE)
def test_sentencepiece_bytes_are_the_text_after_one_space(sentencepiece: TextDomain, text: str) -> None:
    ids = sentencepiece.encode(text, add_special_tokens=False)
    assert b"".join(map(sentencepiece.token_bytes, ids)).decode() == " " + text


@pytest.mark.parametrize("text", TORTURE)
def test_a_text_may_be_split_anywhere_into_prompt_and_stream(domain: TextDomain, text: str) -> None:
    """Also inside a character, which the stream then returns whole."""
    ids = domain.encode(text, add_special_tokens=False)
    whole = domain.decode(ids, skip_special_tokens=True)
    for split in range(0, len(ids), 1 + len(ids) // 40):
        streamed = _streamed(domain, ids[split:], ids[:split])
        assert any(domain.decode(ids[:k]) + streamed == whole for k in range(max(0, split - 3), split + 1))


@pytest.mark.parametrize("seed", range(30))
def test_random_bytes_stream_to_the_letter_where_bytes_are_tokens(byte_level: TextDomain, seed: int) -> None:
    ids = [random.Random(seed).randrange(len(byte_level.tokenizer)) for _ in range(200)]
    assert _streamed(byte_level, ids) == byte_level.decode(ids, skip_special_tokens=True)


def test_text_already_streamed_is_never_taken_back(sentencepiece: TextDomain) -> None:
    """Followed by a lone byte, sentencepiece's decoder replaces the bytes of the valid character before it, too."""
    ids = [
        *sentencepiece.encode("é你", add_special_tokens=False),
        sentencepiece.tokenizer.convert_tokens_to_ids("<0x80>"),
    ]
    assert sentencepiece.decode(ids) == "é����"
    assert _streamed(sentencepiece, ids) == "é你�"


def test_a_run_of_special_tokens_costs_no_decoding(byte_level: TextDomain) -> None:
    stream = byte_level.stream()
    assert {stream.push(0) for _ in range(1000)} == {""}
    assert stream._pending == []


def test_nothing_is_streamed_inside_a_character(byte_level: TextDomain) -> None:
    ids = byte_level.encode("é👍")
    stream = byte_level.stream()
    assert [stream.push(i) for i in ids] == ["", "é", "", "", "", "👍"]


def test_flush_returns_an_incomplete_tail_once(byte_level: TextDomain) -> None:
    ids = byte_level.encode("ok👍")[:-1]
    stream = byte_level.stream()
    assert "".join(map(stream.push, ids)) == "ok"
    assert stream.flush() == byte_level.decode(ids)[2:] == "\ufffd"
    assert stream.flush() == ""


def test_a_stream_keeps_the_space_before_the_first_generated_word(sentencepiece: TextDomain) -> None:
    prompt = sentencepiece.encode("the")
    continuation = sentencepiece.encode("the dog")[len(prompt) :]
    assert _streamed(sentencepiece, continuation, prompt) == " dog"


def test_special_tokens_show_as_pieces_but_not_in_the_stream(byte_level: TextDomain) -> None:
    ids = byte_level.encode("end" + END)
    assert byte_level.piece(ids[-1]) == END
    assert byte_level.token_bytes(ids[-1]) == END.encode()
    assert byte_level.decode(ids) == "end" + END
    assert _streamed(byte_level, ids) == "end"


def test_pieces_keep_spaces_and_show_unfinished_bytes(byte_level: TextDomain, sentencepiece: TextDomain) -> None:
    assert [byte_level.piece(i) for i in byte_level.encode("é \n")] == ["\\xc3", "\\xa9", " ", "\n"]
    pieces = [sentencepiece.piece(i) for i in sentencepiece.encode("the 你", add_special_tokens=False)]
    assert pieces == [" the", " ", "\\xe4", "\\xbd", "\\xa0"]


def test_an_id_without_a_token_is_shown_by_its_number(byte_level: TextDomain) -> None:
    """Embeddings are often padded beyond the vocabulary, and a model may choose such a row."""
    beyond = len(byte_level.tokenizer) + 5
    assert byte_level.piece(beyond) == f"⟨{beyond}⟩"
    assert byte_level.token_bytes(beyond) == b""
    assert _streamed(byte_level, [*byte_level.encode("a"), beyond, *byte_level.encode("b")]) == "ab"


def test_other_decoders_tell_their_bytes_by_decoding() -> None:
    words = {"[UNK]": 0, "play": 1, "##ing": 2, "a": 3}
    tokenizer = Tokenizer(WordPiece(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    domain = TextDomain(PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]"))
    assert [domain.piece(i) for i in domain.encode("a playing")] == [" a", " play", "ing"]


def test_every_token_of_the_embedded_model_has_its_bytes() -> None:
    domain = _domain(Path(__file__).parents[2] / "resources" / "models" / "tiny-gpt2")
    for token_id in range(len(domain.tokenizer)):
        assert domain.token_bytes(token_id).decode("utf-8", "replace") == domain.decode([token_id])


def test_a_lone_surrogate_is_refused_with_its_place(byte_level: TextDomain) -> None:
    with pytest.raises(PromptError, match="Character 3 "):
        byte_level.encode("ab\ud83dc")


def test_chat_is_rendered_with_the_models_template(byte_level: TextDomain) -> None:
    assert byte_level.has_chat_template
    text = byte_level.render_chat([ChatMessage("system", "Be brief."), ChatMessage("user", "Hi {{ 7*7 }}")])
    assert text == "<|system|>Be brief.\n<|user|>Hi {{ 7*7 }}\n<|assistant|>"


def test_chat_without_a_template_is_refused(sentencepiece: TextDomain) -> None:
    assert not sentencepiece.has_chat_template
    with pytest.raises(PromptError, match="no chat template"):
        sentencepiece.render_chat([ChatMessage("user", "Hi")])


@pytest.mark.parametrize("template", ["{{ raise_exception('roles must alternate') }}", "{{ 1 / 0 }}", "{% broken"])
def test_a_failing_template_is_one_sentence(tmp_path: Path, template: str) -> None:
    domain = _domain(build_tokenizer(tmp_path, chat_template=template))
    with pytest.raises(PromptError, match="chat template refused these messages"):
        domain.render_chat([ChatMessage("user", "Hi")])


def test_without_a_tokenizer_ids_are_shown_and_text_is_refused() -> None:
    domain = IdDomain()
    assert domain.piece(17) == "⟨17⟩"
    assert domain.decode([17, 3]) == _streamed(domain, [17, 3], [1, 2]) == "⟨17⟩⟨3⟩"
    assert domain.token_bytes(17) == b""
    assert not domain.has_chat_template
    with pytest.raises(PromptError, match="no tokenizer"):
        domain.encode("text")
    with pytest.raises(PromptError, match="no chat template"):
        domain.render_chat([ChatMessage("user", "Hi")])
