"""The login for a private repository: where it comes from, where it goes, and where it never shows."""

import base64
import os
import threading
from pathlib import Path

import pytest
from git_world import GitServer, clean_environment, commit, git, published, repository

from mlproj_core.errors import SourceError, UserError
from mlproj_core.sources import fetch

SECRET = "s3same-0pen/&%"
QUOTED = "s3same-0pen%2F%26%25"


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    return clean_environment(monkeypatch, tmp_path / "home")


@pytest.fixture
def into(tmp_path):
    return tmp_path / "into"


@pytest.fixture
def server(tmp_path):
    """A server that lets in whoever gives the secret as the password of `x-access-token`."""
    published(repository(tmp_path / "work", data=os.urandom(200_000), sub__f="x"), tmp_path / "served/p.git")
    with GitServer(tmp_path / "served", login=("x-access-token", SECRET)) as server:
        yield server


class TestALogin:
    def test_may_be_given_as_a_token(self, server, into):
        checkout = fetch(server.url("p.git"), into=into, token=SECRET + "\n")
        assert (checkout.uri, checkout.repo_url) == (server.url("p.git"), server.url("p.git"))

    def test_may_stand_in_a_variable(self, server, into, monkeypatch):
        monkeypatch.setenv("MLPROJ_GIT_TOKEN", SECRET)
        fetch(server.url("p.git"), into=into)
        assert set(server.logins) == {f"x-access-token:{SECRET}"}

    def test_may_stand_in_the_uri(self, server, into):
        server.login = ("user@example.org", SECRET)
        uri = server.url("p.git", login=f"user%40example.org:{QUOTED}@")
        checkout = fetch(f"{uri}#sub", into=into)
        assert checkout.uri == checkout.source_name == f"{server.url('p.git')}#sub"
        assert checkout.repo_url == server.url("p.git")

    def test_as_a_token_goes_with_the_user_in_the_uri(self, server, into, monkeypatch):
        server.login = ("alice", SECRET)
        monkeypatch.setenv("MLPROJ_GIT_TOKEN", "not this one")
        fetch(server.url("p.git", login="alice@"), into=into, token=SECRET)
        assert set(server.logins) == {f"alice:{SECRET}"}

    def test_may_be_a_hosts_token_in_the_users_place(self, server, into):
        server.login = ("x-access-token", "ghp_abcdef")
        checkout = fetch(server.url("p.git", login="ghp_abcdef@"), into=into)
        assert "ghp_abcdef" not in repr(checkout)

    def test_comes_from_gits_own_helpers_when_none_is_given(self, server, into, home):
        (home / ".gitconfig").write_text("[credential]\n\thelper = store\n")
        store = home / ".git-credentials"
        store.write_text(
            f"http://bob:wrong@localhost:{server.port}\nhttp://x-access-token:{QUOTED}@localhost:{server.port}\n"
        )
        fetch(server.url("p.git", login="x-access-token@"), into=into)
        assert set(server.logins) == {f"x-access-token:{SECRET}"}

    def test_that_was_given_is_not_written_down_by_gits_helpers_and_comes_before_theirs(self, server, into, home):
        (home / ".gitconfig").write_text("[credential]\n\thelper = store\n")
        store = home / ".git-credentials"
        stored = f"http://bob:wrong@localhost:{server.port}\n"
        store.write_text(stored)
        fetch(server.url("p.git"), into=into, token=SECRET)
        assert store.read_text() == stored

    def test_is_not_given_to_another_host_that_a_redirect_leads_to(self, server, into):
        with GitServer(server.root, redirect=f"127.0.0.1:{server.port}") as front:
            with pytest.raises(SourceError, match="MLPROJ_GIT_TOKEN"):
                fetch(front.url("p.git"), into=into, token=SECRET)
            assert front.requests
        assert server.requests
        assert server.logins == []

    def test_is_not_given_to_a_submodule_of_another_host(self, server, into, tmp_path):
        with GitServer(server.root, login=("x-access-token", SECRET)) as foreign:
            work = tmp_path / "work"
            git("clone", "-q", server.root / "p.git", work / "library", cwd=work)
            url = foreign.url("p.git", host="127.0.0.1")
            (work / ".gitmodules").write_text(f'[submodule "l"]\n\tpath = library\n\turl = {url}\n')
            commit(work, "with a submodule")
            git("push", "-q", server.root / "p.git", "main", cwd=work)
            with pytest.raises(SourceError, match="submodules"):
                fetch(server.url("p.git"), into=into, token=SECRET)
            assert foreign.requests
            assert foreign.logins == []

    def test_of_several_lines_is_refused(self, server, into):
        with pytest.raises(UserError, match="more than one line"):
            fetch(server.url("p.git"), into=into, token="a\nb")


class TestARefusedLogin:
    def test_says_what_to_set_and_nobody_is_asked(self, server, into):
        with pytest.raises(SourceError) as error:
            fetch(server.url("p.git"), into=into)
        for words in ("MLPROJ_GIT_TOKEN", "token", "credential helper", server.url("p.git")):
            assert words in str(error.value)
        assert error.value.reason.retryable is False
        assert list(into.iterdir()) == []

    def test_shows_no_secret(self, server, into):
        lines = []
        for uri, token in (
            (server.url("p.git"), "wr0ng-t0ken"),
            (server.url("p.git", login="user:wr0ng-t0ken@"), None),
            (server.url("p.git", login="wr0ng-t0ken@"), None),
        ):
            with pytest.raises(SourceError, match=r"Authentication failed|could not read|MLPROJ") as error:
                fetch(uri, into=into, token=token, report=lines.append)
            shown = f"{error.value!r} {error.value} {error.value.reason} {error.value.__cause__} {lines}"
            assert "wr0ng-t0ken" not in shown


def test_a_secret_shows_in_no_process_list_no_file_no_report_and_no_result(server, into, home):
    """Looked for while git waits for a stalled server, and in everything that is left afterwards."""
    server.stall = True
    lines, results = [], []
    url = server.url("p.git", login=f"x-access-token:{QUOTED}@")
    thread = threading.Thread(target=lambda: results.append(fetch(url, into=into, report=lines.append)))
    thread.start()
    assert server.stalled.wait(20)
    spellings = [SECRET.encode(), QUOTED.encode(), base64.b64encode(f"x-access-token:{SECRET}".encode())]
    lists = {path: path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if readable(path)}
    files = [path for root in (into, home) for path in root.rglob("*") if path.is_file()]
    contents = {path: path.read_bytes() for path in files}
    assert any(b"fetch" in line and server.url("p.git").encode() in line for line in lists.values())
    assert any(path.name == "askpass" for path in files)
    server.resume.set()
    thread.join()
    contents |= {path: path.read_bytes() for root in (into, home) for path in root.rglob("*") if path.is_file()}
    for spelling in spellings:
        assert [path for path, content in {**lists, **contents}.items() if spelling in content] == []
        assert spelling.decode() not in repr(lines) + repr(results)
    assert not list(into.rglob("askpass"))
    assert git("config", "--get", "remote.origin.url", cwd=results[0].directory) == server.url("p.git")


def readable(path):
    try:
        path.read_bytes()
    except OSError:
        return False
    return True


def test_a_login_over_plain_http_is_reported(server, into):
    lines = []
    fetch(server.url("p.git"), into=into, token=SECRET, report=lines.append)
    assert any("unencrypted" in line for line in lines)


def test_the_variable_with_the_token_does_not_reach_git_itself(server, into, monkeypatch, home, tmp_path):
    seen = tmp_path / "seen"
    (home / ".gitconfig").write_text(f'[core]\n\tsshCommand = "env > {seen}; false"\n')
    monkeypatch.setenv("MLPROJ_GIT_TOKEN", SECRET)
    with pytest.raises(SourceError):
        fetch("git@localhost:x.git", into=into)
    assert "PATH=" in seen.read_text()
    assert SECRET not in seen.read_text()
