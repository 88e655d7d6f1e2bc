"""What may be dropped onto the window: a model folder, a GGUF file, a text, a preset, a picture."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from app import pictures
from app.files import read_text
from app.panels.panel import Dispatch
from app.preset_files import read_preset
from app.state import batch
from app.state.desk_intents import OpenConfig
from app.state.intents import Announce, EditBatch, EditText, ImportPreset, SelectTab
from app.state.state import Tab
from core.contract import ParameterError

LARGEST_PROMPT_BYTES = 1 << 20
TEXTS = (".txt", ".md", ".jsonl")


def accepts(path: Path) -> bool:
    """Whether a drop would do something; looks at the name, and at the beginning of files that it says nothing of."""
    named = (".gguf", ".json", *TEXTS, *pictures.suffixes())
    return path.suffix.lower() in named or path.is_dir() or pictures.is_picture(path)


def _is_config(path: Path) -> bool:
    """Whether a JSON file is the configuration of a model; whatever else it is, the presets say."""
    try:
        content = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError):
        return path.name == "config.json"
    return isinstance(content, dict) and "model_type" in content


def take(
    path: Path,
    dispatch: Dispatch,
    look_at: Callable[[str], None],
    tab: Tab = "text",
    open_picture: Callable[[Path], None] = lambda path: None,
) -> None:
    """Carry out a drop: a model is looked at, not loaded; a text becomes the prompt; a preset is applied;
    a picture is what an image model begins with.

    A .jsonl file is a batch of prompts; so are the lines of a text while the Batch tab (`tab`) is open.
    """
    suffix = path.suffix.lower()
    if path.is_dir() or suffix == ".gguf":
        look_at(str(path))
    elif suffix == ".json" and _is_config(path):
        dispatch(OpenConfig(str(path), reveal=True))
    elif suffix == ".json":
        try:
            dispatch(ImportPreset(read_preset(path)))
        except ParameterError as error:
            dispatch(Announce("error", error.message))
    elif suffix in TEXTS:
        try:
            text = read_text(path, LARGEST_PROMPT_BYTES)
        except (OSError, ValueError) as error:
            dispatch(Announce("error", f"“{path.name}” cannot be read as a prompt: {error}"))
            return
        if suffix != ".jsonl" and tab != "batch":
            dispatch(SelectTab("text"))
            dispatch(EditText(text, whole=True))
            return
        try:
            lines = batch.as_lines(batch.read_jsonl(text)) if suffix == ".jsonl" else text
        except ValueError as error:
            dispatch(Announce("error", f"“{path.name}” cannot be read as a batch: {error}."))
            return
        dispatch(SelectTab("batch"))
        dispatch(EditBatch(lines, whole=True))
    elif suffix in pictures.suffixes() or pictures.is_picture(path):
        open_picture(path)
    else:
        dispatch(Announce("error", f"“{path.name}” is no model folder, GGUF file, text, preset or picture."))
