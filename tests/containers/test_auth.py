"""Credentials for registries."""

import base64
import json
import os

import pytest

from mlproj_core.containers.auth import auth_for, log_in, read_docker_auth, registry_of
from mlproj_core.containers.engine import connect
from mlproj_core.errors import ImageError, UserError


@pytest.fixture
def config(tmp_path, monkeypatch):
    """The directory of the user's Docker configuration."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    return tmp_path


def write_login(directory, registry, username, password):
    auth = base64.b64encode(f"{username}:{password}".encode()).decode()
    (directory / "config.json").write_text(json.dumps({"auths": {registry: {"auth": auth}}}))


class TestDockerAuth:
    def test_has_the_keys_that_mlflow_gives_to_the_sdk(self):
        login = read_docker_auth({"username": "me", "password": "geheim", "registry": "https://ghcr.io/v2/"})
        assert (login.username, login.password, login.registry) == ("me", "geheim", "ghcr.io")

    def test_is_for_docker_hub_where_it_names_no_registry(self):
        for registry in ({}, {"registry": "https://index.docker.io/v1/"}, {"registry": "docker.io"}):
            assert read_docker_auth({"username": "me", "password": "x", **registry}).registry == "docker.io"

    def test_may_be_missing(self):
        assert read_docker_auth(None) is None

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ({"username": "me", "pasword": "geheim"}, "unknown key 'pasword'. Did you mean 'password'"),
            ({"password": "geheim"}, "names no user"),
            ({"username": "me", "password": ["geheim"]}, "password must be text"),
            ({"username": "me", "password": "geheim", "reauth": "yes"}, "reauth must be true or false"),
            ("me:geheim", "must be a mapping"),
        ],
    )
    def test_is_checked_without_showing_the_password(self, given, words):
        with pytest.raises(UserError, match=words) as caught:
            read_docker_auth(given)
        assert "geheim" not in str(caught.value)

    def test_does_not_show_its_password(self):
        assert "geheim" not in repr(read_docker_auth({"username": "me", "password": "geheim"}))


class TestALogin:
    def test_is_tried_at_the_registry(self, engine, closed_registry):
        with connect() as client:
            login = {"username": "me", "password": "geheim", "registry": closed_registry.address}
            log_in(client, read_docker_auth(login))

    def test_that_is_refused_names_the_registry_and_not_the_password(self, engine, closed_registry):
        login = read_docker_auth({"username": "me", "password": "falsch-und-lang", "registry": closed_registry.address})
        with connect() as client, pytest.raises(ImageError, match="the registry refused") as caught:
            log_in(client, login)
        assert closed_registry.address in str(caught.value)
        assert "falsch" not in str(caught.value)
        assert not caught.value.reason.retryable

    def test_at_a_registry_that_is_down_may_be_tried_again(self, engine):
        login = read_docker_auth({"username": "me", "password": "geheim", "registry": "127.0.0.1:1"})
        with connect() as client, pytest.raises(ImageError, match="out of reach") as caught:
            log_in(client, login)
        assert caught.value.reason.retryable


class TestAnImagesCredentials:
    def test_are_the_callers_for_the_registry_that_they_name_only(self, config):
        login = read_docker_auth({"username": "me", "password": "geheim", "registry": "ghcr.io"})
        assert auth_for("ghcr.io/us/model:1", login)["password"] == "geheim"
        assert auth_for("quay.io/us/model:1", login) == {}
        assert auth_for("model", login) == {}

    def test_are_those_that_docker_login_has_left(self, config):
        write_login(config, "ghcr.io", "me", "geheim")
        assert auth_for("ghcr.io/us/model")["password"] == "geheim"

    def test_of_the_caller_count_for_more_than_those_that_docker_login_has_left(self, config):
        write_login(config, "ghcr.io", "other", "else")
        login = read_docker_auth({"username": "me", "password": "geheim", "registry": "ghcr.io"})
        assert auth_for("ghcr.io/us/model", login)["username"] == "me"

    def test_can_be_in_another_file(self, config, tmp_path_factory):
        elsewhere = tmp_path_factory.mktemp("elsewhere")
        write_login(elsewhere, "ghcr.io", "me", "geheim")
        login = {"username": "me", "registry": "ghcr.io", "dockercfg_path": str(elsewhere / "config.json")}
        assert auth_for("ghcr.io/us/model", read_docker_auth(login))["password"] == "geheim"

    def test_come_from_the_users_credential_helper(self, config, monkeypatch):
        helper = config / "docker-credential-tests"
        answer = json.dumps({"ServerURL": "ghcr.io", "Username": "me", "Secret": "geheim"})
        helper.write_text(f"#!/bin/sh\nread registry; test \"$registry\" = ghcr.io && echo '{answer}'\n")
        helper.chmod(0o755)
        monkeypatch.setenv("PATH", f"{config}:{os.environ['PATH']}")
        (config / "config.json").write_text('{"credHelpers": {"ghcr.io": "tests"}}')
        assert auth_for("ghcr.io/us/model")["Password"] == "geheim"

    def test_are_an_error_where_the_helper_is_not_installed(self, config):
        (config / "config.json").write_text('{"credsStore": "no-such-helper"}')
        with pytest.raises(ImageError, match=r"credential helper .* for ghcr.io failed.*no-such-helper"):
            auth_for("ghcr.io/us/model")

    def test_are_an_error_where_the_file_is_faulty(self, config):
        (config / "config.json").write_text('{"auths": {"ghcr.io": "geheim"}}')
        with pytest.raises(UserError, match="configuration file cannot be used") as caught:
            auth_for("ghcr.io/us/model")
        assert "geheim" not in str(caught.value)

    def test_are_of_the_registry_in_the_images_name(self):
        assert registry_of("python:3.11") == registry_of("us/model") == "docker.io"
        assert registry_of("localhost/model") == "localhost"
        assert registry_of("127.0.0.1:5000/us/model@sha256:0") == "127.0.0.1:5000"
        with pytest.raises(UserError, match="is no image's name"):
            registry_of("https://ghcr.io/us/model")
