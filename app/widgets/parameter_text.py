"""Values of parameters as they are typed: numbers, words, lists, and JSON where lists are nested."""

from __future__ import annotations

import json
import re

from core.contract import Parameter

OFF = ("", "off", "none", "null")
MOST_SEED = 2**63 - 1
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
        except (ValueError, RecursionError):
            return words
    if parameter.kind in ("int", "id") and re.fullmatch(r"[0-9]{1,3}(,[0-9]{3}){1,5}", words):
        words = words.replace(",", "")  # between thousands, where there are no decimals
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
    except (ValueError, RecursionError):
        words = [w.strip() for w in text.split(",")]
        return [int(w) if re.fullmatch(r"-?[0-9]{1,18}", w) else w for w in words if w]


def whole_number(text: str, least: int, most: int) -> int | None:
    """A whole number within these bounds, written in digits, commas between thousands; None for anything else."""
    digits = text.strip().replace(",", "")
    if not re.fullmatch(r"[0-9]{1,20}", digits):  # Python refuses thousands of them with an exception
        return None
    number = int(digits)
    return number if least <= number <= most else None


def shortened(text: str, most: int = 60) -> str:
    """What was typed, as a sentence quotes it."""
    return text if len(text) <= most else text[: most - 1] + "…"


def _number(text: str) -> object:
    try:
        number = float(text.replace("\u2212", "-").replace(",", "."))
    except ValueError:
        return text
    return int(number) if number.is_integer() and "e" not in text.lower() and "." not in text else number
