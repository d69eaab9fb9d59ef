"""Images of a project's code: built, found again, pushed."""

import json
import threading

import pytest
from docker_world import PYTHON, SHELL, Registry

from mlproj_core.containers.auth import auth_for, read_docker_auth
from mlproj_core.containers.build import build_image, build_project_image, push_image
from mlproj_core.containers.engine import connect
from mlproj_core.containers.image import ensure_image
from mlproj_core.errors import ImageError, UserError
from mlproj_core.status import ReasonCode


@pytest.fixture
def client(engine):
    with connect() as client:
        yield client


@pytest.fixture
def project(tmp_path):
    """A project of a few files, some of which are of no interest to an image."""
    directory = tmp_path / "project"
    (directory / "sub").mkdir(parents=True)
    files = {
        "train.py": "print('trained')", "sub/run.sh": "echo $0 ran in $PWD", ".dockerignore": "*.log\n",
        ".gitignore": "data\n", "a.log": "", "data": "", "Dockerfile": "FROM nothing",
    }  # fmt: skip
    for name, text in files.items():
        (directory / name).write_text(text)
    (directory / "link").symlink_to("sub/run.sh")
    return directory


def build(client, directory, base=SHELL, **options):
    lines = []
    image = ensure_image(client, base, report=lines.append)
    return build_project_image(client, image, directory, report=lines.append, **options), lines


def run(client, image, command):
    container = client.create_container(image, command)
    client.start(container)
    client.wait(container)
    return client.logs(container).decode()


class TestAProjectsImage:
    def test_has_the_code_where_mlflow_has_it_and_works_there(self, client, project):
        reference, _ = build(client, project)
        assert run(client, reference, ["sh", "sub/run.sh"]) == "sub/run.sh ran in /mlflow/projects/code\n"
        found = run(client, reference, ["find", ".", "-mindepth", "1"]).split()
        kept = ["./.dockerignore", "./.gitignore", "./Dockerfile", "./link", "./sub", "./sub/run.sh", "./train.py"]
        assert sorted(found) == kept
        assert run(client, reference, ["readlink", "link"]) == "sub/run.sh\n"

    def test_is_not_built_again_for_the_same_files(self, client, project):
        first, lines = build(client, project, repository="once")
        assert lines[0] == f"building the image {first}"
        identity = client.inspect_image(first)["Id"]
        second, lines = build(client, project, repository="once")
        assert (second, lines) == (first, [f"the image {first} is there already"])
        assert client.inspect_image(second)["Id"] == identity

    def test_is_another_one_for_other_files_or_another_base(self, client, project):
        first = build(client, project)[0]
        (project / "data").write_text("changed, and of no interest")
        assert build(client, project)[0] == first
        assert build(client, project, PYTHON)[0] != first
        (project / "train.py").write_text("print('changed')")
        assert build(client, project)[0] != first

    def test_has_a_name_that_mlflow_would_give_it_too(self, client, project):
        commit = "0123456789" * 4
        reference = build(client, project, repository="us/model", commit=commit)[0]
        assert reference.startswith("us/model:")
        assert client.inspect_image("us/model:0123456")["Id"] == client.inspect_image(reference)["Id"]
        assert build(client, project)[0].startswith("docker-project:")

    def test_says_what_it_was_made_of(self, client, project):
        labels = client.inspect_image(build(client, project)[0])["Config"]["Labels"]
        base = client.inspect_image(SHELL)  # its digest, once a registry has it
        assert labels["mlproj.base"] in (base["Id"], *base["RepoDigests"])
        assert len(labels["mlproj.files"]) == 64

    def test_is_one_whoever_builds_it_at_the_same_time(self, engine, project):
        found, start = [], threading.Barrier(4)

        def one():
            with connect() as client:
                start.wait()
                found.append(build(client, project, repository="raced")[0])

        threads = [threading.Thread(target=one) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 4
        assert len(set(found)) == 1
        with connect() as client:
            assert run(client, found[0], ["cat", "train.py"]) == "print('trained')"

    @pytest.mark.parametrize(
        ("name", "words"), [("us/model:1", "leave it out"), ("Us/Model", "no name of a repository")]
    )
    def test_needs_the_name_of_a_repository(self, client, project, name, words):
        with pytest.raises(UserError, match=words):
            build(client, project, repository=name)


class TestABuildThatFails:
    def failure(self, client, project, *lines, **options):
        image = ensure_image(client, SHELL, report=print)
        text = "\n".join([f"FROM {SHELL}", *lines])
        with pytest.raises(ImageError) as caught:
            build_image(client, image, project, text, report=print, **options)
        assert caught.value.reason.code is ReasonCode.IMAGE
        return caught.value

    def test_has_the_builders_last_lines(self, client, project):
        error = self.failure(client, project, "RUN echo one >&2; echo two >&2; exit 3")
        assert "a command ended with status 3: two" in str(error)
        assert error.reason.output[-2:] == ("one", "two")
        assert not error.reason.retryable

    def test_may_be_tried_again_when_a_server_was_out_of_reach(self, client, project):
        error = self.failure(client, project, "RUN echo 'Connection to index.example timed out'; exit 1")
        assert error.reason.retryable

    def test_shows_no_secret(self, client, project, capsys):
        lines = ["ARG TOKEN", "RUN echo got $TOKEN; exit 1"]
        error = self.failure(client, project, *lines, arguments={"TOKEN": "geheim"}, secrets=["geheim"])
        assert "geheim" not in str(error) + repr(error.reason) + capsys.readouterr().out

    def test_leaves_no_image(self, client, project):
        self.failure(client, project, "RUN exit 1", repository="failed")
        assert client.images("failed") == []

    def test_tells_of_a_copy_of_what_is_not_there(self, client, project):
        assert "no-such-file" in str(self.failure(client, project, "COPY no-such-file /x"))


class TestAPush:
    def test_gives_the_image_by_its_digest(self, client, project, registry):
        lines = []
        reference = build(client, project, repository=f"{registry.address}/us/model")[0]
        pinned = push_image(client, reference, None, lines.append)
        assert pinned.startswith(f"{registry.address}/us/model@sha256:")
        assert lines[0] == f"pushing the image {reference}"
        assert lines[-1].endswith(pinned)
        client.remove_image(reference, force=True)
        assert run(client, ensure_image(client, pinned, report=print).id, ["cat", "train.py"]) == "print('trained')"

    def test_logs_in(self, client, project, closed_registry):
        reference = build(client, project, repository=f"{closed_registry.address}/model")[0]
        with pytest.raises(ImageError, match="the registry refused") as caught:
            push_image(client, reference, None, print)
        assert not caught.value.reason.retryable
        login = read_docker_auth({"username": "me", "password": "geheim", "registry": closed_registry.address})
        assert "@sha256:" in push_image(client, reference, auth_for(reference, login), print)

    def test_by_the_users_own_login(self, client, project, closed_registry, tmp_path, monkeypatch):
        import base64

        auth = base64.b64encode(b"me:geheim").decode()
        (tmp_path / "config.json").write_text(json.dumps({"auths": {closed_registry.address: {"auth": auth}}}))
        monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
        reference = build(client, project, repository=f"{closed_registry.address}/own")[0]
        assert "@sha256:" in push_image(client, reference, auth_for(reference), print)

    def test_to_a_registry_that_is_down_may_be_tried_again(self, client, project, tmp_path):
        registry = Registry(tmp_path / "registry")
        registry.close()
        reference = build(client, project, repository=f"{registry.address}/model")[0]
        with pytest.raises(ImageError, match="out of reach") as caught:
            push_image(client, reference, None, print)
        assert caught.value.reason.retryable
