"""A project in a local directory, and what a URI may and may not say."""

import json
import os
import subprocess
import sys
import time

import pytest
from git_world import clean_environment, commit, git, published, repository
from missing import missing

from mlproj_core.errors import SourceError, UserError
from mlproj_core.sources import Checkout, fetch, redact


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    return clean_environment(monkeypatch, tmp_path / "home")


@pytest.fixture
def into(tmp_path):
    return tmp_path / "into"


class TestALocalDirectory:
    def test_runs_in_place_and_belongs_to_nobody(self, tmp_path, into):
        project = tmp_path / "plain"
        project.mkdir()
        assert fetch(str(project), into=into) == Checkout(directory=project, uri=str(project), source_name=str(project))
        assert not into.exists()

    def test_may_be_given_as_a_file_uri_a_relative_path_or_in_quotes(self, tmp_path, into, monkeypatch):
        project = tmp_path / "a b"
        project.mkdir()
        monkeypatch.chdir(tmp_path)
        for uri in (f"file://{project}", f"file://{tmp_path}/a%20b", "a b", "./a b/", f"'{project}'", '"a b"'):
            assert fetch(uri, into=into).directory == project

    def test_tells_its_commit_and_its_remote_without_credentials(self, tmp_path, into):
        work = repository(tmp_path / "work", sub__MLproject="name: x")
        git("remote", "add", "upstream", "https://user:secret@example.org/x.git", cwd=work)
        git("remote", "add", "origin", "https://example.org/y.git", cwd=work)
        head = git("rev-parse", "HEAD", cwd=work)
        checkout = fetch(str(work), into=into)
        assert (checkout.commit, checkout.repo_url) == (head, "https://example.org/x.git")
        assert (checkout.source_name, checkout.branch, checkout.owned) == (f"file://{work}", None, None)
        assert fetch(str(work / "sub"), into=into).source_name == f"file://{work}#sub"
        below = fetch(f"{work}#sub", into=into)
        assert (below.directory, below.source_name, below.commit) == (work / "sub", f"{work}#sub", head)

    def test_in_any_shape_of_work_tree_tells_its_commit(self, tmp_path, into):
        work = repository(tmp_path / "work")
        head = git("rev-parse", "HEAD", cwd=work)
        git("worktree", "add", "-q", "-b", "other", tmp_path / "linked", cwd=work)
        assert fetch(str(tmp_path / "linked"), into=into).commit == head
        later = commit(tmp_path / "linked", "later")
        assert fetch(str(tmp_path / "linked"), into=into).commit == later
        git("pack-refs", "--all", cwd=work)
        assert fetch(str(tmp_path / "linked"), into=into).commit == later
        assert fetch(str(work), into=into).commit == head
        git("checkout", "-q", "--detach", cwd=work)
        assert fetch(str(work), into=into).commit == head
        outer = repository(tmp_path / "outer")
        git("-c", "protocol.file.allow=always", "submodule", "add", "-q", work, "inner", cwd=outer)
        assert fetch(str(outer / "inner"), into=into).commit == head

    def test_without_a_commit_or_ignored_by_git_has_none(self, tmp_path, into):
        empty = tmp_path / "empty"
        empty.mkdir()
        git("init", "-q", ".", cwd=empty)
        assert fetch(str(empty), into=into).commit is None
        work = repository(tmp_path / "work", _dot_gitignore="out/\n", kept__file="x")
        (work / "out").mkdir()
        assert fetch(str(work / "out"), into=into).commit is None
        assert fetch(str(work / "kept"), into=into).commit == git("rev-parse", "HEAD", cwd=work)

    def test_with_a_damaged_repository_around_it_still_runs(self, tmp_path, into):
        work = repository(tmp_path / "work")
        for content in ("", "ref: refs/heads/gone\n", "\0\xff", "ref: HEAD\n"):
            (work / ".git/HEAD").write_text(content, encoding="latin-1")
            assert fetch(str(work), into=into).commit is None
        (work / ".git/config").write_bytes(b'[remote "o"]\n\turl = "https://h/a#b" ; note\n\xff[')
        assert fetch(str(work), into=into).repo_url == "https://h/a#b"

    def test_of_another_user_runs_and_tells_its_commit(self, tmp_path, into):
        if os.getuid() != 0:
            missing("only root can give a repository to another user")
        work = repository(tmp_path / "work", sub__x="x")
        head = git("rev-parse", "HEAD", cwd=work)
        for path in [work, *work.rglob("*")]:
            os.chown(path, 12345, 12345)
        refused = subprocess.run(["git", "status"], cwd=work, capture_output=True, text=True)
        assert "dubious ownership" in refused.stderr
        assert fetch(str(work), into=into).commit == head
        assert fetch(str(work / "sub"), into=into).commit == head

    def test_starts_no_program_at_the_root_of_a_work_tree_and_needs_no_git_there(self, tmp_path, into, monkeypatch):
        work = repository(tmp_path / "work")
        head = git("rev-parse", "HEAD", cwd=work)
        monkeypatch.setenv("PATH", str(tmp_path))
        seconds = []
        for _ in range(5):
            started = time.perf_counter()
            assert fetch(str(work), into=into).commit == head
            seconds.append(time.perf_counter() - started)
        assert min(seconds) < 0.010

    def test_with_git_missing_where_git_is_needed_says_so(self, tmp_path, into, monkeypatch):
        work = repository(tmp_path / "work")
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(SourceError, match="Install git"):
            fetch(str(work), "main", into=into)
        assert list(into.iterdir()) == []

    def test_is_not_disturbed_by_the_variables_of_a_git_hook(self, tmp_path, into, monkeypatch):
        work = repository(tmp_path / "work", sub__x="x")
        other = repository(tmp_path / "other")
        for name, value in {
            "GIT_DIR": other / ".git",
            "GIT_WORK_TREE": other,
            "GIT_INDEX_FILE": other / "no-index",
            "GIT_OBJECT_DIRECTORY": other / ".git/objects",
            "GIT_PREFIX": "sub/",
        }.items():
            monkeypatch.setenv(name, str(value))
        head = (work / ".git/refs/heads/main").read_text().strip()
        assert fetch(str(work / "sub"), into=into).commit == head
        assert fetch(str(work), "main", into=into).commit == head
        assert not (other / "no-index").exists()


def test_the_tags_of_a_local_directory_are_those_that_mlflow_sets(
    tmp_path, into, mlflow_python, mlflow_environment, monkeypatch
):
    work = repository(tmp_path / "work", _dot_gitignore="out/\n", sub__x="x")
    git("remote", "add", "first", "https://user:pw@example.org/x.git", cwd=work)
    git("remote", "add", "second", "git@example.org:x.git", cwd=work)
    (work / "out").mkdir()
    plain = tmp_path / "plain"
    plain.mkdir()
    empty = tmp_path / "empty"
    empty.mkdir()
    git("init", "-q", ".", cwd=empty)
    git("remote", "add", "origin", "ssh://git@example.org:22/x.git", cwd=empty)
    scp = repository(tmp_path / "scp")
    git("remote", "add", "origin", "git@example.org:group/x.git", cwd=scp)
    git("pack-refs", "--all", cwd=scp)
    git("worktree", "add", "-q", tmp_path / "linked", cwd=work)
    git("checkout", "-q", "--detach", cwd=scp)
    outer = repository(tmp_path / "outer")
    git("-c", "protocol.file.allow=always", "submodule", "add", "-q", work, "inner", cwd=outer)
    (tmp_path / "link").symlink_to(work)
    monkeypatch.chdir(work)
    uris = [work, work / "sub", work / "out", f"{work}#sub", f"{work}/", ".", "sub", "../scp", "./sub/../sub", plain]
    uris += [empty, scp, tmp_path / "linked", tmp_path / "linked/sub", outer / "inner", outer, tmp_path / "link/sub"]
    program = """
import json, os, sys
from mlflow.projects import utils
from mlflow.utils.git_utils import get_git_commit, get_git_repo_url
from mlflow.tracking._tracking_service.utils import _get_git_url_if_present
found = []
for uri in json.load(sys.stdin):
    directory = utils._fetch_project(uri)
    name = _get_git_url_if_present(utils._expand_uri(uri)) if utils._is_local_uri(uri) else utils._expand_uri(uri)
    found.append([directory, name, get_git_commit(directory), get_git_repo_url(directory)])
json.dump(found, sys.stdout)
"""
    done = subprocess.run(
        [mlflow_python, "-c", program],
        input=json.dumps([str(uri) for uri in uris]),
        env=mlflow_environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    checkouts = [fetch(str(uri), into=into) for uri in uris]
    ours = [[str(c.directory), c.source_name, c.commit, c.repo_url] for c in checkouts]
    assert ours == json.loads(done.stdout)


class TestAVersionOfALocalRepository:
    def test_is_checked_out_elsewhere_and_leaves_the_work_tree_alone(self, tmp_path, into):
        work = repository(tmp_path / "work", sub__f="old")
        git("tag", "-a", "v1", "-m", "v1", cwd=work)
        old = git("rev-parse", "HEAD", cwd=work)
        commit(work, sub__f="new")
        (work / "sub/f").write_text("not committed")
        for uri in (f"{work}#sub", str(work / "sub"), f"file://{work}#sub"):
            checkout = fetch(uri, "v1", into=into)
            assert (checkout.directory / "f").read_text() == "old"
            assert checkout.owned == into / checkout.owned.name
            assert (checkout.commit, checkout.branch, checkout.version) == (old, None, "v1")
            assert git("rev-parse", "HEAD", cwd=checkout.directory) == old
            assert git("status", "--porcelain", cwd=checkout.directory) == ""
        assert (work / "sub/f").read_text() == "not committed"
        assert git("symbolic-ref", "HEAD", cwd=work) == "refs/heads/main"

    def test_is_a_branch_before_a_tag_of_that_name_as_for_git_checkout(self, tmp_path, into):
        work = repository(tmp_path / "work")
        git("tag", "twice", cwd=work)
        tip = commit(work)
        git("branch", "twice", cwd=work)
        lines = []
        checkout = fetch(str(work), "twice", into=into, report=lines.append)
        assert (checkout.commit, checkout.branch) == (tip, "twice")
        assert any("both a tag and a branch" in line for line in lines)

    def test_may_be_a_branch_of_its_remote_a_commit_or_the_first_digits_of_one(self, tmp_path, into):
        work = repository(tmp_path / "work")
        git("branch", "feature/x", cwd=work)
        clone = tmp_path / "clone"
        git("clone", "-q", work, clone, cwd=tmp_path)
        head = git("rev-parse", "HEAD", cwd=clone)
        assert fetch(str(clone), "feature/x", into=into).branch == "feature/x"
        for version in (head, head[:7], head[:5], head.upper()):
            assert fetch(str(clone), version, into=into).commit == head
        assert fetch(str(clone), head, into=into).repo_url == str(work)

    def test_that_does_not_exist_is_an_error_that_names_near_ones(self, tmp_path, into):
        work = repository(tmp_path / "work")
        git("branch", "release-2", cwd=work)
        with pytest.raises(SourceError, match="Did you mean release-2"):
            fetch(str(work), "relaese-2", into=into)
        with pytest.raises(SourceError, match=r"no branch, tag or commit 'xyz'.*fetch"):
            fetch(str(work), "xyz", into=into)
        with pytest.raises(SourceError, match="no branch, tag or commit"):
            fetch(str(work), "0123456789" * 4, into=into)
        assert list(into.iterdir()) == []

    def test_of_a_directory_in_no_repository_is_refused(self, tmp_path, into):
        with pytest.raises(UserError, match="in none"):
            fetch(str(tmp_path), "main", into=into)
        assert not into.exists()

    @pytest.mark.parametrize("version", ["", "-x", "--upload-pack=x", "a b", "HEAD~1", "a..b", "x^{tree}", "@", "a\nb"])
    def test_that_is_no_name_is_refused_before_any_work(self, tmp_path, into, version):
        with pytest.raises(UserError, match="cannot be a branch, a tag or a commit"):
            fetch(str(repository(tmp_path / "work")), version, into=into)
        assert not into.exists()

    def test_runs_no_hook_of_the_user_and_takes_nothing_from_a_template(self, tmp_path, into, home):
        work = repository(tmp_path / "work")
        hooks = tmp_path / "hooks"
        hooks.mkdir()
        for name in ("post-checkout", "post-index-change", "reference-transaction"):
            (hooks / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
            (hooks / name).chmod(0o755)
        (home / ".gitconfig").write_text(f"[core]\nhooksPath = {hooks}\n[init]\ntemplateDir = {hooks}\n")
        checkout = fetch(str(work), "main", into=into)
        assert not (tmp_path / "ran").exists()
        assert not (checkout.directory / ".git/hooks").exists()


class TestABareRepository:
    def test_on_this_host_is_checked_out_whatever_its_uri(self, tmp_path, into):
        work = repository(tmp_path / "work", sub__f="x")
        head = git("rev-parse", "HEAD", cwd=work)
        bare = published(work, tmp_path / "bare.git")
        for uri in (
            f"{bare}#sub",
            f"file://{bare}#sub",
            f"git+file://{bare}#sub",
            f"git+file://{work}#subdirectory=sub",
        ):
            checkout = fetch(uri, into=into)
            assert (checkout.directory / "f").read_text() == "x"
            assert (checkout.source_name, checkout.commit, checkout.branch) == (uri, head, None)
            assert git("symbolic-ref", "HEAD", cwd=checkout.directory) == "refs/heads/main"
        assert fetch(str(bare), "main", into=into).repo_url == str(bare)

    def test_that_is_empty_is_an_error(self, tmp_path, into):
        git("init", "-q", "--bare", "empty.git", cwd=tmp_path)
        with pytest.raises(SourceError, match="has no commit"):
            fetch(str(tmp_path / "empty.git"), into=into)
        assert list(into.iterdir()) == []

    def test_that_uses_sha256_is_read_as_well(self, tmp_path, into):
        work = tmp_path / "work"
        work.mkdir()
        git("init", "-q", "--object-format=sha256", "-b", "main", ".", cwd=work)
        head = commit(work, f="x")
        bare = published(work, tmp_path / "bare.git")
        for version in (None, "main", head):
            checkout = fetch(str(bare), version, into=into)
            assert (checkout.commit, git("status", "--porcelain", cwd=checkout.directory)) == (head, "")


class TestASubdirectory:
    @pytest.mark.parametrize(
        "fragment", ["..", "../x", "a/../../x", "/etc", "a/..", ".git", "a/.GIT/hooks", "subdirectory=../x"]
    )
    def test_that_would_leave_the_root_is_refused(self, tmp_path, into, fragment):
        bare = published(repository(tmp_path / "work", a__b="x"), tmp_path / "bare.git")
        for uri in (f"{tmp_path}/work#{fragment}", f"{bare}#{fragment}", f"git+file://{bare}#{fragment}"):
            if "subdirectory=" in fragment and not uri.startswith("git+"):
                continue
            with pytest.raises(UserError, match="would leave"):
                fetch(uri, into=into)
        assert not into.exists()

    def test_that_is_a_link_out_of_the_root_is_refused_and_nothing_is_left(self, tmp_path, into):
        work = repository(tmp_path / "work", real__f="x")
        (work / "out").symlink_to("/etc")
        (work / "up").symlink_to("..")
        (work / "inside").symlink_to("real")
        commit(work)
        bare = published(work, tmp_path / "bare.git")
        for uri in (f"{work}#out", f"{work}#up", f"{bare}#out", f"{bare}#up/home", f"{bare}#inside/../out"):
            with pytest.raises(UserError, match=r"leave|leads out"):
                fetch(uri, into=into)
        assert not into.exists() or list(into.iterdir()) == []
        assert (fetch(f"{bare}#inside", into=into).directory / "f").read_text() == "x"

    def test_may_have_dots_in_its_name(self, tmp_path, into):
        work = repository(tmp_path / "work", **{"v1.2__..x__f": "x"})
        for fragment in ("v1.2/..x", "./v1.2/..x/", "v1.2//..x"):
            assert fetch(f"{work}#{fragment}", into=into).directory == work / "v1.2/..x"
        assert fetch(f"{work}#", into=into).directory == work

    def test_that_is_missing_or_a_file_is_an_error_and_nothing_is_left(self, tmp_path, into):
        work = repository(tmp_path / "work")
        bare = published(work, tmp_path / "bare.git")
        for uri in (f"{work}#gone", f"{work}#MLproject", f"{bare}#gone", f"{bare}#MLproject"):
            with pytest.raises(SourceError, match="no subdirectory"):
                fetch(uri, into=into)
        assert list(into.iterdir()) == []


class TestAUri:
    @pytest.mark.parametrize(
        ("uri", "words"),
        [
            ("ext::sh -c 'touch /tmp/x'", "is refused"),
            ("git+ext::sh -c x", "is refused"),
            ("-oProxyCommand=x", "is refused"),
            ("git+--upload-pack=x", "is refused"),
            ("git@-oProxyCommand=x:y", "no such directory"),
            ("ssh://-oProxyCommand=x/y", "no host's name"),
            ("s3://bucket/project", "not supported"),
            ("dbfs:/project", "not a Git repository"),
            ("models:/m/1", "not a Git repository"),
            ("github.com/owner/name", "Did you mean https://github.com/owner/name"),
            ("./gone", "no such directory"),
            ("file:///gone", "no directory /gone"),
            ("file://host/gone", "'host' stands where a host"),
            ("git+file:///gone", "no directory /gone"),
            ("", "Not a project's URI"),
            ("https:///x", "no host's name"),
            ("ssh://user:secret@host/x", "ssh takes no password"),
            ("https://user:se/cret@host/x", "percent-encoded"),
        ],
    )
    def test_of_no_supported_kind_is_refused_before_any_work(self, into, uri, words):
        with pytest.raises(UserError) as error:
            fetch(uri, into=into)
        assert words in str(error.value)
        assert "secret" not in str(error.value)
        assert "cret" not in str(error.value)
        assert not into.exists()

    def test_of_a_file_is_refused(self, tmp_path, into):
        (tmp_path / "MLproject").write_text("")
        with pytest.raises(UserError, match=f"is a file.*directory: {tmp_path}"):
            fetch(str(tmp_path / "MLproject"), into=into)

    def test_with_a_revision_in_pips_form_names_a_version(self, tmp_path, into):
        work = repository(tmp_path / "work")
        tagged = git("rev-parse", "HEAD", cwd=work)
        git("tag", "v1.0", cwd=work)
        commit(work)
        bare = published(work, tmp_path / "bare.git")
        checkout = fetch(f"git+file://{bare}@v1.0", into=into)
        assert (checkout.commit, checkout.version) == (tagged, "v1.0")
        with pytest.raises(UserError, match=r"names the version v1\.0, but main was asked for"):
            fetch(f"git+file://{bare}@v1.0", "main", into=into)

    @pytest.mark.parametrize(
        ("uri", "shown"),
        [
            ("https://user:pass@host/x.git#sub", "https://host/x.git#sub"),
            ("https://token@host/x", "https://host/x"),
            ("git+https://u:p@host:8443/x@v1#subdirectory=s", "git+https://host:8443/x@v1#subdirectory=s"),
            ("'https://u:p@host/x'", "'https://host/x'"),
            ("https://user:p@ss@host/x", "https://host/x"),
            ("https://user:pa/ss@host/x", "https://host/x"),
            ("https://user:pa#ss@host/x", "https://host/x"),
            ("ssh://git@host/x", "ssh://git@host/x"),
            ("git+ssh://git:pw@host/x", "git+ssh://git@host/x"),
            ("git@host:x.git", "git@host:x.git"),
            ("https://host/@scope/x", "https://host/@scope/x"),
            ("https://[::1]:80/x@y", "https://[::1]:80/x@y"),
            ("/a/b@c", "/a/b@c"),
        ],
    )
    def test_is_shown_without_credentials(self, uri, shown):
        assert redact(uri) == shown


def test_a_checkout_moves_with_its_root(tmp_path, into):
    bare = published(repository(tmp_path / "work", sub__f="x"), tmp_path / "bare.git")
    checkout = fetch(f"{bare}#sub", into=into)
    moved = checkout.moved_to(checkout.owned.rename(tmp_path / "kept"))
    assert (moved.owned, moved.directory) == (tmp_path / "kept", tmp_path / "kept/sub")
    assert git("status", "--porcelain", cwd=moved.directory) == ""
    with pytest.raises(ValueError, match="in place"):
        fetch(str(tmp_path), into=into).moved_to(tmp_path / "x")


def test_importing_the_sources_does_not_import_what_only_git_and_archives_need():
    program = (
        "import sys, mlproj_core.sources; "
        "print([m for m in ('subprocess', 'filelock', 'ssl', 'zipfile', 'tarfile', 'http') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
