"""How tuning looks into the INT8 model. The engine stands above this stage, so the pipeline hands it in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

Run = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]
"""feeds -> tensors by name."""
OpenInt8 = Callable[[ir.Model, Sequence[str]], Run]
"""(calibrated model, tensor names) -> Run; u8 tensors come dequantized to float32."""
