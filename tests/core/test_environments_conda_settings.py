"""conda's settings and channels, read without conda."""

from pathlib import Path

import pytest

from mlproj_core.environments.conda_channels import (
    Access,
    conda_channels,
    conda_secrets,
    explicit_packages,
    without_conda_credentials,
)
from mlproj_core.environments.conda_settings import CondaSettings, read_conda_settings
from mlproj_core.errors import UserError
from mlproj_core.spec.conda_file import ExplicitPackage


@pytest.fixture
def files(tmp_path):
    """Writes configuration files by their paths below a home, and reads them with these variables."""

    def read(texts, **variables):
        for name, text in texts.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return read_conda_settings({"HOME": str(tmp_path), **variables})

    return read


class TestTheFiles:
    def test_overrule_each_other_in_condas_order(self, files, tmp_path):
        order = [
            "base/.condarc", "base/condarc.d/a.yml", "config/conda/.condarc", ".config/conda/condarc",
            ".conda/.condarc", ".condarc", "prefix/.condarc", "own.yml",
        ]  # fmt: skip
        variables = {
            "CONDA_EXE": f"{tmp_path}/base/bin/conda",
            "XDG_CONFIG_HOME": f"{tmp_path}/config",
            "CONDA_PREFIX": f"{tmp_path}/prefix",
            "CONDARC": f"{tmp_path}/own.yml",
        }
        texts = {
            name: f"channel_alias: https://{index}.example\nchannels: [c{index}]\n" for index, name in enumerate(order)
        }
        settings = files(texts, **variables)
        assert settings.text("channel_alias", "") == "https://7.example"
        assert settings.settings["channel_alias"].origin == f"{tmp_path}/own.yml, line 1"
        assert [one for one in settings.items("channels") if one.startswith("c")] == [f"c{n}" for n in range(7, -1, -1)]

    def test_are_overruled_by_variables(self, files):
        settings = files(
            {".condarc": "channels: [a, b]\nchannel_priority: strict\n"},
            CONDA_CHANNELS="b,c",
            CONDA_CHANNEL_PRIORITY="disabled",
        )
        assert settings.items("channels") == ("b", "c", "a")
        assert settings.channel_priority() == "disabled"

    def test_may_have_the_last_word(self, files):
        texts = {".conda/.condarc": "channels: #!final\n  - ours\n", ".condarc": "channels: [mine]\n"}
        assert files(texts, CONDA_CHANNELS="other").items("channels") == ("ours",)

    def test_merge_mappings_and_fill_in_variables(self, files):
        texts = {
            ".conda/.condarc": "custom_channels: {a: https://old.example, b: 'https://${HOST}/x'}\n",
            ".condarc": "custom_channels: {a: https://new.example}\n",
        }
        found = files(texts, HOST="b.example").mapping("custom_channels")
        assert found == {"a": "https://new.example", "b": "https://b.example/x"}

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("channels: conda-forge\n", r"channels \(.*\.condarc, line 1\) must be a list"),
            ("custom_channels: [a]\n", r"custom_channels \(.*line 1\) must be a mapping"),
            ("- a\n", "must be a mapping, found a list"),
            (
                "channels: [https://me:s3cr3t@x.example\nssl_verify: :\n",
                r"\.condarc:\d: conda's configuration is no YAML",
            ),
            ("channels:\n  - a  #!top\n", "marks #!top and #!bottom"),
        ],
    )
    def test_that_cannot_be_read_are_named_and_not_quoted(self, files, text, message):
        with pytest.raises(UserError, match=message) as caught:
            files({".condarc": text})
        assert "s3cr3t" not in str(caught.value)

    def test_say_which_settings_are_left_aside(self, files):
        settings = files(
            {".condarc": "channel_settings:\n  - {channel: x, auth: my-plugin}\nmade_up: 1\nquiet: true\n"}
        )
        assert len(settings.notes) == 2
        assert "my-plugin" in settings.notes[0]
        assert "made_up" in settings.notes[1]

    @pytest.mark.parametrize(("word", "meaning"), [("true", "flexible"), ("false", "disabled"), ("Strict", "strict")])
    def test_may_give_the_priority_in_words_of_old(self, files, word, meaning):
        assert files({".condarc": f"channel_priority: {word}\n"}).channel_priority() == meaning


class TestTheAgeOfPackages:
    @pytest.mark.parametrize(
        ("text", "meaning"),
        [
            ("''", None),
            ("0", ("age", 0.0)),
            ("7d", ("age", 7 * 86400.0)),
            ("3d12h", ("age", 3.5 * 86400)),
            ("1w", ("age", 7 * 86400.0)),
            ("P7D", ("age", 7 * 86400.0)),
            ("PT90M", ("age", 5400.0)),
            ("'1970-01-01'", ("until", 86400.0)),
            ("'1970-01-01T12:00:00Z'", ("until", 43200.0)),
            ("'1970-01-01T12:00:00+01:00'", ("until", 39600.0)),
        ],
    )
    def test_is_given_in_condas_forms(self, files, text, meaning):
        assert files({".condarc": f"exclude_newer: {text}\n"}).newest() == meaning

    def test_in_any_other_form_is_refused(self, files):
        with pytest.raises(UserError, match=r"exclude_newer \(.*\.condarc, line 1\) must be a date"):
            files({".condarc": "cooldown: soon\n"}).newest()


def urls(*listed):
    found = conda_channels(listed, [], CondaSettings(), Path("/project"), {})
    return [one.urls for one in found.channels]


class TestChannels:
    @pytest.mark.parametrize(
        ("channel", "url"),
        [
            ("conda-forge", "https://conda.anaconda.org/conda-forge"),
            ("conda-forge/label/dev", "https://conda.anaconda.org/conda-forge/label/dev"),
            ("conda-forge/linux-64", "https://conda.anaconda.org/conda-forge"),
            ("https://x.example/y/", "https://x.example/y"),
            ("https://x.example/y/noarch", "https://x.example/y"),
            ("./near", "file:///project/near"),
            ("/far", "file:///far"),
            ("https://me:pw@x.example/t/tk-1/y", "https://x.example/y"),
        ],
    )
    def test_have_addresses(self, channel, url):
        assert urls(channel) == [(url,)]

    def test_without_any_are_condas_defaults(self):
        main, r = "https://repo.anaconda.com/pkgs/main", "https://repo.anaconda.com/pkgs/r"
        assert urls() == [(main, r)]
        assert urls("defaults", "nodefaults") == [(main, r)]
        assert urls("conda-forge") == [("https://conda.anaconda.org/conda-forge",)]
        assert urls("nodefaults") == []

    def test_of_a_group_can_be_named_by_themselves(self):
        assert urls("pkgs/main") == [("https://repo.anaconda.com/pkgs/main",)]
        assert urls("pkgs/other") == [("https://conda.anaconda.org/pkgs/other",)]

    def test_of_a_specification_are_added_and_put_in_as_addresses(self):
        found = conda_channels(
            ["a"], ["b::x=1", "y[channel=c]", "defaults::z", "a/linux-64::w"], CondaSettings(), Path("/"), {}
        )
        alias = "https://conda.anaconda.org"
        assert found.specs == (f"{alias}/b::x=1", f'y[channel="{alias}/c"]', "defaults::z", f"{alias}/a/linux-64::w")
        assert [one.name for one in found.channels] == ["a", "b", "c", "defaults"]

    def test_are_reached_with_what_their_address_holds(self):
        listed = ["https://me:p%40ss@x.example/a", "https://x.example/t/tk-1234/b"]
        found = conda_channels([*listed, "nodefaults"], [], CondaSettings(), Path("/"), {})
        assert found.accesses == (
            Access("https://x.example/a", (), ("me", "p@ss")),
            Access("https://x.example/b", ("https://x.example/t/tk-1234/b",), None),
        )
        assert {"p@ss", "p%40ss", "tk-1234"} <= set(found.secrets())

    def test_of_locked_packages_are_reached_alike(self):
        packages = [
            ExplicitPackage("https://x.example/t/${TOKEN}/b/noarch/y-1-0.conda"),
            ExplicitPackage("z-1-0.conda"),
        ]
        found, channels = explicit_packages(packages, CondaSettings(), Path("/here"), {"TOKEN": "tk-1234"})
        assert [one.url for one in found] == ["https://x.example/b/noarch/y-1-0.conda", "file:///here/z-1-0.conda"]
        assert channels.accesses == (Access("https://x.example/b", ("https://x.example/t/tk-1234/b",)),)


def test_credentials_are_taken_out_of_addresses():
    text = "https://me:s3cr3t@x.example/t/tk-1234/chan::pkg"
    assert without_conda_credentials(text) == "https://x.example/chan::pkg"
    assert {"s3cr3t", "tk-1234"} <= set(conda_secrets([text]))
