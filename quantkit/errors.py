"""The exceptions of quantkit: everything that a user can cause is a QuantkitError.

A message says where, what, what was got and what to do, in one line.
"""

from collections.abc import Collection


class QuantkitError(Exception):
    """Base of every error a user can cause; the command line prints it and exits with `exit_code`."""

    exit_code = 1


class UsageError(QuantkitError):
    """An option or argument is wrong: unknown preset, a regex that matches nothing, contradicting options."""

    exit_code = 2


class ModelError(QuantkitError):
    """A model file cannot be used: unreadable, not ONNX, invalid, NaN in weights, already quantized."""


class DataError(QuantkitError):
    """Sample data cannot be used: empty, unreadable, of the wrong shape or type, not finite."""


class CalibrationError(QuantkitError):
    """Ranges cannot be found: a tensor without finite values, a table that belongs to another model."""


class NotFiniteError(CalibrationError):
    """Tensors inside a model hold NaN or infinity for a sample whose outputs hold no NaN: masked scores, say."""

    def __init__(self, message: str, tensors: Collection[str]) -> None:
        super().__init__(message)
        self.tensors = frozenset(tensors)


class RangeError(QuantkitError):
    """A value lies outside what the numerics contract allows: NaN, an accumulator that could overflow."""


class OutputError(QuantkitError):
    """An output cannot be written: it exists, its folder is missing, it is the input."""


class EngineError(QuantkitError):
    """The native engine cannot do what was asked: an ISA that this CPU lacks, a plan it refuses."""


class AccuracyGoalMissed(QuantkitError):
    """The accuracy goal was not reached; the best model found was saved all the same."""

    exit_code = 3


class StepFailedError(Exception):
    """A step of the pipeline raised what it should not have; the pipeline starts anew without it, and says so."""

    def __init__(self, stage: str, step: str, cause: BaseException) -> None:
        super().__init__(f"{step} failed ({type(cause).__name__}: {first_line(cause)}) and was left out")
        self.stage, self.step = stage, step


def first_line(error: BaseException) -> str:
    """What an exception of another library says, in one line of at most 300 characters."""
    text = str(error).strip()
    return (text.splitlines()[0] if text else type(error).__name__)[:300]
