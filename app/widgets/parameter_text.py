"""Values of parameters as they are typed: numbers, words, lists, and JSON where lists are nested."""

from __future__ import annotations

import json

from core.contract import Parameter

OFF = ("", "off", "none", "null")
NESTED = ("phrases", "constraints", "biases", "decay", "watermark", "layers")


def parse(parameter: Parameter, text: str) -> object:
    """What the user typed; whether it is valid is for the contract to say."""
    words = text.strip()
    if parameter.optional and words.lower() in OFF:
        return None
    if parameter.kind in ("ids", "strings"):
        return _list(words)
    if parameter.kind in NESTED:
        if words.lower() in OFF:
            return ()
        try:
            return json.loads(words)
        except ValueError:
            return words
    return _number(words)


def written(value: object) -> str:
    """The value as its field shows it; nothing where it is off."""
    if value is None or value == ():
        return ""
    if isinstance(value, tuple):
        flat = all(isinstance(v, int | str) for v in value)
        text = json.dumps(value, ensure_ascii=False)
        return text[1:-1] if flat else text
    return str(value)


def _list(text: str) -> object:
    """JSON without its brackets, else words between commas."""
    try:
        return json.loads(f"[{text}]")
    except ValueError:
        words = [w.strip() for w in text.split(",")]
        return [int(w) if w.lstrip("-").isdigit() else w for w in words if w]


def _number(text: str) -> object:
    try:
        number = float(text.replace("\u2212", "-").replace(",", "."))
    except ValueError:
        return text
    return int(number) if number.is_integer() and "e" not in text.lower() and "." not in text else number
