"""An engine that was built from other sources is refused with the command that builds it again."""

import hashlib
from types import SimpleNamespace

import pytest

from quantkit.errors import EngineError
from quantkit.execute.binding import INTERFACE, PARAMS, check_build, ffi, lib

OPS = dict.fromkeys(PARAMS, 0)


def engine(fingerprint: str, **ops: int) -> SimpleNamespace:
    text = ffi.new("char[]", fingerprint.encode())
    return SimpleNamespace(**(ops or OPS), qk_interface=lambda: text)


def test_the_engine_in_use_is_that_of_these_sources():
    check_build(lib)
    if INTERFACE.is_file():
        built = ffi.string(lib.qk_interface()).decode()
        assert built == hashlib.sha256(INTERFACE.read_bytes()).hexdigest()


def test_an_engine_of_another_interface_is_refused_with_the_command_that_builds_it(tmp_path):
    interface = tmp_path / "qk.h"
    interface.write_text("int qk_new_op;")
    with pytest.raises(EngineError, match=r"another native/qk\.h .*`make build`"):
        check_build(engine("0" * 64), interface)
    check_build(engine(hashlib.sha256(interface.read_bytes()).hexdigest()), interface)


def test_an_engine_without_an_op_that_plans_use_is_refused():
    fewer = {kind: 0 for kind in PARAMS if kind != "QK_BLEND"}
    with pytest.raises(EngineError, match="it has no QK_BLEND"):
        check_build(engine("", **fewer))


def test_without_the_sources_beside_it_only_the_ops_are_compared(tmp_path):
    check_build(engine("0" * 64), tmp_path / "qk.h")
