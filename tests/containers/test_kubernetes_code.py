"""How a project's code gets into its pod: pods that really run, under Pod Security's level restricted."""

import gzip
import io
import itertools
import json
import shutil
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from docker_world import SHELL, Rootfs, _busybox
from git_world import GitServer, commit, git, published, repository
from kubernetes_cluster import Cluster
from kubernetes_docker import DockerRuntime
from kubernetes_parts import LABELS, NAME, build
from lfs_world import LfsServer, lfs_repository, pushed, require_git_lfs

from mlproj_core.backends.kubernetes.code import ArchiveCode, GitCode, ImageCode
from mlproj_core.backends.kubernetes.secret import SecretContent, build_secret

GIT_IMAGE = "mlproj-test/git:1"
NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def cluster(shared_engine, tmp_path_factory):
    """A cluster that takes restricted pods only."""
    with Cluster(DockerRuntime(shared_engine, tmp_path_factory.mktemp("node"))) as cluster:
        cluster.label_namespace(enforce="restricted", warn="restricted")
        yield cluster
    shared_engine.remove_containers()


@pytest.fixture(scope="module")
def git_image(shared_engine):
    """An image with git, as the stock one."""
    require_git_lfs()
    return add_git_image(shared_engine, GIT_IMAGE, shutil.which("git-lfs"))


@pytest.fixture(scope="module")
def git_image_without_lfs(shared_engine):
    return add_git_image(shared_engine, "mlproj-test/git-without-lfs:1")


def add_git_image(engine, name, lfs=None):
    rootfs = Rootfs()
    _busybox(rootfs)
    for applet in ("basename", "dirname"):  # of git-submodule
        rootfs.link(f"bin/{applet}", "busybox")
    rootfs.program("usr/bin/git", shutil.which("git"))
    if lfs:
        rootfs.program("usr/bin/git-lfs", lfs)
    core = Path("/usr/lib/git-core")
    for program in ("git-remote-http", "git-submodule", "git-sh-setup", "git-sh-i18n", "git-submodule--helper"):
        rootfs.program(f"usr/lib/git-core/{program}", core / program)
    engine.add_image(name, rootfs.done(), ["ENV PATH=/bin:/usr/bin", 'ENTRYPOINT ["git"]'])
    return name


class Pod:
    """A Job that has been run to its end, and its pod."""

    def __init__(self, cluster, job, content):
        self.cluster, name = cluster, job["metadata"]["name"]
        made = cluster.batch.create_namespaced_job("ml", job, field_validation="Strict")
        secret = build_secret(name=name, namespace="ml", labels=LABELS, owner_uid=made.metadata.uid, content=content)
        cluster.core.create_namespaced_secret("ml", secret, field_validation="Strict")
        cluster.batch.patch_namespaced_job(name, "ml", {"spec": {"suspend": False}})
        self.job = cluster.wait_for_job(name)
        (self.pod,) = cluster.pods(name)

    @property
    def succeeded(self):
        return self.pod["status"]["phase"] == "Succeeded"

    def lines(self, container="mlproj"):
        name = self.pod["metadata"]["name"]
        return self.cluster.core.read_namespaced_pod_log(name, "ml", container=container).splitlines()

    def message(self, kind="containerStatuses"):
        """What the container left in its termination log, or Kubernetes from its output."""
        (status,) = self.pod["status"][kind]
        return status["state"]["terminated"].get("message")


@pytest.fixture
def run(cluster):
    """Runs a Job under a name of its own."""

    def run_job(config=None, *, variables=None, content=None, image=SHELL, **given):
        secrets = {"MLFLOW_RUN_ID": "run-1", **(variables or {})}
        job = build(config, name=f"{NAME}{next(NUMBERS)}", secrets=tuple(secrets), image=image, **given)
        return Pod(cluster, job, SecretContent(secrets, **(content or {})))

    return run_job


def archive(**files):
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(name.replace("__", "/"))
            entry.size, entry.mode = len(text), 0o644
            tar.addfile(entry, io.BytesIO(text.encode()))
    return gzip.compress(raw.getvalue())


class TestAnArchive:
    def test_is_unpacked_where_the_project_starts(self, run):
        command = 'pwd; id -u; . ./train; cat sub/data; echo " $TOKEN"; echo out >new; echo {} >$MLPROJ_RESULT'
        pod = run(
            content={"archive": archive(sub__data="42", train="echo trained")},
            variables={"TOKEN": "geheim"},
            argv=("sh", "-c", command),
            code=ArchiveCode(),
        )
        assert pod.lines() == ["/mlflow/projects/code", "1000", "trained", "42 geheim"]
        assert pod.message() == "{}\n"
        assert "geheim" not in json.dumps([pod.job, pod.pod])

    def test_that_cannot_be_unpacked_says_why(self, run):
        pod = run(content={"archive": b"no archive"}, argv=("true",), code=ArchiveCode())
        assert not pod.succeeded
        assert pod.message("initContainerStatuses").startswith("tar: ")


class TestCodeOfAnImage:
    def test_is_where_it_was(self, run):
        pod = run(argv=("sh", "-c", "pwd; echo $$ $(id -u) $HOME; echo x >/tmp/x"), code=ImageCode())
        assert pod.lines() == ["/", "1 1000 /tmp"]
        assert pod.succeeded


@pytest.fixture
def server(tmp_path):
    """A Git server that asks for a login, with a repository that has a submodule and an older commit."""
    (tmp_path / "srv").mkdir()
    with GitServer(tmp_path / "srv", login=("me", "geheim")) as server:
        part = repository(tmp_path / "part", part="of it")
        published(part, tmp_path / "srv" / "part")
        work = repository(tmp_path / "work", projects__wine__train="echo trained")
        git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", part, "part", cwd=work)
        git("config", "-f", ".gitmodules", "submodule.part.url", "../part", cwd=work)
        server.old = commit(work, projects__wine__version="1")
        server.new = commit(work, projects__wine__version="2")
        published(work, tmp_path / "srv" / "wine")
        yield server


class TestAClone:
    COMMAND = ("sh", "-c", "pwd -P; . ./train; cat version; echo; cat ../../part/part; echo; ls -A /tmp")

    def test_is_of_the_commit_with_its_submodules(self, run, server, git_image):
        pod = run(
            {"git-image": git_image},
            content={"git_login": ("me", "geheim")},
            argv=self.COMMAND,
            code=GitCode(server.url("wine"), server.old, "projects/wine", login=True),
        )
        assert pod.lines() == ["/mlflow/projects/repository/projects/wine", "trained", "1", "of it"]
        assert "geheim" not in json.dumps([pod.job, pod.pod])
        assert set(server.logins) == {"me:geheim"}

    def test_of_a_project_at_the_root_is_where_the_project_starts(self, run, server, git_image):
        pod = run(
            {"git-image": git_image},
            content={"git_login": ("me", "geheim")},
            argv=("sh", "-c", "pwd -P; cat projects/wine/version; echo; test -w . && touch new"),
            code=GitCode(server.url("wine"), server.new, login=True),
        )
        assert pod.lines() == ["/mlflow/projects/code", "2"]
        assert pod.succeeded

    @pytest.mark.parametrize(
        ("login", "given", "word"),
        [
            (("me", "wrong"), {}, "Authentication failed"),
            (("me", "geheim"), {"commit": "b" * 40}, "not our ref"),
            (("me", "geheim"), {"subdirectory": "projects/beer"}, "has no directory projects/beer"),
        ],
    )
    def test_that_fails_says_why(self, run, server, git_image, login, given, word):
        code = GitCode(**{"url": server.url("wine"), "commit": server.new, "login": True, **given})
        pod = run({"git-image": git_image}, content={"git_login": login}, argv=("true",), code=code)
        assert not pod.succeeded
        assert word in pod.message("initContainerStatuses")

    def test_sends_the_login_to_its_own_host_only(self, run, server, git_image):
        with GitServer(server.root, login=("me", "geheim")) as other:
            server.redirect = f"127.0.0.1:{other.port}"
            code = GitCode(server.url("wine"), server.new, login=True)
            pod = run({"git-image": git_image}, content={"git_login": ("me", "geheim")}, argv=("true",), code=code)
            assert not pod.succeeded
            assert other.logins == []

    def test_of_a_url_full_of_shell_is_no_program(self, run, server, git_image):
        code = GitCode(f"{server.url('x')}$(touch /tmp/a);\"'`id` $(MLPROJ_GIT_COMMIT)", server.new, "a b';$(id)")
        pod = run({"git-image": git_image}, argv=("true",), code=code)
        assert "x$(touch /tmp/a);\"'`id` $(MLPROJ_GIT_COMMIT)" in pod.message("initContainerStatuses")

    def test_fetches_large_files_with_the_same_login(self, run, large, git_image):
        assert large.run(run, git_image).lines() == ["large"]
        assert large.server.served
        assert set(large.server.logins) == {"me:geheim"}

    def test_without_git_lfs_leaves_no_pointers_to_be_taken_for_data(self, run, large, git_image_without_lfs):
        pod = large.run(run, git_image_without_lfs)
        assert not pod.succeeded
        assert "this image has no git-lfs: name one that has, by git-image" in pod.message("initContainerStatuses")


@pytest.fixture
def large(tmp_path):
    """A repository with a file in Git LFS, on a server that asks for a login."""
    work = lfs_repository(tmp_path / "work", **{"model.bin": b"large\n"})
    published(work, tmp_path / "srv" / "p.git")
    with LfsServer(tmp_path / "srv", login=("me", "geheim")) as server:
        pushed(work, server.url("p.git", login="me:geheim@"))
        server.forget()

        def run_clone(run, image):
            return run(
                {"git-image": image},
                content={"git_login": ("me", "geheim")},
                argv=("cat", "model.bin"),
                code=GitCode(server.url("p.git"), git("rev-parse", "HEAD", cwd=work), login=True),
            )

        yield SimpleNamespace(server=server, run=run_clone)
