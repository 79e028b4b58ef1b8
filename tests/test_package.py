"""The public names of the package."""

from __future__ import annotations

import subprocess
import sys

import pytest


def test_quantize_stays_a_function_when_the_sub_package_of_that_name_is_imported():
    code = "import quantkit, quantkit.quantize.select, quantkit.pipeline; print(quantkit.quantize.__module__)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "quantkit.pipeline"


def test_every_public_name_is_there():
    import quantkit

    assert [name for name in quantkit.__all__ if getattr(quantkit, name, None) is None] == []
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = quantkit.no_such_name
