"""A project with Git submodules: which are fetched, with whose login, and what a .gitmodules may not make Git do."""

import pytest
from git_world import GitServer, clean_environment, commit, git, leftovers, published, repository

from mlproj_core.errors import SourceError
from mlproj_core.sources import fetch

SECRET = "s3same"


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    return clean_environment(monkeypatch, tmp_path / "home")


@pytest.fixture
def into(tmp_path):
    return tmp_path / "into"


@pytest.fixture
def library(tmp_path):
    """The commit of a repository that others have as a submodule."""
    work = repository(tmp_path / "library", f="library")
    published(work, tmp_path / "served/library.git")
    return git("rev-parse", "HEAD", cwd=work)


@pytest.fixture
def server(tmp_path, library):
    with GitServer(tmp_path / "served") as server:
        yield server


@pytest.fixture
def project(tmp_path):
    """Makes a served repository with a submodule, whatever its .gitmodules says."""

    def make(settings, commit_of, *, name="project", path="library", section="library"):
        work = repository(tmp_path / name)
        text = f'[submodule "{section}"]\n\tpath = {path}\n' + "".join(f"\t{line}\n" for line in settings)
        (work / ".gitmodules").write_text(text)
        git("add", ".gitmodules", cwd=work)
        # As whoever means harm would: git itself would not add all of these.
        git("update-index", "--add", "--cacheinfo", f"160000,{commit_of},{path}", cwd=work)
        git("commit", "-q", "-m", "with a submodule", cwd=work)
        published(work, tmp_path / f"served/{name}.git")
        return git("rev-parse", "HEAD", cwd=work)

    return make


class TestASubmodule:
    def test_with_a_relative_url_is_fetched_from_where_the_repository_is(self, server, project, library, into):
        project(["url = ../library.git"], library)
        checkout = fetch(server.url("project.git"), into=into)
        assert (checkout.directory / "library/f").read_text() == "library"
        assert git("status", "--porcelain", cwd=checkout.directory) == ""
        assert (fetch(server.url("project.git") + "#library", into=into).directory / "f").is_file()

    def test_of_a_submodule_is_fetched_as_well(self, server, project, library, into):
        inner = project(["url = ../library.git"], library, name="inner")
        project(["url = ./../inner.git"], inner, path="deep/inner")
        checkout = fetch(server.url("project.git"), into=into)
        assert (checkout.directory / "deep/inner/library/f").read_text() == "library"

    def test_is_fetched_with_the_login_of_the_repository_on_the_same_host(self, server, project, library, into, home):
        project(["url = ../library.git"], library)
        server.login = ("x-access-token", SECRET)
        checkout = fetch(server.url("project.git"), into=into, token=SECRET)
        assert (checkout.directory / "library/f").read_text() == "library"
        everything = [path for root in (home, into) for path in root.rglob("*") if path.is_file()]
        assert [path for path in everything if SECRET.encode() in path.read_bytes()] == []

    def test_of_a_repository_on_this_host_is_fetched_when_the_user_trusts_it(
        self, server, project, library, into, home
    ):
        project(["url = ../library.git"], library)
        with pytest.raises(SourceError, match=r"protocol\.file\.allow always"):
            fetch(str(server.root / "project.git"), into=into)
        git("config", "--global", "protocol.file.allow", "always", cwd=home)
        checkout = fetch(str(server.root / "project.git"), into=into)
        assert (checkout.directory / "library/f").read_text() == "library"

    def test_that_is_not_wanted_stays_empty(self, server, project, library, into):
        project(["url = ../gone.git", "update = none"], library)
        checkout = fetch(server.url("project.git"), into=into)
        assert list((checkout.directory / "library").iterdir()) == []


NO_URL = "no URL for it, or one that Git refuses"
A_PATH = "A submodule's URL is a path on this machine.*relative or an https"
A_PROGRAM = "wants a program to be run"
URL = "url = ../library.git"

REFUSED = {
    "at a path": (["url = {root}/library.git"], {}, A_PATH),
    "at a file URL": (["url = file://{root}/library.git"], {}, A_PATH),
    "by a program": (["url = ext::sh -c touch% {root}/ran"], {}, A_PROGRAM),
    "by an option of ssh": (["url = ssh://-oProxyCommand=touch%20{root}/ran/x"], {}, A_PROGRAM),
    "with a program to update it": ([URL, "update = !touch {root}/ran"], {}, A_PROGRAM),
    "with a URL that is an option": (["url = -u./ran"], {}, NO_URL),
    "with a path that is an option": ([URL], {"path": "-x"}, NO_URL),
    "with a name that leaves": ([URL], {"section": "../../x"}, NO_URL),
    "without a URL": ([], {}, NO_URL),
    "of a commit that is not there": ([URL], {"commit_of": "1" * 40}, "push it there, or commit another"),
    "of a repository that is not there": (["url = ../gone.git"], {}, r"gone\.git.*not found.*Check the URI"),
    "on a host that is not there": (["url = http://no-such-host.invalid/x.git"], {}, "Check the host's name"),
}


class TestAHostileSubmodule:
    @pytest.mark.parametrize("case", REFUSED)
    def test_or_a_broken_one_is_refused_and_nothing_is_run_or_left(self, server, project, library, into, home, case):
        settings, more, words = REFUSED[case]
        project([line.format(root=server.root) for line in settings], **{"commit_of": library, **more})
        with pytest.raises(SourceError, match=f"Fetching the submodules of .*{words}"):
            fetch(server.url("project.git"), into=into)
        assert not (server.root / "ran").exists()
        assert list(into.iterdir()) == []
        assert leftovers(home, into) == []


def test_a_missing_commit_of_a_submodule_comes_with_its_repository(server, project, library, into, tmp_path):
    """One that no branch leads to is fetched by its name, where the server allows that."""
    work = tmp_path / "library"
    later = commit(work, "later", f="later")
    git("push", "-q", server.root / "library.git", "HEAD:refs/heads/hidden", cwd=work)
    git("branch", "-D", "hidden", cwd=server.root / "library.git")
    git("config", "uploadpack.allowAnySHA1InWant", "true", cwd=server.root / "library.git")
    project(["url = ../library.git"], later)
    assert (fetch(server.url("project.git"), into=into).directory / "library/f").read_text() == "later"
