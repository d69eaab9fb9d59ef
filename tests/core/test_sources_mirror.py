"""The checkout of a remote Git repository, the mirror it comes from, and many fetches at once."""

import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from git_world import GitServer, clean_environment, commit, git, history, leftovers, mirror, published, repository
from missing import missing

from mlproj_core.errors import SourceError, UserError
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


def fetch_program(uri, version, into):
    """The arguments of a process that fetches and prints the commit."""
    program = (
        "import sys; from pathlib import Path; from mlproj_core.sources import fetch\n"
        "print(fetch(sys.argv[1], sys.argv[2] or None, into=Path(sys.argv[3])).commit)"
    )
    return [sys.executable, "-c", program, uri, version or "", str(into)]


class TestACheckout:
    def test_stands_on_its_own_when_the_mirror_is_gone(self, server, into, home):
        checkout = fetch(server.url("p.git"), "main", into=into)
        shutil.rmtree(home / "cache")
        assert git("fsck", "--no-dangling", cwd=checkout.directory) == ""
        assert git("log", "--format=%s", cwd=checkout.directory) == "third"
        assert not (checkout.owned / ".git/objects/info/alternates").exists()

    def test_shares_the_disk_space_of_the_mirror(self, server, into, home):
        checkout = fetch(server.url("p.git"), "main", into=into)
        packs = list((checkout.owned / ".git/objects/pack").glob("*.pack"))
        assert packs
        assert all(pack.stat().st_nlink == 2 for pack in packs)

    def test_on_another_file_system_than_the_cache_is_a_copy(self, server, home):
        other = Path("/dev/shm")
        if not other.is_dir() or other.stat().st_dev == home.stat().st_dev:
            missing("there is no second file system at /dev/shm")
        into = other / f"mlproj-test-{os.getpid()}"
        try:
            checkout = fetch(server.url("p.git"), "main", into=into)
            assert git("status", "--porcelain", cwd=checkout.directory) == ""
        finally:
            shutil.rmtree(into)

    def test_has_its_submodules_from_the_same_server(self, work, bare, server, into, tmp_path):
        published(repository(tmp_path / "library", code="x"), server.root / "library.git")
        git("clone", "-q", server.url("library.git"), work / "sub/library", cwd=work)
        (work / ".gitmodules").write_text('[submodule "l"]\n\tpath = sub/library\n\turl = ../library.git\n')
        commit(work, "with a submodule")
        git("push", "-q", bare, "main", cwd=work)
        server.login = ("x-access-token", "sesame")
        checkout = fetch(f"{server.url('p.git')}#sub", into=into, token="sesame")
        assert (checkout.directory / "library/code").read_text() == "x"

    def test_of_a_repository_whose_submodule_is_missing_is_an_error(self, work, bare, server, into):
        git("clone", "-q", server.url("p.git"), work / "library", cwd=work)
        (work / ".gitmodules").write_text('[submodule "l"]\n\tpath = library\n\turl = ../gone.git\n')
        commit(work, "with a submodule")
        git("push", "-q", bare, "main", cwd=work)
        with pytest.raises(SourceError, match=r"Fetching the submodules of .* not found"):
            fetch(server.url("p.git"), into=into)
        assert list(into.iterdir()) == []


class TestAMirror:
    def test_shows_when_it_was_last_used(self, server, into, home):
        tip = fetch(server.url("p.git"), "main", into=into).commit
        os.utime(mirror(home) / "last-used", (0, 0))
        before = time.time()
        fetch(server.url("p.git"), tip, into=into)
        assert (mirror(home) / "last-used").stat().st_mtime >= before - 1

    def test_is_one_for_all_spellings_of_a_url(self, server, into, home):
        for uri in (
            server.url("p.git"),
            server.url("p.git/"),
            server.url("p.git", host="LOCALHOST"),
            f"git+{server.url('p.git')}",
            server.url("p.git", login="user:password@"),
        ):
            fetch(uri, "main", into=into)
        assert server.fetches == 1

    def test_is_a_bare_repository_that_git_finds_sound(self, work, bare, server, into, home):
        fetch(server.url("p.git"), git("rev-parse", "main~1", cwd=bare), into=into)
        fetch(server.url("p.git"), "main", into=into)
        assert git("rev-parse", "--is-bare-repository", cwd=mirror(home)) == "true"
        assert git("fsck", "--no-dangling", cwd=mirror(home)) == ""
        assert git("remote", "get-url", "origin", cwd=mirror(home)) == server.url("p.git")

    @pytest.mark.parametrize(
        "damage", ["truncated", "flipped", "emptied", "no packs", "no index", "no HEAD", "no refs"]
    )
    def test_that_is_damaged_is_deleted_and_fetched_anew_with_one_line(self, work, bare, server, into, home, damage):
        tip = fetch(server.url("p.git"), "main", into=into).commit
        for owned in into.iterdir():
            shutil.rmtree(owned)
        packs = mirror(home) / "objects/pack"
        pack = next(packs.glob("*.pack"))
        pack.chmod(0o600)
        data = pack.read_bytes()
        if damage == "truncated":
            pack.write_bytes(data[: len(data) // 2])
        elif damage == "flipped":
            pack.write_bytes(bytes(byte ^ 0x55 if n % 1000 == 500 else byte for n, byte in enumerate(data)))
        elif damage == "emptied":
            pack.write_bytes(b"")
        elif damage == "no packs":
            shutil.rmtree(packs)
        elif damage == "no index":
            next(packs.glob("*.idx")).unlink()
        elif damage == "no HEAD":
            (mirror(home) / "HEAD").unlink()
            pack.unlink()
        else:
            shutil.rmtree(mirror(home) / "refs")
            pack.write_bytes(data[:40])
        lines = []
        checkout = fetch(server.url("p.git"), tip, into=into, report=lines.append)
        assert git("status", "--porcelain", cwd=checkout.directory) == ""
        assert (checkout.directory / "sub/f").read_text() == "3"
        # Without its references the mirror knows of no commit, and is filled again from the start.
        assert sum("damaged" in line for line in lines) == (damage != "no refs")
        assert git("fsck", "--no-dangling", cwd=mirror(home)) == ""
        assert leftovers(home, into) == []

    def test_that_is_damaged_does_not_spoil_the_fetch_of_a_new_commit(self, work, bare, server, into, home):
        fetch(server.url("p.git"), "main", into=into)
        pack = next((mirror(home) / "objects/pack").glob("*.pack"))
        pack.chmod(0o600)
        pack.write_bytes(pack.read_bytes()[:-1000])
        later = commit(work, "later", sub__f="4")
        git("push", "-q", bare, "main", cwd=work)
        checkout = fetch(server.url("p.git"), "main", into=into)
        assert checkout.commit == later
        assert git("fsck", "--no-dangling", cwd=checkout.directory) == ""

    def test_that_cannot_be_written_is_an_error_that_says_how_to_move_it(self, server, into, home, monkeypatch):
        (home / "file").write_text("")
        monkeypatch.setenv("MLPROJ_CACHE_DIR", str(home / "file"))
        with pytest.raises(UserError, match="MLPROJ_CACHE_DIR"):
            fetch(server.url("p.git"), into=into)
        assert list(into.iterdir()) == []


class TestManyFetches:
    def test_of_one_commit_by_ten_processes_ask_for_it_once(self, bare, server, into, home):
        processes = [
            subprocess.Popen(fetch_program(server.url("p.git"), "main", into), stdout=subprocess.PIPE, text=True)
            for _ in range(10)
        ]
        commits = {process.communicate(timeout=60)[0].strip() for process in processes}
        assert [process.returncode for process in processes] == [0] * 10
        assert commits == {git("rev-parse", "main", cwd=bare)}
        assert server.fetches == 1
        assert len(list(into.iterdir())) == 10
        for owned in into.iterdir():
            assert git("status", "--porcelain", cwd=owned) == ""

    def test_of_different_commits_by_threads_do_not_disturb_each_other(self, work, bare, server, into, home):
        for number in range(6):
            commit(work, f"n{number}", sub__f=os.urandom(5_000))
            git("tag", f"t{number}", cwd=work)
        git("push", "-q", bare, "main", "--tags", cwd=work)
        versions = [f"t{number % 6}" for number in range(12)]
        with ThreadPoolExecutor(6) as pool:
            checkouts = list(pool.map(lambda version: fetch(server.url("p.git"), version, into=into), versions))
        for version, checkout in zip(versions, checkouts, strict=True):
            assert checkout.commit == git("rev-parse", version, cwd=work)
            assert git("status", "--porcelain", cwd=checkout.directory) == ""
        assert git("fsck", "--no-dangling", cwd=mirror(home)) == ""
        assert leftovers(home, into) == []

    def test_do_not_wait_for_each_other_when_the_commit_is_known(self, work, bare, server, into, home):
        tip = fetch(server.url("p.git"), "main", into=into).commit
        commit(work, "later", f=os.urandom(50_000))
        git("push", "-q", bare, "main", cwd=work)
        server.stall = True
        slow = threading.Thread(target=fetch, args=(server.url("p.git"), "main"), kwargs={"into": into})
        slow.start()
        assert server.stalled.wait(10)
        started = time.perf_counter()
        assert fetch(server.url("p.git"), tip, into=into).commit == tip
        assert time.perf_counter() - started < 5
        assert slow.is_alive()
        server.resume.set()
        slow.join()

    def test_killed_half_way_leave_nothing_that_harms_the_next(self, bare, server, into, home):
        server.stall = True
        killed = subprocess.Popen(fetch_program(server.url("p.git"), "main", into))
        assert server.stalled.wait(20)
        incoming = next((home / "cache/git").glob("*.incoming-*"))
        orphan = int((incoming / "git.pid").read_text())
        killed.kill()
        killed.wait()
        server.stall = False
        lines = []
        checkout = fetch(server.url("p.git"), "main", into=into / "next", report=lines.append)
        assert checkout.commit == git("rev-parse", "main", cwd=bare)
        assert not any("damaged" in line for line in lines)
        state = Path(f"/proc/{orphan}/stat")
        assert not state.exists() or state.read_text().split(") ")[1][0] in "ZX"
        assert leftovers(home, into / "next") == []
        assert git("fsck", "--no-dangling", cwd=mirror(home)) == ""

    def test_interrupted_end_their_git_and_leave_nothing(self, bare, server, into, home):
        import signal

        server.stall = True
        process = subprocess.Popen(fetch_program(server.url("p.git"), "main", into), stderr=subprocess.PIPE)
        assert server.stalled.wait(20)
        incoming = next((home / "cache/git").glob("*.incoming-*"))
        orphan = int((incoming / "git.pid").read_text())
        process.send_signal(signal.SIGINT)
        assert b"KeyboardInterrupt" in process.communicate(timeout=20)[1]
        assert not Path(f"/proc/{orphan}").exists()
        assert list(into.iterdir()) == []
        assert leftovers(home, into) == []
