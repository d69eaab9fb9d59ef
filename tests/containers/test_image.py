"""An image that is there, or is pulled."""

import contextlib
import json
from urllib.request import Request, urlopen

import pytest
from docker_world import SHELL

from mlproj_core.containers.auth import auth_for, read_docker_auth
from mlproj_core.containers.engine import connect
from mlproj_core.containers.image import ensure_image
from mlproj_core.containers.progress import LayerProgress
from mlproj_core.containers.trouble import image_error
from mlproj_core.errors import ImageError, UserError
from mlproj_core.status import ReasonCode

LOGIN = {"username": "me", "password": "geheim"}


@pytest.fixture
def client(engine):
    with connect() as client:
        yield client


def put(client, registry, name, auth=None):
    """Have an image in a registry, and not on the engine."""
    reference = f"{registry.address}/{name}"
    client.tag(SHELL, reference, "1")
    for line in client.push(reference, "1", stream=True, decode=True, auth_config=auth or {}):
        assert "error" not in line, line
    client.remove_image(f"{reference}:1")
    return f"{reference}:1"


def ensure(client, image, **options):
    lines = []
    return ensure_image(client, image, report=lines.append, **options), lines


class TestAnImage:
    def test_that_is_there_is_used_as_it_is(self, client):
        image, lines = ensure(client, SHELL)
        assert image.id == client.inspect_image(SHELL)["Id"]
        assert lines == []

    def test_that_is_there_can_be_named_by_its_id(self, client):
        identity = client.inspect_image(SHELL)["Id"]
        assert ensure(client, identity)[0].id == identity

    def test_that_is_not_there_is_pulled(self, client, registry):
        name = put(client, registry, "pulled")
        image, lines = ensure(client, name)
        assert image.digest.startswith(f"{registry.address}/pulled@sha256:")
        assert lines[0] == f"pulling the image {name}"
        assert image.digest in lines[-1]
        assert len(lines) == 2
        assert ensure(client, image.digest)[0].id == image.id

    def test_is_pulled_by_its_digest(self, client, registry):
        digest = ensure(client, put(client, registry, "pinned"))[0].digest
        client.remove_image(digest)
        with contextlib.suppress(Exception):
            client.remove_image(f"{registry.address}/pinned:1")
        assert ensure(client, digest)[0].digest == digest

    def test_is_asked_for_anew_where_the_caller_wants_that(self, client, registry):
        name = put(client, registry, "always")
        ensure(client, name)
        assert ensure(client, name, pull="always")[1][0] == f"pulling the image {name}"

    def test_is_not_pulled_where_the_caller_forbids_it(self, client, registry):
        name = put(client, registry, "never")
        with pytest.raises(ImageError, match="without pulling it failed: there is no such image"):
            ensure(client, name, pull="never")
        with pytest.raises(UserError, match="missing, always, never"):
            ensure(client, name, pull="sometimes")

    def test_is_pulled_with_a_login(self, client, closed_registry):
        login = read_docker_auth({**LOGIN, "registry": closed_registry.address})
        name = put(client, closed_registry, "closed", LOGIN)
        with pytest.raises(ImageError, match="the registry refused") as caught:
            ensure(client, name)
        assert not caught.value.reason.retryable
        assert ensure(client, name, auth=auth_for(name, login))[0].digest

    def test_is_not_pulled_again_for_its_own_platform(self, client):
        assert ensure(client, SHELL, platform="linux/amd64")[1] == []

    def test_that_nobody_has_is_the_callers_mistake(self, client, registry):
        with pytest.raises(ImageError, match="there is no such image") as caught:
            ensure(client, f"{registry.address}/nobody-has-it:1")
        assert caught.value.reason.code is ReasonCode.IMAGE
        assert not caught.value.reason.retryable

    def test_with_no_such_tag_is_the_callers_mistake(self, client, registry):
        name = put(client, registry, "tagged")
        with pytest.raises(ImageError, match="there is no such image"):
            ensure(client, f"{name}-2")

    def test_of_a_registry_that_is_down_may_be_had_later(self, client):
        with pytest.raises(ImageError, match="out of reach") as caught:
            ensure(client, "127.0.0.1:1/model:1")
        assert caught.value.reason.retryable

    def test_that_is_for_one_other_platform_only_is_not_there_for_this_one(self, client, registry):
        name = put(client, registry, "platform")
        with pytest.raises(ImageError, match=r"not there for this platform.*linux/s390x") as caught:
            ensure(client, name, platform="linux/s390x")
        assert not caught.value.reason.retryable

    def test_that_is_for_several_platforms_may_not_be_there_for_this_one(self, client, registry):
        name = put(client, registry, "platforms")
        index = "application/vnd.docker.distribution.manifest.list.v2+json"
        digest = ensure(client, name)[0].digest.partition("@")[2]
        entry = {
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json", "digest": digest, "size": 527,
            "platform": {"os": "linux", "architecture": "s390x"},
        }  # fmt: skip
        manifest = json.dumps({"schemaVersion": 2, "mediaType": index, "manifests": [entry]}).encode()
        url = f"http://{registry.address}/v2/platforms/manifests/2"
        request = Request(url, manifest, {"Content-Type": index}, method="PUT")
        urlopen(request).close()
        with pytest.raises(ImageError, match=r"not there for this platform") as caught:
            ensure(client, f"{registry.address}/platforms:2")
        assert not caught.value.reason.retryable

    def test_without_a_proper_name_is_the_callers_mistake(self, client):
        with pytest.raises(ImageError, match="no image's name") as caught:
            ensure(client, "Upper Case")
        assert not caught.value.reason.retryable


class TestTrouble:
    """The words of registries and engines that cannot be had here, as they are on record."""

    @pytest.mark.parametrize(
        ("said", "meaning", "retryable"),
        [
            (
                "toomanyrequests: You have reached your pull rate limit. You may increase the limit by authenticating",
                "too many requests",
                True,
            ),
            ("write /var/lib/docker/tmp/GetImageBlob1: no space left on device", "disk is full", True),
            ("no matching manifest for linux/arm64/v8 in the manifest list entries", "this platform", False),
            ("no match for platform in manifest: not found", "this platform", False),
            (
                "pull access denied for nope, repository does not exist or may require 'docker login': denied",
                "or it may not be read without a login",
                False,
            ),
            ('Get "https://registry.example/v2/": dial tcp: lookup registry.example: no such host', "reach", True),
            ('Get "https://registry.example/v2/": net/http: TLS handshake timeout', "out of reach", True),
            ("received unexpected HTTP status: 503 Service Unavailable", "out of reach", True),
            ("tls: failed to verify certificate: x509: certificate signed by unknown authority", "not trust", False),
            ('Get "https://10.0.0.1/v2/": http: server gave HTTP response to HTTPS client', "not trust", False),
            ("failed to resolve reference: ghcr.io/us/nope:1: not found", "no such image", False),
            ("unknown words of an engine to come", "failed (unknown words of an engine to come)", True),
        ],
    )
    def test_is_known_by_its_words(self, said, meaning, retryable):
        error = image_error("Pulling the image 'x'", said)
        assert meaning in str(error)
        assert error.reason.retryable is retryable


class TestProgress:
    def test_is_a_few_lines_of_a_flood_of_events(self, monkeypatch):
        now = [0.0]
        monkeypatch.setattr("time.monotonic", lambda: now[0])
        lines = []
        progress = LayerProgress("pulling", "model:1", lines.append)
        for step in range(1, 1001):
            now[0] += 0.012
            for layer in ("one", "two"):
                detail = {"current": step * 100_000, "total": 100_000_000}
                progress.take({"status": "Downloading", "id": layer, "progressDetail": detail})
        progress.take({"status": "Pull complete", "id": "one", "progressDetail": {}})
        progress.done("sha256:0")
        assert lines == [
            "pulling the image model:1",
            "pulling model:1: 41 % of 200 MB, 0 of 2 layers",
            "pulling model:1: 83 % of 200 MB, 0 of 2 layers",
            "pulled model:1 in 12.0 s: sha256:0",
        ]
