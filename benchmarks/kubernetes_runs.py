"""What it costs to wait for many runs on Kubernetes in one process.

    nox -s benchmark_containers                # makes the environment and calls this too
    python benchmarks/kubernetes_runs.py [RUNS] [SECONDS]

The cluster is that of the tests (tests/support); who waits is a process of its own, as Airflow's triggerer.
"""

import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))


def wait_for(file):
    """Wait for all runs whose handles are in a file; prints what that costs, on lines of JSON."""
    import mlproj_core

    runs = [mlproj_core.attach(handle) for handle in json.loads(Path(file).read_text())]

    def cost():
        usage = resource.getrusage(resource.RUSAGE_SELF)
        rss = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return {"cpu": usage.ru_utime + usage.ru_stime, "rss": rss / 2**20}

    async def wait():
        tasks = [asyncio.create_task(run.wait_async()) for run in runs]
        await asyncio.sleep(5)
        while True:
            print(json.dumps({"done": sum(task.done() for task in tasks), **cost()}), flush=True)
            if all(task.done() for task in tasks):
                return
            await asyncio.sleep(1)

    print(json.dumps({"done": 0, **cost()}), flush=True)
    asyncio.run(wait())


def main(count, seconds):
    from kubernetes_runtime import Script, ScriptedRuntime
    from kubernetes_world import KubernetesWorld

    directory = Path(tempfile.mkdtemp())
    world = KubernetesWorld(directory, ScriptedRuntime())
    world.cluster.runtime.script(Script(exit_code=None))
    began = time.monotonic()
    runs = [world.submit(key=str(number), docker_args={"image": "train:1"}, report=str) for number in range(count)]
    print(f"submit                {(time.monotonic() - began) / count * 1000:8.1f} ms each")
    while len([pod for pod in world.cluster.pods() if pod["status"]["phase"] == "Running"]) < count:
        time.sleep(0.5)
    (directory / "handles").write_text(json.dumps([run.handle.to_dict() for run in runs]))
    server = world.cluster.server
    before = sum(server.requests.values())
    waiter = subprocess.Popen(
        [sys.executable, __file__, "--wait", str(directory / "handles")], stdout=subprocess.PIPE, text=True
    )
    lines = (json.loads(line) for line in waiter.stdout)
    base, up = next(lines), next(lines)
    print(f"to begin              {sum(server.requests.values()) - before:8d} requests")
    print(f"                      {up['cpu'] - base['cpu']:8.2f} s of CPU")
    asked, at = sum(server.requests.values()), up
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        at = next(lines)
    print(f"while nothing happens {(sum(server.requests.values()) - asked) * 60 / seconds:8.1f} requests per minute")
    print(f"                      {(at['cpu'] - up['cpu']) * 100 / seconds:8.2f} % of a CPU")
    print(f"                      {at['rss'] - base['rss']:8.1f} MiB more than before, {at['rss']:.0f} in all")
    asked = sum(server.requests.values())
    for run in runs:
        world.cluster.runtime.end(run.handle.name, 0, "mlproj")
    last = at
    for last in lines:  # noqa: B007
        pass
    waiter.wait()
    print(f"when all end          {(sum(server.requests.values()) - asked) / count:8.2f} requests for each")
    print(f"                      {(last['cpu'] - at['cpu']) / count * 1000:8.2f} ms of CPU for each")
    world.close()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--wait"]:
        wait_for(sys.argv[2])
    else:
        main(int((sys.argv[1:] or ["500"])[0]), float((sys.argv[2:] or ["60"])[0]))
