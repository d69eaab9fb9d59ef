"""Where the Docker engine is, and what is said when it cannot be used."""

import contextlib
import gc
import hashlib
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from docker_world import docker_program
from missing import missing

from mlproj_core.containers.engine import DEFAULT_HOST, connect, engine_host, in_contact, is_local
from mlproj_core.errors import ContactLost, UserError


def write_context(directory, name, host, *, skip_verify=False):
    """A context, as `docker context create` writes it; its TLS files' directory is returned."""
    identity = hashlib.sha256(name.encode()).hexdigest()
    meta = directory / "contexts/meta" / identity
    meta.mkdir(parents=True)
    endpoint = {"Host": host, "SkipTLSVerify": skip_verify}
    meta.joinpath("meta.json").write_text(json.dumps({"Name": name, "Metadata": {}, "Endpoints": {"docker": endpoint}}))
    return directory / "contexts/tls" / identity / "docker"


@contextlib.contextmanager
def version_server(answer, status=200, tls=None):
    """Something that speaks HTTP and answers as an engine of some version."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class TestAnEnginesHost:
    def test_is_the_hosts_own_socket_where_nothing_says_otherwise(self, tmp_path):
        assert engine_host({"HOME": str(tmp_path)}) == DEFAULT_HOST

    def test_is_docker_host_before_any_context(self, tmp_path):
        environ = {"DOCKER_HOST": "tcp://there:2376", "DOCKER_CONTEXT": "no-such-one", "HOME": str(tmp_path)}
        assert engine_host(environ) == "tcp://there:2376"

    def test_is_that_of_the_current_context(self, tmp_path):
        docker = tmp_path / ".docker"
        write_context(docker, "colima", "unix:///home/me/.colima/docker.sock")
        write_context(docker, "far", "ssh://me@far")
        (docker / "config.json").write_text('{"currentContext": "colima"}')
        assert engine_host({"HOME": str(tmp_path)}) == "unix:///home/me/.colima/docker.sock"
        assert engine_host({"HOME": str(tmp_path), "DOCKER_CONTEXT": "far"}) == "ssh://me@far"
        assert engine_host({"HOME": str(tmp_path), "DOCKER_CONTEXT": "default"}) == DEFAULT_HOST
        assert engine_host({"DOCKER_CONFIG": str(docker)}) == "unix:///home/me/.colima/docker.sock"

    def test_is_the_one_that_docker_itself_would_take(self, tmp_path):
        environ = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
        for arguments in (["create", "other", "--docker", "host=tcp://there:2375"], ["use", "other"]):
            subprocess.run([docker_program(), "context", *arguments], env=environ, check=True, capture_output=True)
        assert engine_host(environ) == "tcp://there:2375"

    def test_is_an_error_where_the_context_does_not_exist(self, tmp_path):
        with pytest.raises(UserError, match=r"no Docker context 'gone'.*DOCKER_CONTEXT names it"):
            engine_host({"HOME": str(tmp_path), "DOCKER_CONTEXT": "gone"})

    def test_is_an_error_where_the_configuration_cannot_be_read(self, tmp_path):
        (tmp_path / "config.json").write_text("{")
        with pytest.raises(UserError, match=r"config.json.*cannot be read.*DOCKER_HOST"):
            engine_host({"DOCKER_CONFIG": str(tmp_path)})

    def test_is_found_without_the_sdk(self):
        code = (
            "import sys, mlproj_core.containers.engine as e; e.engine_host({'DOCKER_HOST': 'unix:///x'});"
            "sys.exit(bool({'docker', 'requests'} & set(sys.modules)))"
        )
        subprocess.run([sys.executable, "-c", code], check=True)

    def test_is_local_when_it_is_a_socket(self):
        assert is_local("unix:///var/run/docker.sock")
        assert not is_local("tcp://127.0.0.1:2375")
        assert not is_local("ssh://me@there")


class TestAConnection:
    def test_asks_the_engine_that_the_environment_names(self, engine):
        with connect() as client:
            assert client.ping()

    def test_to_nobody_asks_whether_the_daemon_is_running(self, tmp_path):
        with pytest.raises(ContactLost, match=r"unix:///\S+/docker.sock cannot be reached: there is no such socket"):
            connect(f"unix://{tmp_path}/docker.sock")

    def test_to_a_socket_that_a_dead_daemon_has_left_says_that_it_was_refused(self, tmp_path):
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(f"{tmp_path}/docker.sock")
        with pytest.raises(ContactLost, match=r"connection refused. Is the daemon running"):
            connect(f"unix://{tmp_path}/docker.sock")

    def test_to_a_port_where_nobody_listens_says_so(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        with pytest.raises(ContactLost, match=rf"tcp://127.0.0.1:{port} cannot be reached: connection refused"):
            connect(f"tcp://127.0.0.1:{port}")

    def test_to_a_socket_of_the_group_docker_names_that_group(self, engine):
        code = (
            "import os, docker\n"
            "from mlproj_core.containers.engine import connect\n"
            "from mlproj_core.errors import UserError\n"
            "os.setgid(65534); os.setuid(65534)\n"
            f"try: connect({engine.host!r})\n"
            "except UserError as error: print(error)"
        )
        mode = stat.S_IMODE(engine.directory.stat().st_mode)
        engine.directory.chmod(0o755)
        try:
            environ = {**os.environ, "DOCKER_CONFIG": "/no-such-directory", "HOME": "/"}
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environ)
        finally:
            engine.directory.chmod(mode)
        assert "permission denied. Is this user in the group docker?" in done.stdout, done.stderr

    def test_to_an_engine_that_is_too_old_says_which_is_needed(self):
        for version in ("1.18", "1.39"):
            with version_server({"ApiVersion": version}) as address, pytest.raises(UserError, match=r"1\.40 .*update"):
                connect(f"tcp://{address}")

    def test_to_what_is_no_engine_says_so(self):
        with version_server({}, 404) as address, pytest.raises(UserError, match=r"No Docker engine can be used at"):
            connect(f"tcp://{address}")

    @pytest.mark.parametrize("host", ["nonsense://x", "tcp://", "fd://3"])
    def test_to_no_address_is_a_mistake(self, host):
        with pytest.raises(UserError, match="Is DOCKER_HOST right"):
            connect(host)

    def test_without_the_sdk_says_what_to_install(self, tmp_path):
        (tmp_path / "docker.py").write_text("raise ImportError('not here')")
        code = (
            "from mlproj_core.containers.engine import connect\n"
            "from mlproj_core.errors import UserError\n"
            "try: connect('unix:///x')\n"
            "except UserError as error: print(error)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        assert "pip install 'mlproj[docker]'" in done.stdout, done.stderr

    @pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # the SDK leaves it to the collector
    def test_that_breaks_later_is_lost_contact(self, engine):
        with connect() as client:
            engine.kill()
            try:
                with pytest.raises(ContactLost, match=engine.host), in_contact(engine.host):
                    client.containers()
            finally:
                engine.start()
        gc.collect()

    def test_that_answers_with_an_error_is_no_lost_contact(self, engine):
        from docker.errors import NotFound

        with connect() as client, pytest.raises(NotFound), in_contact(engine.host):
            client.inspect_container("no-such-one")


class TestAConnectionByTls:
    @pytest.fixture(scope="class")
    @staticmethod
    def certificates(tmp_path_factory):
        """An authority, and a certificate of its own for 127.0.0.1 that server and client share."""
        if shutil.which("openssl") is None:
            missing("openssl is not installed")
        directory = tmp_path_factory.mktemp("tls")
        for command in (
            "req -x509 -newkey rsa:2048 -nodes -keyout ca-key.pem -out ca.pem -days 2 -subj /CN=tests",
            "req -newkey rsa:2048 -nodes -keyout key.pem -out request.pem -subj /CN=127.0.0.1",
            "x509 -req -in request.pem -CA ca.pem -CAkey ca-key.pem -CAcreateserial -out cert.pem -days 2 "
            "-extfile names",
        ):
            (directory / "names").write_text("subjectAltName=IP:127.0.0.1\n")
            subprocess.run(["openssl", *command.split()], cwd=directory, check=True, capture_output=True)
        return directory

    @pytest.fixture
    @staticmethod
    def secured(certificates):
        import ssl

        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificates / "ca.pem")
        context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
        context.verify_mode = ssl.CERT_REQUIRED
        with version_server({"ApiVersion": "1.41"}, tls=context) as address:
            yield f"tcp://{address}"

    def test_takes_the_files_of_docker_cert_path(self, secured, certificates):
        environ = {"DOCKER_HOST": secured, "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(certificates)}
        with connect(None, environ) as client:
            assert client.version()

    def test_takes_the_files_of_the_context_that_has_this_host(self, secured, certificates, tmp_path):
        files = write_context(tmp_path, "far", secured)
        files.mkdir(parents=True)
        for name in ("ca.pem", "cert.pem", "key.pem"):
            files.joinpath(name).write_bytes(certificates.joinpath(name).read_bytes())
        with connect(secured, {"DOCKER_CONFIG": str(tmp_path)}) as client:  # as from a handle, which has the host only
            assert client.version()

    def test_does_not_trust_who_has_no_certificate_of_the_authority(self, secured, certificates, tmp_path):
        environ = {"DOCKER_HOST": secured, "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(tmp_path)}
        with pytest.raises(ContactLost, match="certificate verify failed"):
            connect(None, environ)
