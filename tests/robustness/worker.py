"""Quantizes mutants one after the other under limits of time and memory; prints one line each.

Arguments: the number of the first, how many, and the kind of model (tests.robustness.sources).
"""

from __future__ import annotations

import json
import resource
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path
from types import FrameType

import numpy as np

from quantkit import Session, pipeline
from quantkit.errors import QuantkitError
from quantkit.execute.verify import complaint
from quantkit.types import QuantConfig
from tests.robustness.mutations import mutants
from tests.robustness.sources import BESIDE, beside, source

SECONDS, BYTES = 60, 4 << 30
FAST = QuantConfig(method="minmax", effort="fast")


class TimeUpError(BaseException):
    """Not an Exception, so that nothing on the way catches it."""


def time_up(signum: int, frame: FrameType | None) -> None:
    raise TimeUpError


def outcome(path: Path, feeds: dict[str, np.ndarray]) -> str:
    """ "refused: ..." or "correct", or what is wrong."""
    try:
        result = pipeline.quantize(path, [feeds], config=FAST, partial=True)
        wanted = pipeline_reference(path, feeds)
        got = Session(result.model, threads=1).run(list(wanted), feeds)
    except QuantkitError as error:
        return f"refused: {error}" if str(error).strip() and "\n" not in str(error) else "an error without a message"
    except TimeUpError:
        return f"more than {SECONDS} s"
    except BaseException as error:
        return f"traceback: {type(error).__name__}: {error}"
    found = complaint(wanted, dict(zip(wanted, got, strict=True)))
    return found or "correct"


def pipeline_reference(path: Path, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The FP32 outputs by onnxruntime, of the file as it is; by the folded model where onnxruntime refuses the file."""
    from quantkit.observe import FloatRunner

    try:
        runner = FloatRunner(path, 1)
        return dict(zip(runner.output_names, runner.run(feeds), strict=True))
    except QuantkitError:
        session = Session(path, threads=1)
        return dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))


def main(start: int, count: int, kind: str = "plain") -> None:
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, time_up)
    resource.setrlimit(resource.RLIMIT_DATA, (BYTES, BYTES))
    with tempfile.TemporaryDirectory() as folder:
        model, feeds = source(kind)
        Path(folder, BESIDE).write_bytes(beside())
        for name, content in mutants(count, start, model):
            print(json.dumps({"start": name}), flush=True)
            path = Path(folder, "mutant.onnx")
            path.write_bytes(content)
            signal.alarm(SECONDS)
            begun = time.monotonic()
            found = outcome(path, feeds)
            signal.alarm(0)
            print(json.dumps({"name": name, "outcome": found, "seconds": time.monotonic() - begun}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
