"""The graph in onnxruntime against the torch model: logits of every kind of call, and the tokens of a greedy run.

The reference is a plain forward of whole sequences, row by row, without cache, padding or positions given: nothing that
could be wrong in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from core.contract.errors import ExportError
from core.contract.onnx import OnnxCase, OnnxCheck
from core.contract.specs import Prompt, RunSpec
from core.decode.session import Session
from core.models.loaded import LoadedModel
from core.onnx_desk.export import open_graph
from core.onnx_desk.graph import input_names
from core.onnx_desk.images import dummy_images
from core.onnx_desk.sizes import GraphSizes, graph_sizes

Say = Callable[[str, float | None], None]
Ids = NDArray[np.int64]  # (B, T)
Logits = NDArray[np.float32]  # (B, T, V)
PROMPT = "Once upon a time there was"
MOST_PROMPT, STEPS, CHUNK, PADDING = 12, 4, 3, 3
GREEDY_TOKENS = 30


@dataclass
class OnnxModel:
    """The graph with its memory: what it returned as present is its next past. (B, H_kv, P, D) each."""

    session: Any
    sizes: GraphSizes
    past: bool
    mask: Ids | None = None
    kept: list[Any] = field(default_factory=list)

    def reset(self) -> None:
        """Forget everything."""
        self.mask, self.kept = None, []

    def feed(self, ids: Ids, mask: Ids | None = None) -> Logits:
        """Logits of `ids` after what was fed before. `mask`: 0 for padding, of the first call only."""
        mine = np.ones_like(ids) if mask is None else mask
        self.mask = mine if self.mask is None else np.concatenate([self.mask, mine], axis=1)
        positions = np.maximum(np.cumsum(self.mask, axis=1) - 1, 0)[:, -ids.shape[1] :]
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": self.mask, "position_ids": positions}
        if self.past:
            shape = (ids.shape[0], self.sizes.kv_heads, 0, self.sizes.head_dim)
            kept = self.kept or [np.zeros(shape, np.float32)] * (2 * self.sizes.layers)
            inputs |= zip(input_names(self.sizes.layers, True)[3:], kept, strict=True)
        logits, *self.kept = self.session.run(None, inputs)
        result: Logits = logits
        return result


def check(loaded: LoadedModel, path: Path, say: Say) -> OnnxCheck:
    """Compare the graph in `path` with `loaded`, which must be in fp32. Raises `ExportError`."""
    import onnxruntime

    begun = perf_counter()
    say("Opening the graph in onnxruntime", 0.0)
    sizes = graph_sizes(loaded)
    session = open_graph(path)
    names = [value.name for value in session.get_inputs()]
    past = len(names) > 3
    if names != input_names(sizes.layers, past):
        raise ExportError(
            f"“{path.name}” was not exported from this model: its inputs have other names; export it anew."
        )
    model = OnnxModel(session, sizes, past)
    ids = _prompt(loaded, sizes)
    try:
        cases = []
        for number, (name, detail, run) in enumerate(_cases(past, ids)):
            say(f"Comparing: {name}", 0.1 + 0.1 * number)
            model.reset()
            cases.append(OnnxCase(name, detail, _difference(run(model, loaded))))
        say("Comparing: greedy run", 0.6)
        prompt = ids[0].tolist()
        count = min(GREEDY_TOKENS, sizes.max_positions - len(prompt))
        model.reset()
        theirs = _greedy(model, ids, count)
        ours = engine_tokens(loaded, prompt, count)
    except ExportError:
        raise
    except Exception as error:
        first = str(error).strip().splitlines()[0][:200].rstrip(".")
        raise ExportError(f"“{path.name}” does not run in onnxruntime: {first}.", detail=str(error)) from error
    version = str(onnxruntime.__version__)
    return OnnxCheck(tuple(cases), tuple(prompt), tuple(ours), tuple(theirs), version, perf_counter() - begun)


Pairs = list[tuple[Logits, Logits]]
Run = Callable[[OnnxModel, LoadedModel], Pairs]


def _cases(past: bool, ids: Ids) -> list[tuple[str, str, Run]]:
    """Name, detail, and what gives pairs of logits that should be the same."""
    length = ids.shape[1]
    padded = f"rows of {length} and {length - PADDING}, mask and positions from the padding"
    whole = "into an empty past" if past else "the whole sequence"
    found: list[tuple[str, str, Run]] = [("prefill", f"{length} tokens {whole}", lambda m, t: _prefill(m, t, ids))]
    if past:
        found += [
            ("decode steps", f"{STEPS} × 1 token on a filled past", lambda m, t: _steps(m, t, ids)),
            ("chunk", f"{CHUNK} tokens at once on a filled past", lambda m, t: _chunk(m, t, ids)),
        ]
    found.append(("left-padded batch", padded, lambda m, t: _padded(m, t, ids)))
    return found


def _prefill(model: OnnxModel, loaded: LoadedModel, ids: Ids) -> Pairs:
    return [(model.feed(ids), plain_logits(loaded, ids))]


def _steps(model: OnnxModel, loaded: LoadedModel, ids: Ids) -> Pairs:
    whole = plain_logits(loaded, ids)
    start = ids.shape[1] - STEPS
    model.feed(ids[:, :start])
    return [(model.feed(ids[:, i : i + 1]), whole[:, i : i + 1]) for i in range(start, ids.shape[1])]


def _chunk(model: OnnxModel, loaded: LoadedModel, ids: Ids) -> Pairs:
    start = ids.shape[1] - CHUNK
    model.feed(ids[:, :start])
    return [(model.feed(ids[:, start:]), plain_logits(loaded, ids)[:, start:])]


def _padded(model: OnnxModel, loaded: LoadedModel, ids: Ids) -> Pairs:
    """Two rows, the second one shorter and filled up on the left; one step more where there is a past."""
    last = 1 if model.past else 0
    rows = [ids, ids[:, PADDING:]]
    whole = [plain_logits(loaded, row) for row in rows]
    batch = np.concatenate([ids, np.concatenate([np.zeros_like(ids[:, :PADDING]), rows[1]], axis=1)])
    mask = np.ones_like(batch)
    mask[1, :PADDING] = 0
    stop = batch.shape[1] - last
    first = model.feed(batch[:, :stop], mask[:, :stop])
    pairs = [(first[:1], whole[0][:, :stop]), (first[1:, PADDING:], whole[1][:, : stop - PADDING])]
    if last:
        step = model.feed(batch[:, stop:])
        pairs += [(step[:1], whole[0][:, stop:]), (step[1:], whole[1][:, stop - PADDING :])]
    return pairs


def _difference(pairs: Pairs) -> float:
    return max(float(np.abs(one - other).max()) for one, other in pairs)


def plain_logits(loaded: LoadedModel, ids: Ids) -> Logits:
    """(1, T, V): one forward of the whole sequence, nothing but ids given."""
    with torch.inference_mode():
        logits = loaded.module(input_ids=torch.from_numpy(ids), use_cache=False).logits
    result: Logits = logits.numpy()
    return result


def _greedy(model: OnnxModel, ids: Ids, count: int) -> list[int]:
    chosen: list[int] = []
    logits = model.feed(ids)
    while len(chosen) < count:
        chosen.append(int(logits[0, -1].argmax()))
        if not model.past:
            model.reset()
            logits = model.feed(np.concatenate([ids, np.array([chosen], np.int64)], axis=1))
        elif len(chosen) < count:
            logits = model.feed(np.array([chosen[-1:]], np.int64))
    return chosen


def engine_tokens(loaded: LoadedModel, prompt: Sequence[int], count: int) -> list[int]:
    """What our own greedy search chooses, past the end of the text, too."""
    params = {"max_new_tokens": count, "eos_token_id": []}
    spec = RunSpec((Prompt(ids=tuple(prompt)),), params, "greedy_search", trace=False, top_logprobs=0)
    session = Session(loaded, spec, run_id=1, cancelled=lambda: False)
    try:
        while not session.finished:
            with session.attached():
                session.advance()
        return list(session.result().sequences[0][len(prompt) :])
    finally:
        session.close()


def _prompt(loaded: LoadedModel, sizes: GraphSizes) -> Ids:
    """(1, T): a few words where the model has some, pixels after the start for pictures, else random ids."""
    length = max(PADDING + STEPS + 1, min(MOST_PROMPT, sizes.max_positions // 2))
    if sizes.max_positions <= length:
        raise ExportError(
            f"{loaded.info.title} has only {sizes.max_positions} positions; the check needs {length + 1}."
        )
    if sizes.family == "imagegpt":
        pixels = dummy_images(loaded, 1, length - 1)[0].tolist()
        return np.array([[sizes.vocab_size - 1, *pixels]], np.int64)
    words = loaded.text.encode(PROMPT) if loaded.text.tokenizer is not None else []
    rest = np.random.default_rng(0).integers(0, sizes.vocab_size, length).tolist()
    return np.array([(words + rest)[:length]], np.int64)
