"""A project in a remote Git repository: which commit is meant, and what is fetched of it."""

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from git_world import BIG, GitServer, clean_environment, commit, git, history, leftovers, mirror, published, repository

from mlproj_core.errors import SourceError
from mlproj_core.sources import fetch


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    return clean_environment(monkeypatch, tmp_path / "home")


@pytest.fixture
def into(tmp_path):
    return tmp_path / "into"


@pytest.fixture
def work(tmp_path):
    return history(tmp_path / "work")


@pytest.fixture
def bare(work, tmp_path):
    return published(work, tmp_path / "served/p.git")


@pytest.fixture
def server(bare):
    with GitServer(bare.parent) as server:
        yield server


@contextmanager
def ended(process):
    """Kills a process at the end of the block."""
    with process:
        try:
            yield
        finally:
            process.kill()


class TestAVersion:
    def test_is_recorded_as_the_commit_it_stands_for_now(self, work, bare, server, into):
        tip, first = git("rev-parse", "HEAD", cwd=work), git("rev-parse", "HEAD~2", cwd=work)
        git("tag", "light", first, cwd=bare)
        git("tag", "-a", "heavy", first, "-m", "x", cwd=bare)
        git("tag", "-a", "nested", "heavy", "-m", "x", cwd=bare)
        git("branch", "feature/x", first, cwd=bare)
        url = server.url("p.git")
        expected = {None: (tip, None), "main": (tip, "main"), "feature/x": (first, "feature/x"), "HEAD": (tip, None)}
        expected |= dict.fromkeys(("light", "heavy", "nested", "refs/tags/heavy", first), (first, None))
        for version, (name, branch) in expected.items():
            checkout = fetch(url, version, into=into)
            assert (checkout.commit, checkout.branch, checkout.version) == (name, branch, version)
            assert git("rev-parse", "HEAD", cwd=checkout.directory) == name
            assert git("status", "--porcelain", cwd=checkout.directory) == ""
            assert (checkout.source_name, checkout.repo_url) == (url, url)
            assert git("remote", "get-url", "origin", cwd=checkout.directory) == url
        assert git("describe", "--tags", cwd=fetch(url, "heavy", into=into).directory) == "heavy"
        on_branch = fetch(url, "feature/x", into=into).directory
        assert git("rev-parse", "--abbrev-ref", "HEAD", "@{upstream}", cwd=on_branch).split() == [
            "feature/x",
            "origin/feature/x",
        ]

    def test_that_is_tag_and_branch_is_the_tag_as_for_git_fetch_and_a_line_says_so(self, work, bare, server, into):
        git("tag", "twice", "main~1", cwd=bare)
        git("branch", "twice", "main", cwd=bare)
        lines = []
        checkout = fetch(server.url("p.git"), "twice", into=into, report=lines.append)
        assert (checkout.commit, checkout.branch) == (git("rev-parse", "main~1", cwd=bare), None)
        assert any("both a tag and a branch" in line for line in lines)

    def test_moves_with_its_branch(self, work, bare, server, into):
        url = server.url("p.git")
        fetch(url, "main", into=into)
        later = commit(work, "later", f="x")
        git("push", "-q", bare, "main", cwd=work)
        assert fetch(url, "main", into=into).commit == later

    def test_that_looks_like_a_commit_is_a_branch_or_tag_first(self, work, bare, server, into):
        git("branch", "beef", "main~2", cwd=bare)
        git("tag", "20240101", "main~1", cwd=bare)
        assert fetch(server.url("p.git"), "beef", into=into).branch == "beef"
        assert fetch(server.url("p.git"), "20240101", into=into).commit == git("rev-parse", "main~1", cwd=bare)

    @pytest.mark.parametrize("filters", [True, False])
    def test_may_be_the_first_digits_of_a_commit_that_only_history_knows(self, bare, server, into, filters):
        git("config", "uploadpack.allowFilter", str(filters).lower(), cwd=bare)
        old = git("rev-parse", "main~2", cwd=bare)
        assert fetch(server.url("p.git"), old[:9], into=into).commit == old
        assert fetch(server.url("p.git"), old[:5], into=into).commit == old
        if filters:
            assert server.sent < BIG * 1.2

    def test_that_several_commits_begin_with_is_an_error(self, tmp_path, into, server):
        work = tmp_path / "many"
        repository(work)
        stream = "".join(f"commit refs/heads/main\ncommitter T <t@e> {n} +0000\ndata 1\nx\n" for n in range(2000))
        subprocess.run(["git", "fast-import", "--quiet", "--force"], input=stream, text=True, cwd=work, check=True)
        published(work, server.root / "many.git")
        commits = git("rev-list", "main", cwd=work).split()
        heads = [name[:4] for name in commits]
        twice = next(head for head in heads if heads.count(head) > 1)
        with pytest.raises(SourceError, match=rf"Several commits of .* begin with {twice}"):
            fetch(server.url("many.git"), twice, into=into)

    def test_that_does_not_exist_is_an_error_that_names_near_ones_and_leaves_nothing(self, bare, server, into, home):
        git("branch", "release-2", "main", cwd=bare)
        for version, words in {
            "release2": "no branch, tag or commit 'release2'. Did you mean release-2",
            "xyz": "no branch, tag or commit 'xyz'",
            "fedcba98": "no branch, tag or commit",
            "0123456789" * 4: "has no commit 0123456789",
        }.items():
            with pytest.raises(SourceError) as error:
                fetch(server.url("p.git"), version, into=into)
            assert words in str(error.value)
            assert error.value.reason.retryable is False
        assert list(into.iterdir()) == []
        assert leftovers(home, into) == []

    def test_that_leads_to_no_commit_is_an_error(self, bare, server, into):
        git("tag", "tree", "main^{tree}", cwd=bare)
        with pytest.raises(SourceError, match="has no commit"):
            fetch(server.url("p.git"), "tree", into=into)


def test_the_tags_of_a_fetched_project_are_those_that_mlflow_sets(
    work, bare, server, into, tmp_path, mlflow_python, mlflow_environment
):
    git("tag", "twice", "main~1", cwd=bare)
    git("branch", "twice", "main", cwd=bare)
    git("tag", "-a", "v1", "main~1", "-m", "x", cwd=bare)
    git("branch", "feature/x", "main~1", cwd=bare)
    local = tmp_path / "local"
    git("clone", "-q", bare, local, cwd=tmp_path)
    git("branch", "twice", "main~1", cwd=local)
    old = git("rev-parse", "main~2", cwd=bare)
    url = server.url("p.git")
    cases = [(url, version) for version in (None, "main", "feature/x", "v1", "twice", old)]
    cases += [(f"{url}#sub", None), (server.url("p.git", login="me:pw@"), "main"), (f"'{url}#sub'", "main")]
    cases += [(str(local), version) for version in ("v1", "twice", "feature/x", old)]
    checkouts = [fetch(uri, version, into=into) for uri, version in cases]
    ours = [[c.source_name, c.commit, c.repo_url, c.branch] for c in checkouts]
    program = """
import json, sys
from mlflow.projects import utils
from mlflow.utils.git_utils import get_git_commit, get_git_repo_url
from mlflow.tracking._tracking_service.utils import _get_git_url_if_present
found = []
for uri, version in json.load(sys.stdin):
    directory = utils._fetch_project(uri, version)
    name = _get_git_url_if_present(utils._expand_uri(uri)) if utils._is_local_uri(uri) else utils._expand_uri(uri)
    branch = version if utils._is_valid_branch_name(directory, version) else None
    found.append([name, get_git_commit(directory), get_git_repo_url(directory), branch])
json.dump(found, sys.stdout)
"""
    done = subprocess.run(
        [mlflow_python, "-c", program],
        input=json.dumps(cases),
        env={**mlflow_environment, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout)
    # Of a URI with a login, MLflow shows the login in this tag.
    assert theirs[7][0] == server.url("p.git", login="me:pw@")
    theirs[7][0] = url
    assert ours == theirs


class TestWhatIsFetched:
    def test_with_a_cold_cache_is_one_commit_and_no_history(self, server, into):
        checkout = fetch(server.url("p.git"), "main", into=into)
        assert git("rev-list", "--count", "HEAD", cwd=checkout.directory) == "1"
        assert server.sent < BIG * 1.2

    def test_with_a_known_commit_is_nothing_at_all(self, work, server, into):
        tip = fetch(server.url("p.git"), "main", into=into).commit
        server.forget()
        lines = []
        assert fetch(server.url("p.git"), tip, into=into, report=lines.append).commit == tip
        assert fetch(server.url("p.git") + "#sub", tip[:8], into=into).commit == tip
        assert server.requests == []
        assert lines == [f"Commit {tip[:12]} of {server.url('p.git')} is in the mirror"]

    def test_with_a_known_branch_is_only_what_it_stands_for(self, server, into):
        fetch(server.url("p.git"), "main", into=into)
        server.forget()
        fetch(server.url("p.git"), "main", into=into)
        fetch(server.url("p.git"), into=into)
        assert server.fetches == 0

    @pytest.mark.parametrize("protocol", [0, 2])
    def test_with_a_new_commit_is_only_what_is_new(self, work, bare, server, into, protocol):
        server.protocol = protocol
        fetch(server.url("p.git"), "main", into=into)
        for number in range(3):
            server.forget()
            later = commit(work, f"change {number}", sub__f=os.urandom(20_000))
            git("push", "-q", bare, "main", cwd=work)
            checkout = fetch(server.url("p.git"), "main", into=into)
            assert (checkout.commit, server.fetches > 0) == (later, True)
            assert server.sent < 30_000
            assert git("fsck", "--no-dangling", cwd=checkout.directory) == ""

    def test_from_a_server_that_gives_no_single_commit_is_its_branch_or_tag_or_everything_once(
        self, work, bare, server, into, home
    ):
        server.protocol = 0
        url = server.url("p.git")
        git("tag", "-a", "v1", "main~1", "-m", "x", cwd=bare)
        assert fetch(url, "main", into=into).commit == git("rev-parse", "main", cwd=bare)
        assert server.sent < BIG * 1.2
        server.forget()
        assert fetch(url, "v1", into=into).commit == git("rev-parse", "main~1", cwd=bare)
        assert server.sent < BIG * 0.2
        first = git("rev-parse", "main~2", cwd=bare)
        server.forget()
        assert fetch(url, first, into=into).commit == first
        assert server.sent > BIG
        server.forget()
        second = git("rev-parse", "main~1", cwd=bare)
        checkout = fetch(url, second, into=into)
        assert server.requests == []
        assert git("rev-list", "--count", "HEAD", cwd=checkout.directory) == "2"
        assert git("fsck", "--no-dangling", cwd=mirror(home)) == ""

    def test_from_a_server_of_plain_files_works_as_well(self, bare, into):
        git("update-server-info", cwd=bare)
        server = subprocess.Popen(
            [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "-d", str(bare.parent)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        with ended(server):
            port = server.stdout.readline().split(" port ")[1].split()[0]
            for version in ("main", git("rev-parse", "main~1", cwd=bare)):
                checkout = fetch(f"http://127.0.0.1:{port}/p.git", version, into=into)
                assert checkout.commit == git("rev-parse", version, cwd=bare)
                assert git("fsck", "--no-dangling", cwd=checkout.directory) == ""


class TestEveryTransport:
    def test_of_git_plus_http_with_pips_fragment_works(self, bare, server, into):
        git("tag", "v1", "main", cwd=bare)
        checkout = fetch(f"git+{server.url('p.git')}@v1#subdirectory=sub&egg=x&more=1", into=into)
        assert (checkout.directory / "f").read_text() == "3"
        assert checkout.source_name == f"git+{server.url('p.git')}@v1#subdirectory=sub&egg=x&more=1"
        assert (checkout.repo_url, checkout.version) == (server.url("p.git"), "v1")

    def test_of_git_works(self, bare, into):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        # By its own name, since `git daemon` would start it as a child that outlives it.
        daemon = subprocess.Popen(
            [
                f"{git('--exec-path', cwd=bare)}/git-daemon",
                "--listen=127.0.0.1",
                f"--port={port}",
                f"--base-path={bare.parent}",
                "--reuseaddr",
                "--export-all",
            ],
            stderr=subprocess.DEVNULL,
        )
        with ended(daemon):
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.02)
            checkout = fetch(f"git://127.0.0.1:{port}/p.git#sub", into=into)
            assert (checkout.directory / "f").read_text() == "3"

    @pytest.mark.parametrize("form", ["ssh://git@host:2222{}", "git+ssh://git@host:2222{}", "git@host:{}", "host:{}"])
    def test_of_ssh_works_and_never_asks(self, bare, into, tmp_path, monkeypatch, form):
        ssh = tmp_path / "bin/ssh"
        ssh.parent.mkdir()
        ssh.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\nfor last; do :; done\nexec sh -c "$last"\n')
        ssh.chmod(0o755)
        monkeypatch.setenv("PATH", f"{ssh.parent}:{os.environ['PATH']}")
        uri = form.format(bare)
        checkout = fetch(f"{uri}#sub", "main", into=into)
        assert (checkout.directory / "f").read_text() == "3"
        assert checkout.source_name == f"{uri}#sub"
        calls = (tmp_path / "calls").read_text().splitlines()
        assert calls
        assert all("-oBatchMode=yes" in call and "host" in call for call in calls)
        # As MLflow strips a URL's user for this tag, and none of the other form.
        assert checkout.repo_url == uri.removeprefix("git+").replace("ssh://git@", "ssh://")

    def test_of_ssh_is_called_as_the_user_says(self, bare, into, tmp_path, monkeypatch, home):
        ssh = tmp_path / "my-ssh"
        ssh.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\nfor last; do :; done\nexec sh -c "$last"\n')
        ssh.chmod(0o755)
        (home / ".gitconfig").write_text(f"[core]\nsshCommand = {ssh} --mine\n")
        fetch(f"git@host:{bare}", into=into)
        assert "--mine" in (tmp_path / "calls").read_text()
        assert "BatchMode" not in (tmp_path / "calls").read_text()
        (tmp_path / "calls").unlink()
        monkeypatch.setenv("GIT_SSH_COMMAND", f"{ssh} --env")
        fetch(f"git@host:{bare}", into=into)
        assert "--env" in (tmp_path / "calls").read_text()

    def test_that_fails_says_what_git_said_and_what_to_do(self, server, into, tmp_path, monkeypatch):
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            port = closed.getsockname()[1]
        cases = {
            server.url("gone.git"): ("not found", "Check the URI", False),
            f"http://127.0.0.1:{port}/x": ("Failed to connect", "reaches the host", True),
            "http://no-such-host.invalid/x": ("Could not resolve host", "Check the host's name", True),
            f"https://127.0.0.1:{server.port}/p.git": ("SSL|TLS|wrong version", "GIT_SSL_CAINFO", False),
        }
        for uri, (words, remedy, retryable) in cases.items():
            with pytest.raises(SourceError, match=f"(?s)({words}).*{remedy}") as error:
                fetch(uri, into=into)
            assert error.value.reason.retryable is retryable
        server.status = 503
        with pytest.raises(SourceError, match=r"503.*try again") as error:
            fetch(server.url("p.git"), into=into)
        assert error.value.reason.retryable is True
        ssh = tmp_path / "ssh"
        ssh.write_text("#!/bin/sh\necho 'git@host: Permission denied (publickey).' >&2\nexit 255\n")
        ssh.chmod(0o755)
        monkeypatch.setenv("GIT_SSH_COMMAND", str(ssh))
        with pytest.raises(SourceError, match=r"Permission denied \(publickey\).*agent"):
            fetch("git@host:x.git", into=into)
        ssh.write_text("#!/bin/sh\necho 'Host key verification failed.' >&2\nexit 255\n")
        with pytest.raises(SourceError, match=r"Host key verification failed.*ssh-keyscan"):
            fetch("git@host:x.git", into=into)
        assert list(into.iterdir()) == []
