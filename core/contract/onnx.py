"""A model as an ONNX graph: its inputs and outputs, as they were described once and as they are exported now."""

from __future__ import annotations

from dataclasses import dataclass

TOLERANCE = 1e-4  # largest difference of logits in fp32 that counts as the same


@dataclass(frozen=True, slots=True)
class OnnxTensor:
    """An input or output; `{i}` in the name stands for each of `count` layers.

    axes: number and name of the axes whose length may change. shape: every axis, by name or length; empty where the
    description says nothing of the others.
    """

    name: str
    axes: tuple[tuple[int, str], ...]
    shape: tuple[str, ...] = ()
    dtype: str = ""
    count: int = 1


@dataclass(frozen=True, slots=True)
class DummyInput:
    """An input that the exporter traces the model with; `{i}` as above. note: what it holds."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    note: str = ""
    count: int = 1


@dataclass(frozen=True, slots=True)
class OnnxForm:
    """One description of the graph. facts: lines of name and value, such as the opset."""

    title: str
    opset: int
    facts: tuple[tuple[str, str], ...]
    inputs: tuple[OnnxTensor, ...]
    outputs: tuple[OnnxTensor, ...]
    dummies: tuple[DummyInput, ...]


@dataclass(frozen=True, slots=True)
class OnnxPair:
    """The same model as transformers 4 described it and as it is exported now, with or without past keys and values."""

    past: bool
    legacy: OnnxForm
    current: OnnxForm


@dataclass(frozen=True, slots=True)
class OnnxDescription:
    """Both pairs of a loaded model. missing: the sentence about packages that are not installed, else empty."""

    model_id: int
    title: str
    pairs: tuple[OnnxPair, OnnxPair]  # with past, without
    opsets: tuple[int, ...]
    default_opset: int
    weight_bytes: int  # of the graph, in fp32
    missing: str = ""


@dataclass(frozen=True, slots=True)
class OnnxExport:
    """A graph that was written. inputs, outputs: read from the file. stages: what took how long."""

    path: str
    size_bytes: int
    opset: int
    past: bool
    inputs: tuple[OnnxTensor, ...]
    outputs: tuple[OnnxTensor, ...]
    stages: tuple[tuple[str, float], ...]  # seconds


@dataclass(frozen=True, slots=True)
class OnnxCase:
    """The graph in onnxruntime against a plain forward of the torch model without any cache."""

    name: str
    detail: str
    max_difference: float

    @property
    def same(self) -> bool:
        """Within the tolerance."""
        return self.max_difference <= TOLERANCE


@dataclass(frozen=True, slots=True)
class OnnxCheck:
    """Every case, and a greedy run: the tokens of the engine beside those chosen from onnxruntime's logits."""

    cases: tuple[OnnxCase, ...]
    prompt_ids: tuple[int, ...]
    engine_ids: tuple[int, ...]
    onnx_ids: tuple[int, ...]
    onnxruntime: str  # its version
    seconds: float

    @property
    def same_tokens(self) -> int:
        """Tokens until the first difference."""
        pairs = zip(self.engine_ids, self.onnx_ids, strict=False)
        return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(self.engine_ids), len(self.onnx_ids)))

    @property
    def passed(self) -> bool:
        """Every case within the tolerance, and the same tokens."""
        return all(case.same for case in self.cases) and self.engine_ids == self.onnx_ids


@dataclass(frozen=True, slots=True)
class OnnxOutcome:
    """What an export or a check came to."""

    export: OnnxExport | None = None
    check: OnnxCheck | None = None
