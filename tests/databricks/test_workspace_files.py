"""The tests' own Databricks workspace, as the real SDK sees it: volumes, workspace files, DBFS, secrets."""

import base64
import io

import pytest
from databricks.sdk.errors import (
    AlreadyExists,
    BadRequest,
    DatabricksError,
    InvalidParameterValue,
    NotFound,
    PermissionDenied,
    ResourceAlreadyExists,
    ResourceDoesNotExist,
)
from databricks.sdk.service.workspace import ImportFormat, Language, ObjectType
from databricks_client import client_of
from databricks_server import USER

HOME = f"/Workspace/Users/{USER}"


@pytest.fixture
def client(workspace):
    with client_of(workspace) as client:
        yield client


@pytest.fixture
def volume(workspace):
    return workspace.volumes.add("main", "ml", "code")


class TestAVolume:
    def test_keeps_files_in_directories_that_come_with_them(self, client, volume):
        client.files.upload(f"{volume}/a/b c.txt", io.BytesIO(b"text"))
        with client.files.download(f"{volume}/a/b c.txt").contents as contents:
            assert contents.read() == b"text"
        assert client.files.get_metadata(f"{volume}/a/b c.txt").content_length == 4
        (entry,) = client.files.list_directory_contents(f"{volume}/a/")
        assert (entry.path, entry.file_size, entry.is_directory) == (f"{volume}/a/b c.txt", 4, False)

    def test_lies_where_clusters_have_it(self, workspace, client, volume):
        client.files.upload(f"{volume}/a", io.BytesIO(b"text"))
        assert (workspace.volumes.directory / "main/ml/code/a").read_bytes() == b"text"

    def test_overwrites_if_it_is_told_to(self, client, volume):
        client.files.upload(f"{volume}/a", io.BytesIO(b"one"))
        with pytest.raises(AlreadyExists):
            client.files.upload(f"{volume}/a", io.BytesIO(b"two"))
        client.files.upload(f"{volume}/a", io.BytesIO(b"two"), overwrite=True)
        assert client.files.get_metadata(f"{volume}/a").content_length == 3

    def test_forgets_what_is_deleted(self, client, volume):
        client.files.create_directory(f"{volume}/a/b")
        client.files.upload(f"{volume}/a/b/c", io.BytesIO(b"x"))
        with pytest.raises(BadRequest, match="not empty"):
            client.files.delete_directory(f"{volume}/a/b")
        client.files.delete(f"{volume}/a/b/c")
        client.files.delete_directory(f"{volume}/a/b")
        with pytest.raises(NotFound):
            client.files.get_directory_metadata(f"{volume}/a/b")
        with pytest.raises(NotFound):
            client.files.get_metadata(f"{volume}/a/b/c")
        with pytest.raises(NotFound, match="not found"):
            client.files.delete(f"{volume}/a/b/c")

    def test_is_listed_in_pages(self, client, volume):
        for name in "abc":
            client.files.upload(f"{volume}/{name}", io.BytesIO(b"x"))
        found = client.files.list_directory_contents(volume, page_size=2)
        assert [entry.name for entry in found] == ["a", "b", "c"]

    def test_must_be_there(self, client):
        with pytest.raises(NotFound, match=r"Volume 'main.ml.none' does not exist"):
            client.files.upload("/Volumes/main/ml/none/a", io.BytesIO(b"x"))

    def test_may_be_forbidden(self, workspace, client, volume):
        workspace.volumes.writable = False
        with pytest.raises(PermissionDenied, match="WRITE VOLUME"):
            client.files.upload(f"{volume}/a", io.BytesIO(b"x"))

    def test_is_not_where_there_is_no_unity_catalog(self, workspace, client, volume):
        workspace.volumes.allowed = False
        with pytest.raises(NotFound, match="No metastore assigned"):
            client.files.upload(f"{volume}/a", io.BytesIO(b"x"))

    def test_takes_large_files(self, client, volume):
        client.files.upload(f"{volume}/large", io.BytesIO(b"x" * (51 << 20)))
        assert client.files.get_metadata(f"{volume}/large").content_length == 51 << 20


class TestWorkspaceFiles:
    def test_are_imported_and_exported(self, client):
        client.workspace.mkdirs(f"{HOME}/.mlproj")
        client.workspace.upload(f"{HOME}/.mlproj/a.tar.gz", io.BytesIO(b"\x1f\x8b"), format=ImportFormat.AUTO)
        with client.workspace.download(f"{HOME}/.mlproj/a.tar.gz") as contents:
            assert contents.read() == b"\x1f\x8b"
        status = client.workspace.get_status(f"/Users/{USER}/.mlproj/a.tar.gz")
        assert (status.object_type, status.size) == (ObjectType.FILE, 2)
        assert [each.path for each in client.workspace.list(f"{HOME}/.mlproj")] == [f"/Users/{USER}/.mlproj/a.tar.gz"]

    def test_come_in_json_too(self, client):
        client.workspace.import_(f"{HOME}/a.py", content=base64.b64encode(b"x = 1").decode(), format=ImportFormat.AUTO)
        assert client.workspace.get_status(f"{HOME}/a.py").object_type is ObjectType.FILE
        exported = client.workspace.export(f"{HOME}/a.py")
        assert base64.b64decode(exported.content) == b"x = 1"

    def test_that_are_source_become_notebooks(self, client):
        client.workspace.upload(f"{HOME}/a", io.BytesIO(b"x = 1"), language=Language.PYTHON)
        client.workspace.upload(
            f"{HOME}/b.py", io.BytesIO(b"# Databricks notebook source\nx = 1"), format=ImportFormat.AUTO
        )
        for name in "ab":  # the ending is lost
            assert client.workspace.get_status(f"{HOME}/{name}").object_type is ObjectType.NOTEBOOK

    def test_need_their_folder(self, client):
        with pytest.raises(ResourceDoesNotExist, match=r"parent folder .* does not exist"):
            client.workspace.upload(f"{HOME}/none/a", io.BytesIO(b"x"), format=ImportFormat.AUTO)

    def test_overwrite_if_told_to(self, client):
        client.workspace.upload(f"{HOME}/a", io.BytesIO(b"one"), format=ImportFormat.AUTO)
        with pytest.raises(ResourceAlreadyExists):
            client.workspace.upload(f"{HOME}/a", io.BytesIO(b"two"), format=ImportFormat.AUTO)
        client.workspace.upload(f"{HOME}/a", io.BytesIO(b"three"), format=ImportFormat.AUTO, overwrite=True)
        assert client.workspace.get_status(f"{HOME}/a").size == 5

    def test_have_another_limit_in_json_than_in_a_form(self, client):
        large = b"x" * ((10 << 20) + 1)
        with pytest.raises(BadRequest, match=r"\(10485761 bytes\), exceeded max size \(10485760 bytes\)"):
            client.workspace.import_(f"{HOME}/a", content=base64.b64encode(large).decode(), format=ImportFormat.AUTO)
        client.workspace.upload(f"{HOME}/a", io.BytesIO(large), format=ImportFormat.AUTO)
        with pytest.raises(BadRequest, match="exceeded max size"):
            client.workspace.export(f"{HOME}/a")

    def test_are_deleted_with_their_folder_if_told_to(self, client):
        client.workspace.mkdirs(f"{HOME}/x")
        client.workspace.upload(f"{HOME}/x/a", io.BytesIO(b"one"), format=ImportFormat.AUTO)
        with pytest.raises(BadRequest, match="is not empty"):
            client.workspace.delete(f"{HOME}/x")
        client.workspace.delete(f"{HOME}/x", recursive=True)
        with pytest.raises(ResourceDoesNotExist, match="doesn't exist"):
            client.workspace.get_status(f"{HOME}/x")

    def test_may_be_forbidden(self, workspace, client):
        workspace.objects.writable = False
        with pytest.raises(PermissionDenied):
            client.workspace.mkdirs(f"{HOME}/x")

    def test_are_at_absolute_paths(self, client):
        with pytest.raises(DatabricksError, match="must be absolute"):
            client.workspace.mkdirs("Users/me")
        with pytest.raises(InvalidParameterValue, match="must be absolute"):
            client.workspace.mkdirs(f"{HOME}/../../x")


class TestDbfs:
    def test_takes_a_megabyte_at_a_time(self, workspace, client):
        data = b"x" * (3 << 20) + b"end"
        with client.dbfs.open("dbfs:/mlproj/a", write=True, overwrite=True) as file:
            file.write(data)
        with client.dbfs.open("/mlproj/a", read=True) as file:
            assert file.read(-1) == data
        assert (workspace.dbfs.directory / "mlproj/a").stat().st_size == len(data)
        with pytest.raises(BadRequest, match="more than 1048576") as caught:
            client.dbfs.put("/mlproj/b", contents=base64.b64encode(data).decode())
        assert caught.value.error_code == "MAX_BLOCK_SIZE_EXCEEDED"

    def test_puts_lists_and_deletes(self, client):
        client.dbfs.put("/mlproj/a", contents=base64.b64encode(b"one").decode())
        with pytest.raises(ResourceAlreadyExists):
            client.dbfs.put("/mlproj/a", contents="")
        assert [(each.path, each.file_size) for each in client.dbfs.list("/mlproj")] == [("/mlproj/a", 3)]
        with pytest.raises(BadRequest, match="non-empty"):
            client.api_client.do("POST", "/api/2.0/dbfs/delete", body={"path": "/mlproj"})
        client.dbfs.delete("/mlproj", recursive=True)
        client.dbfs.delete("/mlproj", recursive=True)
        assert not client.dbfs.exists("/mlproj/a")
        with pytest.raises(ResourceDoesNotExist, match="No file or directory exists on path"):
            client.dbfs.get_status("/mlproj/a")

    def test_has_no_volumes(self, client, volume):
        with pytest.raises(PermissionDenied, match="No operations allowed on this path"):
            client.api_client.do("GET", "/api/2.0/dbfs/list", query={"path": volume})

    def test_may_be_disabled(self, workspace, client):
        workspace.dbfs.allowed = False
        with pytest.raises(PermissionDenied, match="DBFS root is disabled"):
            client.dbfs.put("/mlproj/a", contents="")


class TestSecrets:
    def test_are_in_scopes(self, workspace, client):
        client.secrets.create_scope("ml")
        client.secrets.put_secret("ml", "key", string_value="geheim")
        assert [scope.name for scope in client.secrets.list_scopes()] == ["ml"]
        assert [secret.key for secret in client.secrets.list_secrets("ml")] == ["key"]
        assert base64.b64decode(client.secrets.get_secret("ml", "key").value) == b"geheim"
        assert workspace.secrets.resolve("a {{secrets/ml/key}} b") == "a geheim b"
        client.secrets.delete_secret("ml", "key")
        with pytest.raises(ResourceDoesNotExist, match="scope: ml and key: key"):
            client.secrets.get_secret("ml", "key")

    def test_need_their_scope(self, client):
        with pytest.raises(ResourceDoesNotExist, match="Scope ml does not exist!"):
            client.secrets.put_secret("ml", "key", string_value="geheim")
        client.secrets.create_scope("ml")
        with pytest.raises(ResourceAlreadyExists):
            client.secrets.create_scope("ml")
