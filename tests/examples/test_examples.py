"""The examples, run for real: the server on loopback under a small load, the folder of images."""

from __future__ import annotations

import csv
import http.client
import importlib.util
import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from PIL import Image

from quantkit import Session
from tests.conftest import REPOSITORY
from tests.digits import make_digits


def example(path: str):
    spec = importlib.util.spec_from_file_location(path.replace("/", "_"), REPOSITORY / "examples" / f"{path}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return make_digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def server(digits):
    module = example("serve/server")
    server = module.make_server(module.Service(digits.int8, workers=2, threads=1), "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def post(server, body: bytes, path: str = "/predict"):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request("POST", path, body)
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def test_the_server_answers_what_the_session_does(server, digits):
    x = np.random.default_rng(0).standard_normal((2, 1, 32, 32)).astype(np.float32)
    status, answer = post(server, json.dumps({"inputs": {"input": x.tolist()}}).encode())
    assert status == 200
    np.testing.assert_array_equal(
        np.array(answer["outputs"]["logits"], np.float32), Session(digits.int8).run(None, {"input": x})[0]
    )


@pytest.mark.parametrize("body", [b"nonsense", b"[1]", b'{"inputs": {"input": [[1.0]]}}', b'{"inputs": {"other": []}}'])
def test_wrong_input_is_a_clear_error_and_the_server_goes_on(server, body):
    status, answer = post(server, body)
    assert status == 400
    assert answer["error"]
    assert post(server, b"x", "/elsewhere")[0] == 400


def test_a_load_from_several_callers_loses_no_request(server):
    result = example("serve/load").measure(server.server_port, requests=40, callers=4)
    assert (result["requests"], result["failed"]) == (40, 0)
    assert 0 < result["p50_ms"] <= result["p95_ms"] <= result["p99_ms"]


def test_more_workers_than_threads_share_the_streams_there_are(digits):
    assert example("serve/server").Service(digits.int8, workers=5, threads=2).session.streams == 2


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("serve/server.py", ["absent.onnx"]),
        ("serve/load.py", ["--port", "1"]),
        ("batch_folder/classify.py", ["absent.onnx", "images", "answers.csv"]),
    ],
)
def test_what_goes_wrong_is_one_sentence(script, arguments, tmp_path):
    command = [sys.executable, str(REPOSITORY / "examples" / script), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    found = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=60)
    assert found.returncode == 1
    assert found.stderr.startswith(script.split("/")[1])
    assert found.stderr.count("\n") == 1


def test_requests_beyond_the_queue_are_turned_away(digits):
    service = example("serve/server").Service(digits.int8, workers=1, queue=0, threads=1)
    service._places.acquire()
    assert service.predict(b"{}")[0] == 503


def test_a_folder_of_images_becomes_a_table_of_answers(digits, tmp_path):
    archive = np.load(digits.test)
    folder = tmp_path / "images"
    folder.mkdir()
    for i, image in enumerate(archive["images"][:6]):
        Image.fromarray(image.squeeze()).save(folder / f"{i}.png")
    count = example("batch_folder/classify").classify(digits.int8, folder, tmp_path / "a.csv", batch_size=4, threads=1)
    rows = list(csv.DictReader((tmp_path / "a.csv").open(encoding="utf-8")))
    assert count == len(rows) == 6
    assert [int(row["class_index"]) for row in rows] == archive["labels"][:6].tolist()
