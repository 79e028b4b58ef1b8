"""Outputs are written whole or not at all."""

import json
import os
import stat

import pytest

from quantkit.errors import OutputError
from quantkit.report.files import check_output, write_atomically, write_json, write_text


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(OutputError, match="does not exist"):
        check_output(tmp_path / "missing" / "out.json")


def test_an_existing_output_is_refused_without_force(tmp_path):
    path = tmp_path / "out.json"
    path.write_text("old")
    with pytest.raises(OutputError, match="--force"):
        check_output(path)
    assert check_output(path, force=True) == path


def test_an_input_is_never_overwritten_even_by_another_name(tmp_path):
    model = tmp_path / "m.onnx"
    model.write_text("fp32")
    link = tmp_path / "link.onnx"
    link.symlink_to(model)
    with pytest.raises(OutputError, match="never overwritten"):
        check_output(link, inputs=[model], force=True)


def test_a_folder_is_no_output(tmp_path):
    with pytest.raises(OutputError, match="is a folder"):
        check_output(tmp_path, force=True)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "out.bin"
    path.write_text("old")

    def write(temporary):
        temporary.write_text("half")
        raise error

    with pytest.raises(error):
        write_atomically(path, write)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_written_file_has_ordinary_permissions(tmp_path):
    path = tmp_path / "out.txt"
    write_text(path, "x")
    plain = tmp_path / "plain.txt"
    plain.write_text("x")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path):
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to(tmp_path / "real.json")
    write_text(tmp_path / "link.json", "new")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "real.json").read_text() == "new"


def test_a_device_is_written_to_and_stays_a_device(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert check_output(pipe) == pipe  # it exists, and nothing is lost
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_text(pipe, "text")
    assert os.read(reader, 100) == b"text"
    os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert list(tmp_path.iterdir()) == [pipe]


def test_a_file_name_that_is_no_unicode_stands_in_a_text_in_another_way(tmp_path):
    write_text(tmp_path / "out.html", "bad\udcff.png")
    assert (tmp_path / "out.html").read_bytes() == b"bad\\udcff.png"


def test_json_is_strict(tmp_path):
    write_json(tmp_path / "a.json", {"x": 1.5})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1.5}
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "b.json", {"x": float("nan")})
    assert not (tmp_path / "b.json").exists()


def test_a_file_system_error_is_an_output_error(tmp_path):
    with pytest.raises(OutputError, match="cannot be written"):
        write_text(tmp_path / "gone" / "a.txt", "x")
