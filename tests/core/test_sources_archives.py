"""A project in an archive: what is unpacked, what is refused, and that nothing lands anywhere else."""

import gzip
import hashlib
import io
import json
import lzma
import os
import shutil
import ssl
import stat
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from archive_world import FileServer, overlapping_zip, packed, tar_entry, tarred, zip_link, zipped
from git_world import clean_environment, repository
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from missing import missing

from mlproj_core.errors import SourceError, UserError
from mlproj_core.sources import fetch, redact
from mlproj_core.sources.limits import Limits
from mlproj_core.sources.unpacking import Unpacking

EVERY_KIND = ["p.zip", "p.tar", "p.tar.gz", "p.tgz", "p.tar.bz2", "p.tar.xz"]
PROJECT = {"MLproject": "name: packed\n", "sub__data.txt": "data"}


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    return clean_environment(monkeypatch, tmp_path / "home")


@pytest.fixture
def into(tmp_path):
    return tmp_path / "into"


@pytest.fixture
def server():
    with FileServer() as server:
        yield server


def write(path, content):
    path.write_bytes(content)
    return path


def tree(directory):
    """Everything below a directory, with the content of each file and the target of each link."""
    return {
        path.relative_to(directory).as_posix(): str(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in directory.rglob("*")
        if path.is_symlink() or path.is_file()
    }


class TestAnArchive:
    @pytest.mark.parametrize("name", EVERY_KIND)
    def test_of_every_kind_is_unpacked_from_wherever_it_lies(self, tmp_path, into, server, monkeypatch, name):
        content = packed(name, **PROJECT)
        file = write(tmp_path / name, content)
        server.files[f"dir/{name}"] = content
        monkeypatch.chdir(tmp_path)
        remote = server.url(f"dir/{name}")
        for uri in (str(file), name, f"file://{file}", f"'{file}'", remote, f"{remote}?v=1"):
            checkout = fetch(uri, into=into)
            assert tree(checkout.directory) == {"MLproject": b"name: packed\n", "sub/data.txt": b"data"}
            assert checkout.directory == checkout.owned == into / checkout.owned.name
            assert (checkout.commit, checkout.repo_url, checkout.version) == (None, None, None)
            assert checkout.digest == hashlib.sha256(content).hexdigest()
            below = fetch(f"{uri}#sub".replace("'", ""), into=into)
            assert tree(below.directory) == {"data.txt": b"data"}
        assert len(list(into.iterdir())) == 12

    def test_is_told_by_its_content_not_by_its_name(self, tmp_path, into):
        for name, kind in (("a.zip", ".tar.gz"), ("b.tar.gz", ".zip"), ("c.tgz", ".tar.xz")):
            assert tree(fetch(str(write(tmp_path / name, packed(kind, **PROJECT))), into=into).directory)
        before = write(tmp_path / "installer.zip", b"#!/bin/sh\nexit 0\n" + packed(".zip", **PROJECT))
        assert (fetch(str(before), into=into).directory / "MLproject").is_file()

    def test_with_one_directory_that_holds_everything_has_the_project_there(self, tmp_path, into):
        files = {"p-1.0__MLproject": "name: x\n", "p-1.0__PKG-INFO": "x", "p-1.0__src__a.py": "a"}
        for name in ("p-1.0.tar.gz", "main.zip"):
            file = write(tmp_path / name, packed(name, **files))
            checkout = fetch(str(file), into=into)
            assert checkout.directory == checkout.owned / "p-1.0"
            # A subdirectory is below that directory; written with it, as MLflow wants it, it is the same.
            for fragment in ("src", "p-1.0/src", "subdirectory=src", "subdirectory=src&egg=p"):
                checkout = fetch(f"{file}#{fragment}", into=into)
                assert checkout.directory == checkout.owned / "p-1.0/src"
        litter = [("p/MLproject", "name: x\n"), ("__MACOSX/p/._MLproject", "x"), (".DS_Store", "x")]
        beside = write(tmp_path / "mac.zip", zipped(*litter))
        assert (fetch(str(beside), into=into).directory / "MLproject").is_file()

    def test_with_more_than_that_directory_has_the_project_at_its_root(self, tmp_path, into):
        file = write(tmp_path / "p.zip", packed(".zip", **{"p__MLproject": "name: x\n", "README": "x"}))
        checkout = fetch(str(file), into=into)
        assert checkout.directory == checkout.owned

    def test_keeps_what_a_project_needs_and_nothing_more(self, tmp_path, into):
        old = os.umask(0o022)
        try:
            run = stat.S_IFREG | stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX | 0o777
            data = ("data", "y", stat.S_IFREG | 0o666)
            zip_file = zipped(("run.sh", "x", run), data, ("dir/", ""), zip_link("link", "dir/../data"))
            tar_file = tarred(
                tar_entry("run.sh", tarfile.REGTYPE, mode=0o7777, uid=12345),
                tar_entry("data", tarfile.REGTYPE, mode=0o666),
                tar_entry("dir", tarfile.DIRTYPE, mode=0),
                tar_entry("link", tarfile.SYMTYPE, "dir/../data"),
            )
            for name, content in (("p.zip", zip_file), ("p.tar", tar_file)):
                directory = fetch(str(write(tmp_path / name, content)), into=into).directory
                assert stat.S_IMODE((directory / "run.sh").stat().st_mode) == 0o755
                assert stat.S_IMODE((directory / "data").stat().st_mode) == 0o644
                assert (directory / "run.sh").stat().st_uid == os.getuid()
                assert str((directory / "link").readlink()) == "dir/../data"
        finally:
            os.umask(old)
        assert os.access(directory / "dir", os.W_OK | os.X_OK)

    def test_may_hold_hard_links_which_become_files_of_their_own(self, tmp_path, into):
        content = tarred(("a/data", b"data"), tar_entry("b/same", tarfile.LNKTYPE, "a/data"))
        directory = fetch(str(write(tmp_path / "p.tar", content)), into=into).directory
        (directory / "b/same").write_text("changed")
        assert (directory / "a/data").read_text() == "data"

    @pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    def test_of_every_dialect_of_tar_is_read(self, tmp_path, into, format):
        long = "/".join(["directory"] * (8 if format == tarfile.USTAR_FORMAT else 40)) + "/data"
        content = tarred((long, b"data"), ("MLproject", b"name: x\n"), format=format)
        assert (fetch(str(write(tmp_path / "p.tar", content)), into=into).directory / long).read_bytes() == b"data"

    def test_that_gnu_tar_made_is_read_with_its_holes(self, tmp_path, into):
        source = tmp_path / "source"
        source.mkdir()
        with (source / "holes").open("wb") as file:
            file.truncate(3_000_000)
            file.seek(2_000_000)
            file.write(b"end")
        (source / "\xe4\udcff\n").write_text("strange name")
        (source / "link").symlink_to("holes")
        subprocess.run(["tar", "--sparse", "-czf", tmp_path / "p.tar.gz", "-C", source, "."], check=True)
        directory = fetch(str(tmp_path / "p.tar.gz"), into=into).directory
        assert tree(directory) == tree(source)

    def test_in_the_zip64_format_is_read(self, tmp_path, into):
        with (
            zipfile.ZipFile(tmp_path / "p.zip", "w") as archive,
            archive.open("MLproject", "w", force_zip64=True) as file,
        ):
            file.write(b"name: x\n")
        assert (fetch(str(tmp_path / "p.zip"), into=into).directory / "MLproject").read_text() == "name: x\n"

    def test_may_be_pinned_by_its_digest(self, tmp_path, into):
        content = packed(".zip", **PROJECT)
        file = write(tmp_path / "p.zip", content)
        digest = hashlib.sha256(content).hexdigest()
        for fragment in (f"sha256={digest}", f"subdirectory=sub&sha256={digest.upper()}"):
            assert fetch(f"{file}#{fragment}", into=into).digest == digest
        with pytest.raises(SourceError, match=f"not the archive that was meant: its SHA-256 is {digest}") as error:
            fetch(f"{file}#sha256={'0' * 64}", into=into)
        assert error.value.reason.retryable is False
        assert len(list(into.iterdir())) == 2

    def test_moves_with_its_root(self, tmp_path, into):
        checkout = fetch(str(write(tmp_path / "p.tgz", packed(".tgz", **{"p__MLproject": "x"}))), into=into)
        moved = checkout.moved_to(checkout.owned.rename(tmp_path / "kept"))
        assert moved.directory == tmp_path / "kept/p"

    def test_named_like_a_directory_is_the_directory(self, tmp_path, into):
        (tmp_path / "p.zip").mkdir()
        assert fetch(str(tmp_path / "p.zip"), into=into).owned is None


def test_the_name_of_an_archive_in_tags_is_the_one_that_mlflow_sets(
    tmp_path, into, server, mlflow_python, mlflow_environment, monkeypatch
):
    work = repository(tmp_path / "work", sub__x="x")
    content = packed(".zip", **PROJECT)
    server.files["p.zip"] = content
    for directory in (tmp_path, work, work / "sub"):
        write(directory / "p.zip", content)
    monkeypatch.chdir(work)
    uris = [f"{tmp_path}/p.zip", f"{work}/p.zip", "p.zip", "sub/p.zip", "../p.zip", f"{work}/p.zip#sub", "p.zip#sub"]
    uris += [f"file://{tmp_path}/p.zip#sub", server.url("p.zip"), server.url("p.zip#sub")]
    program = """
import json, os, sys
from mlflow.projects import utils
from mlflow.utils.git_utils import get_git_commit, get_git_repo_url
from mlflow.tracking._tracking_service.utils import _get_git_url_if_present
found = []
for uri in json.load(sys.stdin):
    directory = utils._fetch_project(uri)
    name = _get_git_url_if_present(utils._expand_uri(uri)) if utils._is_local_uri(uri) else utils._expand_uri(uri)
    files = sorted(os.listdir(directory))
    found.append([files, name, get_git_commit(directory), get_git_repo_url(directory)])
json.dump(found, sys.stdout)
"""
    done = subprocess.run(
        [mlflow_python, "-c", program],
        input=json.dumps(uris),
        env={**mlflow_environment, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    checkouts = [fetch(uri, into=into) for uri in uris]
    ours = [
        [sorted(path.name for path in c.directory.iterdir()), c.source_name, c.commit, c.repo_url] for c in checkouts
    ]
    assert ours == json.loads(done.stdout)


# What an attacker, a mistake or a broken disk may put into an archive, and the words of the error.

ESCAPES = ["../evil", "a/../../evil", "a/..", "./../evil", ".."]
ABSOLUTE = ["/evil", "//evil", "C:/evil", "c:evil"]
BACKSLASHES = ["..\\evil", "a\\b"]
LEAVING = ["/etc/passwd", "../evil", "a/../../evil", "..", "/"]


def flagged(content, offset, value):
    """A zip of one entry with a number in its table of contents and in its own header changed."""
    data = bytearray(content)
    table = data.index(b"PK\1\2")
    data[table + offset : table + offset + 2] = struct.pack("<H", value)
    return bytes(data)


def lying_zip(size):
    """A zip whose headers say that its one file has fewer bytes than it unpacks to."""
    data = bytearray(zipped(("zeros", bytes(10_000_000))))
    for start, offset in ((0, 22), (data.index(b"PK\1\2"), 24)):
        data[start + offset : start + offset + 4] = struct.pack("<I", size)
    return bytes(data)


def with_nul():
    return zipped(("evilXname", "x")).replace(b"evilXname", b"evil\0name")


def unsized_tar(size):
    """A tar with a header that announces an extension of so many bytes, which are not there."""
    return tar_entry("x", tarfile.XHDTYPE, size=size).tobuf(tarfile.GNU_FORMAT)


HOSTILE = {
    **{f"zip {name}": (zipped((name, "x")), r"has a \.\. in its name") for name in ESCAPES},
    **{f"tar {name}": (tarred((name, b"x")), r"has a \.\. in its name") for name in ESCAPES},
    **{f"zip {name}": (zipped((name, "x")), "has an absolute name") for name in ABSOLUTE},
    **{f"tar {name}": (tarred((name, b"x")), "has an absolute name") for name in ABSOLUTE},
    **{f"zip {name}": (zipped((name, "x")), "has a backslash in its name") for name in BACKSLASHES},
    **{f"tar {name}": (tarred((name, b"x")), "has a backslash in its name") for name in BACKSLASHES},
    **{f"zip link {to}": (zipped(zip_link("link", to)), "is a link to .* out of the project's root") for to in LEAVING},
    **{
        f"tar link {to}": (tarred(tar_entry("link", tarfile.SYMTYPE, to)), "is a link to .* out of the project's root")
        for to in LEAVING
    },
    "zip link that leaves by another": (
        zipped(("a/b/x", "x"), zip_link("a/b/up", "../.."), zip_link("out", "a/b/up/..")),
        "is a link to .* out of the project's root",
    ),
    "tar link that leaves by a link made later": (
        tarred(
            tar_entry("out", tarfile.SYMTYPE, "a/b/up/../evil"),
            ("a/b/x", b"x"),
            tar_entry("a/b/up", tarfile.SYMTYPE, "../.."),
        ),
        "is a link to .* out of the project's root",
    ),
    "zip file below a link": (zipped(zip_link("d", "."), ("d/x", "x")), "lies below 'd', which is a link"),
    "tar file below a link": (
        tarred(tar_entry("d", tarfile.SYMTYPE, "."), ("d/x", b"x")),
        "lies below 'd', which is a link",
    ),
    "tar link in a directory's place": (
        tarred(("d/x", b"x"), tar_entry("d", tarfile.SYMTYPE, "/tmp")),
        "is there twice, or is both",
    ),
    "tar file written through a link": (
        tarred(tar_entry("f", tarfile.SYMTYPE, "x"), ("f", b"x")),
        "is there twice, or is both",
    ),
    "zip file twice": (b"two", "is there twice, or is both"),
    "tar file twice": (tarred(("f", b"x"), ("./f", b"y")), "is there twice, or is both"),
    "zip file below a file": (zipped(("f", "x"), ("f/g", "y")), "lies below 'f', which is a file"),
    "tar hard link out": (
        tarred(tar_entry("f", tarfile.LNKTYPE, "/etc/passwd")),
        "has an absolute name",
    ),
    "tar hard link up": (tarred(tar_entry("f", tarfile.LNKTYPE, "../x")), r"has a \.\. in its name"),
    "tar hard link to nothing": (
        tarred(tar_entry("f", tarfile.LNKTYPE, "g"), ("g", b"x")),
        "is a hard link to 'g', which is no file before it",
    ),
    "tar hard link to a link": (
        tarred(tar_entry("g", tarfile.SYMTYPE, "x"), tar_entry("f", tarfile.LNKTYPE, "g")),
        "is a hard link to 'g', which is no file before it",
    ),
    "zip link to nothing": (zipped(zip_link("f", "")), "a name that cannot be one"),
    "zip link with a NUL": (zipped(zip_link("f", "a\0b")), "a name that cannot be one"),
    "tar device": (tarred(tar_entry("f", tarfile.CHRTYPE, devmajor=1, devminor=3)), "is a device, a pipe or a socket"),
    "tar disk": (tarred(tar_entry("f", tarfile.BLKTYPE)), "is a device, a pipe or a socket"),
    "tar pipe": (tarred(tar_entry("f", tarfile.FIFOTYPE)), "is a device, a pipe or a socket"),
    "zip pipe": (zipped(("f", "", stat.S_IFIFO | 0o644)), "is a device, a pipe or a socket"),
    "zip device": (zipped(("f", "", stat.S_IFCHR | 0o644)), "is a device, a pipe or a socket"),
    "zip name with a NUL": (with_nul(), r"a NUL in its name: 'evil\\x00name'"),
    "tar name with a NUL": (
        tarred(tar_entry("f", tarfile.REGTYPE, pax_headers={"path": "evil\0name"})),
        r"a NUL in its name: 'evil\\x00name'",
    ),
    "tar name too long": (tarred(("a/" * 600 + "f", b"x")), "longer than 1000 bytes"),
    "zip name too long": (zipped(("a/" * 600 + "f", "x")), "longer than 1000 bytes"),
    "zip part too long": (zipped(("a" * 256, "x")), "no file system takes"),
    "zip without a name": (zipped(("./.", "x")), "has no name of its own"),
    "zip encrypted": (flagged(zipped(("f", "x")), 8, 1), "is encrypted"),
    "zip in parts": (flagged(zipped(("f", "x")), 34, 2), "one part of several"),
    "zip by bzip2": (zipped(("f", "x"), compression=zipfile.ZIP_BZIP2), "compressed by method 12"),
    "zip by lzma": (zipped(("f", "x"), compression=zipfile.ZIP_LZMA), "compressed by method 14"),
    "zip by an unknown method": (flagged(zipped(("f", "x")), 10, 99), "compressed by method 99"),
    "zip that overlaps": (overlapping_zip(1000, 100_000), "overlaps with the one behind it"),
    "zip bomb": (zipped(("zeros", bytes(40 << 20))), "more than 200 times its size.*MLPROJ_ARCHIVE_MAX_RATIO"),
    "tar bomb": (gzip.compress(tarred(("zeros", bytes(40 << 20)))), "more than 200 times its size"),
    "tar bomb of xz": (lzma.compress(tarred(("zeros", bytes(40 << 20)))), "more than 200 times its size"),
    "tar bomb of a hole": (
        tarred(tar_entry("f", tarfile.REGTYPE, pax_headers={
            "GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.name": "f",
            "GNU.sparse.size": str(1 << 50), "GNU.sparse.map": f"{1 << 50},0",
        })),
        "unpacks to more than 8G.*MLPROJ_ARCHIVE_MAX_UNPACKED",
    ),
    "tar bomb behind the end": (gzip.compress(tarred(("f", b"x")) + bytes(40 << 20)), "more than 200 times its size"),
    "tar bomb in a header": (
        gzip.compress(unsized_tar(2 << 20) + bytes(2 << 20)),
        "header is longer than any should be",
    ),
    "tar that announces too much": (tar_entry("f", tarfile.REGTYPE, size=1 << 40).tobuf(), "unpacks to more than 8G"),
    "tar with a size below 0": (
        tar_entry("f", tarfile.REGTYPE, size=-512).tobuf(tarfile.GNU_FORMAT),
        "cannot be unpacked",
    ),
}  # fmt: skip

BROKEN = {
    "nothing": (b"", "it is empty"),
    "text": (b"hello", "no zip and no tar archive"),
    "web page": (b"\n<!DOCTYPE html><title>Log in</title>", "it is a web page"),
    "gzip that is no tar": (gzip.compress(b"hello" * 500), "cannot be unpacked"),
    "zip cut off": (packed(".zip", **PROJECT)[:-30], "cannot be unpacked"),
    "zip cut off at its start": (packed(".zip", **PROJECT)[20:], "cannot be unpacked"),
    "zip that says less than it holds": (lying_zip(10), "cannot be unpacked"),
    "zip with a changed byte": (
        zipped(("f", b"x" * 100), compression=zipfile.ZIP_STORED).replace(b"xxxx", b"xxxy", 1),
        "Bad CRC-32",
    ),
    "zip of nothing": (zipped(), "is an empty archive"),
    "tar of nothing": (gzip.compress(tarred()), "is an empty archive"),
    "tar cut off in a file": (tarred(("f", b"x" * 2000))[:1000], "cannot be unpacked"),
    "tar cut off between files": (tarred(("f", b"x"), ("g", b"y"))[:1024], "cut off, or broken in the middle"),
    "tar broken in the middle": (
        tarred(("f", b"x"), ("g", b"y")).replace(b"ustar", b"USTAR").replace(b"USTAR", b"ustar", 1),
        "cut off, or broken in the middle",
    ),
    "tar.gz cut off": (gzip.compress(tarred(("f", os.urandom(5000))))[:3000], "ended before the end-of-stream"),
    "tar.gz cut off in its checksum": (packed(".tar.gz", **PROJECT)[:-4], "ended before the end-of-stream"),
    "tar.gz with a wrong checksum": (packed(".tar.gz", **PROJECT)[:-8] + bytes(8), "CRC check failed"),
    "tar.bz2 cut off": (packed(".tar.bz2", **PROJECT)[:-10], "ended before the end-of-stream"),
    "tar.xz cut off": (packed(".tar.xz", **PROJECT)[:-10], "ended before the end-of-stream"),
    "tar.xz broken": (packed(".tar.xz", **PROJECT)[:40] + b"x" * 200, "cannot be unpacked"),
}


class TestAHostileArchive:
    @pytest.mark.parametrize("case", HOSTILE)
    def test_is_refused_and_nothing_is_left_of_it_or_written_elsewhere(self, tmp_path, into, case):
        content, words = HOSTILE[case]
        if content == b"two":
            buffer = io.BytesIO()
            with zipfile.ZipFile(buffer, "w") as archive:
                archive.writestr("f", "x")
                with pytest.warns(UserWarning, match="Duplicate name"):
                    archive.writestr("f", "y")
            content = buffer.getvalue()
        file = write(tmp_path / "p.zip", content)
        before = tree(tmp_path)
        with pytest.raises((UserError, SourceError), match=words) as error:
            fetch(str(file), into=into)
        assert str(file) in str(error.value)
        assert tree(tmp_path) == before
        assert list(into.iterdir()) == []
        assert not Path("/evil").exists()

    @pytest.mark.parametrize("case", BROKEN)
    def test_or_a_broken_one_is_told_from_a_good_one(self, tmp_path, into, case):
        content, words = BROKEN[case]
        with pytest.raises(SourceError, match=words) as error:
            fetch(str(write(tmp_path / "p.tar.gz", content)), into=into)
        assert error.value.reason.retryable is False
        assert list(into.iterdir()) == []

    def test_of_many_entries_is_read_no_further_than_the_limit(self, tmp_path, into, monkeypatch):
        monkeypatch.setenv("MLPROJ_ARCHIVE_MAX_ENTRIES", "50")
        many = [(f"f{number}", b"") for number in range(51)]
        deep = [("/".join(["d"] * 60) + "/f", b"")]
        for content in (zipped(*many), tarred(*many), zipped(*deep), tarred(*deep)):
            with pytest.raises(UserError, match=r"more than 50 entries.*MLPROJ_ARCHIVE_MAX_ENTRIES"):
                fetch(str(write(tmp_path / "p.zip", content)), into=into)
        assert list(into.iterdir()) == []
        monkeypatch.setenv("MLPROJ_ARCHIVE_MAX_ENTRIES", "61")
        for content in (zipped(*many), tarred(*deep)):
            fetch(str(write(tmp_path / "p.zip", content)), into=into)

    def test_with_a_table_of_contents_of_millions_is_not_read_into_memory(self, tmp_path, into, monkeypatch):
        monkeypatch.setenv("MLPROJ_ARCHIVE_MAX_ENTRIES", "1000")
        end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 65535, 65535, 8 << 20, 4, 0)
        file = write(tmp_path / "p.zip", b"PK\3\4" + bytes(8 << 20) + end)
        with pytest.raises(UserError, match="more than 1000 entries"):
            fetch(str(file), into=into)

    def test_uses_no_more_memory_than_an_honest_one(self, tmp_path, into):
        """Bombs of 64 MB are refused by a process that may use little more than Python itself."""
        zeros = bytes(64 << 20)
        bombs = {
            "a.tar.gz": gzip.compress(unsized_tar(64 << 20) + zeros),
            "b.tar.gz": gzip.compress(unsized_tar(-512) + zeros),
            "c.tar.xz": lzma.compress(zeros),
        }
        for name, content in bombs.items():
            program = (
                "import re, sys; from pathlib import Path; from mlproj_core.sources import fetch\n"
                "from mlproj_core.errors import MlprojError\n"
                "try: fetch(sys.argv[1], into=Path(sys.argv[2]))\n"
                "except MlprojError: print(re.search(r'VmHWM:\\s*(\\d+)', Path('/proc/self/status').read_text())[1])"
            )
            file = write(tmp_path / name, content)
            done = subprocess.run([sys.executable, "-c", program, file, into], capture_output=True, text=True)
            assert int(done.stdout) < 50_000, done.stderr

    def test_is_refused_where_the_file_system_cannot_tell_its_names_apart(self, tmp_path, into):
        # What a file system without upper and lower case says is what a file that is there already says.
        (tmp_path / "root").mkdir()
        write(tmp_path / "root/f", b"x")
        from mlproj_core.sources.entries import Entry, Kind

        with pytest.raises(UserError, match="does not tell upper from lower case"):
            Unpacking(tmp_path / "root", "p.zip", 100, Limits()).add(Entry("f", Kind.FILE))


SOUND = [
    zipped(("a/b", "hello" * 50), ("c", "x"), zip_link("l", "a/b")),
    tarred(("a/b", b"hello" * 50), ("d/" * 80 + "c", b"x"), tar_entry("h", tarfile.LNKTYPE, "a/b")),
    tarred(("d/" * 80 + "c", b"x" * 600), tar_entry("l", tarfile.SYMTYPE, "d"), format=tarfile.GNU_FORMAT),
]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    archive=st.sampled_from(SOUND),
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.binary(max_size=12), st.integers(0, 600)), max_size=6),
)
@example(archive=SOUND[0], changes=[(0, b"", 600), (0, b"", 0)])  # nothing is left of it
def test_an_archive_with_any_bytes_changed_is_unpacked_or_refused(tmp_path, into, archive, changes):
    for place, new, replaced in changes:
        place %= len(archive) + 1
        archive = archive[:place] + new + archive[place + replaced :]
    file = write(tmp_path / "p.tar", archive)
    refusal = ""
    try:
        shutil.rmtree(fetch(str(file), into=into).owned)
    except (UserError, SourceError) as error:
        refusal = str(error)
    assert "Errno" not in refusal
    assert list(into.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "into", "p.tar"]


class TestTheLimits:
    def test_are_raised_by_variables_that_the_errors_name(self, tmp_path, into, monkeypatch):
        bomb = zipped(("zeros", bytes(40 << 20)))
        file = write(tmp_path / "p.zip", bomb)
        for name, low, high in (("RATIO", "300", "2k"), ("UNPACKED", "39M", "1GiB"), ("SIZE", "2K", "1M")):
            monkeypatch.setenv(f"MLPROJ_ARCHIVE_MAX_{name}", low)
            with pytest.raises(UserError, match=f"If you trust it, set MLPROJ_ARCHIVE_MAX_{name}"):
                fetch(str(file), into=into)
            monkeypatch.setenv(f"MLPROJ_ARCHIVE_MAX_{name}", high)
        assert (fetch(str(file), into=into).directory / "zeros").stat().st_size == 40 << 20

    @pytest.mark.parametrize("text", ["-1", "0", "many", "1.5G", "1 P"])
    def test_that_are_no_numbers_are_refused(self, tmp_path, into, monkeypatch, text):
        monkeypatch.setenv("MLPROJ_ARCHIVE_MAX_SIZE", text)
        with pytest.raises(UserError, match="MLPROJ_ARCHIVE_MAX_SIZE must be a whole number above 0"):
            fetch(str(write(tmp_path / "p.zip", zipped(("f", "x")))), into=into)
        assert not into.exists()

    def test_hold_for_what_is_written_whatever_the_headers_say(self, tmp_path, monkeypatch):
        from mlproj_core.sources.entries import Entry, Kind

        (tmp_path / "root").mkdir()
        unpacking = Unpacking(tmp_path / "root", "p.zip", 1 << 30, Limits(unpacked=1000))
        with pytest.raises(UserError, match="unpacks to more than 1000 bytes"):
            unpacking.add(Entry("f", Kind.FILE, size=1, content=lambda: iter([b"x" * 600] * 1000)))
        assert (tmp_path / "root/f").stat().st_size <= 1000

    def test_count_hard_links_as_the_copies_that_they_become(self, tmp_path, into, monkeypatch):
        monkeypatch.setenv("MLPROJ_ARCHIVE_MAX_UNPACKED", "100K")
        links = [tar_entry(f"l{number}", tarfile.LNKTYPE, "f") for number in range(20)]
        with pytest.raises(UserError, match="unpacks to more than 100K"):
            fetch(str(write(tmp_path / "p.tar", tarred(("f", b"x" * 10_000), *links))), into=into)
        assert list(into.iterdir()) == []


class TestADownload:
    def test_stops_at_the_limit_whether_the_length_is_announced_or_not(self, into, server, monkeypatch):
        monkeypatch.setenv("MLPROJ_ARCHIVE_MAX_SIZE", "1M")
        server.files["p.zip"] = bytes(200 << 20)
        for server.length in (True, False):
            with pytest.raises(UserError, match=r"larger than 1M.*MLPROJ_ARCHIVE_MAX_SIZE"):
                fetch(server.url("p.zip"), into=into)
        assert server.sent < 60 << 20
        assert list(into.iterdir()) == []

    def test_that_is_cut_off_is_an_error_worth_another_try(self, into, server):
        server.files["p.zip"] = packed(".zip", **PROJECT)
        server.cut = 100
        with pytest.raises(SourceError, match=r"ended after 100 of \d+ bytes") as error:
            fetch(server.url("p.zip"), into=into)
        assert error.value.reason.retryable is True
        assert list(into.iterdir()) == []

    def test_follows_redirects_and_gives_no_login_to_another_server(self, into, server):
        content = packed(".zip", **PROJECT)
        server.login = ("user", "p/w")
        with FileServer({"real": content}) as other:
            server.files["p.zip"] = server.url("next")
            server.files["next"] = other.url("real?signature=x", host="127.0.0.1")
            checkout = fetch(server.url("p.zip", login="user:p%2Fw@"), into=into)
        assert tree(checkout.directory)["MLproject"] == b"name: packed\n"
        assert server.logins == ["user:p/w", "user:p/w"]
        assert other.logins == [None]
        assert checkout.uri == checkout.source_name == server.url("p.zip")

    def test_that_redirects_nowhere_is_an_error(self, into, server):
        server.files |= {"a.zip": server.url("a.zip"), "b.zip": "file:///etc/passwd", "c.zip": "ftp://h/x", "d.zip": ""}
        with pytest.raises(SourceError, match="redirects in a circle"):
            fetch(server.url("a.zip"), into=into)
        for name in ("b.zip", "c.zip", "d.zip"):
            with pytest.raises(SourceError, match="no http"):
                fetch(server.url(name), into=into)
        assert list(into.iterdir()) == []

    def test_takes_a_login_from_netrc_and_none_from_git(self, into, server, home, monkeypatch):
        server.files["p.zip"] = packed(".zip", **PROJECT)
        server.login = ("user", "word")
        monkeypatch.setenv("MLPROJ_GIT_TOKEN", "for-git")
        with pytest.raises(SourceError, match=r"HTTP 401.*~/\.netrc.*token for Git is not sent") as error:
            fetch(server.url("p.zip"), into=into, token="for-git")
        assert server.logins == [None]
        assert error.value.reason.retryable is False
        (home / ".netrc").write_text("machine localhost login user password word\n")
        (home / ".netrc").chmod(0o600)
        lines = []
        fetch(server.url("p.zip"), into=into, report=lines.append)
        assert any("unencrypted" in line for line in lines)

    def test_takes_a_hosts_token_in_the_users_place(self, into, server):
        server.files["p.zip"] = packed(".zip", **PROJECT)
        server.login = ("x-access-token", "ghp_abcdef")
        assert "ghp_" not in repr(fetch(server.url("p.zip", login="ghp_abcdef@"), into=into))

    @pytest.mark.parametrize(
        ("status", "words", "retryable"),
        [
            (403, "wants a login", False),
            (404, "Check the address", False),
            (429, "Try again later", True),
            (503, "Try again later", True),
            (418, "Check the address", False),
        ],
    )
    def test_that_is_refused_says_what_to_do(self, into, server, status, words, retryable):
        server.files["p.zip"] = status
        with pytest.raises(SourceError, match=f"HTTP {status}.*{words}") as error:
            fetch(server.url("p.zip"), into=into)
        assert error.value.reason.retryable is retryable

    def test_from_nowhere_is_an_error_worth_another_try(self, into, server):
        for uri in ("http://no-such-host.invalid/p.zip", "http://127.0.0.1:1/p.zip"):
            with pytest.raises(SourceError, match="Check the host's name") as error:
                fetch(uri, into=into)
            assert error.value.reason.retryable is True

    def test_goes_through_the_proxy_of_the_environment(self, into, monkeypatch):
        with FileServer({"http://archives.invalid/p.zip".lstrip("/"): packed(".zip", **PROJECT)}) as proxy:
            monkeypatch.setenv("http_proxy", f"http://localhost:{proxy.port}")
            assert fetch("http://archives.invalid/p.zip", into=into).digest
        assert proxy.requests == ["http://archives.invalid/p.zip"]

    def test_checks_the_server_and_is_not_led_away_from_tls(self, into, server, certificates, monkeypatch):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates / "server.pem")
        files = {"p.zip": packed(".zip", **PROJECT), "down.zip": server.url("p.zip")}
        with FileServer(files, tls=context) as secure:
            with pytest.raises(SourceError, match=r"certificate verify failed.*REQUESTS_CA_BUNDLE"):
                fetch(secure.url("p.zip", host="127.0.0.1"), into=into)
            monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates / "ca.pem"))
            fetch(secure.url("p.zip", host="127.0.0.1"), into=into)
            with pytest.raises(SourceError, match="redirects from https:// to"):
                fetch(secure.url("down.zip", host="127.0.0.1"), into=into)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/gone.pem")
        with pytest.raises(UserError, match=r"REQUESTS_CA_BUNDLE names /gone\.pem"):
            fetch("https://127.0.0.1/p.zip", into=into)
        assert server.requests == []

    def test_that_is_interrupted_leaves_nothing(self, into, server):
        server.files["p.zip"] = bytes(100 << 20)
        server.pause = 0.05
        program = "import sys; from pathlib import Path; from mlproj_core.sources import fetch\n"
        program += "fetch(sys.argv[1], into=Path(sys.argv[2]), report=lambda line: print(line, flush=True))"
        process = subprocess.Popen(
            [sys.executable, "-c", program, server.url("p.zip"), into], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        with process:
            assert b"Downloading" in process.stdout.readline()
            process.send_signal(2)
            assert b"KeyboardInterrupt" in process.communicate(timeout=20)[1]
        assert list(into.iterdir()) == []


class TestTheUriOfAnArchive:
    @pytest.mark.parametrize(
        ("uri", "words"),
        [
            ("https://example.org/p-1.0-py3-none-any.whl", "is a built package"),
            ("{here}/p-1.0-py3-none-any.whl", "is a built package"),
            ("https://example.org/p.rar", "archives of this kind are not supported"),
            ("{here}/p.7z", "archives of this kind are not supported"),
            ("{here}/p.zip#md5=abc", "md5= is not supported"),
            ("{here}/p.zip#sha256=abc", "64 hexadecimal digits"),
            ("{here}/p.zip#subdirectory=a&rev=1", "rev= is not supported"),
            ("https://example.org/x.git#sha256=abc", "a digest is for archives"),
            ("{here}/p.zip#../x", "would leave the project's root"),
            ("https://example.org/p.tar.gz#subdirectory=/etc", "would leave the project's root"),
            ("file://{here}/gone.zip", "there is no archive"),
            ("./gone.zip", "no such directory or archive"),
            ("s3://bucket/p.zip", "s3:// is not supported"),
            ("{here}/pipe.zip", "is no file"),
        ],
    )
    def test_that_cannot_be_meant_is_refused_before_any_work(self, tmp_path, into, uri, words):
        for name in ("p.zip", "p.7z", "p-1.0-py3-none-any.whl"):
            write(tmp_path / name, packed(".zip", **PROJECT))
        os.mkfifo(tmp_path / "pipe.zip")
        with pytest.raises(UserError, match=words):
            fetch(uri.format(here=tmp_path), into=into)
        assert not into.exists()

    def test_takes_no_version(self, tmp_path, into):
        for uri in (str(write(tmp_path / "p.zip", packed(".zip", **PROJECT))), "https://example.org/p.tar.gz"):
            with pytest.raises(UserError, match="a version can be chosen only in a Git repository"):
                fetch(uri, "main", into=into)
        assert not into.exists()

    def test_names_a_repository_when_git_is_asked_for(self, into, server):
        with pytest.raises(SourceError, match="Git says"):
            fetch(f"git+{server.url('p.zip')}", into=into)

    def test_of_a_subdirectory_that_is_missing_or_a_link_out_is_an_error(self, tmp_path, into):
        file = write(tmp_path / "p.zip", packed(".zip", **PROJECT))
        for fragment in ("gone", "MLproject"):
            with pytest.raises(SourceError, match="no subdirectory"):
                fetch(f"{file}#{fragment}", into=into)
        assert list(into.iterdir()) == []

    @pytest.mark.parametrize(
        ("uri", "shown"),
        [
            ("https://u:p@host/p.zip?v=1#sub", "https://host/p.zip?v=1#sub"),
            ("https://host/p.zip?X-Amz-Signature=abc&v=1", "https://host/p.zip?X-Amz-Signature=***&v=1"),
            ("https://host/p.zip?a=1&private_token=abc#s", "https://host/p.zip?a=1&private_token=***#s"),
            ("https://host/p.zip?sv=2&sig=a%2Fb", "https://host/p.zip?sv=2&sig=***"),
            ("https://user:pa/ss@host/p.zip?token=abc", "https://host/p.zip?token=***"),
        ],
    )
    def test_is_shown_without_secrets(self, uri, shown):
        assert redact(uri) == shown

    def test_with_a_secret_shows_it_nowhere(self, into, server):
        lines = []
        server.files["p.zip"] = packed(".zip", **PROJECT)
        uri = server.url("p.zip?token=s3same", login="user:0pen@")
        checkout = fetch(uri, into=into, report=lines.append)
        assert server.requests == ["/p.zip?token=s3same"]
        server.files["p.zip"] = 500
        with pytest.raises(SourceError) as error:
            fetch(uri, into=into, report=lines.append)
        shown = f"{checkout!r} {error.value!r} {error.value.reason} {lines}"
        assert "s3same" not in shown
        assert "0pen" not in shown


def test_an_archive_in_a_compression_that_this_python_lacks_is_refused(tmp_path, into):
    if sys.version_info >= (3, 14):
        missing("this Python reads zstd")
    file = write(tmp_path / "p.tar.zst", b"\x28\xb5\x2f\xfd" + bytes(100))
    with pytest.raises(UserError, match=r"zstd needs Python 3\.14"):
        fetch(str(file), into=into)
    assert list(into.iterdir()) == []
