"""Encodes texts for untrusted models: `python -m core.domains.encode_text`, in a sandbox.

A regular expression that passed every probe of the load may still take for ever on the right text.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from core.domains.sandboxed import serve

Encode = Callable[[str, bool], list[int]]


def main() -> None:
    """Serve a request with `tokenizer` (its JSON) or `folder`, then requests with `text` and `special`."""
    import tokenizers  # noqa: F401  before the limits

    encoders: list[Encode] = []

    def handle(request: dict[str, Any]) -> dict[str, Any]:
        if "text" in request:
            return {"ids": encoders[0](request["text"], request["special"])}
        encoders[:] = [_of_folder(request["folder"]) if "folder" in request else _of_json(**request)]
        return {}

    serve(handle)


def _of_json(tokenizer: str, split_special_tokens: bool) -> Encode:
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(tokenizer)
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = split_special_tokens
    return lambda text, special: list(backend.encode(text, add_special_tokens=special).ids)


def _of_folder(folder: str) -> Encode:
    """For tokenizers written in Python."""
    sys.modules["torch"] = None  # type: ignore[assignment]  # transformers then does without
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    return lambda text, special: list(tokenizer.encode(text, add_special_tokens=special, verbose=False))


if __name__ == "__main__":
    main()
