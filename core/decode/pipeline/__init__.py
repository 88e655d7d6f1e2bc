"""The logits pipeline: a list of stages, each a value; what a view draws is what ran.

The arithmetic is that of transformers' own processors, in the order of `generate()`.
"""

from core.decode.pipeline.build import build_pipeline
from core.decode.pipeline.context import AllowedTokens, PipelineContext
from core.decode.pipeline.stage import Processor, Rows, Stage, StageFn, culprit, run_pipeline

__all__ = [
    "AllowedTokens",
    "PipelineContext",
    "Processor",
    "Rows",
    "Stage",
    "StageFn",
    "build_pipeline",
    "culprit",
    "run_pipeline",
]
