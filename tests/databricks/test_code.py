"""A project's code and its way into a workspace, by the real SDK."""

import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
import time

import pytest
from databricks_client import client_of

from mlproj_core.backends.databricks import code
from mlproj_core.backends.databricks.code import Upload, archive_of, clean, default_roots, text_file, upload
from mlproj_core.backends.databricks.connect import forget_workspaces
from mlproj_core.backends.databricks.workspace import Workspace
from mlproj_core.cli import main
from mlproj_core.errors import ContactLost, UserError

DAY = 86_400


@pytest.fixture
def ours(workspace):
    """The workspace as the backend has it."""
    with client_of(workspace, patience=3) as client:
        yield Workspace(client)


@pytest.fixture
def volume(workspace):
    return workspace.volumes.add("ml", "default", "runs")


@pytest.fixture
def project(tmp_path):
    directory = tmp_path / "project"
    (directory / "pkg").mkdir(parents=True)
    (directory / "MLproject").write_text("name: p\n")
    (directory / "pkg" / "train.py").write_text("print('hello')\n")
    (directory / "run.sh").write_text("true\n")
    (directory / "run.sh").chmod(0o755)
    return directory


def content(file):
    with file.open() as opened:
        return opened.read()


def names(file):
    with tarfile.open(fileobj=io.BytesIO(content(file))) as tar:
        return sorted(tar.getnames())


def stored(root, workspace):
    """Where a root's files lie on the disk of the stand-in."""
    if root.startswith("/Volumes"):
        return workspace.volumes.directory / root.removeprefix("/Volumes/")
    if root.startswith("dbfs:"):
        return workspace.dbfs.directory / root.removeprefix("dbfs:/")
    return workspace.objects.directory / root.removeprefix("/Workspace/")


def age(path, days):
    then = time.time() - days * DAY
    os.utime(path, (then, then))


class TestAnArchive:
    def test_is_named_by_its_digest(self, project):
        file = archive_of(project)
        assert file.name == f"code/{hashlib.sha256(content(file)).hexdigest()}.tar.gz"
        assert file.size == len(content(file))
        assert names(file) == ["MLproject", "pkg", "pkg/train.py", "run.sh"]

    def test_is_the_same_for_the_same_files(self, project):
        first = archive_of(project)
        for path in project.rglob("*"):
            age(path, 3)
        assert (archive_of(project).name, content(archive_of(project))) == (first.name, content(first))
        (project / "run.sh").chmod(0o644)
        assert archive_of(project).name != first.name

    def test_lacks_what_git_and_docker_ignore(self, project):
        subprocess.run(["git", "init", "-q", project], check=True)
        (project / ".gitignore").write_text("data/\n*.pyc\n")
        (project / ".dockerignore").write_text("notes.md\n")
        for name in ("data/big.csv", "pkg/train.pyc", "notes.md", "kept.csv"):
            (project / name).parent.mkdir(exist_ok=True)
            (project / name).write_text("x")
        found = names(archive_of(project))
        assert "kept.csv" in found
        assert not {"data", "data/big.csv", "pkg/train.pyc", "notes.md", ".git"} & set(found)

    def test_of_files_that_change_meanwhile_is_no_archive(self, project):
        file = archive_of(project)
        (project / "run.sh").write_text("false\n")
        with pytest.raises(UserError, match="have changed while they were packed"), file.open():
            pass


class TestAnUpload:
    @pytest.mark.parametrize("kind", ["volume", "workspace", "dbfs"])
    def test_arrives_whole_and_once(self, ours, workspace, volume, project, kind):
        root = {"volume": f"{volume}/mlproj", "workspace": "/Workspace/Shared/.mlproj", "dbfs": "dbfs:/mlproj"}[kind]
        (project / "big").write_bytes(os.urandom(3 << 20))  # more than a block of DBFS
        files = [archive_of(project), text_file("tasks", "print('task')\n", "py")]
        told = []
        paths = upload(ours, [root], files, told.append)
        assert paths == tuple(f"{root}/{file.name}" for file in files)
        for file in files:
            assert (stored(root, workspace) / file.name).read_bytes() == content(file)
        assert len(told) == 1 and told[0].startswith(f"uploading the project's code to {paths[0]} (3.")  # noqa: PT018
        writes = [one for one in workspace.log if one[0] in ("PUT", "POST")]
        assert upload(ours, [root], files, told.append) == paths
        assert [one for one in workspace.log if one[0] in ("PUT", "POST")] == writes
        assert len(told) == 1
        assert not list(stored(root, workspace).rglob("*.part"))

    def test_is_no_notebook(self, ours, workspace):
        from mlproj_core.launcher import task_source

        (path,) = upload(ours, ["/Workspace/Shared/.mlproj"], [text_file("tasks", task_source(), "py")])
        assert not workspace.objects.is_notebook(path)

    @pytest.mark.parametrize("root", ["/Volumes/ml/default/runs/x", "/Workspace/Shared/x", "dbfs:/x"])
    def test_of_a_file_that_was_used_long_ago_makes_it_young_again(self, ours, workspace, volume, root):
        file = text_file("tasks", "a", "py")
        (path,) = upload(ours, [root], [file])
        there = stored(path, workspace)
        age(there, 2)
        upload(ours, [root], [file])
        assert time.time() - there.stat().st_mtime < DAY
        assert there.read_bytes() == b"a"

    @pytest.mark.parametrize("root", ["/Volumes/ml/default/runs/x", "/Workspace/Shared/x", "dbfs:/x"])
    def test_that_was_cut_off_is_done_again(self, ours, workspace, volume, root):
        file = text_file("tasks", "a whole", "py")
        path = f"{root}/{file.name}"
        there = stored(path, workspace)
        there.parent.mkdir(parents=True)
        there.write_bytes(b"a wh")
        assert upload(ours, [root], [file]) == (path,)
        assert there.read_bytes() == b"a whole"

    def test_goes_to_the_home_of_whoever_asks(self, ours, workspace):
        roots = default_roots(ours)
        assert roots == ("/Workspace/Users/me@example.org/.mlproj", "dbfs:/mlproj/me@example.org")
        (path,) = upload(ours, roots, [text_file("tasks", "a", "py")])
        assert path.startswith("/Workspace/Users/me@example.org/.mlproj/tasks/")

    def test_goes_to_the_first_root_that_the_workspace_allows(self, ours, workspace, volume):
        roots = [f"{volume}/x", "/Workspace/Shared/x", "dbfs:/x"]
        file = text_file("tasks", "a", "py")
        told = []
        assert upload(ours, roots, [file], told.append)[0].startswith(volume)
        workspace.volumes.writable = False
        file = text_file("tasks", "b", "py")
        assert upload(ours, roots, [file], told.append)[0].startswith("/Workspace")
        assert "does not have WRITE VOLUME" in told[-1] and "trying /Workspace/Shared/x" in told[-1]  # noqa: PT018
        workspace.objects.writable = False
        file = text_file("tasks", "c", "py")
        assert upload(ours, roots, [file], told.append)[0].startswith("dbfs:")
        workspace.dbfs.allowed = False
        with pytest.raises(UserError, match="nowhere") as caught:
            upload(ours, roots, [text_file("tasks", "d", "py")], told.append)
        said = str(caught.value)
        assert all(root in said for root in roots)
        assert "WRITE VOLUME" in said and "Edit permissions" in said and "DBFS root is disabled" in said  # noqa: PT018
        assert "'root': '/Volumes/" in said

    def test_names_a_volume_that_is_not_there(self, ours, workspace):
        with pytest.raises(UserError, match=r"Volume 'ml\.default\.none' does not exist"):
            upload(ours, ["/Volumes/ml/default/none/x"], [text_file("tasks", "a", "py")])

    def test_of_what_is_too_large_for_a_place_goes_to_the_next(self, ours, workspace, monkeypatch):
        big = Upload("code/x.tar.gz", 501_000_000, lambda: io.BytesIO(b"x" * 10))
        told = []
        assert upload(ours, ["/Workspace/Shared/x", "dbfs:/x"], [big], told.append) == ("dbfs:/x/code/x.tar.gz",)
        assert "501.0 MB are more than the 500.0 MB" in told[0]

    @pytest.mark.parametrize(
        ("root", "on"),
        [
            ("/Workspace/Shared/x", "workspace/import"),
            ("dbfs:/x", "dbfs/add-block"),
            ("/Volumes/ml/default/runs/x", "fs/files"),
        ],
    )
    @pytest.mark.parametrize("fault", ["throttle", "cut", "lose"])
    def test_is_made_again_when_the_workspace_throttles_or_the_connection_breaks(
        self, ours, workspace, volume, root, on, fault
    ):
        getattr(workspace.faults, fault)(on=on)
        file = text_file("tasks", "a", "py")
        (path,) = upload(ours, [root], [file])
        assert stored(path, workspace).read_bytes() == b"a"

    @pytest.mark.parametrize("status", [500, 503])
    def test_to_a_workspace_that_is_unwell_is_out_of_contact_and_goes_nowhere_else(self, ours, workspace, status):
        workspace.faults.fail(status, on="workspace/import", times=100)
        with pytest.raises(ContactLost):
            upload(ours, ["/Workspace/Shared/x", "dbfs:/x"], [text_file("tasks", "a", "py")])
        assert not stored("dbfs:/x", workspace).exists()

    def test_with_refused_credentials_is_a_mistake_of_the_caller_s(self, ours, workspace):
        workspace.faults.fail(401, on="workspace/mkdirs", times=10)
        with pytest.raises(UserError, match="credentials"):
            upload(ours, ["/Workspace/Shared/x", "dbfs:/x"], [text_file("tasks", "a", "py")])


class TestCleaning:
    @pytest.mark.parametrize("root", ["/Volumes/ml/default/runs/x", "/Workspace/Shared/x", "dbfs:/x"])
    def test_removes_what_was_not_used_for_long(self, ours, workspace, volume, root):
        files = [Upload(f"{folder}/{number}", 1, lambda: io.BytesIO(b"x"))
                 for folder in (code.ARCHIVES, code.TASKS, code.PLANS) for number in (1, 2)]  # fmt: skip
        paths = upload(ours, [root], files, print)
        for path in paths[::2]:
            age(stored(path, workspace), 40)
        assert [one.path for one in clean(ours, [root], 30 * DAY, dry_run=True)] == list(paths[::2])
        assert all(stored(path, workspace).exists() for path in paths)
        assert [(one.path, one.size) for one in clean(ours, [root], 30 * DAY)] == [(path, 1) for path in paths[::2]]
        assert [stored(path, workspace).exists() for path in paths] == [False, True] * 3

    def test_of_what_is_not_there_or_not_allowed_does_nothing(self, ours, workspace, volume):
        workspace.dbfs.allowed = False
        assert not list(clean(ours, [f"{volume}/x", "/Workspace/Shared/x", "dbfs:/x", "/Volumes/a/b/c"], 30 * DAY))

    def test_comes_by_itself_with_new_code(self, ours, workspace, project):
        root = "/Workspace/Shared/x"
        (old,) = upload(ours, [root], [text_file("plans", "a", "plan")])
        (young,) = upload(ours, [root], [text_file("tasks", "a", "py")])
        age(stored(old, workspace), 40)
        age(stored(young, workspace), 20)
        upload(ours, [root], [archive_of(project)])
        assert not stored(old, workspace).exists()
        assert stored(young, workspace).exists()

    def test_is_a_command(self, workspace, capsys, tmp_path):
        path = workspace.objects.directory / "Users/me@example.org/.mlproj/code/a.tar.gz"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"abc")
        age(path, 40)
        assert main(["databricks", "clean", "--dry-run"]) == 0
        assert "/Workspace/Users/me@example.org/.mlproj/code/a.tar.gz" in capsys.readouterr().out
        assert path.exists()
        assert main(["databricks", "clean", "--root", "/Workspace/Shared/none"]) == 0
        assert main(["databricks", "clean", "--older-than", "1d"]) == 2
        assert main(["databricks", "clean", "--root", "/nowhere"]) == 2
        assert path.exists()
        capsys.readouterr()
        assert main(["databricks", "clean", "--json"]) == 0
        removed = [{"path": "/Workspace/Users/me@example.org/.mlproj/code/a.tar.gz", "bytes": 3}]
        assert json.loads(capsys.readouterr().out) == {"dry_run": False, "removed": removed}
        assert not path.exists()
        forget_workspaces()

    def test_keeps_what_a_queued_run_may_still_need(self, ours):
        with pytest.raises(UserError, match="kept for 3 days at least"):
            list(clean(ours, ["dbfs:/x"], DAY))


def test_a_compressed_archive_has_no_time_and_no_name(project):
    assert gzip.decompress(content(archive_of(project)))
    assert content(archive_of(project))[3] == 0  # no file name in the header
