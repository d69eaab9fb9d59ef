"""How a tracking server is spoken to: headers, retries, redirects, proxies, TLS, and answers that are none."""

import contextlib
import contextvars
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from mlproj_core.errors import TrackingError, TrackingRefused, UserError
from mlproj_core.status import Outcome, RunStatus
from mlproj_core.tracking import ATTEMPT_TAG, NewRun, connect
from mlproj_core.tracking.surroundings import lend

pytestmark = pytest.mark.usefixtures("no_tracking")

CUT = object()
"""Instead of an answer: the connection is closed."""

RUN = {"info": {"run_id": "a" * 32, "experiment_id": "0", "status": "RUNNING"}, "data": {}}
NEW = NewRun(start_time=1.0, tags={ATTEMPT_TAG: "k-1"})


class Server:
    """A server that records what it is asked and answers what a test says.

    `answer(request)` gives a JSON object, a pair (status, object or text), a triple with headers, or CUT.
    """

    def __init__(self, answer, tls=None, before_body=lambda: None, hangs_up=False):
        self.requests = []
        self.connections = 0
        self.hung_up = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self):
                server.connections += 1
                super().setup()

            def respond(self):
                before_body()
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                request = SimpleNamespace(
                    method=self.command,
                    target=self.path,
                    call=self.path.split("?")[0].partition("/mlflow/")[2],
                    headers=self.headers,
                    body=json.loads(body) if body.startswith(b"{") else body,
                )
                server.requests.append(request)
                result = answer(request)
                if result is CUT:
                    self.close_connection = True
                    return
                status, value, headers = (*result, {})[:3] if isinstance(result, tuple) else (200, result, {})
                data = value.encode() if isinstance(value, str) else json.dumps(value).encode()
                self.send_response(status)
                for name, text in headers.items():
                    self.send_header(name, text)
                if headers.get("Transfer-Encoding") == "chunked":
                    self.end_headers()
                    for byte in range(len(data)):
                        self.wfile.write(b"1;note=x\r\n" + data[byte : byte + 1] + b"\r\n")
                    if self.close_connection:
                        return
                    self.wfile.write(b"0\r\nTrailer: x\r\n\r\n")
                    return
                if headers.get("Connection") != "close":
                    self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
                self.close_connection |= hangs_up

            do_GET = do_POST = do_PUT = respond  # noqa: N815

            def log_message(self, *_):
                pass

        class Listener(ThreadingHTTPServer):
            daemon_threads = True

            def shutdown_request(self, request):
                super().shutdown_request(request)
                server.hung_up.set()

            def handle_error(self, *_):
                """A handshake that fails is part of a test."""

        self.listener = Listener(("127.0.0.1", 0), Handler)
        self.port = self.listener.server_port
        if tls is not None:
            self.listener.socket = tls.wrap_socket(self.listener.socket, server_side=True)
        self.uri = f"{'http' if tls is None else 'https'}://127.0.0.1:{self.port}"
        threading.Thread(target=self.listener.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def calls(self):
        return [request.call for request in self.requests]

    def close(self):
        self.listener.shutdown()
        self.listener.server_close()


@pytest.fixture
def serve():
    """Starts servers, and ends them."""
    with contextlib.ExitStack() as stack:

        def start(answer, **options):
            server = Server(answer, **options)
            stack.callback(server.close)
            return server

        yield start


def mlflow_like(request):
    """What a healthy server answers."""
    return {"run": RUN} if request.call in ("runs/create", "runs/get") else {}


def in_turn(*answers):
    """One answer after the other, then healthy ones."""
    left = list(answers)
    return lambda request: left.pop(0) if left else mlflow_like(request)


# How many at once


def test_many_that_ask_in_one_moment_take_turns(serve):
    at_work, most, lock = 0, 0, threading.Lock()

    def slow(request):
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        time.sleep(0.05)
        with lock:
            at_work -= 1
        return mlflow_like(request)

    server = serve(slow)
    askers = [threading.Thread(target=lambda: connect(server.uri).create_run(NEW)) for _ in range(40)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join(30)
    assert 1 < most <= 8
    assert server.calls.count("runs/create") == 40


def test_a_call_that_looks_whether_another_took_effect_needs_no_turn_of_its_own(serve):
    # Else as many as there are turns would wait for one another for ever.
    def answer(request):
        if request.call == "runs/create":
            return CUT
        return {"runs": [RUN]} if request.call == "runs/search" else mlflow_like(request)

    server = serve(answer)
    askers = [threading.Thread(target=lambda: connect(server.uri).create_run(NEW), daemon=True) for _ in range(16)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join(30)
    assert not any(asker.is_alive() for asker in askers)


# What is lent


def test_variables_that_are_lent_hold_in_their_context_only(serve, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "the-process")
    mine, other = serve(mlflow_like), serve(mlflow_like)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mine.uri)

    def ask():
        connect().create_run(NEW)

    def borrow():
        with lend({"MLFLOW_TRACKING_URI": other.uri, "MLFLOW_TRACKING_TOKEN": "the-block"}):
            ask()
            thread = threading.Thread(target=contextvars.copy_context().run, args=(ask,))
            thread.start()
            ask_elsewhere = threading.Thread(target=ask)
            ask_elsewhere.start()
            thread.join(10)
            ask_elsewhere.join(10)
        ask()

    borrow()
    assert [request.headers["Authorization"] for request in other.requests] == ["Bearer the-block"] * 2
    assert [request.headers["Authorization"] for request in mine.requests] == ["Bearer the-process"] * 2


# Who asks


def test_a_token_is_sent_as_bearer(serve, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0ken")
    server = serve(mlflow_like)
    tracking = connect(server.uri)
    tracking.create_run(NEW)
    assert server.requests[0].headers["Authorization"] == "Bearer t0ken"
    assert "t0ken" not in repr(tracking) + repr(vars(tracking))


def test_user_and_password_win_over_a_token_as_with_mlflow(serve, monkeypatch):
    for name, value in (("TOKEN", "t"), ("USERNAME", "Aladdin"), ("PASSWORD", "open sesame")):
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)
    server = serve(mlflow_like)
    connect(server.uri).create_run(NEW)
    assert server.requests[0].headers["Authorization"] == "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="


def test_a_user_without_a_password_is_pointed_out(serve, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")
    server = serve(lambda _: (401, "no"))
    with pytest.raises(TrackingRefused, match="MLFLOW_TRACKING_USERNAME names 'ada', but there is no password"):
        connect(server.uri).get_run("x")


def test_a_secret_that_the_server_repeats_is_not_shown(serve, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0ken")
    server = serve(lambda request: (403, {"error_code": "PERMISSION_DENIED", "message": "t0ken may not"}))
    with pytest.raises(TrackingRefused) as raised:
        connect(server.uri).get_run("x")
    assert "HTTP 403: *** may not" in str(raised.value)
    assert raised.value.__cause__ is None


def test_a_token_with_a_line_break_is_refused_before_anything_is_sent(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "abc\n")
    with pytest.raises(UserError, match="MLFLOW_TRACKING_TOKEN holds a line break") as raised:
        connect("http://127.0.0.1:1")
    assert "abc" not in str(raised.value)


def test_the_workspace_is_sent_with_every_call(serve, monkeypatch):
    monkeypatch.setenv("MLFLOW_WORKSPACE", " team-a ")
    server = serve(mlflow_like)
    record = connect(server.uri).create_run(NEW)
    assert {request.headers["X-MLFLOW-WORKSPACE"] for request in server.requests} == {"team-a"}
    assert record.url.endswith("?workspace=team-a")


def test_a_later_process_finds_the_credentials_of_the_uri_in_the_environment(serve, monkeypatch):
    server = serve(mlflow_like)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri.replace("//", "//ada:se%2Fcret@") + "/")
    connect(server.uri).create_run(NEW)
    assert server.requests[0].headers["Authorization"].startswith("Basic ")
    other = serve(mlflow_like)
    connect(other.uri).create_run(NEW)
    assert other.requests[0].headers["Authorization"] is None


# One connection, few calls


def test_a_run_costs_two_calls_on_one_connection_and_its_end_two(serve):
    server = serve(mlflow_like)
    tracking = connect(server.uri)
    run = tracking.create_run(NewRun(start_time=1.0, tags={ATTEMPT_TAG: "k-1"}, parameters={"a": "1", "b": "2"}))
    assert server.calls == ["runs/create", "runs/log-batch"]
    tracking.settle(run.run_id, Outcome(RunStatus.FINISHED, ended_at=2.0))
    assert server.calls[2:] == ["runs/set-tag", "runs/update"]
    assert server.connections == 1


@pytest.mark.parametrize("framing", [{"Transfer-Encoding": "chunked"}, {"Connection": "close"}])
def test_answers_of_any_framing_are_understood(serve, framing):
    server = serve(lambda request: (200, mlflow_like(request), framing))
    tracking = connect(server.uri)
    assert tracking.get_run("x").run_id == tracking.get_run("y").run_id == "a" * 32


def test_of_a_log_that_grows_while_it_is_sent_as_much_is_sent_as_was_announced(serve, tmp_path):
    log = tmp_path / "output.log"
    # More than the buffers between the two sides hold: it has grown before its end is read.
    log.write_bytes(b"x" * (16 << 20))

    def grow():
        with log.open("ab") as file:
            file.write(b"more")

    server = serve(mlflow_like, before_body=grow)
    tracking = connect(server.uri)
    assert tracking.upload("a" * 32, log, "logs", "mlflow-artifacts:/0/artifacts") is None
    assert tracking.get_run("x").run_id
    assert server.connections == 1
    assert [len(request.body) for request in server.requests] == [16 << 20, 0]


def test_a_prefix_with_a_space_is_quoted(serve):
    server = serve(mlflow_like)
    connect(f"{server.uri}/team a%2Fb/ü").get_run("x")
    assert server.requests[0].target == "/team%20a%2Fb/%C3%BC/api/2.0/mlflow/runs/get?run_id=x"


# A server that is unwell


def refused_uri():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_server_that_is_down_is_an_error_within_the_patience(serve):
    uri = refused_uri()
    started = time.monotonic()
    with pytest.raises(TrackingError) as raised:
        connect(uri.replace("//", "//ada:hidden@"), patience=0.5).create_run(NEW)
    assert time.monotonic() - started < 1
    assert f"The tracking server {uri} cannot be reached to create a run in the experiment 0" in str(raised.value)
    assert "Check that it runs and that MLFLOW_TRACKING_URI is right" in str(raised.value)
    assert "hidden" not in str(raised.value)


def test_a_name_that_does_not_resolve_is_an_error_that_names_it():
    with pytest.raises(TrackingError, match=r"http://no-such-host\.invalid cannot be reached"):
        connect("http://no-such-host.invalid", patience=0.1).get_run("x")


def test_a_server_that_never_answers_is_given_up_after_mlflows_timeout(serve, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        with pytest.raises(TrackingError, match="no answer in time"):
            connect(f"http://127.0.0.1:{silent.getsockname()[1]}", patience=0.5).get_run("x")
    assert 0.9 < time.monotonic() - started < 2


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_passing_fault_is_tried_again(serve, status):
    server = serve(in_turn((status, "wait"), (status, "wait")))
    assert connect(server.uri).get_run("x").run_id
    assert len(server.requests) == 3


def test_a_fault_that_stays_is_an_error_with_the_servers_words_within_the_patience(serve):
    server = serve(lambda _: (500, {"error_code": "INTERNAL_ERROR", "message": "database is locked"}))
    started = time.monotonic()
    with pytest.raises(TrackingError, match="is unwell and could not read the run x: HTTP 500: database is locked"):
        connect(server.uri, patience=0.7).get_run("x")
    assert time.monotonic() - started < 1
    assert 2 <= len(server.requests) <= 4


def test_mlflows_number_of_retries_is_heeded(serve, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    server = serve(lambda _: (503, ""))
    with pytest.raises(TrackingError):
        connect(server.uri).get_run("x")
    assert len(server.requests) == 1


def test_a_number_of_retries_that_is_none_is_refused(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "many")
    with pytest.raises(UserError, match="MLFLOW_HTTP_REQUEST_MAX_RETRIES must be a whole number"):
        connect("http://localhost")


def test_a_server_that_says_when_to_come_back_is_obeyed_beyond_the_patience(serve):
    server = serve(in_turn((429, "slow down", {"Retry-After": "1"})))
    started = time.monotonic()
    assert connect(server.uri, patience=0.1).get_run("x").run_id
    assert 1 <= time.monotonic() - started < 2


def test_a_server_that_says_to_come_back_much_later_is_not_waited_for(serve):
    server = serve(lambda _: (503, "maintenance", {"Retry-After": "3600"}))
    started = time.monotonic()
    with pytest.raises(TrackingError, match="HTTP 503: maintenance"):
        connect(server.uri, patience=0.2).get_run("x")
    assert time.monotonic() - started < 1


CUT_IN_THE_MIDDLE = (200, {"run": RUN}, {"Connection": "close", "Content-Length": "9999"})
CUT_IN_A_CHUNK = (200, "{", {"Transfer-Encoding": "chunked", "Connection": "close"})


@pytest.mark.parametrize(
    "lost",
    [CUT, CUT_IN_THE_MIDDLE, CUT_IN_A_CHUNK, (500, ""), (504, "")],
    ids=["cut", "cut in the middle", "cut in a chunk", "500", "504"],
)
def test_a_creation_whose_answer_was_lost_is_looked_up_and_not_repeated(serve, lost):
    def answer(request):
        if request.call == "runs/create":
            return lost
        return {"runs": [RUN]} if request.call == "runs/search" else {}

    server = serve(answer)
    assert connect(server.uri).create_run(NEW).run_id == "a" * 32
    assert server.calls == ["runs/create", "runs/search"]
    assert server.requests[1].body["filter"] == "tags.`mlproj.attempt` = 'k-1'"


def test_a_connection_that_the_server_closed_meanwhile_is_not_used_for_a_creation(serve):
    server = serve(mlflow_like, hangs_up=True)
    tracking = connect(server.uri)
    tracking.get_run("x")
    assert server.hung_up.wait(5)
    # Without an attempt to look for, an answer that is lost would be an error.
    assert tracking.create_run(NewRun(start_time=1.0)).run_id
    assert server.calls == ["runs/get", "runs/create"]


def test_a_creation_that_did_not_take_effect_is_repeated(serve):
    lost = [CUT]
    server = serve(lambda request: lost.pop() if lost and request.call == "runs/create" else mlflow_like(request))
    assert connect(server.uri).create_run(NEW).run_id == "a" * 32
    assert server.calls == ["runs/create", "runs/search", "runs/create"]


def test_a_creation_without_an_attempt_is_never_repeated_blindly(serve):
    server = serve(in_turn(CUT))
    with pytest.raises(TrackingError, match="may or may not have been created"):
        connect(server.uri).create_run(NewRun(start_time=1.0))
    assert server.calls == ["runs/create"]


def test_a_rate_limited_creation_was_not_made_and_is_repeated_without_looking(serve):
    server = serve(in_turn((429, "")))
    connect(server.uri).create_run(NEW)
    assert server.calls == ["runs/create", "runs/create"]


def test_a_server_that_refuses_an_upload_before_its_end_is_heard(tmp_path):
    log = tmp_path / "output.log"
    log.write_bytes(b"x" * (16 << 20))
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse():
            near, _ = listener.accept()
            with near:
                near.recv(65536)
                near.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 8\r\nConnection: close\r\n\r\ntoo long")

        threading.Thread(target=refuse, daemon=True).start()
        tracking = connect(f"http://127.0.0.1:{listener.getsockname()[1]}", patience=0.1)
        reason = tracking.upload("a" * 32, log, "logs", "mlflow-artifacts:/0/artifacts")
    assert "refused to store logs/output.log" in reason
    assert "HTTP 413: too long" in reason


# Servers of other ages


def test_a_server_that_takes_only_short_values_gets_them_cut(serve):
    def answer(request):
        if any(len(pair["value"]) > 500 for pair in getattr(request.body, "get", dict)("params") or ()):
            return 400, {"error_code": "INVALID_PARAMETER_VALUE", "message": "Param value exceeded 500 characters"}
        return mlflow_like(request)

    server = serve(answer)
    run = connect(server.uri).create_run(NewRun(start_time=1.0, parameters={"a": "1", "b": "x" * 600}))
    assert run.warnings == ("The parameter 'b' has 600 characters; the first 500 of them are recorded.",)
    assert server.requests[-1].body["params"] == [{"key": "b", "value": "x" * 500}]


# What is no answer


def test_a_page_instead_of_json_is_no_mlflow_server(serve):
    server = serve(lambda _: (200, "<html>Sign in</html>", {"Content-Type": "text/html"}))
    with pytest.raises(TrackingError, match=f"{server.uri} is no MLflow tracking server: .* with text/html"):
        connect(server.uri).get_run("x")


def test_another_protocol_is_no_server_that_can_be_reached():
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet():
            with contextlib.suppress(OSError):
                while True:
                    near, _ = listener.accept()
                    with near, contextlib.suppress(ConnectionError):
                        near.sendall(b"SSH-2.0-OpenSSH_9.7\r\n")
                        near.recv(65536)

        threading.Thread(target=greet, daemon=True).start()
        with pytest.raises(TrackingError, match="the answer is not HTTP"):
            connect(f"http://127.0.0.1:{listener.getsockname()[1]}", patience=0.1).get_run("x")
        listener.shutdown(socket.SHUT_RDWR)


def test_a_missing_page_says_that_the_uri_is_wrong(serve):
    server = serve(lambda _: (404, "<html>nothing here</html>"))
    with pytest.raises(TrackingError, match=r"no MLflow API: HTTP 404 for /mlflow/api/2\.0/mlflow/runs/get"):
        connect(f"{server.uri}/mlflow/").get_run("x")


def test_a_server_that_does_not_know_its_name_names_the_option(serve):
    server = serve(lambda _: (403, "Invalid Host header - possible DNS rebinding attack detected"))
    with pytest.raises(TrackingRefused, match=f"--allowed-hosts 127.0.0.1:{server.port}"):
        connect(server.uri).get_run("x")


# Redirects


@pytest.mark.parametrize("status", [307, 308])
def test_a_redirect_that_keeps_the_method_is_followed_once_and_remembered(serve, status):
    real = serve(mlflow_like)
    server = serve(lambda request: (status, "", {"Location": f"{real.uri}/behind{request.target}"}))
    tracking = connect(server.uri)
    tracking.create_run(NEW)
    tracking.get_run("x")
    assert len(server.requests) == 1
    assert [request.target for request in real.requests] == [
        "/behind/api/2.0/mlflow/runs/create",
        "/behind/api/2.0/mlflow/runs/get?run_id=x",
    ]


def test_another_server_that_one_is_redirected_to_gets_no_credentials(serve, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0ken")
    real = serve(mlflow_like)
    server = serve(lambda request: (308, "", {"Location": f"{real.uri}{request.target}"}))
    connect(server.uri).create_run(NEW)
    assert server.requests[0].headers["Authorization"] == "Bearer t0ken"
    assert real.requests[0].headers["Authorization"] is None


def test_a_redirect_to_a_login_page_is_an_error_that_names_it(serve):
    server = serve(lambda _: (302, "", {"Location": "https://sso.invalid/login?state=secret"}))
    with pytest.raises(TrackingError, match=r"redirect to https://sso\.invalid/login when asked") as raised:
        connect(server.uri).create_run(NEW)
    assert "secret" not in str(raised.value)


def test_redirects_are_not_followed_where_mlflow_would_not(serve, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_HTTP_REDIRECTS", "false")
    real = serve(mlflow_like)
    server = serve(lambda request: (308, "", {"Location": f"{real.uri}{request.target}"}))
    with pytest.raises(TrackingError, match="redirect"):
        connect(server.uri).create_run(NEW)
    assert real.requests == []


def test_a_circle_of_redirects_ends(serve):
    server = serve(lambda request: (308, "", {"Location": request.target}))
    with pytest.raises(TrackingError, match="redirects in a circle"):
        connect(server.uri).create_run(NEW)


# Proxies


def test_plain_http_goes_through_the_proxy_of_the_environment(serve, monkeypatch):
    proxy = serve(mlflow_like)
    monkeypatch.setenv("http_proxy", f"http://ada:p%40ss@127.0.0.1:{proxy.port}")
    connect("http://tracking.invalid/prefix").create_run(NEW)
    assert proxy.requests[0].target == "http://tracking.invalid/prefix/api/2.0/mlflow/runs/create"
    assert proxy.requests[0].headers["Host"] == "tracking.invalid"
    assert proxy.requests[0].headers["Proxy-Authorization"] == "Basic YWRhOnBAc3M="


@pytest.mark.parametrize("excluded", ["127.0.0.1", "*", "a, 127.0.0.0/8", "127.0.0.1:{port}", ".0.0.1"])
def test_a_server_in_no_proxy_is_spoken_to_directly(serve, monkeypatch, excluded):
    server = serve(mlflow_like)
    monkeypatch.setenv("HTTP_PROXY", refused_uri())
    monkeypatch.setenv("NO_PROXY", excluded.format(port=server.port))
    assert connect(server.uri, patience=0.1).create_run(NEW).run_id


def test_a_proxy_of_another_kind_is_refused(monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1080")
    with pytest.raises(UserError, match="ALL_PROXY names a proxy of the kind 'socks5'"):
        connect("http://tracking.invalid")


# TLS


def tls_of(certificates, *, asks_for_client=False):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.pem")
    if asks_for_client:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(certificates / "ca.pem")
    return context


@pytest.mark.parametrize("variable", ["MLFLOW_TRACKING_SERVER_CERT_PATH", "REQUESTS_CA_BUNDLE"])
def test_a_private_authority_is_trusted_when_named(serve, certificates, monkeypatch, variable):
    server = serve(mlflow_like, tls=tls_of(certificates))
    monkeypatch.setenv(variable, str(certificates / "ca.pem"))
    tracking = connect(server.uri)
    for _ in range(3):
        assert tracking.create_run(NEW).run_id
    assert server.connections == 1


def test_an_unknown_authority_is_an_error_at_once_that_names_the_variable(serve, certificates):
    server = serve(mlflow_like, tls=tls_of(certificates))
    with pytest.raises(TrackingError, match="certificate verify failed") as raised:
        connect(server.uri).create_run(NEW)
    assert "MLFLOW_TRACKING_SERVER_CERT_PATH" in str(raised.value)
    assert server.requests == []


def test_a_certificate_for_another_name_is_not_accepted(serve, certificates, monkeypatch):
    server = serve(mlflow_like, tls=tls_of(certificates))
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(certificates / "ca.pem"))
    with pytest.raises(TrackingError, match="certificate verify failed"):
        connect(server.uri.replace("127.0.0.1", "localhost")).create_run(NEW)


def test_nothing_is_verified_when_mlflow_is_told_so(serve, certificates, monkeypatch):
    server = serve(mlflow_like, tls=tls_of(certificates))
    monkeypatch.setenv("MLFLOW_TRACKING_INSECURE_TLS", "TRUE")
    assert connect(server.uri).create_run(NEW).run_id
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(certificates / "ca.pem"))
    with pytest.raises(UserError, match="both set"):
        connect(server.uri)


def test_a_client_certificate_is_shown_to_a_server_that_asks(serve, certificates, monkeypatch):
    server = serve(mlflow_like, tls=tls_of(certificates, asks_for_client=True))
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(certificates / "ca.pem"))
    with pytest.raises(TrackingError, match="MLFLOW_TRACKING_CLIENT_CERT_PATH"):
        connect(server.uri, patience=0.5).create_run(NEW)
    monkeypatch.setenv("MLFLOW_TRACKING_CLIENT_CERT_PATH", str(certificates / "client.pem"))
    assert connect(server.uri).create_run(NEW).run_id


def test_a_client_key_with_a_password_is_refused_and_never_asked_for(serve, certificates, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_CLIENT_CERT_PATH", str(certificates / "locked.pem"))
    with pytest.raises(UserError, match=r"locked\.pem .* its key is encrypted"):
        connect("https://127.0.0.1:1").create_run(NEW)
    monkeypatch.setenv("MLFLOW_TRACKING_CLIENT_CERT_PATH", str(certificates / "none.pem"))
    with pytest.raises(UserError, match=r"names .*none\.pem, which does not exist"):
        connect("https://127.0.0.1:1")


def test_https_goes_through_a_tunnel_of_the_proxy(serve, certificates, monkeypatch):
    server = serve(mlflow_like, tls=tls_of(certificates))
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as proxy:

        def tunnel():
            near, _ = proxy.accept()
            head = b""
            while b"\r\n\r\n" not in head:
                head += near.recv(1)
            asked.append(head.decode())
            far = socket.create_connection(("127.0.0.1", server.port))
            near.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=copy, args=(far, near), daemon=True)
            back.start()
            copy(near, far)
            back.join()
            near.close()
            far.close()

        def copy(source, target):
            with contextlib.suppress(OSError):
                while data := source.recv(65536):
                    target.sendall(data)
                target.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=tunnel, daemon=True)
        thread.start()
        monkeypatch.setenv("HTTPS_PROXY", f"127.0.0.1:{proxy.getsockname()[1]}")
        monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(certificates / "ca.pem"))
        tracking = connect(server.uri)
        assert tracking.create_run(NEW).run_id
        tracking.close()
        thread.join(5)
    assert asked[0].startswith(f"CONNECT 127.0.0.1:{server.port} HTTP/1.")


# Cost


def test_http_is_loaded_when_a_server_is_asked_and_not_before(serve):
    server = serve(mlflow_like)
    script = (
        "import sys\nfrom mlproj_core.tracking import NewRun, connect\n"
        "def loaded():\n"
        "    names = ('ssl', 'http.client', 'email', 'urllib.request', 'mlflow')\n"
        "    return [name for name in names if name in sys.modules]\n"
        f"tracking = connect({server.uri!r})\nprint(loaded())\n"
        "tracking.create_run(NewRun(start_time=1.0))\nprint(loaded())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "['ssl', 'http.client', 'email']"]


def test_plain_http_reads_no_certificates(serve, monkeypatch, tmp_path):
    (tmp_path / "authorities.pem").write_text("no certificate")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "authorities.pem"))
    assert connect(serve(mlflow_like).uri).create_run(NEW).run_id
    with pytest.raises(UserError, match=r"authorities\.pem cannot be read"):
        connect("https://127.0.0.1:1").create_run(NEW)
