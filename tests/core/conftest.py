"""Real tracking servers and certificates for the core's tests, and an environment that points at none."""

import os
import shutil
import subprocess

import pytest
from missing import missing
from mlflow_world import MlflowServer
from mlflow_world import mlflow_environment as mlflow_environment
from mlflow_world import mlflow_python as mlflow_python
from mlflow_world import mlflow_server as mlflow_server


@pytest.fixture(scope="session")
def mlflow_auth_server(mlflow_python, mlflow_environment, tmp_path_factory):
    """The URI of a real tracking server with users, who may read what is not theirs.

    The administrator is `admin`, with the password `administrator's secret`.
    """
    directory = tmp_path_factory.mktemp("mlflow-auth-server")
    settings = directory / "auth.ini"
    settings.write_text(
        "[mlflow]\n"
        "default_permission = READ\n"
        f"database_uri = sqlite:///{directory}/auth.db\n"
        "admin_username = admin\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    environment = {
        **mlflow_environment,
        "MLFLOW_AUTH_CONFIG_PATH": str(settings),
        "MLFLOW_AUTH_ADMIN_PASSWORD": "administrator's secret",
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "only for this test",
    }
    server = MlflowServer(mlflow_python, directory, environment, "--app-name", "basic-auth")
    yield server.uri
    server.stop()


@pytest.fixture
def no_tracking(monkeypatch, tmp_path):
    """No variable, file or proxy of the caller's points at a tracking server or gives credentials for one."""
    for name in list(os.environ):
        if name.startswith(("MLFLOW_", "MLPROJ_TRACKING")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    return home


@pytest.fixture
def without_mlflow():
    """The interpreter that runs the tests has no mlflow, as the base installation of mlproj."""
    from importlib.util import find_spec

    if find_spec("mlflow") is not None:
        missing("mlflow is installed beside the tests: what happens without it cannot be seen here")


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    """A certificate authority, a server's certificate for 127.0.0.1, and a client's."""
    if shutil.which("openssl") is None:
        missing("openssl is not installed")
    directory = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)

    new = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl(*new, "-x509", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=Test CA", "-days", "2",
            "-addext", "keyUsage=critical,keyCertSign")  # fmt: skip
    for name, extension in (("server", "subjectAltName=IP:127.0.0.1"), ("client", "keyUsage=digitalSignature")):
        (directory / "extensions").write_text(f"{extension}\nauthorityKeyIdentifier=keyid\n")
        openssl(*new, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                "-out", f"{name}.crt", "-days", "2", "-extfile", "extensions")  # fmt: skip
        pem = directory / f"{name}.pem"
        pem.write_bytes((directory / f"{name}.crt").read_bytes() + (directory / f"{name}.key").read_bytes())
    openssl("ec", "-in", "client.key", "-aes128", "-passout", "pass:secret", "-out", "locked.key")
    locked = directory / "locked.pem"
    locked.write_bytes((directory / "client.crt").read_bytes() + (directory / "locked.key").read_bytes())
    return directory
