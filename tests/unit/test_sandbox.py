"""Children that may be hostile: they answer, or they end, and what they took is given back."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from core.contract import ChatMessage, PromptError
from core.domains import sandbox as sandbox_module
from core.domains.chat import SandboxedTemplate
from core.domains.sandbox import Limits, Sandbox, SandboxError
from tests.models import CHAT_TEMPLATE

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nBe kind<|im_end|>\\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA = (
    "{{- bos_token }}\n{%- for m in messages %}\n    {%- if not (m.role == 'system' or m.role == 'user') %}\n"
    "    {{- raise_exception('what role?') }}\n    {%- endif %}\n    {{- m | tojson(indent=2) }}\n"
    "    {%- if loop.index > 4 %}{% break %}{% endif %}\n{%- endfor %}{% generation %}x{% endgeneration %}"
)
MACROS = (
    "{%- macro show(m, n=1) -%}{{ m.content[::-1] }}{%- if n %}{{ show(m, n - 1) }}{% endif %}{%- endmacro -%}"
    "{%- set ns = namespace(count=0, text='') -%}{%- for m in messages -%}{%- set ns.count = ns.count + 1 -%}"
    "{%- set ns.text = ns.text ~ show(m) -%}{%- endfor -%}{{ ns.count }}{{ ns.text | upper | replace('A', 'é') }}"
    "{{ eos_token }}{{ tools is none }}{{ messages | map(attribute='role') | list }}{{ dict(a=1) }}"
)
CHAT = [ChatMessage("system", "Be brief."), ChatMessage("user", "Hi {{ 7*7 }} 👍\n"), ChatMessage("user", "<b>é</b> ")]
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "additional_special_tokens": ["<a>", "<b>"]}
QUICK = Limits(wall_s=30)


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """A child that does what it is told."""
    (tmp_path / "obedient.py").write_text(
        "import os, sys, time\n"
        "from core.contract.errors import ModelLoadError\n"
        "from core.domains.sandboxed import say, serve\n"
        "def handle(request):\n"
        "    for stage in request.get('stages', ()):\n"
        "        say(stage, 0.5)\n"
        "    exec(request.get('do', ''))\n"
        "    return {'echo': request.get('text')}\n"
        f"serve(handle, lambda: open({str(tmp_path / 'abandoned')!r}, 'w').close())\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    made = Sandbox("obedient", patience_s=1.0)
    yield made
    made.close()


def test_it_answers_again_and_again_and_ends_with_its_owner(child: Sandbox) -> None:
    for text in ("a", "é\n👍", "x" * 1_000_000):
        assert child.ask({"text": text}, QUICK) == {"echo": text}
    process = psutil.Process(child.pid)
    child.close()
    assert not process.is_running()
    assert not child.alive
    with pytest.raises(SandboxError):
        child.ask({}, QUICK)


def test_a_forgotten_one_ends_too() -> None:
    forgotten = Sandbox("core.domains.render_chat")
    pid = forgotten.pid
    del forgotten
    gc.collect(0)
    assert not psutil.pid_exists(pid)


def test_progress_comes_before_the_answer(child: Sandbox) -> None:
    told: list[tuple[str, float | None]] = []
    child.ask({"stages": ["one", "two"]}, QUICK, progress=lambda *what: told.append(what))
    assert told == [("one", 0.5), ("two", 0.5)]


def test_what_libraries_print_is_not_an_answer(child: Sandbox) -> None:
    assert child.ask({"do": "print('{\"answer\": 1}'); os.system('echo hello')", "text": "x"}, QUICK) == {"echo": "x"}


def test_a_sentence_and_an_exception_leave_it_alive(child: Sandbox) -> None:
    with pytest.raises(SandboxError, match=r"^Too large\.$") as said:
        child.ask({"do": "raise ModelLoadError('Too large.', detail='by far')"}, QUICK)
    assert (said.value.failure, said.value.detail) == ("said", "by far")
    with pytest.raises(SandboxError, match="ValueError: one") as raised:
        child.ask({"do": "raise ValueError('one\\ntwo')"}, QUICK)
    assert raised.value.failure == "raised"
    assert "Traceback" in raised.value.detail
    assert child.ask({"text": "still here"}, QUICK) == {"echo": "still here"}


@pytest.mark.parametrize(
    ("do", "limits", "failure"),
    [
        ("time.sleep(60)", Limits(wall_s=0.3), "time"),
        ("10 ** (10 ** 9)", Limits(wall_s=0.3), "time"),
        ("while True: pass", Limits(wall_s=60, cpu_s=0.5), "time"),
        ("bytearray(10 ** 12)", Limits(wall_s=60, memory_bytes=100 << 20), "memory"),
        ("os._exit(3)", QUICK, "died"),
        ("os.abort()", QUICK, "died"),
        ("raise SystemExit", QUICK, "raised"),
    ],
)
def test_what_breaks_a_limit_is_named(child: Sandbox, do: str, limits: Limits, failure: str) -> None:
    with pytest.raises(SandboxError) as raised:
        child.ask({"do": do}, limits)
    assert raised.value.failure == failure
    assert child.alive == (failure in ("raised", "memory") and child._child.poll() is None)


def test_it_fills_no_disk(child: Sandbox, tmp_path: Path) -> None:
    child.ask({"do": "sys.stderr.write('x' * 10 ** 8)"}, QUICK)
    assert len(child._detail()) <= 20_000
    assert child._errors.seek(0, 2) <= 4 << 20
    with pytest.raises(SandboxError, match="File too large"):
        child.ask({"do": f"open({str(tmp_path / 'big')!r}, 'wb').write(bytes(10 ** 8))"}, QUICK)


def test_memory_is_watched_where_the_kernel_does_not(child: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_module, "KERNEL_LIMITS_MEMORY", False)
    held = "a = bytearray(os.urandom(1 << 20)) * 500; time.sleep(60)"
    limits = Limits(wall_s=60, memory_bytes=100 << 20)
    with pytest.raises(SandboxError) as raised:
        child.ask({"do": f"import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1)); {held}"}, limits)
    assert raised.value.failure == "memory"


def test_giving_up_lets_it_tidy_up(child: Sandbox, tmp_path: Path) -> None:
    asked: list[float] = []

    def cancelled() -> bool:
        asked.append(time.monotonic())
        return len(asked) > 5

    with pytest.raises(SandboxError) as raised:
        child.ask({"do": "time.sleep(60)"}, QUICK, cancelled=cancelled)
    assert raised.value.failure == "cancelled"
    assert (tmp_path / "abandoned").exists()
    assert not child.alive


def test_a_listener_that_fails_ends_it(child: Sandbox) -> None:
    def fail(stage: str, fraction: float | None) -> None:
        raise RuntimeError("the window is gone")

    with pytest.raises(RuntimeError, match="the window is gone"):
        child.ask({"stages": ["one"]}, QUICK, progress=fail)
    assert not child.alive


def test_another_thread_may_end_it_before_the_answer_is_read(child: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    read = sandbox_module._read

    def late(*args: Any) -> None:
        threading.Thread(target=child.close).start()
        while not args[0].closed:
            time.sleep(0.001)
        read(*args)

    monkeypatch.setattr(sandbox_module, "_read", late)
    with pytest.raises(SandboxError) as caught:
        child.ask({"text": "hello"}, QUICK)
    assert caught.value.failure == "died"


def test_it_imports_nothing_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("json", "core", "jinja2", "transformers"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w').close()")
    monkeypatch.chdir(tmp_path)
    assert SandboxedTemplate(CHAT_TEMPLATE, {}).render([ChatMessage("user", "Hi")]) == "<|user|>Hi\n<|assistant|>"
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, CHATML, LLAMA, MACROS])
def test_a_template_says_in_the_sandbox_what_it_says_in_transformers(template: str) -> None:
    turns = [{"role": m.role, "content": m.content} for m in CHAT]
    expected, _ = render_jinja_template([turns], chat_template=template, add_generation_prompt=True, **SPECIAL)
    assert SandboxedTemplate(template, SPECIAL).render(CHAT) == expected[0]


def test_renderings_after_the_first_are_quick() -> None:
    template = SandboxedTemplate(CHATML, SPECIAL)
    template.render(CHAT)
    begun = time.perf_counter()
    for _ in range(20):
        template.render(CHAT)
    assert (time.perf_counter() - begun) / 20 < 0.1  # 1 ms on an idle machine


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "longer than the 1 s"),
        ("{{ 'x' * (10 ** 10) }}", "more than the 64 MB"),
        ("{{ 'x' * 5000000 }}", "made 5,000,000 characters of these messages"),
        (
            "{{ raise_exception('roles must alternate') }}",
            "refused these messages: TemplateError: roles must alternate",
        ),
        ("{{ ''.__class__.__mro__ }}", "refused these messages: SecurityError"),
        ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "refused these messages: RecursionError"),
    ],
)
def test_a_template_that_goes_too_far_is_one_sentence_each_time(template: str, says: str) -> None:
    sandboxed = SandboxedTemplate(template, SPECIAL)
    for _ in range(2):
        with pytest.raises(PromptError, match=says) as raised:
            sandboxed.render(CHAT)
        assert raised.value.message.isprintable()
        assert raised.value.message.endswith(".")
