"""Data over http: gone on with, checked, cached; and what is said when it cannot be had."""

import base64
import gzip
import os
import shutil
import subprocess
import time

import pytest
from data_world import DataServer, Fetched
from missing import missing

from mlproj_core.data.cache import Slot, stored
from mlproj_core.housekeeping import collect

CONTENT = os.urandom(1 << 20) * 3
DAY_AGO = time.time() - 86_400


@pytest.fixture(scope="module")
def server():
    server = DataServer()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    for name in list(os.environ):
        if (
            name.lower().endswith("_proxy")
            or name.startswith("MLFLOW_")
            or name in ("NETRC", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
        ):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MLPROJ_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")


@pytest.fixture
def get(tmp_path):
    return Fetched(tmp_path / "storage")


def collected(older_than):
    """What house-keeping removes from the cache: names and bytes."""
    return collect(stored(), older_than=older_than, report=print)["data"].removed


class TestADownload:
    def test_is_the_servers_bytes(self, server, get):
        assert get(server.serve("/plain", CONTENT)).read_bytes() == CONTENT

    def test_of_an_empty_file_is_an_empty_file(self, server, get):
        assert get(server.serve("/empty", b"")).read_bytes() == b""

    def test_goes_on_where_the_connection_was_cut(self, server, get):
        url = server.serve("/cut", CONTENT, cuts=[1_000_000, 1_000_000])
        assert get(url).read_bytes() == CONTENT
        first, second, third = server.asked("/cut")
        assert "range" not in first
        assert [second["range"], third["range"]] == ["bytes=1000000-", "bytes=2000000-"]
        assert second["if-range"] == server.files["/cut"].etag
        assert any("was cut after 1000000 of 3145728 bytes; try 2 of 3" in line for line in get.said)

    def test_goes_on_by_the_time_of_change_where_there_is_no_tag(self, server, get):
        url = server.serve("/dated", CONTENT, cuts=[1_000_000], etag=None, modified=DAY_AGO)
        assert get(url).read_bytes() == CONTENT
        assert server.asked("/dated")[1]["range"] == "bytes=1000000-"

    @pytest.mark.parametrize("how", [{"etag": None}, {"etag": 'W/"1"'}, {"ranges": False}])
    def test_begins_anew_where_the_server_cannot_go_on(self, server, get, how):
        url = server.serve("/anew", CONTENT, cuts=[1_000_000], **how)
        assert get(url).read_bytes() == CONTENT

    def test_of_what_was_changed_meanwhile_is_the_new_content_alone(self, server, get):
        new = os.urandom(1 << 20)
        assert get(server.serve("/swapped", CONTENT, cuts=[2_000_000], swap=new)).read_bytes() == new

    def test_of_what_became_shorter_meanwhile_is_the_new_content_alone(self, server, get):
        url = server.serve("/shrunk", CONTENT, cuts=[2_000_000], etag='"always the same"', swap=b"new")
        server.files["/shrunk"].headers = {}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("data_world.tag_of", lambda content: '"always the same"')
            assert get(url).read_bytes() == b"new"

    def test_goes_on_when_the_server_falls_silent(self, server, get, monkeypatch):
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        url = server.serve("/silent", CONTENT, cuts=[1_000_000], stall=3)
        assert get(url).read_bytes() == CONTENT
        assert server.asked("/silent")[1]["range"] == "bytes=1000000-"
        assert any("no byte came in time" in line for line in get.said)

    def test_is_given_up_when_it_gets_no_farther(self, server, get, tmp_path):
        reason = get.refusal(server.serve("/stuck", CONTENT, cuts=[10] * 50))
        assert reason.retryable
        assert "was cut after" in reason.message
        assert "3 tries" in reason.message
        assert len(server.asked("/stuck")) == 3
        assert len(list((tmp_path / "cache").rglob("part"))) == 1  # the next run goes on with it

    def test_that_nobody_can_go_on_with_leaves_nothing(self, server, get, tmp_path):
        get.refusal(server.serve("/stuck2", CONTENT, cuts=[10] * 50, etag=None))
        assert not list((tmp_path / "cache").rglob("part"))

    def test_waits_as_long_as_the_server_asks_for(self, server, get):
        url = server.serve("/busy", CONTENT, statuses=[503], headers={"Retry-After": "1"})
        began = time.monotonic()
        assert get(url).read_bytes() == CONTENT
        assert time.monotonic() - began >= 1

    def test_that_says_it_is_longer_than_it_is_is_refused(self, server, get):
        reason = get.refusal(server.serve("/liar", CONTENT, etag=None, length=len(CONTENT) + 5))
        assert f"was cut after {len(CONTENT)} of {len(CONTENT) + 5} bytes" in reason.message

    def test_without_a_length_lasts_until_the_connection_ends(self, server, get):
        assert get(server.serve("/endless", CONTENT, length=-1)).read_bytes() == CONTENT

    def test_that_is_packed_on_the_way_is_unpacked(self, server, get):
        packed = gzip.compress(CONTENT)
        url = server.serve("/packed", packed, headers={"Content-Encoding": "gzip"}, cuts=[1_000_000])
        assert get(url).read_bytes() == CONTENT
        assert {headers["accept-encoding"] for headers in server.asked("/packed")} == {"identity"}
        get(url)
        assert "if-none-match" in server.asked("/packed")[-1]

    def test_of_a_packed_file_leaves_it_packed(self, server, get):
        packed = gzip.compress(b"rows")
        url = server.serve("/rows.csv.gz", packed, headers={"Content-Type": "application/gzip"})
        assert get(url, "rows.csv.gz").read_bytes() == packed

    def test_that_is_packed_badly_is_refused(self, server, get):
        url = server.serve("/badly", gzip.compress(CONTENT)[:-9] + b"123456789", headers={"Content-Encoding": "gzip"})
        assert "cannot be unpacked" in get.refusal(url).message

    def test_packed_in_another_way_is_refused(self, server, get):
        url = server.serve("/brotli", CONTENT, headers={"Content-Encoding": "br"})
        assert "is sent in the coding 'br', though it was asked for as it is" in get.refusal(url).message

    def test_tells_how_far_it_is(self, server, get, monkeypatch):
        monkeypatch.setattr("mlproj_core.data.progress.INTERVAL", 0.2)
        get(server.serve("/slow", CONTENT[: 1 << 20], pause=0.05))
        shares = [line for line in get.said if " %, " in line]
        assert 2 <= len(shares) <= 6
        assert all(" of 1.0 MB, " in line and line.endswith("/s") for line in shares)

    def test_goes_with_what_is_escaped_and_what_is_not(self, server, get):
        server.serve("/a%20b/c%2Fd?x=1%202", CONTENT)
        assert get(f"{server.uri}/a b/c%2Fd?x=1 2#top").read_bytes() == CONTENT

    def test_may_have_any_name(self, server, get):
        assert get(server.serve("/.part", CONTENT), ".part").read_bytes() == CONTENT


class TestARedirect:
    def test_is_followed_and_gone_on_with(self, server, get):
        server.serve("/new", CONTENT, cuts=[1_000_000])
        assert get(server.serve("/old", location="/new")).read_bytes() == CONTENT
        assert server.asked("/new")[1]["range"] == "bytes=1000000-"

    def test_to_another_host_does_not_say_who_asks(self, server, get, tmp_path):
        other = DataServer("127.0.0.2")
        (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password geheim\n")
        login = "Basic " + base64.b64encode(b"me:geheim").decode()
        try:
            target = other.serve("/there", CONTENT)
            assert get(server.serve("/elsewhere", location=target, login=login)).read_bytes() == CONTENT
            assert "authorization" not in other.asked("/there")[0]
        finally:
            other.close()

    def test_to_the_same_host_does(self, server, get, tmp_path):
        (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password geheim\n")
        login = "Basic " + base64.b64encode(b"me:geheim").decode()
        server.serve("/kept", CONTENT, login=login)
        assert get(server.serve("/moved", location="/kept", login=login)).read_bytes() == CONTENT

    def test_to_a_local_file_is_refused(self, server, get):
        assert "cannot be read" in get.refusal(server.serve("/trap", location="file:///etc/passwd")).message


class TestTls:
    @pytest.fixture
    def secure(self, tmp_path):
        """A server with a certificate that nobody knows, and that certificate."""
        if shutil.which("openssl") is None:
            missing("openssl is not installed")
        pem = tmp_path / "server.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", pem, "-out", tmp_path / "ca.pem",
             "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"],
            check=True, capture_output=True,
        )  # fmt: skip
        with pem.open("a") as file:
            file.write((tmp_path / "ca.pem").read_text())
        server = DataServer(certificate=pem)
        yield server, tmp_path / "ca.pem"
        server.close()

    @pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
    def test_is_trusted_where_a_variable_says_so(self, secure, get, monkeypatch, variable):
        server, authority = secure
        monkeypatch.setenv(variable, str(authority))
        assert get(server.serve("/x", CONTENT)).read_bytes() == CONTENT

    def test_is_not_trusted_by_itself(self, secure, get):
        reason = get.refusal(secure[0].serve("/x", CONTENT))
        assert "is not trusted: self-signed certificate" in reason.message.replace("self signed", "self-signed")
        assert "SSL_CERT_FILE or REQUESTS_CA_BUNDLE" in reason.message
        assert not reason.retryable


class TestARefusal:
    def test_says_that_there_is_no_such_file(self, server, get):
        reason = get.refusal(f"{server.uri}/missing?sig=geheim")
        assert reason.message == f"{server.uri}/missing does not exist: HTTP 404 Not Found. Check the URI."
        assert not reason.retryable

    def test_says_where_a_login_belongs(self, server, get):
        reason = get.refusal(server.serve("/private", CONTENT, login="Basic x"))
        assert "may not be read: HTTP 401 Unauthorized. It was asked for by an anonymous user" in reason.message
        assert "~/.netrc (machine 127.0.0.1 login USER password PASSWORD)" in reason.message
        assert not reason.retryable

    def test_after_tries_says_what_the_server_said_last(self, server, get):
        reason = get.refusal(server.serve("/unwell", CONTENT, statuses=[500, 502, 503]))
        assert "/unwell cannot be read now: HTTP 503 Service Unavailable (3 tries)." in reason.message
        assert reason.retryable

    def test_shows_no_password_of_a_uri(self, get):
        message = get.refusal("https://me:geheim@host/x").message
        assert message.startswith("https://host/x holds a user or password")
        assert "geheim" not in message

    def test_says_that_nobody_listens(self, get):
        reason = get.refusal("http://127.0.0.1:1/x")
        assert "http://127.0.0.1:1/x cannot be read: Connection refused" in reason.message
        assert reason.retryable

    def test_shows_no_credentials_of_the_tracking_server_to_others(self, server, get, monkeypatch):
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "geheim")
        get(server.serve("/public", CONTENT))
        assert "authorization" not in server.asked("/public")[0]

    def test_of_the_disk_comes_before_the_download(self, server, get):
        url = server.serve("/huge", b"", length=1 << 60)
        reason = get.refusal(url)
        assert "has no room for" in reason.message
        assert "MLPROJ_CACHE_DIR" in reason.message
        assert reason.retryable
        assert len(server.asked("/huge")) == 1

    @pytest.mark.parametrize("number", ["ENOSPC", "EDQUOT"])
    def test_of_a_disk_that_fills_up_leaves_it_as_it_was(self, server, get, monkeypatch, number, tmp_path):
        import errno

        class Full:
            def __init__(self, file):
                self.file = file

            def __enter__(self):
                return self

            def __exit__(self, *_):
                self.file.close()

            def write(self, chunk):
                self.file.write(chunk[:10])
                raise OSError(getattr(errno, number), "full")

        append = Slot.append
        monkeypatch.setattr(Slot, "append", lambda slot: Full(append(slot)))
        reason = get.refusal(server.serve(f"/full{number}", CONTENT))
        assert "has no room for" in reason.message
        assert not list((tmp_path / "cache").rglob("part"))


class TestTheCache:
    def test_asks_the_server_and_fetches_nothing_anew(self, server, get):
        url = server.serve("/cached", CONTENT)
        get(url).write_bytes(b"the project wrote into its own copy")
        assert get(url).read_bytes() == CONTENT
        assert server.asked("/cached")[1]["if-none-match"] == server.files["/cached"].etag
        assert "from the cache" in get.said[-1]

    def test_goes_by_the_time_of_change_where_there_is_no_tag(self, server, get):
        url = server.serve("/dated-cache", CONTENT, etag=None, modified=DAY_AGO)
        get(url)
        get(url)
        assert "if-modified-since" in server.asked("/dated-cache")[1]
        assert "from the cache" in get.said[-1]

    def test_does_not_trust_a_time_that_is_now(self, server, get):
        url = server.serve("/now", CONTENT, etag=None, modified=time.time() + 5)
        get(url)
        get(url)
        assert "if-modified-since" not in server.asked("/now")[1]

    def test_takes_a_new_content(self, server, get):
        url = server.serve("/renewed", CONTENT)
        get(url)
        server.serve("/renewed", b"new")
        assert get(url).read_bytes() == b"new"

    def test_keeps_nothing_of_what_no_version_tells(self, server, get, tmp_path):
        url = server.serve("/unversioned", CONTENT, etag=None)
        assert get(url).read_bytes() == CONTENT
        assert not list((tmp_path / "cache").rglob("content"))

    def test_does_not_serve_what_the_server_no_longer_gives(self, server, get):
        url = server.serve("/withdrawn", CONTENT)
        get(url)
        server.serve("/withdrawn", CONTENT, login="Basic x")
        assert "may not be read" in get.refusal(url).message

    def test_fetches_anew_what_was_cut_short_on_disk(self, server, get, tmp_path):
        url = server.serve("/damaged", CONTENT)
        get(url)
        (content,) = (tmp_path / "cache").rglob("content")
        content.write_bytes(CONTENT[:-1])
        assert get(url).read_bytes() == CONTENT

    def test_completes_a_part_to_which_nothing_is_missing(self, server, get):
        url = server.serve("/whole", CONTENT)
        slot = Slot.of(url)
        slot.begin_part(server.files["/whole"].etag, len(CONTENT), "")
        slot.part.write_bytes(CONTENT)
        assert get(url).read_bytes() == CONTENT
        assert server.asked("/whole")[0]["if-none-match"] == server.files["/whole"].etag

    def test_keeps_no_signature_of_a_url(self, server, get, tmp_path):
        server.serve("/signed", CONTENT)
        get(f"{server.uri}/signed?X-Amz-Signature=geheim")
        files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
        assert files
        assert not any(b"geheim" in path.read_bytes() for path in files)
        assert not any("geheim" in line for line in get.said)

    def test_is_pruned_by_its_last_use(self, server, get, tmp_path):
        get(server.serve("/young", CONTENT))
        get(server.serve("/idle", CONTENT + b"2"))
        slot = Slot.of(f"{server.uri}/idle")
        os.utime(slot.directory / "facts.json", (DAY_AGO, DAY_AGO))
        ((name, size),) = collected(3600)
        assert name == f"{server.uri}/idle"
        assert size > len(CONTENT)
        assert not slot.directory.exists()
        assert len(collected(0)) == 1
        get(server.serve("/never-kept", CONTENT, etag=None))
        collected(0)
        assert [path.name for path in (tmp_path / "cache" / "data").rglob("*")] == [".locks"]

    def test_is_not_pruned_while_it_is_in_use(self, server, get):
        url = server.serve("/used", CONTENT)
        get(url)
        with Slot.of(url).held(None):
            assert collected(0) == []
        assert len(collected(0)) == 1
