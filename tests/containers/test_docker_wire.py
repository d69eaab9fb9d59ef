"""An engine is the same, whether at a socket of this host or over TCP, as one on another host is."""

import io
import tarfile
import tempfile

import pytest
from container_world import ContainerWorld
from docker_world import SHELL, Engine, shell_rootfs
from mlflow_world import free_port

import mlproj_core
from mlproj_core.backends.local.container_output import attached, logged, payloads
from mlproj_core.containers.wire import EngineRefusal, open_wire


@pytest.fixture(scope="module")
def far_engine():
    """An engine that listens on TCP too."""
    port = free_port()
    engine = Engine(tempfile.mkdtemp(prefix="mlproj-"), "--host", f"tcp://127.0.0.1:{port}")
    engine.add_image(SHELL, shell_rootfs(), ["ENV PATH=/bin", 'CMD ["sh"]'])
    engine.tcp = f"tcp://127.0.0.1:{port}"
    yield engine
    engine.stop()


@pytest.fixture(params=["unix", "tcp"])
def wire(request, far_engine):
    with open_wire(far_engine.host if request.param == "unix" else far_engine.tcp) as wire:
        yield wire
    far_engine.remove_containers()


def create(wire, command, name="some", **more):
    return wire.create({"Image": SHELL, "Cmd": ["sh", "-c", command], "HostConfig": {}, **more}, name, None)


class TestAContainer:
    def test_takes_files_and_input_and_gives_its_output_and_files(self, wire):
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            entry = tarfile.TarInfo("given.txt")
            entry.size = 5
            archive.addfile(entry, io.BytesIO(b"given"))
        container = create(wire, "cat /tmp/given.txt; cat; echo left > /tmp/left", OpenStdin=True, StdinOnce=True)
        wire.put(container, "/tmp", [packed.getvalue()[:100], packed.getvalue()[100:]])
        connection = wire.attach(container, stdin=True)
        wire.start(container)
        connection.sendall(b" and said")
        connection.shutdown(1)
        assert b"".join(attached(connection)) == b"given and said"
        connection.close()
        wire.wait(container, 30)
        assert wire.container("some")["State"]["ExitCode"] == 0
        with tarfile.open(fileobj=io.BytesIO(wire.get(container, "/tmp/left", 1000))) as archive:
            assert archive.extractfile("left").read() == b"left\n"
        with pytest.raises(EngineRefusal) as refusal:
            wire.get(container, "/tmp/left", 1)
        assert refusal.value.status == 413
        assert b"".join(logged(wire, container, 5)) == b" and said"
        wire.remove(container)
        with pytest.raises(EngineRefusal) as refusal:
            wire.container("some")
        assert refusal.value.is_missing

    def test_is_killed_and_its_log_ends(self, wire):
        container = create(wire, "trap '' TERM; echo here; while :; do sleep 0.05; done")
        wire.start(container)
        log = logged(wire, container, 0)
        assert next(log) == b"here\n"
        wire.kill(container, "SIGTERM")
        with pytest.raises(mlproj_core.ContactLost):
            wire.wait(container, 0.3)
        wire.kill(container, "SIGKILL")
        assert list(log) == []
        wire.wait(container, 30)
        assert wire.container(container)["State"]["ExitCode"] == 137

    def test_is_found_by_a_label(self, wire):
        create(wire, "true", Labels={"mlproj.key": "k", "other": "x"})
        create(wire, "true", "another", Labels={"mlproj.key": "l"})
        assert wire.labels("mlproj.key=k") == [{"mlproj.key": "k", "other": "x"}]

    def test_has_a_name_that_is_taken(self, wire):
        create(wire, "true")
        with pytest.raises(EngineRefusal, match="already in use") as refusal:
            create(wire, "true")
        assert refusal.value.status == 409


class TestAnEngine:
    def test_tells_of_its_images(self, wire):
        assert wire.image(SHELL)["Config"]["Cmd"] == ["sh"]
        with pytest.raises(EngineRefusal, match="such image") as refusal:
            wire.image("127.0.0.1:1/no/such@sha256:" + 64 * "0")
        assert refusal.value.is_missing

    @pytest.mark.parametrize("host", ["unix:///no/such.sock", "tcp://127.0.0.1:1"])
    def test_that_does_not_answer_is_out_of_contact(self, host):
        with pytest.raises(mlproj_core.ContactLost, match="cannot be reached"), open_wire(host) as wire:
            wire.ping()


class TestFrames:
    def test_are_put_together_from_any_pieces(self):
        data = b"".join(b"\x01\0\0\0" + len(text).to_bytes(4, "big") + text for text in (b"one", b"", b"three"))
        for size in range(1, len(data)):
            pieces = [data[at : at + size] for at in range(0, len(data), size)]
            assert b"".join(payloads(pieces)) == b"onethree"


def test_a_run_goes_the_whole_way_on_an_engine_that_sees_nothing_of_this_host(far_engine, tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", far_engine.tcp)
    monkeypatch.setenv("MLPROJ_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("MLPROJ_TRACKING", "off")
    world = ContainerWorld(tmp_path, far_engine)
    world.project_runs('echo "got $TOKEN"; echo \'{"a": 1}\' > $MLPROJ_RESULT')
    run = world.submit(key="k", env_vars={"TOKEN": "it"})
    assert run.wait(), run.failure()
    assert "got it\n" in "".join(run.logs())
    assert run.result().result == {"a": 1}
    world.project_runs("trap '' TERM; while :; do sleep 0.05; done")
    run = world.submit(key="l", timeout=8)
    run.wait()
    assert run.reason.code == "timeout"
    assert world.survivors() == []
    far_engine.remove_containers()
    world.close()
