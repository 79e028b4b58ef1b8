"""A bounded load on a server of this machine: N requests from C callers, then latency percentiles.

    python examples/serve/load.py --port 8000 --requests 200 --callers 4

Only loopback is ever asked; it ends after the requests or after --seconds, whichever comes first.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import threading
import time
from typing import Any

import numpy as np

HOST = "127.0.0.1"
MOST_REQUESTS = 100_000


def measure(port: int, requests: int, callers: int, seconds: float = 30.0) -> dict[str, Any]:
    """{"requests", "failed", "per_second", "p50_ms", "p95_ms", "p99_ms"} for seeded random input, batch 1."""
    body = json.dumps({"inputs": sample(port)}).encode()
    share = -(-min(requests, MOST_REQUESTS) // callers)
    times: list[float] = []
    failed: list[int] = []
    started = time.perf_counter()

    def call() -> None:
        connection = http.client.HTTPConnection(HOST, port, timeout=30)
        for _ in range(share):
            if time.perf_counter() - started > seconds:
                break
            before = time.perf_counter()
            connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            response.read()
            (times if response.status == 200 else failed).append(time.perf_counter() - before)  # type: ignore[arg-type]
        connection.close()

    workers = [threading.Thread(target=call) for _ in range(callers)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    elapsed = time.perf_counter() - started
    p50, p95, p99 = 1000 * np.percentile(times or [0.0], [50, 95, 99])
    return {
        "requests": len(times),
        "failed": len(failed),
        "per_second": len(times) / elapsed,
        "p50_ms": float(p50),
        "p95_ms": float(p95),
        "p99_ms": float(p99),
    }


def sample(port: int) -> dict[str, Any]:
    """One seeded random sample for each input that the server describes; dynamic sizes are 1."""
    connection = http.client.HTTPConnection(HOST, port, timeout=30)
    connection.request("GET", "/model")
    inputs = json.loads(connection.getresponse().read())["inputs"]
    connection.close()
    generator = np.random.default_rng(0)
    shapes = {value["name"]: [d if isinstance(d, int) else 1 for d in value["shape"]] for value in inputs}
    return {name: generator.standard_normal(shape).round(4).tolist() for name, shape in shapes.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Put a bounded load on a server on this machine.")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--callers", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=30.0)
    options = parser.parse_args()
    print(json.dumps(measure(options.port, options.requests, options.callers, options.seconds), indent=2))


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(f"load.py: no server answers: {error}")
