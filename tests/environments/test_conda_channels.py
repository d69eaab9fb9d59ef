"""Where conda packages come from: channels, their priority, configuration, credentials, lists of locked packages."""

import hashlib
import json
import shutil
import ssl
import subprocess

import pytest
from conda_world import PLATFORM, CondaServer, Package, clean_conda, index
from missing import missing
from package_world import clean_host, wheel

from mlproj_core.environments import build_request, environment_manager
from mlproj_core.errors import EnvironmentBuildError, InvalidProject, UserError
from mlproj_core.spec import load_project

SECRET = "s3cr3t/of-the-channel"
QUOTED = "s3cr3t%2Fof-the-channel"


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path, conda_channel):
    home = clean_host(monkeypatch, tmp_path)
    clean_conda(monkeypatch)
    return home


@pytest.fixture
def project(tmp_path):
    folder = tmp_path / "code"
    folder.mkdir()
    return folder


@pytest.fixture
def channel(tmp_path):
    """Writes a small channel of packages that hold one file each, with the channel's name in it."""

    def write(name, *packages, kind="conda"):
        for package in packages:
            title, version = package.split("=")
            path = f"share/{title}.txt"
            Package(title, version, noarch="generic").file(path, f"{version} {name}").write(tmp_path / name, kind)
        return index(tmp_path / name)

    return write


@pytest.fixture
def make(project):
    """Makes the environment of a conda.yaml with these packages and channels; keeps what the builder says."""
    said = []

    def ensure(*packages, channels=("nodefaults",), text=None):
        lines = ["channels:", *(f"  - {one}" for one in channels)] if channels else []
        lines += ["dependencies:", *(f"  - {one}" for one in packages)]
        (project / "conda.yaml").write_text(text or "\n".join(lines) + "\n")
        return environment_manager("conda").ensure(load_project(project).environment, project, said.append)

    ensure.said = said
    return ensure


def content(environment, name="tool"):
    return (environment.prefix / "share" / f"{name}.txt").read_text()


class TestChannels:
    def test_may_be_paths_relative_to_the_file_and_addresses(self, make, channel, project):
        near, far = channel("near", "tool=1.0"), channel("far", "other=1.0")
        near.rename(project / "near")
        environment = make("tool", "other", channels=["./near", far.as_uri(), "nodefaults"])
        assert content(environment) == "1.0 near"
        assert content(environment, "other") == "1.0 far"

    def test_are_those_of_the_configuration_after_those_of_the_file(self, make, channel, home):
        mine, ours = channel("mine", "tool=1.0"), channel("ours", "tool=1.0", "other=1.0")
        (home / ".condarc").write_text(f"channels:\n  - {ours}\n")
        environment = make("tool", "other", channels=[mine])
        assert content(environment) == "1.0 mine"
        assert content(environment, "other") == "1.0 ours"
        with pytest.raises(EnvironmentBuildError, match="No candidates were found for other"):
            make("tool", "other", channels=[mine, "nodefaults"])

    def test_are_defaults_where_nothing_names_one(self, make, channel, home):
        ours, more = channel("ours", "tool=1.0"), channel("more", "tool=2.0")
        (home / ".condarc").write_text(f"default_channels:\n  - {ours}\n  - {more}\nchannel_priority: strict\n")
        # Of one group the newest is taken, whatever the priority of channels.
        assert content(make("tool", channels=())) == "2.0 more"

    def test_have_names_by_the_configuration(self, make, channel, home, tmp_path):
        channel("lab/label/dev", "tool=1.0")
        channel("aliased", "other=1.0")
        channel("one", "third=1.0")
        (home / ".condarc").write_text(
            f"channel_alias: {tmp_path.as_uri()}\ncustom_channels:\n  lab: {tmp_path.as_uri()}/\n"
            f"custom_multichannels:\n  many: [{tmp_path}/one]\n"
        )
        environment = make("lab/label/dev::tool", "other", "many::third", channels=["aliased", "many", "nodefaults"])
        assert content(environment) == "1.0 lab/label/dev"
        assert content(environment, "other") == "1.0 aliased"
        assert content(environment, "third") == "1.0 one"

    def test_may_be_asked_for_at_a_mirror(self, make, channel, home):
        there = channel("mirror", "tool=1.0")
        server = CondaServer(there)
        try:
            (home / ".condarc").write_text(f"mirrored_channels:\n  conda-forge: [{server.url()}]\n")
            environment = make("tool", channels=["conda-forge", "nodefaults"])
        finally:
            server.close()
        (record,) = (environment.prefix / "conda-meta").glob("tool-*.json")
        assert json.loads(record.read_text())["url"].startswith("https://conda.anaconda.org/conda-forge/noarch/tool-")

    def test_may_be_reached_by_a_proxy(self, make, channel, home):
        proxy = CondaServer(channel("mine", "tool=1.0"))
        try:
            (home / ".condarc").write_text(f"proxy_servers:\n  http: http://localhost:{proxy.port}\n")
            environment = make("tool", channels=["http://channel.example/channel", "nodefaults"])
        finally:
            proxy.close()
        assert content(environment) == "1.0 mine"
        assert proxy.asked

    def test_that_were_read_once_can_be_used_offline(self, make, channel, monkeypatch, tmp_path):
        Package("native").file("share/native.txt", "1.0 mine").write(tmp_path / "mine")
        server = CondaServer(channel("mine", "tool=1.0", "other=1.0"))
        there = [server.url(), "nodefaults"]
        make("tool", "other", channels=there)
        server.close()
        monkeypatch.setenv("CONDA_OFFLINE", "true")
        assert content(make("tool", channels=there)) == "1.0 mine"

    def test_of_a_group_have_one_priority_and_can_be_named_by_it(self, make, channel, home):
        one, two = channel("one", "tool=1.0"), channel("two", "tool=2.0", "other=1.0")
        (home / ".condarc").write_text(f"custom_multichannels:\n  many: [{one}, {two}]\n")
        environment = make("many::tool", "other", channels=["many", "nodefaults"])
        assert content(environment) == "2.0 two"

    def test_are_named_by_variables_too(self, make, channel, monkeypatch):
        monkeypatch.setenv("PLACE", str(channel("mine", "tool=1.0")))
        monkeypatch.setenv("CONDA_CHANNELS", str(channel("ours", "other=1.0")))
        environment = make("tool", "other", channels=["$PLACE"])
        assert content(environment) == "1.0 mine"
        assert content(environment, "other") == "1.0 ours"

    @pytest.mark.parametrize(
        ("priority", "version"),
        [("strict", None), ("flexible", "2.0 second"), ("disabled", "2.0 second")],
    )
    def test_have_a_priority(self, make, channel, monkeypatch, priority, version):
        both = [channel("first", "tool=1.0"), channel("second", "tool=2.0"), "nodefaults"]
        monkeypatch.setenv("CONDA_CHANNEL_PRIORITY", priority)
        newest = "2.0 second" if priority == "disabled" else "1.0 first"
        assert content(make("tool", channels=both)) == newest
        if version is None:
            with pytest.raises(EnvironmentBuildError, match=r"channel priority strict"):
                make("tool=2", channels=both)
        else:
            assert content(make("tool=2", channels=both)) == version

    @pytest.mark.parametrize("rule", ["allowlist_channels: [conda-forge]", "denylist_channels: ['{channel}']"])
    def test_are_held_to_what_an_administrator_allows(self, make, channel, home, rule):
        there = channel("mine", "tool=1.0")
        (home / ".condarc").write_text(rule.format(channel=there) + "\n")
        with pytest.raises(UserError, match=r"may not be used: conda's setting .*\.condarc, line 1\) forbids it"):
            make("tool", channels=[there, "nodefaults"])

    def test_are_constrained_by_pins_and_begin_with_default_packages(self, make, channel, home, monkeypatch):
        there = channel("mine", "tool=1.0", "tool=2.0", "other=1.0")
        (home / ".condarc").write_text("pinned_packages: [tool<2]\ncreate_default_packages: [other]\n")
        environment = make("tool", channels=[there, "nodefaults"])
        assert content(environment) == "1.0 mine"
        assert content(environment, "other") == "1.0 mine"
        monkeypatch.setenv("CONDA_IGNORE_PINNED", "true")
        monkeypatch.setenv("CONDA_USE_LOCAL", "false")
        assert content(make("tool", channels=[there, "nodefaults"])) == "2.0 mine"

    @pytest.mark.parametrize(("limit", "admits"), [("2999-01-01", True), ("2020-01-01", False), ("7d", False)])
    def test_may_be_held_to_packages_of_some_age(self, make, channel, monkeypatch, limit, admits):
        there = channel("mine", "tool=1.0")  # of this moment
        monkeypatch.setenv("CONDA_EXCLUDE_NEWER", limit)
        if admits:
            assert content(make("tool", channels=[there, "nodefaults"])) == "1.0 mine"
        else:
            with pytest.raises(EnvironmentBuildError, match="tool"):
                make("tool", channels=[there, "nodefaults"])


class TestASettingThatCannotBeKept:
    @pytest.mark.parametrize(
        "setting",
        [
            "deps_modifier: no_deps",
            "disallowed_packages: [tool]",
            "restore_free_channel: true",
            "track_features: [mkl]",
            "client_ssl_cert: /me.pem",
            "repodata_fns: [my.json]",
            "use_local: true",
            "exclude_newer_package: {tool: 7d}",
            "override_virtual_packages: {__cuda: '12'}",
            "channel_settings: [{channel: x, exclude_newer: 7d}]",
        ],
    )
    def test_is_refused_by_name_and_place(self, make, channel, home, setting):
        (home / ".condarc").write_text(f"# mine\n{setting}\n")
        there = channel("mine", "tool=1.0")
        name = setting.partition(":")[0]
        with pytest.raises(UserError, match=rf"conda's setting {name} \({home}/\.condarc, line 2\)"):
            make("tool", channels=[there, "nodefaults"])


class TestCredentials:
    @pytest.fixture
    def server(self, channel):
        """A channel that lets in one user only, and looks for the password in the process list."""
        server = CondaServer(channel("mine", "tool=1.0"), "me", SECRET)
        server.watch_for = SECRET
        yield server
        server.close()

    @pytest.fixture
    def tokens(self, channel):
        """A channel that wants a token in its address."""
        server = CondaServer(channel("mine", "tool=1.0"), token="tk-0123-456")
        server.watch_for = "tk-0123-456"
        yield server
        server.close()

    def held(self, tmp_path, environment, said, *secrets):
        """The places where a secret was left behind."""
        texts = {"said": "\n".join(said), "key": environment.key, "environment": str(environment.to_dict())}
        for root in (environment.prefix, tmp_path / "cache"):
            for path in root.rglob("*"):
                if path.is_file():
                    texts[str(path)] = path.read_text(errors="replace")
        return [place for place, text in texts.items() if any(secret in text for secret in secrets)]

    def test_in_a_channels_address_reach_it_and_are_left_nowhere(self, make, server, tmp_path, project):
        address = server.url().replace(SECRET, QUOTED)
        environment = make("tool", channels=[address, "nodefaults"])
        assert content(environment) == "1.0 mine"
        assert server.asked
        assert server.seen == []
        assert self.held(tmp_path, environment, make.said, SECRET, QUOTED) == []
        request = build_request("conda", load_project(project).environment, project)
        assert request["spec"] is None

    def test_are_not_part_of_the_key(self, make, server, project):
        one = make("tool", channels=[server.url().replace(SECRET, QUOTED), "nodefaults"])
        (project / "conda.yaml").write_text(
            f"channels: [{server.url(credentials=False)}, nodefaults]\ndependencies: [tool]\n"
        )
        again = environment_manager("conda").find(load_project(project).environment, project)
        assert again.key == one.key

    def test_as_a_token_in_the_address_reach_it_and_are_left_nowhere(self, make, tokens, tmp_path):
        environment = make("tool", channels=[tokens.url(), "nodefaults"])
        assert tokens.asked
        assert tokens.seen == []
        assert self.held(tmp_path, environment, make.said, "tk-0123-456") == []

    def test_may_stand_in_the_configuration_by_a_variable(self, make, tokens, home, monkeypatch):
        (home / ".condarc").write_text("channel_alias: ${ALIAS}\n")
        monkeypatch.setenv("ALIAS", tokens.url().removesuffix("/channel"))
        assert content(make("tool", channels=["channel", "nodefaults"])) == "1.0 mine"

    def test_may_stand_in_netrc(self, make, server, home):
        netrc = home / ".netrc"
        netrc.write_text(f"machine localhost login me password {SECRET}\n")
        netrc.chmod(0o600)
        assert content(make("tool", channels=[server.url(credentials=False), "nodefaults"])) == "1.0 mine"

    def test_may_stand_in_rattlers_own_file(self, make, server, tmp_path, monkeypatch):
        login = {"localhost": {"BasicHTTP": {"username": "me", "password": SECRET}}}
        (tmp_path / "logins.json").write_text(json.dumps(login))
        monkeypatch.setenv("RATTLER_AUTH_FILE", str(tmp_path / "logins.json"))
        assert content(make("tool", channels=[server.url(credentials=False), "nodefaults"])) == "1.0 mine"

    def test_that_are_wrong_are_not_shown_and_the_remedy_is(self, make, server, tokens):
        for address in (server.url().replace(SECRET, "wr0ng-password"), tokens.url().replace("0123", "wr0ng")):
            with pytest.raises(EnvironmentBuildError, match=r"~/\.netrc") as caught:
                make("tool", channels=[address, "nodefaults"])
            assert "wr0ng" not in str(caught.value) + "\n".join(make.said)
            assert not caught.value.reason.retryable


class TestAnEncryptedChannel:
    @pytest.fixture
    def server(self, channel, tmp_path):
        """A channel with a certificate of our own making."""
        if shutil.which("openssl") is None:
            missing("there is no program openssl to make a certificate with: `apt-get install openssl`")
        subprocess.run(
            "openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=ca && "
            "openssl req -newkey rsa:2048 -nodes -keyout key.pem -out leaf.csr -subj /CN=localhost && "
            "echo subjectAltName=DNS:localhost > ext && openssl x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key "
            "-CAcreateserial -out cert.pem -days 2 -extfile ext",
            shell=True, check=True, capture_output=True, cwd=tmp_path,
        )  # fmt: skip
        server = CondaServer(channel("mine", "tool=1.0"), "me", SECRET)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
        server.server.socket = context.wrap_socket(server.server.socket, server_side=True)
        yield server
        server.close()

    @pytest.mark.parametrize("verify", ["{ca}", "false"])
    def test_is_trusted_as_ssl_verify_says(self, make, server, home, tmp_path, verify):
        address = server.url().replace(SECRET, QUOTED).replace("http:", "https:")
        (home / ".condarc").write_text("remote_max_retries: 0\n")
        with pytest.raises(EnvironmentBuildError, match="certificate"):
            make("tool", channels=[address, "nodefaults"])
        (home / ".condarc").write_text(f"ssl_verify: {verify.format(ca=tmp_path / 'ca.pem')}\n")
        assert content(make("tool", channels=[address, "nodefaults"])) == "1.0 mine"


class TestAnExplicitList:
    def lines(self, there, digest):
        path = there / "noarch" / "tool-1.0-0.conda"
        return f"# platform: {PLATFORM}\n@EXPLICIT\n{path.as_uri()}#{digest(path)}\n"

    @pytest.mark.parametrize("kind", ["md5", "sha256:"])
    def test_is_installed_as_it_stands(self, make, channel, kind):
        there = channel("mine", "tool=1.0", "tool=2.0")
        digest = hashlib.md5 if kind == "md5" else hashlib.sha256
        prefix = "" if kind == "md5" else kind
        environment = make(text=self.lines(there, lambda path: prefix + digest(path.read_bytes()).hexdigest()))
        assert content(environment) == "1.0 mine"
        record = json.loads((environment.prefix / "conda-meta" / "tool-1.0-0.json").read_text())
        assert record["noarch"] == "generic"

    def test_is_held_to_its_digests(self, make, channel, tmp_path):
        there = channel("mine", "tool=1.0")
        server = CondaServer(there)
        try:
            address = f"{server.url()}/noarch/tool-1.0-0.conda"
            with pytest.raises(EnvironmentBuildError, match=r"tool-1\.0-0"):
                make(text=f"@EXPLICIT\n{address}#{'0' * 64}\n")
        finally:
            server.close()

    def test_reaches_a_channel_with_a_token(self, make, channel, tmp_path):
        server = CondaServer(channel("mine", "tool=1.0", kind="tar.bz2"), token="tk-0123-456")
        try:
            environment = make(text=f"@EXPLICIT\n{server.url()}/noarch/tool-1.0-0.tar.bz2\n")
        finally:
            server.close()
        assert content(environment) == "1.0 mine"
        (record,) = (environment.prefix / "conda-meta").glob("*.json")
        assert "tk-0123-456" not in record.read_text()

    def test_of_what_is_no_package_names_the_line(self, make):
        with pytest.raises(InvalidProject, match=r"conda\.yaml:2: 'numpy=1' is no package of an explicit list"):
            make(text="@EXPLICIT\nnumpy=1\n")

    def test_of_another_platform_is_refused(self, make):
        with pytest.raises(UserError, match="is for win-64 only"):
            make(text="# platform: win-64\n@EXPLICIT\nhttps://x.example/win-64/tool-1.0-0.conda\n")


class TestALockFile:
    def lock(self, *packages):
        lines = ["version: 1", "metadata:", "  platforms:", f"  - platform: {PLATFORM}", "package:"]
        for name, manager, path, more in packages:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            lines += [f"- name: {name}", "  version: '1.0'", f"  manager: {manager}", f"  platform: {PLATFORM}"]
            lines += [f"  url: {path.as_uri()}", "  hash:", f"    sha256: {digest}", f"  {more}", "  optional: false"]
        return "\n".join(lines) + "\n"

    def test_is_installed_with_its_packages_for_pip_and_without_those_for_developers(
        self, make, channel, conda_channel, tmp_path
    ):
        there = channel("mine", "tool=1.0", "other=1.0")
        path = wheel(tmp_path / "wheels", "delta")
        (python,) = (conda_channel / PLATFORM).glob("python-*.conda")
        environment = make(
            text=self.lock(
                ("python", "conda", python, "category: main"),
                ("tool", "conda", there / "noarch" / "tool-1.0-0.conda", "category: main"),
                ("other", "conda", there / "noarch" / "other-1.0-0.conda", "category: dev"),
                ("delta", "pip", path, "category: main"),
            )
        )
        assert content(environment) == "1.0 mine"
        assert not (environment.prefix / "share" / "other.txt").exists()
        assert list((environment.prefix / "lib").glob("python*/site-packages/delta.py"))

    def test_for_other_platforms_says_so(self, make, channel):
        there = channel("mine", "tool=1.0")
        text = self.lock(("tool", "conda", there / "noarch" / "tool-1.0-0.conda", "category: main"))
        with pytest.raises(UserError, match=f"lists no packages for {PLATFORM}, only for osx-64"):
            make(text=text.replace(f"platform: {PLATFORM}\n  url", "platform: osx-64\n  url"))
