"""A project with files in Git LFS, fetched by the real git-lfs from a server of its API."""

import os
import shutil
from pathlib import Path

import pytest
from git_world import clean_environment, commit, git, leftovers, mirror, published
from lfs_world import POINTER, LfsServer, lfs_repository, pushed, require_git_lfs

from mlproj_core.errors import SourceError
from mlproj_core.sources import fetch

SECRET = "s3same"
LARGE = os.urandom(300_000)


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    require_git_lfs()
    return clean_environment(monkeypatch, tmp_path / "home")


@pytest.fixture
def into(tmp_path):
    return tmp_path / "into"


@pytest.fixture
def work(tmp_path):
    return lfs_repository(tmp_path / "work", **{"sub__model.bin": LARGE, "other.bin": b"other", "small.txt": b"x"})


@pytest.fixture
def bare(work, tmp_path):
    return published(work, tmp_path / "served/p.git")


@pytest.fixture
def server(work, bare):
    with LfsServer(bare.parent) as server:
        pushed(work, server.url("p.git"))
        server.forget()
        yield server


@pytest.fixture
def without_git_lfs(tmp_path, monkeypatch):
    """A PATH with Git and not with git-lfs."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("git", "sh", "sed", "uname", "basename", "dirname", "cat", "env"):
        (programs / name).symlink_to(shutil.which(name))
    monkeypatch.setenv("PATH", str(programs))


class TestAFileInLfs:
    @pytest.mark.parametrize("installed", [False, True], ids=["never set up", "set up by git lfs install"])
    def test_is_fetched_whether_or_not_the_users_git_is_set_up_for_it(self, server, into, home, installed):
        if installed:
            git("lfs", "install", "--skip-repo", cwd=home)
        lines = []
        checkout = fetch(server.url("p.git"), into=into, report=lines.append)
        assert (checkout.directory / "sub/model.bin").read_bytes() == LARGE
        assert (checkout.directory / "other.bin").read_bytes() == b"other"
        assert f"Fetching 2 files of {server.url('p.git')} from Git LFS" in lines
        assert sorted(server.served) == sorted(server.files)
        assert leftovers(home, into) == []
        assert not (checkout.directory / ".git/hooks").exists()
        git("lfs", "install", "--skip-repo", cwd=home)
        assert git("status", "--porcelain", cwd=checkout.directory) == ""

    def test_is_fetched_once_for_many_checkouts(self, server, into, work, bare):
        first = fetch(server.url("p.git"), into=into)
        later = commit(work, "later", **{"other.bin": b"new", "small.txt": b"y"})
        git("push", "-q", "--no-verify", bare, "main", cwd=work)
        pushed(work, server.url("p.git"))
        server.served.clear()
        second = fetch(server.url("p.git"), into=into)
        assert second.commit == later
        assert (second.directory / "other.bin").read_bytes() == b"new"
        assert (second.directory / "sub/model.bin").read_bytes() == LARGE
        assert len(server.served) == 1
        # What the project writes is its own: neither another checkout nor the cache has it.
        (second.directory / "sub/model.bin").write_bytes(b"trained")
        assert (first.directory / "sub/model.bin").read_bytes() == LARGE
        assert (fetch(server.url("p.git"), into=into).directory / "sub/model.bin").read_bytes() == LARGE

    def test_is_kept_beside_the_mirror(self, server, into, home):
        fetch(server.url("p.git"), into=into)
        kept = [path.name for path in (mirror(home) / "lfs/objects").rglob("*") if path.is_file()]
        assert sorted(kept) == sorted(server.files)
        assert git("fsck", "--no-dangling", cwd=mirror(home)) == ""

    def test_is_fetched_with_the_login_of_the_repository(self, server, into, home):
        server.login = ("user", SECRET)
        lines = []
        checkout = fetch(server.url("p.git", login=f"user:{SECRET}@"), into=into, report=lines.append)
        assert (checkout.directory / "sub/model.bin").read_bytes() == LARGE
        server.login = ("x-access-token", SECRET)
        shutil.rmtree(home / "cache")
        fetch(server.url("p.git"), into=into, token=SECRET)
        everything = [path for root in (home, into) for path in root.rglob("*") if path.is_file()]
        assert [path for path in everything if SECRET.encode() in path.read_bytes()] == []
        assert SECRET not in repr(lines)

    def test_of_another_host_is_not_told_the_login(self, server, into, work, bare):
        with LfsServer(server.root, login=("x-access-token", SECRET), files=server.files) as foreign:
            url = foreign.url("p.git", host="127.0.0.1") + "/info/lfs"
            commit(work, "elsewhere", **{"_dot_lfsconfig": f"[lfs]\n\turl = {url}\n"})
            git("push", "-q", "--no-verify", bare, "main", cwd=work)
            server.login = ("x-access-token", SECRET)
            with pytest.raises(SourceError, match="MLPROJ_GIT_TOKEN"):
                fetch(server.url("p.git"), into=into, token=SECRET)
            assert foreign.requests
            assert foreign.logins == []
        assert list(into.iterdir()) == []

    def test_of_a_submodule_is_fetched_as_well(self, server, into, tmp_path):
        outer = lfs_repository(tmp_path / "outer", **{"own.bin": b"own"})
        git("submodule", "add", "-q", server.url("p.git"), "library", cwd=outer)
        commit(outer, "with a submodule")
        published(outer, server.root / "outer.git")
        pushed(outer, server.url("outer.git"))
        directory = fetch(server.url("outer.git"), into=into).directory
        assert (directory / "own.bin").read_bytes() == b"own"
        assert (directory / "library/sub/model.bin").read_bytes() == LARGE

    def test_of_a_repository_on_this_host_is_taken_from_it(self, work, bare, into, tmp_path, home):
        assert (fetch(str(work), "main", into=into).directory / "sub/model.bin").read_bytes() == LARGE
        shutil.rmtree(home / "cache")
        shutil.copytree(work / ".git/lfs", bare / "lfs")
        shutil.rmtree(work)
        for uri in (str(bare), f"git+file://{bare}"):
            assert (fetch(uri, into=into).directory / "sub/model.bin").read_bytes() == LARGE

    def test_that_nobody_has_is_an_error_that_names_it_and_nothing_is_left(self, server, into, home):
        server.files.clear()
        with pytest.raises(
            SourceError, match=r"Fetching from Git LFS other\.bin, sub/model\.bin of .* failed"
        ) as error:
            fetch(server.url("p.git"), into=into)
        assert "git lfs push --all" in str(error.value)
        assert error.value.reason.retryable is False
        assert list(into.iterdir()) == []
        assert leftovers(home, into) == []

    def test_that_the_users_settings_leave_out_is_reported(self, server, into, home):
        (home / ".gitconfig").write_text("[lfs]\n\tfetchexclude = sub\n")
        lines = []
        checkout = fetch(server.url("p.git"), into=into, report=lines.append)
        assert (checkout.directory / "other.bin").read_bytes() == b"other"
        assert any("sub/model.bin stay pointers" in line and "fetchexclude" in line for line in lines)

    def test_is_left_a_pointer_when_that_is_asked_for(self, server, into, monkeypatch):
        monkeypatch.setenv("GIT_LFS_SKIP_SMUDGE", "1")
        lines = []
        checkout = fetch(server.url("p.git"), into=into, report=lines.append)
        assert (checkout.directory / "other.bin").read_bytes().startswith(POINTER)
        assert any("GIT_LFS_SKIP_SMUDGE is set: 2 files" in line for line in lines)
        assert server.served == []

    def test_of_a_directory_that_runs_in_place_stays_as_it_is(self, work, into):
        (work / "other.bin").write_bytes(POINTER)
        assert fetch(str(work), into=into).owned is None


class TestWithoutGitLfs:
    def test_a_project_that_needs_it_is_refused_with_the_names_of_the_files(self, server, into, without_git_lfs, home):
        with pytest.raises(SourceError) as error:
            fetch(server.url("p.git"), into=into)
        for words in ("2 files", "other.bin, sub/model.bin", "git-lfs is not on PATH", "GIT_LFS_SKIP_SMUDGE=1"):
            assert words in str(error.value)
        assert error.value.reason.retryable is False
        assert list(into.iterdir()) == []
        assert leftovers(home, into) == []

    def test_it_is_refused_also_where_the_users_git_was_set_up_for_it(self, server, into, without_git_lfs, home):
        (home / ".gitconfig").write_text(
            '[filter "lfs"]\n\tsmudge = git-lfs smudge -- %f\n\tprocess = git-lfs filter-process\n\trequired = true\n'
        )
        with pytest.raises(SourceError, match="git-lfs is not on PATH"):
            fetch(server.url("p.git"), into=into)

    def test_it_runs_with_pointers_when_that_is_asked_for(self, server, into, without_git_lfs, monkeypatch):
        monkeypatch.setenv("GIT_LFS_SKIP_SMUDGE", "true")
        checkout = fetch(server.url("p.git"), into=into)
        assert (checkout.directory / "sub/model.bin").read_bytes().startswith(POINTER)

    def test_a_project_that_has_no_pointers_left_needs_none(self, server, into, without_git_lfs, tmp_path, work, bare):
        (work / ".gitattributes").unlink()
        for name in ("sub/model.bin", "other.bin"):
            (work / name).write_bytes(b"in Git itself")
        (work / ".gitattributes").write_text("*.dat filter=lfs diff=lfs merge=lfs -text\n")
        commit(work, "without large files")
        git("-c", "core.hooksPath=/dev/null", "push", "-q", bare, "main", cwd=work)
        directory = fetch(server.url("p.git"), into=into).directory
        assert (directory / "other.bin").read_bytes() == b"in Git itself"
        assert Path(directory / ".gitattributes").is_file()
