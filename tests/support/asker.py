"""A process that asks for a run, and can be made to stop at any instant of asking: `python asker.py JSON`.

The JSON: {"call": "run" | "submit", "arguments": {...}, "pause": "after the claim" | ..., "marker": path,
"gate": path}, and what else `main` reads. At the instant it is to pause at, it makes the marker file and waits until
the gate file exists, for ever if it never does. It prints what became of its request as one line of JSON.
"""

import json
import sys
import time
from pathlib import Path

import mlproj_core
from mlproj_core import protocol


def main(order):
    def checkpoint(name):
        if name == "after the start" and order.get("kill_supervisor_at_birth"):
            from mlproj_core.backends.local import hold

            hold._supervisors[-1].kill()
            hold._supervisors[-1].wait()
        if name == order.get("pause"):
            Path(order["marker"]).touch()
            while not Path(order["gate"]).exists():
                time.sleep(0.001)

    protocol.checkpoint = checkpoint
    arguments = dict(order["arguments"])
    said = []
    if arguments.get("handle"):
        arguments["handle"] = mlproj_core.RunHandle.from_dict(arguments["handle"])
    try:
        run = getattr(mlproj_core, order["call"])(**arguments, report=said.append)
    except mlproj_core.MlprojError as error:
        print(json.dumps({"error": type(error).__name__, "message": str(error), "said": said}))
        return
    print(json.dumps({"handle": run.handle.to_dict(), "said": said}), flush=True)
    if order.get("linger"):
        time.sleep(3600)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
