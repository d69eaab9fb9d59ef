"""The fault table: who dies at which instant, and what is left. Real processes, real signals."""

import signal
import time

import pytest
from protocol_suite import INSTANTS, until

import mlproj_core
from mlproj_core.backends import load_backend
from mlproj_core.backends.backend import State
from mlproj_core.backends.local.processes import kill

TITLE = "Faults: one run or none, and nothing left"

MODES = {"detached": {"detach": True, "grace": 0.5}, "tethered": {"detach": False, "grace": 0.5}}


@pytest.fixture
def row(record_property):
    def record(**cells):
        # As plain text: the rows cross from the worker processes of a parallel test run.
        record_property(f"table: {TITLE}", {name: str(value) for name, value in cells.items()})

    return record


def after_a_retry(world):
    """What a retry at a later turn finds or starts: its status, and the attempt that counts."""
    world.project_runs("true")
    run = world.submit(key="k", turn=2)
    run.wait()
    return run


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("instant", INSTANTS)
def test_the_submitter_is_killed_while_it_submits(world, row, instant, mode):
    world.project_is_stubborn()
    world.backend_config = MODES[mode]
    asker, _ = world.paused_asker(instant, arguments={"key": "k", "turn": 1})
    if instant == "after the start":
        world.stubborn_project_is_up()
    asker.send_signal(signal.SIGKILL)
    asker.wait()
    found = load_backend("local").find("k")
    status, reason = "no run", ""
    if instant == "before the claim":
        assert found is None
    elif instant != "after the start":
        status = mlproj_core.attach(found).get_status()
        assert (status, world.starts()) == ("RUNNING", 0)
        status = "half made"
    elif mode == "detached":
        run = mlproj_core.attach(found)
        assert run.get_status() == "RUNNING"
        assert world.starts() == 1
        run.cancel()
        status, reason = f"{run.get_status()} when cancelled", run.reason.code
    else:
        run = mlproj_core.attach(found)
        assert not run.wait(timeout=60)
        status, reason = run.get_status(), run.reason.code
        assert (status, reason) == ("KILLED", "lost")
    started, left = world.starts(), len(world.survivors())
    assert left == 0
    if mode == "tethered" or instant != "after the start":
        retried = after_a_retry(world)
        assert retried.get_status() == "FINISHED"
        assert world.starts() == started + 1
        assert retried.handle.attempt == (2 if started else 1)
        after = f"{retried.get_status()}, attempt {retried.handle.attempt}"
    else:
        after = "not retried"
    assert world.survivors() == []
    row(
        instant=instant,
        dies="submitter, KILL",
        mode=mode,
        starts=started,
        survivors=left,
        status=status,
        reason=reason,
        retry=after,
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dies", ["supervisor, KILL", "supervisor, TERM", "submitter, KILL", "submitter, TERM"])
def test_somebody_dies_while_it_runs(world, row, dies, mode):
    world.project_is_stubborn()
    world.backend_config = MODES[mode]
    asker = world.asker(arguments={"key": "k", "turn": 1}, linger=True)
    world.stubborn_project_is_up()
    handle = load_backend("local").find("k")
    run = mlproj_core.attach(handle)
    who, number = dies.split(", ")
    number = getattr(signal, f"SIG{number}")
    if who == "supervisor":
        kill(world.supervisor(handle), number)
    else:
        asker.send_signal(number)
        asker.wait()
    if who == "submitter" and mode == "detached":
        assert run.get_status() == "RUNNING"
        assert not run.wait(timeout=0.5)
        status, reason, after = "RUNNING", "", "attaches"
        assert world.submit(key="k", turn=2).handle == handle
        run.cancel()
    else:
        run.wait(timeout=60)
        status, reason = run.get_status(), run.reason.code
        assert reason == "lost"
        assert run.reason.retryable
        retried = after_a_retry(world)
        assert (retried.get_status(), retried.handle.attempt) == ("FINISHED", 2)
        after = f"{retried.get_status()}, attempt 2"
    left = len(world.survivors())
    assert left == 0
    row(
        instant="while it runs",
        dies=dies,
        mode=mode,
        starts=1,
        survivors=left,
        status=status,
        reason=reason,
        retry=after,
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("who", ["supervisor", "submitter"])
def test_somebody_is_killed_while_the_environment_is_built(world, row, hanging_index, who, mode):
    (world.project / "python_env.yaml").write_text("dependencies: [six]\n")
    world.backend_config = MODES[mode]
    asker = world.asker(arguments={"key": "k", "turn": 1, "env_manager": "uv"}, linger=True)
    hanging_index()
    handle = load_backend("local").find("k")
    run = mlproj_core.attach(handle)
    assert run.phase == "environment"
    status, reason, after = "RUNNING", "", "attaches"
    if who == "supervisor":
        world.kill_supervisor(handle)
    else:
        asker.kill()
        asker.wait()
    if who == "submitter" and mode == "detached":
        assert not run.wait(timeout=0.5)
        assert run.get_status() == "RUNNING"
        run.cancel()
    else:
        run.wait(timeout=60)
        status, reason = run.get_status(), run.reason.code
        assert reason == "lost"
        retried = after_a_retry(world)
        assert (retried.get_status(), retried.handle.attempt, world.starts()) == ("FINISHED", 2, 1)
        after = "FINISHED, attempt 2"
    assert world.survivors() == []
    row(
        instant="while its environment is built",
        dies=f"{who}, KILL",
        mode=mode,
        starts=0,
        survivors=0,
        status=status,
        reason=reason,
        retry=after,
    )


@pytest.mark.parametrize("mode", MODES)
def test_both_die_while_it_runs(world, row, mode):
    world.project_is_stubborn()
    world.backend_config = MODES[mode]
    asker = world.asker(arguments={"key": "k", "turn": 1}, linger=True)
    world.stubborn_project_is_up()
    handle = load_backend("local").find("k")
    world.kill_supervisor(handle)
    asker.kill()
    asker.wait()
    retried = after_a_retry(world)
    run = mlproj_core.attach(handle)
    assert (run.get_status(), run.reason.code) == ("FAILED", "lost")
    assert (retried.get_status(), retried.handle.attempt, world.starts()) == ("FINISHED", 2, 2)
    assert world.survivors() == []
    row(
        instant="while it runs",
        dies="both, KILL",
        mode=mode,
        starts=1,
        survivors=0,
        status="FAILED",
        reason="lost",
        retry="FINISHED, attempt 2",
    )


@pytest.mark.parametrize("mode", MODES)
def test_the_supervisor_is_killed_before_it_began(world, row, mode):
    # Killed in the moment between its start and its first note, nothing was started: another may start it.
    world.backend_config = MODES[mode]
    world.answer(world.asker(arguments={"key": "k", "turn": 1}, kill_supervisor_at_birth=True))
    assert load_backend("local").look(load_backend("local").find("k")).state is State.UNSTARTED
    retried = after_a_retry(world)
    assert (retried.get_status(), retried.handle.attempt, world.starts()) == ("FINISHED", 1, 1)
    row(
        instant="before its first note",
        dies="supervisor, KILL",
        mode=mode,
        starts=0,
        survivors=0,
        status="half made",
        reason="",
        retry="FINISHED, attempt 1",
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("instant", ["before the claim", "after the claim", "after the record", "after the start"])
def test_it_is_cancelled_while_it_is_submitted(world, row, instant, mode):
    from mlproj_core import protocol

    world.project_is_stubborn()
    world.backend_config = MODES[mode]
    backend = load_backend("local")
    _, go_on = world.paused_asker(instant, arguments={"key": "k", "turn": 1}, linger=True)
    if instant == "before the claim":
        protocol.cancel_key(backend, "k", (1,), print)
    else:
        backend.mark_cancelled(backend.find("k"))
    go_on()
    handle = until(lambda: backend.find("k"))
    if instant == "after the start":
        backend.stop(handle)
    run = mlproj_core.attach(handle)
    run.wait(timeout=60)
    time.sleep(0.2)
    assert (run.get_status(), run.reason.code) == ("KILLED", "cancelled")
    assert world.survivors() == []
    assert world.starts() == (0 if instant != "after the start" else world.starts())
    row(
        instant=instant,
        dies="nobody: cancelled",
        mode=mode,
        starts=world.starts(),
        survivors=0,
        status=run.get_status(),
        reason=run.reason.code,
        retry="",
    )
