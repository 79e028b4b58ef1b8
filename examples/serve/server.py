"""A model behind HTTP: one Session, several workers, JSON in and out. Standard library and quantkit only.

    python examples/serve/server.py model.int8.onnx --port 8000 --workers 4

GET /health -> {"status": "ok"};  GET /model -> inputs and outputs;
POST /predict {"inputs": {name: nested lists}} -> {"outputs": {name: nested lists}, "milliseconds": m}.
Wrong input is status 400 with {"error"}; more than `--queue` waiting requests are status 503.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

import quantkit
from quantkit.execute.session import default_threads

MOST_BYTES = 64 << 20
"""Largest body that is read; a batch of 32 photographs as text is about 40 MB."""
DTYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}


class Service:
    """A session that at most `workers` requests use at once; `queue` more may wait.

    Each has its share of the threads, as far as there are as many: that serves most requests a second.
    """

    def __init__(self, model: Any, workers: int = 2, queue: int = 64, threads: int | None = None) -> None:
        threads = threads or default_threads()
        self.session = quantkit.Session(model, threads=threads, streams=min(workers, threads))
        self._workers = threading.BoundedSemaphore(workers)
        self._places = threading.BoundedSemaphore(workers + queue)
        self._inputs = {value.name: value for value in self.session.get_inputs()}
        self._outputs = [value.name for value in self.session.get_outputs()]

    def describe(self) -> dict[str, Any]:
        """Names, shapes and types of the inputs and outputs."""
        values = {"inputs": self.session.get_inputs(), "outputs": self.session.get_outputs()}
        return {kind: [vars(value) for value in found] for kind, found in values.items()}

    def predict(self, body: bytes) -> tuple[int, dict[str, Any]]:
        """(HTTP status, answer) for the body of a request."""
        if not self._places.acquire(blocking=False):
            return 503, {"error": "too many requests are waiting; try again"}
        try:
            feeds = self._feeds(json.loads(body))
            with self._workers:
                started = time.perf_counter()
                outputs = self.session.run(None, feeds)
                elapsed = 1000 * (time.perf_counter() - started)
            named = {name: array.tolist() for name, array in zip(self._outputs, outputs, strict=True)}
            return 200, {"outputs": named, "milliseconds": round(elapsed, 3)}
        except (ValueError, TypeError, KeyError, AttributeError, quantkit.QuantkitError) as error:
            return 400, {"error": f"{type(error).__name__}: {error}"}
        finally:
            self._places.release()

    def _feeds(self, request: dict[str, Any]) -> dict[str, np.ndarray]:
        known = {name: DTYPES.get(value.type, np.float32) for name, value in self._inputs.items()}
        return {name: np.asarray(rows, known.get(name)) for name, rows in request["inputs"].items()}


def make_server(service: Service, host: str, port: int) -> ThreadingHTTPServer:
    """A server that is ready to `serve_forever`; port 0 lets the system choose."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        """Else the body waits for the client to confirm the headers: 40 ms a request."""

        def do_GET(self) -> None:
            answers = {"/health": {"status": "ok"}, "/model": service.describe()}
            found = answers.get(self.path)
            self._answer(*((200, found) if found else (404, {"error": f"no such page: {self.path}"})))

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            if self.path != "/predict" or not 0 < length <= MOST_BYTES:
                self.close_connection = True
                self._answer(400, {"error": f"post to /predict, 1 to {MOST_BYTES} bytes"})
                return
            self._answer(*service.predict(self.rfile.read(length)))

        def _answer(self, status: int, value: dict[str, Any]) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments: Any) -> None:
            """Quiet: a line a request costs more than a small model."""

    server = ThreadingHTTPServer((host, port), Handler)
    server.daemon_threads = True
    return server


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve a model over HTTP.")
    parser.add_argument("model")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--queue", type=int, default=64)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    service = Service(options.model, options.workers, options.queue, options.threads)
    server = make_server(service, options.host, options.port)
    print(f"{service.session!r} on http://{options.host}:{server.server_port}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()


if __name__ == "__main__":
    try:
        main()
    except (quantkit.QuantkitError, OSError) as error:  # a model that is not there, a port that is taken
        sys.exit(f"server.py: {error}")
