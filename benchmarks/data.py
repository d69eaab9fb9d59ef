"""What it costs to have a run's data fetched, against curl, in one call.

    python benchmarks/data.py [--megabytes 512] [--runs 5]

A web server of the standard library serves a file on this host, so that the line is no limit. Every figure is the
median of whole processes, taken in turns (A B A B ...). Nothing here is a test: it prints, and whoever reads it judges.
(MLflow 3.17 is no peer here: it lists before it fetches, which a plain web server does not understand.)
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=512)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="mlproj-benchmark-"))
    (scratch / "served").mkdir()
    (scratch / "served" / "train.bin").write_bytes(os.urandom(1 << 20) * arguments.megabytes)
    old = time.time() - 86_400
    os.utime(scratch / "served" / "train.bin", (old, old))
    code = (
        "import http.server as s; s.test(s.SimpleHTTPRequestHandler, s.ThreadingHTTPServer, port=0, bind='127.0.0.1')"
    )
    server = subprocess.Popen(
        [sys.executable, "-uc", code],
        cwd=scratch / "served", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        port = server.stdout.readline().split()[5]
        measure(arguments, scratch, f"http://127.0.0.1:{port}/train.bin")
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(scratch)


def measure(arguments, scratch, url):
    request = scratch / "request.json"
    download = {"parameter": "data", "uri": url, "path": str(scratch / "out" / "param_0" / "train.bin")}
    request.write_text(json.dumps({"downloads": [download], "tracking_uri": None}))
    fetch = [sys.executable, "-m", "mlproj_core.data.fetch", str(request), str(scratch / "result.json")]
    commands = {
        "curl": ["curl", "-sfo", str(scratch / "curl.bin"), url],
        "mlproj, cold": fetch,
        "mlproj, cached": fetch,
    }
    environment = {**os.environ, "MLPROJ_CACHE_DIR": str(scratch / "cache"), "NO_PROXY": "127.0.0.1"}
    seconds = {name: [] for name in commands}
    for _ in range(arguments.runs):
        for name, command in commands.items():
            if name != "mlproj, cached":
                shutil.rmtree(scratch / "cache", ignore_errors=True)
            (scratch / "curl.bin").unlink(missing_ok=True)
            began = time.perf_counter()
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            seconds[name].append(time.perf_counter() - began)
            if done.returncode:
                sys.exit(f"{name} failed: {command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    curl = statistics.median(seconds["curl"])
    print(f"a file of {arguments.megabytes} MiB, from this host; median of {arguments.runs}")
    for name, values in seconds.items():
        middle = statistics.median(values)
        rate = f"{arguments.megabytes / middle:6.0f} MiB/s"
        print(f"{name:15} {middle:6.2f} s  {rate}  {middle / curl:5.2f} times curl's")


if __name__ == "__main__":
    main()
