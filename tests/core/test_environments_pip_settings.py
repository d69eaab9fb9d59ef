"""pip's settings under uv: read as pip reads them, told to uv in its own terms, refused where that cannot be."""

import ensurepip
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from package_world import Build, PackageIndex, clean_host, package, wheel

from mlproj_core.environments import build_request, environment_manager
from mlproj_core.environments.pip_options import HARMLESS, REFUSED, SWITCHES, TRANSLATED
from mlproj_core.environments.pip_settings import read_pip_settings
from mlproj_core.environments.recipe import Recipe
from mlproj_core.environments.uv_settings import uv_settings
from mlproj_core.errors import EnvironmentBuildError, UserError


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    return clean_host(monkeypatch, tmp_path)


@pytest.fixture
def project(tmp_path):
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


@pytest.fixture(scope="session")
def pip(tmp_path_factory):
    """Runs a program with pip itself, the one that comes with this Python."""
    (archive,) = (Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl")
    folder = tmp_path_factory.mktemp("pip")
    zipfile.ZipFile(archive).extractall(folder)

    def run(*arguments, **variables):
        return subprocess.run(
            [sys.executable, *arguments],
            env={**os.environ, **variables, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": ""},
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip

    return run


def settings(directory, *, extra_indexes=False, **variables):
    return uv_settings({**os.environ, **variables}, directory, extra_indexes=extra_indexes)


def told(directory, **variables):
    """What uv is told because of some of pip's settings."""
    before, after = settings(directory).environment, settings(directory, **variables).environment
    return {
        name: value
        for name, value in after.items()
        if before.get(name) != value and not name.startswith("PIP_") and name not in variables
    }


def ensure(directory, *dependencies):
    return environment_manager("uv").ensure(Recipe(dependencies=dependencies), directory, lambda line: None)


def version(environment, name):
    (info,) = environment.prefix.glob(f"lib/python*/site-packages/{name}-*.dist-info")
    return info.name.removeprefix(f"{name}-").removesuffix(".dist-info")


class TestPipsConfiguration:
    FILES = {
        "xdg/pip/pip.conf": "[global]\nindex-url = https://wide.example/simple\ntimeout = 1\nretries = 1\n",
        "home/.pip/pip.conf": "[global]\ntimeout = 2\nfind_links =\n    /one\n    /two\n[freeze]\ntimeout = 77\n",
        "home/.config/pip/pip.conf": "[global]\ntimeout = 3\n[install]\npre = true\nretries = 3\n",
        "venv/pip.conf": "[global]\nproxy = http://site.example\n",
        "named.conf": "[global]\nretries = 9\nextra-index-url = https://named.example/simple\n",
    }

    @pytest.fixture
    def files(self, tmp_path, monkeypatch):
        for name, text in self.FILES.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        monkeypatch.delenv("PIP_CONFIG_FILE")
        monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "xdg"))
        monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path / "venv"))
        return tmp_path

    @pytest.mark.parametrize("named", [None, "named.conf", "missing.conf", os.devnull])
    def test_is_read_as_pip_reads_it(self, files, monkeypatch, pip, named):
        if named:
            monkeypatch.setenv("PIP_CONFIG_FILE", str(files / named))
        monkeypatch.setenv("PIP_TRUSTED_HOST", "trusted.example")
        monkeypatch.setenv("PIP_PRE", "")
        code = (
            "import json, sys; sys.prefix = sys.argv[1]\n"
            "from pip._internal.commands import create_command\n"
            "parser = create_command('install').parser\n"
            "parser.config.load()\n"
            "print(json.dumps(dict(parser._get_ordered_configuration_items())))"
        )
        expected = json.loads(pip("-c", code, str(files / "venv")))
        found = read_pip_settings(os.environ)
        assert {name: found.get(name).value for name in found.names()} == {
            name.replace("_", "-"): value for name, value in expected.items() if value
        }

    def test_says_where_each_setting_comes_from(self, files, monkeypatch):
        monkeypatch.setenv("PIP_INDEX_URL", "https://narrow.example/simple")
        found = read_pip_settings(os.environ)
        assert found.get("index-url").origin == "the variable PIP_INDEX_URL"
        assert found.get("pre").origin == f"{files}/home/.config/pip/pip.conf, section [install]"

    def test_that_cannot_be_parsed_is_an_error_that_quotes_no_line(self, home, monkeypatch):
        monkeypatch.delenv("PIP_CONFIG_FILE")
        (home / ".pip").mkdir()
        (home / ".pip" / "pip.conf").write_text("index-url = https://me:s3cr3t@index.example/simple\n")
        with pytest.raises(UserError, match=r"pip\.conf, line 1") as caught:
            read_pip_settings(os.environ)
        assert "s3cr3t" not in str(caught.value)

    def test_accounts_for_every_option_of_pip_install(self, pip):
        code = (
            "import json\nfrom pip._internal.commands import create_command\n"
            "options = create_command('install').parser.option_list_all\n"
            "print(json.dumps(sorted({text[2:] for one in options for text in one._long_opts})))"
        )
        from mlproj_core.environments.pip_settings import _ALIASES

        known = TRANSLATED | HARMLESS | set(REFUSED) | set(_ALIASES)
        assert set(json.loads(pip("-c", code))) - known == set()
        assert not TRANSLATED & HARMLESS
        assert not (TRANSLATED | HARMLESS) & set(REFUSED)
        assert set(REFUSED) >= SWITCHES


class TestASettingOfPip:
    @pytest.mark.parametrize(
        ("setting", "expected"),
        [
            ({"PIP_INDEX_URL": "https://a.example/s"}, {"UV_DEFAULT_INDEX": "https://a.example/s"}),
            ({"PIP_PYPI_URL": "https://a.example/s"}, {"UV_DEFAULT_INDEX": "https://a.example/s"}),
            (
                {"PIP_EXTRA_INDEX_URL": "https://a.example/s\n  https://b.example/s"},
                {"UV_INDEX": "https://a.example/s https://b.example/s", "UV_INDEX_STRATEGY": "unsafe-best-match"},
            ),
            ({"PIP_FIND_LINKS": "https://a.example/x,y"}, {"UV_FIND_LINKS": "https://a.example/x%2Cy"}),
            ({"PIP_FIND_LINKS": "/ file:///"}, {"UV_FIND_LINKS": "file:///,file:///"}),
            ({"PIP_TRUSTED_HOST": "a.example b.example:81"}, {"UV_INSECURE_HOST": "a.example b.example:81"}),
            ({"PIP_CERT": "/etc/hostname"}, {"SSL_CERT_FILE": "/etc/hostname"}),
            ({"PIP_CERT": "/etc"}, {"SSL_CERT_DIR": "/etc"}),
            ({"REQUESTS_CA_BUNDLE": "/etc/hostname"}, {"SSL_CERT_FILE": "/etc/hostname"}),
            ({"PIP_CLIENT_CERT": "/etc/hostname"}, {"SSL_CLIENT_CERT": "/etc/hostname"}),
            (
                {"PIP_PROXY": "http://p:1"},
                {name: "http://p:1" for proxy in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
                 for name in (proxy, proxy.lower())},
            ),
            ({"PIP_TIMEOUT": "2.5"}, {"UV_HTTP_TIMEOUT": "3"}),
            ({"PIP_DEFAULT_TIMEOUT": "180"}, {"UV_HTTP_TIMEOUT": "180"}),
            ({"PIP_RETRIES": "7"}, {"UV_HTTP_RETRIES": "7"}),
            ({"PIP_CONSTRAINT": "/dev/null"}, {"UV_CONSTRAINT": "/dev/null"}),
            ({"PIP_BUILD_CONSTRAINT": "/dev/null"}, {"UV_BUILD_CONSTRAINT": "/dev/null"}),
            ({"PIP_PRE": "yes"}, {"UV_PRERELEASE": "allow"}),
            ({"PIP_PRE": "no"}, {}),
            ({"PIP_REQUIRE_HASHES": "1"}, {"UV_REQUIRE_HASHES": "true"}),
            ({"PIP_UPLOADED_PRIOR_TO": "2024-01-01"}, {"UV_EXCLUDE_NEWER": "2024-01-01"}),
            ({"PIP_NO_BUILD_ISOLATION": "0"}, {"UV_NO_BUILD_ISOLATION": "true"}),
            ({"PIP_NO_BUILD_ISOLATION": "1"}, {}),
            ({"PIP_KEYRING_PROVIDER": "subprocess"}, {"UV_KEYRING_PROVIDER": "subprocess"}),
            ({"PIP_USE_FEATURE": "truststore"}, {"UV_SYSTEM_CERTS": "true", "UV_NATIVE_TLS": "true"}),
            ({"PIP_QUIET": "2", "PIP_PROGRESS_BAR": "off", "PIP_CACHE_DIR": "/x", "PIP_NO_INPUT": "1"}, {}),
            ({"PIP_USER": "0", "PIP_PREFER_BINARY": "false"}, {}),
        ],
    )  # fmt: skip
    def test_is_told_to_uv_in_its_own_terms(self, project, monkeypatch, setting, expected):
        for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
            monkeypatch.delenv(name, raising=False)
        assert told(project, **setting) == expected

    @pytest.mark.parametrize(
        ("setting", "expected"),
        [
            ({"PIP_NO_INDEX": "1"}, ("--no-index",)),
            ({"PIP_NO_DEPS": "true"}, ("--no-deps",)),
            ({"PIP_UPGRADE": "1"}, ("--upgrade",)),
            ({"PIP_NO_BINARY": "a,b"}, ("--no-binary", "a", "--no-binary", "b")),
            ({"PIP_NO_BINARY": "a,:none:,b"}, ("--no-binary", "b")),
            ({"PIP_ONLY_BINARY": ":all:"}, ("--only-binary", ":all:")),
            ({"PIP_CONFIG_SETTINGS": "a=b"}, ("--config-setting", "a=b")),
        ],
    )
    def test_is_given_to_uv_as_an_option(self, project, setting, expected):
        assert settings(project, **setting).arguments == expected

    @pytest.mark.parametrize("name", sorted(REFUSED))
    def test_that_uv_cannot_keep_is_refused_by_name_and_place(self, project, name):
        variable = "PIP_" + name.upper().replace("-", "_")
        with pytest.raises(UserError, match=f"setting {name} .the variable {variable}. changes what is installed"):
            settings(project, **{variable: "1"})

    @pytest.mark.parametrize(
        ("setting", "why"),
        [
            ({"PIP_CERT": "/missing.pem"}, r"names /missing\.pem, which does not exist"),
            ({"PIP_PRE": "maybe"}, "must be yes or no"),
            ({"PIP_TIMEOUT": "soon"}, "must be a number"),
            ({"PIP_KEYRING_PROVIDER": "import"}, "keyring-provider=subprocess"),
            ({"PIP_NO_BINARY": ":all:", "PIP_ONLY_BINARY": "a"}, "cannot be kept together"),
            ({"PIP_CONSTRAINT": "missing.txt"}, r"missing\.txt cannot be read"),
        ],
    )
    def test_that_is_malformed_is_refused(self, project, setting, why):
        with pytest.raises(UserError, match=why):
            settings(project, **setting)

    @pytest.mark.parametrize(
        ("pips", "uvs"),
        [
            ("PIP_INDEX_URL", "UV_DEFAULT_INDEX"),
            ("PIP_INDEX_URL", "UV_INDEX_URL"),
            ("PIP_EXTRA_INDEX_URL", "UV_INDEX"),
            ("PIP_FIND_LINKS", "UV_FIND_LINKS"),
            ("PIP_TRUSTED_HOST", "UV_INSECURE_HOST"),
            ("PIP_CONSTRAINT", "UV_CONSTRAINT"),
        ],
    )
    def test_gives_way_to_what_the_user_told_uv_itself_and_a_line_says_so(self, project, pips, uvs):
        found = settings(project, **{pips: "/", uvs: "/dev/null"})
        assert found.environment[uvs] == "/dev/null"
        assert any(uvs in note for note in found.notes)
        alone = settings(project, **{uvs: "/dev/null"})
        assert {k: v for k, v in found.environment.items() if k != pips} == dict(alone.environment)

    def test_gives_way_to_the_users_uv_toml(self, project, home):
        (home / ".config" / "uv").mkdir(parents=True)
        (home / ".config" / "uv" / "uv.toml").write_text('index-url = "https://own.example/simple"\n')
        assert told(project, PIP_INDEX_URL="https://a.example/s") == {}
        assert told(project, PIP_FIND_LINKS="/") == {"UV_FIND_LINKS": "file:///"}

    def test_that_is_commented_out_in_uv_toml_stays(self, project, home):
        (home / ".config" / "uv").mkdir(parents=True)
        (home / ".config" / "uv" / "uv.toml").write_text('# index-url = "https://own.example/simple"\n')
        assert "UV_DEFAULT_INDEX" in told(project, PIP_INDEX_URL="https://a.example/s")

    def test_does_not_change_the_strategy_of_those_who_gave_uv_its_indexes(self, project):
        found = settings(project, extra_indexes=True, UV_INDEX="https://a.example/s")
        assert "UV_INDEX_STRATEGY" not in found.environment

    def test_naming_a_local_place_that_is_not_there_is_passed_over(self, project):
        found = settings(
            project, PIP_EXTRA_INDEX_URL="file:///missing/simple https://a.example/s", PIP_FIND_LINKS="/missing wheels"
        )
        assert found.environment["UV_INDEX"] == "https://a.example/s"
        assert "UV_FIND_LINKS" not in found.environment
        assert len([note for note in found.notes if "does not exist" in note]) == 3


class TestAPrivateIndex:
    @pytest.fixture
    def index(self, tmp_path):
        wheel(tmp_path / "private", "alpha", "1.0")
        wheel(tmp_path / "private", "secret_sauce", "1.0", requires=["alpha"])
        index = PackageIndex(tmp_path / "private", "me", "s3cr3t-w0rd")
        index.watch_for = "s3cr3t"
        yield index
        index.close()

    @pytest.mark.parametrize("place", ["the variable", "the user's file", "the requirement lines"])
    def test_that_pip_knows_is_used_and_its_password_shows_nowhere(
        self, index, project, home, tmp_path, monkeypatch, place
    ):
        lines = ["secret-sauce"]
        if place == "the variable":
            monkeypatch.setenv("PIP_INDEX_URL", index.url())
        elif place == "the user's file":
            monkeypatch.delenv("PIP_CONFIG_FILE")
            (home / ".config" / "pip").mkdir(parents=True)
            (home / ".config" / "pip" / "pip.conf").write_text(f"[global]\nindex-url = {index.url()}\n")
        else:
            monkeypatch.setenv("TOKEN", "s3cr3t-w0rd")
            url = index.url(credentials=False).replace("http://", "http://me:${TOKEN}@")
            lines.insert(0, f"--index-url {url}")
            (project / "python_env.yaml").write_text(json.dumps({"dependencies": lines}))
        one = Build(tmp_path, build_request("uv", Recipe(dependencies=tuple(lines)), project), RUST_LOG="uv=debug")
        status, answer = one.wait()
        assert status == 0, one.log()
        assert index.asked
        assert index.seen == []
        kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and not path.is_symlink()]
        texts = [path.read_text(errors="replace") for path in kept]
        assert "s3cr3t" not in one.log() + json.dumps(answer) + "".join(texts)

    def test_with_the_wrong_password_fails_without_showing_it(self, index, project, tmp_path, monkeypatch):
        wrong = index.url().replace("s3cr3t-w0rd", "wr0ng-w0rd")
        monkeypatch.setenv("PIP_INDEX_URL", wrong)
        one = Build(tmp_path, build_request("uv", Recipe(dependencies=("secret-sauce",)), project))
        _, answer = one.wait()
        assert answer["error"]["code"] == "environment"
        assert index.refused
        assert index.asked == []
        assert "wr0ng" not in one.log() + json.dumps(answer)

    def test_beside_another_gives_the_best_version_of_both_as_under_pip(self, index, project, tmp_path, monkeypatch):
        wheel(tmp_path / "public", "alpha", "2.0")
        public = PackageIndex(tmp_path / "public")
        monkeypatch.setenv("PIP_INDEX_URL", public.url())
        monkeypatch.setenv("PIP_EXTRA_INDEX_URL", index.url())
        environment = ensure(project, "secret-sauce")
        public.close()
        assert version(environment, "alpha") == "2.0"
        assert version(environment, "secret_sauce") == "1.0"

    def test_named_in_a_line_beside_another_gives_the_best_version_of_both_too(
        self, index, project, tmp_path, monkeypatch
    ):
        wheel(tmp_path / "public", "alpha", "2.0")
        public = PackageIndex(tmp_path / "public")
        monkeypatch.setenv("PIP_INDEX_URL", public.url())
        environment = ensure(project, f"--extra-index-url {index.url()}", "alpha")
        public.close()
        assert version(environment, "alpha") == "2.0"

    def test_is_reached_through_pips_proxy(self, project, tmp_path, monkeypatch):
        monkeypatch.setenv("PIP_PROXY", "http://localhost:9/")
        monkeypatch.setenv("PIP_RETRIES", "0")
        monkeypatch.setenv("PIP_INDEX_URL", "http://index.example/simple")
        monkeypatch.delenv("NO_PROXY")
        with pytest.raises(EnvironmentBuildError) as caught:
            ensure(project, "alpha")
        assert caught.value.reason.retryable

    def test_is_not_lost_for_the_builds_of_local_packages(self, index, project, monkeypatch):
        package(project / "lib", "gamma")
        text = (project / "lib" / "pyproject.toml").read_text()
        (project / "lib" / "pyproject.toml").write_text(text.replace("requires = []", 'requires = ["alpha"]'))
        monkeypatch.setenv("PIP_INDEX_URL", index.url())
        ensure(project, "./lib")
        assert any("alpha" in path for path in index.asked)


class TestTheHostsOwnSettings:
    def test_of_pip_can_be_told_to_uv(self, project, monkeypatch):
        """Whatever this host has set for pip, mlproj can work here: the demo and every user's first run rest on it."""
        monkeypatch.undo()
        uv_settings(os.environ, project, extra_indexes=False)
