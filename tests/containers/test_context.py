"""Which of a project's files go into a container."""

import io
import os
import socket
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest
from docker_world import SHELL, docker_program

from mlproj_core.containers.code import write_code_archive
from mlproj_core.containers.context import content_digest, context_entries
from mlproj_core.errors import UserError


def write(directory, files):
    """Files by their names; a name that ends in a slash is an empty directory."""
    for name, text in files.items():
        path = directory / name
        if name.endswith("/"):
            path.mkdir(parents=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return directory


def names(directory, *, gitignore=True):
    return [entry.name for entry in context_entries(directory, gitignore=gitignore)]


def git(directory, *arguments):
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
    subprocess.run(["git", *identity, *arguments], cwd=directory, check=True, capture_output=True)


def archive(directory, **options):
    file, lines = io.BytesIO(), []
    write_code_archive(directory, file, report=lines.append, **options)
    return file.getvalue(), lines


class TestDockerignore:
    RULES = """
        # a comment
        *.log
        data
        !data/small.csv
        **/cache
        src/*/tmp
        /only_at_the_top.txt
        docs/../left_out_too
        *.md
        !README.md
    """
    FILES = {
        "train.py": "", "a.log": "", "sub/b.log": "", "data/large.csv": "", "data/small.csv": "", "cache/x": "",
        "sub/cache/y": "", "src/a/tmp/z": "", "src/tmp/kept": "", "only_at_the_top.txt": "",
        "sub/only_at_the_top.txt": "", "left_out_too/x": "", "README.md": "", "NOTES.md": "", "sub/deep.md": "",
        "empty/": "", "Dockerfile": "", ".dockerignore": RULES,
    }  # fmt: skip

    def test_leaves_out_what_it_leaves_out_under_docker_itself(self, engine, tmp_path):
        project = write(tmp_path / "project", self.FILES)
        file = tmp_path / "Dockerfile"
        file.write_text(f"FROM {SHELL}\nCOPY . /context\n")
        build = [docker_program(), "build", "-q", "-f", str(file), "-t", "mlproj-test/context", str(project)]
        subprocess.run(build, env={**os.environ, "DOCKER_BUILDKIT": "0"}, check=True, capture_output=True)
        with engine.client() as client:
            container = client.create_container("mlproj-test/context", ["sh", "-c", "cd context; find . -mindepth 1"])
            client.start(container)
            client.wait(container)
            found = client.logs(container).decode().split()
        assert names(project) == sorted(name.removeprefix("./") for name in found)
        assert "data/small.csv" in names(project)
        assert "data/large.csv" not in names(project)

    def test_that_cannot_be_read_is_an_error(self, tmp_path):
        (tmp_path / ".dockerignore").write_bytes(b"\xff")
        with pytest.raises(UserError, match=r".dockerignore cannot be read"):
            names(tmp_path)


class TestGitignore:
    FILES = {
        "train.py": "", ".gitignore": "*.ckpt\n/data/\n", "model.ckpt": "", "data/a.csv": "", "sub/.gitignore": "x\n",
        "sub/x": "", "sub/data/kept": "", "untracked.py": "",
    }  # fmt: skip
    KEPT = [".gitignore", "sub", "sub/.gitignore", "sub/data", "sub/data/kept", "train.py", "untracked.py"]

    def test_leaves_out_what_git_ignores_and_does_not_track(self, tmp_path):
        write(tmp_path, {**self.FILES, "forced.ckpt": ""})
        git(tmp_path, "init", "-q")
        git(tmp_path, "add", "-f", "train.py", "forced.ckpt")
        assert names(tmp_path) == sorted([*self.KEPT, "forced.ckpt"])

    def test_counts_without_a_repository_too(self, tmp_path):
        assert names(write(tmp_path, self.FILES)) == self.KEPT

    def test_of_the_directories_above_counts_in_a_repository(self, tmp_path):
        project = write(tmp_path, {".gitignore": "*.ckpt\n", "project/model.ckpt": "", "project/a.py": ""}) / "project"
        git(tmp_path, "init", "-q")
        assert names(project) == ["a.py"]

    def test_of_the_directories_above_does_not_empty_a_project_that_they_ignore(self, tmp_path):
        project = (
            write(tmp_path, {".gitignore": "project\n", "project/a.py": "", "project/.gitignore": "b\n"}) / "project"
        )
        write(project, {"b": ""})
        git(tmp_path, "init", "-q")
        assert names(project) == [".gitignore", "a.py"]

    def test_of_the_users_own_does_not_count(self, tmp_path, monkeypatch):
        write(tmp_path, {"home/.config/git/ignore": "a.py\n", "project/a.py": "", "project/.gitignore": "b\n"})
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
        assert names(tmp_path / "project") == [".gitignore", "a.py"]

    def test_does_not_count_for_code_that_is_copied_in(self, tmp_path):
        assert "model.ckpt" in names(write(tmp_path, self.FILES), gitignore=False)


class TestContext:
    def test_is_without_gits_own_directory(self, tmp_path):
        git(write(tmp_path, {"a": ""}), "init", "-q")
        assert names(tmp_path) == names(tmp_path, gitignore=False) == ["a"]

    def test_keeps_links_and_reads_nothing_behind_them(self, tmp_path):
        write(tmp_path, {"outside/secret": "x", "project/a": ""})
        (tmp_path / "project/link").symlink_to("../outside")
        found = {entry.name: entry for entry in context_entries(tmp_path / "project", gitignore=True)}
        assert sorted(found) == ["a", "link"]
        assert found["link"].target == "../outside"

    def test_is_without_sockets_and_pipes(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        with socket.socket(socket.AF_UNIX) as listener, tempfile.TemporaryDirectory() as short:
            path = Path(short) / "socket"
            listener.bind(str(path))
            path.rename(tmp_path / "socket")
        assert names(tmp_path) == []

    def test_has_a_digest_of_names_contents_and_permissions(self, tmp_path):
        def digest():
            return content_digest(context_entries(tmp_path, gitignore=True))

        write(tmp_path, {"b": "1", "a": "2"})
        first = digest()
        os.utime(tmp_path / "a", (1, 1))
        assert digest() == first
        (tmp_path / "a").write_text("3")
        assert digest() != first
        (tmp_path / "a").write_text("2")
        assert digest() == first
        (tmp_path / "a").chmod(0o755)
        assert digest() != first

    def test_that_cannot_be_read_is_an_error_that_names_the_file(self, tmp_path):
        write(tmp_path, {"a": ""})
        entries = context_entries(tmp_path, gitignore=True)
        (tmp_path / "a").unlink()
        with pytest.raises(UserError, match=r"/a cannot be read: No such file"):
            content_digest(entries)

    def test_needs_no_sdk_where_nothing_is_left_out(self, tmp_path):
        code = (
            "import sys, pathlib; from mlproj_core.containers.context import context_entries\n"
            f"assert context_entries(pathlib.Path({str(write(tmp_path, {'a': ''}))!r}), gitignore=True)\n"
            "sys.exit('docker' in sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], check=True)


class TestACodeArchive:
    FILES = {"train.py": "print(1)", "sub/run.sh": "echo", ".dockerignore": "large", "large": "x", ".gitignore": "data",
             "data/a.csv": "1"}  # fmt: skip

    def test_has_the_projects_files_for_root_with_their_permissions(self, tmp_path):
        write(tmp_path, self.FILES)
        (tmp_path / "sub/run.sh").chmod(0o755)
        git(tmp_path, "init", "-q")
        with tarfile.open(fileobj=io.BytesIO(archive(tmp_path)[0])) as tar:
            members = {member.name: member for member in tar.getmembers()}
            assert tar.extractfile("train.py").read() == b"print(1)"
        kept = [".dockerignore", ".gitignore", "data", "data/a.csv", "sub", "sub/run.sh", "train.py"]
        assert sorted(members) == kept
        assert members["sub/run.sh"].mode == 0o755
        assert {(one.uid, one.gid, one.uname) for one in members.values()} == {(0, 0, "")}

    @pytest.mark.parametrize("compress", [False, True])
    def test_is_the_same_for_the_same_files(self, tmp_path, compress):
        first = archive(write(tmp_path / "one", self.FILES), compress=compress)[0]
        write(tmp_path / "two", dict(reversed(self.FILES.items())))
        os.utime(tmp_path / "two/train.py", (1, 1))
        assert archive(tmp_path / "two", compress=compress)[0] == first

    def test_is_unpacked_by_a_careful_unpacker(self, tmp_path):
        project = write(tmp_path / "project", {"a/b": "1"})
        links = {"a/inside": "b", "dangling": "nothing", "outside": "../else", "absolute": "/etc/passwd"}
        for name, target in links.items():
            (project / name).symlink_to(target)
        content, lines = archive(project, compress=True)
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            tar.extractall(tmp_path / "made", filter="data")
        assert sorted(path.name for path in (tmp_path / "made").rglob("*")) == ["a", "b", "dangling", "inside"]
        assert lines == [
            "warning: the link absolute -> /etc/passwd leads out of the project and is left out",
            "warning: the link outside -> ../else leads out of the project and is left out",
        ]

    def test_takes_long_names_and_large_files(self, tmp_path):
        name = "/".join(["ü" * 60] * 4)
        write(tmp_path, {name: "x" * 3_000_000})
        with tarfile.open(fileobj=io.BytesIO(archive(tmp_path)[0])) as tar:
            assert tar.getmember(name).size == 3_000_000
