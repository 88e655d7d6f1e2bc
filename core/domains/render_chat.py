"""Renders chat templates of untrusted models: `python -m core.domains.render_chat`, in a sandbox.

A template is a program. The sandbox of Jinja keeps it from reaching anything, but not from counting to 99999².
"""

from __future__ import annotations

from typing import Any

from core.domains.sandboxed import Refusal, serve

MOST_CHARACTERS = 1 << 20  # beyond what the messages themselves hold


def main() -> None:
    """Serve requests with `template`, `messages` and `special_tokens`."""
    from transformers.utils.chat_template_utils import render_jinja_template

    def render(request: dict[str, Any]) -> dict[str, Any]:
        messages = request["messages"]
        rendered, _ = render_jinja_template(
            [messages], chat_template=request["template"], add_generation_prompt=True, **request["special_tokens"]
        )
        text = str(rendered[0])
        if len(text) > MOST_CHARACTERS + sum(len(message["content"]) for message in messages):
            raise Refusal(f"The model's chat template made {len(text):,} characters of these messages, too many.")
        return {"text": text}

    serve(render)


if __name__ == "__main__":
    main()
