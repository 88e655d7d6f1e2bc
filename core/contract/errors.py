"""Errors that reach the user: a code for programs, one sentence for people, details on demand."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ErrorReport:
    """An error as plain data, as events carry it."""

    code: str
    message: str
    detail: str = ""


class TokenglassError(Exception):
    """Base of every error that core raises on purpose.

    `message` is one sentence for the user: what happened, why, what to do. `detail` is for the curious
    (a traceback, the library's own words) and may be empty. `code` is stable and meant for programs.
    """

    code = "error"

    def __init__(self, message: str, *, detail: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail

    def report(self) -> ErrorReport:
        """The same as plain data, for an event."""
        return ErrorReport(code=self.code, message=self.message, detail=self.detail)


class ModelLoadError(TokenglassError):
    """A model could not be found, was refused or failed to load; the previous model stays loaded."""

    code = "model_load"


class LoadCancelledError(ModelLoadError):
    """The user cancelled a load or a conversion."""

    code = "load_cancelled"


class ParameterError(TokenglassError):
    """An unknown generation parameter or a value out of bounds."""

    code = "parameter"


class NextRunError(ParameterError):
    """A value that is fine, but cannot act before the next run."""

    code = "next_run"


class PromptError(TokenglassError):
    """A prompt that cannot be run: empty without a BOS token, too long, unknown ids, no chat template."""

    code = "prompt"


class PromptCancelledError(PromptError):
    """The user stopped a run, or closed the program, before its prompt was tokens."""

    code = "prompt_cancelled"


class GrammarError(TokenglassError):
    """A constraint that cannot be used: it does not parse, allows no token, or its package is not installed."""

    code = "grammar"


class NonFiniteLogitsError(TokenglassError):
    """The model returned NaN or infinite logits, at the token the message names."""

    code = "non_finite_logits"


class ViewUnavailableError(TokenglassError):
    """A view cannot be derived; the message says why and whether recomputing would help."""

    code = "view_unavailable"

    def __init__(self, message: str, *, detail: str = "", can_recompute: bool = False, first_recorded: int = 0) -> None:
        """`first_recorded`: the slot from which on there are records, where earlier ones were dropped."""
        super().__init__(message, detail=detail)
        self.can_recompute, self.first_recorded = can_recompute, first_recorded


class ExportError(TokenglassError):
    """A model could not be exported, or an exported graph could not be checked."""

    code = "export"


class OutOfMemoryError(TokenglassError):
    """The device has no memory left for what was asked."""

    code = "out_of_memory"


class InternalError(TokenglassError):
    """Something core did not foresee; `detail` carries the traceback."""

    code = "internal"
