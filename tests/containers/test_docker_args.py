"""What `docker_args` may hold, how bad ones are refused, and what becomes of good ones."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mlproj_core.containers.arguments import DockerArguments, read_docker_args
from mlproj_core.containers.body import merged, placed
from mlproj_core.containers.flags import ACCEPTED, FLAGS, REFUSED
from mlproj_core.containers.host import Host
from mlproj_core.containers.mounts import placed_volumes, resolve_volumes
from mlproj_core.errors import UserError

DOCUMENT = Path(__file__).parents[2] / "docs/containers.md"


def refusal(docker_args, **host):
    with pytest.raises(UserError) as refused:
        read_docker_args(docker_args, **host)
    return str(refused.value)


class TestNamesOfFlags:
    def test_may_have_dashes_or_underscores(self):
        assert read_docker_args({"shm_size": "1g"}) == read_docker_args({"shm-size": "1g"})

    def test_may_be_the_short_ones(self):
        assert read_docker_args({"m": "1g", "w": "/a", "h": "b"}).config == {"WorkingDir": "/a", "Hostname": "b"}

    def test_of_one_case_only(self):
        assert read_docker_args({"P": True}).host_config == {"PublishAllPorts": True}
        assert "is no flag of docker run; did you mean memory?" in refusal({"Memory": "1g"})

    @pytest.mark.parametrize(
        ("name", "meant"),
        [("gpu", "gpus"), ("shm_sise", "shm-size"), ("--gpus", "gpus"), ("cap_adds", "cap-add"), ("nmae", "name")],
    )
    def test_that_are_unknown_are_refused_with_a_close_one(self, name, meant):
        assert refusal({name: "1"}) == f"docker_args: {name}: is no flag of docker run; did you mean {meant}?"

    def test_that_are_like_no_other_are_refused(self):
        assert refusal({"x": "1"}) == "docker_args: x: is no flag of docker run"
        assert refusal({1: "1"}) == "docker_args: 1: must be the name of a flag, as text"

    @pytest.mark.parametrize("name", REFUSED)
    def test_that_have_no_place_here_are_refused_with_the_reason(self, name):
        assert refusal({name: "something"}) == f"docker_args: {name}: {REFUSED[name]}"
        assert read_docker_args({name: False}) == DockerArguments()

    @pytest.mark.parametrize(("name", "value"), ACCEPTED.items())
    def test_that_say_what_holds_anyway_are_accepted(self, name, value):
        assert read_docker_args({name: True if value == "true" else value}) == DockerArguments()

    def test_that_are_two_for_one_value_are_refused(self):
        text = "docker_args: memory: is another name of m, which is given as well"
        assert refusal({"m": "1g", "memory": "2g"}) == text

    def test_that_are_two_for_a_list_are_both_heard(self):
        assert read_docker_args({"v": "/a:/a", "volumes": ["/b:/b"]}).volumes == ("/a:/a", "/b:/b")

    def test_are_all_in_the_documentation(self):
        text = DOCUMENT.read_text().partition("## docker_args")[2].partition("\n## ")[0]
        rows = "\n".join(line for line in text.split("\n") if line.startswith("|"))
        assert {*FLAGS, *REFUSED} <= set(re.findall(r"`([\w-]+)`", rows))


class TestValues:
    def test_may_be_none_at_all(self):
        assert read_docker_args(None) == read_docker_args({}) == DockerArguments()

    def test_may_be_numbers(self):
        assert read_docker_args({"m": 1024, "cpus": 0.5}).host_config == {"Memory": 1024, "NanoCpus": 500_000_000}

    def test_false_leaves_a_flag_out(self):
        assert read_docker_args({"gpus": False, "init": False}) == DockerArguments()

    def test_true_is_for_flags_without_a_value(self):
        assert read_docker_args({"init": True, "privileged": "true"}).host_config == {"Init": True, "Privileged": True}
        assert refusal({"gpus": True}) == "docker_args: gpus: needs a value"
        assert refusal({"init": "yes"}) == "docker_args: init: 'yes' must be True or False"

    def test_may_be_lists_for_what_docker_takes_several_times(self):
        assert read_docker_args({"cap-add": ["sys_ptrace", "ALL"]}).host_config == {"CapAdd": ["CAP_SYS_PTRACE", "ALL"]}
        assert refusal({"memory": ["1g"]}) == "docker_args: memory: can be given once only, found a list"

    def test_may_be_mappings_for_what_docker_writes_as_pairs(self):
        assert read_docker_args({"label": {"a": "b", "c": 1}}).config == {"Labels": {"a": "b", "c": "1"}}
        assert refusal({"mount": {"/a": "/b"}}) == "docker_args: mount: must be text, or a list of texts"
        assert refusal({"memory": {"a": 1}}) == "docker_args: memory: must be text or a number"
        assert refusal({"label": {"a": True}}) == "docker_args: label: must have texts or numbers as values"
        assert refusal({"label": {1: "a"}}) == "docker_args: label: must have texts as keys"

    @pytest.mark.parametrize("value", [None, b"1g", object])
    def test_of_another_kind_are_refused(self, value):
        assert refusal({"memory": value}).startswith("docker_args: memory: must be text or a number, found ")
        assert refusal({"cap-add": [value]}).startswith("docker_args: cap-add: must be text, a number or a list of ")

    def test_that_are_bad_are_shown_with_what_is_right(self):
        assert refusal({"memory": "4 gigs"}) == "docker_args: memory: '4 gigs' must be a size, such as 512m or 4g"
        assert refusal({"cpus": "many"}) == "docker_args: cpus: 'many' must be a number of CPUs, such as 2 or 1.5"
        assert refusal({"ulimit": "1024"}).startswith(
            "docker_args: ulimit: '1024' must be NAME=SOFT[:HARD], as nofile=1024:2048; names are core, cpu"
        )
        assert refusal({"ipc": "own"}).endswith("'own' must be none or private or shareable or host or container:NAME")
        assert refusal({"log-driver": "none"}).endswith("'none' would leave no output that mlproj could follow")
        assert refusal({"p": "0-99999999:1"}).startswith("docker_args: p: '0-99999999:1' must be [[ADDRESS:]PORT:]PORT")
        assert refusal({"mount": "dst=/a,volume-subpath=x"}).endswith("which older engines ignore")
        assert refusal({"mount": "type=bind,dst=/a,src=b"}).endswith("needs a source, a path on the host")
        assert refusal({"mount": "dst=a"}).endswith("needs a target, an absolute path in the container")
        assert refusal({"mount": "dst=/a,readonly=maybe"}).endswith("has a bad readonly, which must be True or False")

    def test_that_are_bad_are_all_told_at_once(self):
        assert refusal({"memory": "big", "cpus": 1, "tty": True, "gpuss": "all"}) == (
            "docker_args, 3 problems:\n"
            "  memory: 'big' must be a size, such as 512m or 4g\n"
            f"  tty: {REFUSED['tty']}\n"
            "  gpuss: is no flag of docker run; did you mean gpus?"
        )

    def test_of_mlproj_s_own_labels_are_refused(self, tmp_path):
        (tmp_path / "labels").write_text("mlproj.attempt=1\n")
        for docker_args in ({"label": "mlproj.key=1"}, {"label-file": "labels"}):
            assert "mlproj's own" in refusal(docker_args, directory=tmp_path)


class TestVariables:
    def test_are_pairs_and_names_to_copy(self):
        read = read_docker_args({"e": ["A=1", "B", "C=", "D=x=y"], "env": {"E": 2}, "environment": [["F", "3"], "G"]})
        assert read.environment == (("A", "1"), "B", ("C", ""), ("D", "x=y"), ("E", "2"), ("F", "3"), "G")

    def test_of_a_file_come_before_those_that_are_given(self, tmp_path):
        (tmp_path / "a.env").write_text("A=file\nB\n")
        read = read_docker_args({"e": "A=given", "env-file": "a.env"}, directory=tmp_path)
        assert read.environment == (("A", "file"), "B", ("A", "given"))

    def test_show_no_value_when_they_are_refused(self, tmp_path):
        (tmp_path / "a.env").write_text("A=1\n\nthe token=geheim\n")
        (tmp_path / "b.env").write_bytes(b"A=\xff")
        assert refusal({"e": ["=geheim"]}) == "docker_args: e: must be NAME=VALUE, or the NAME of a variable to copy"
        assert refusal({"e": {"A": ["geheim"]}}) == "docker_args: e: must have texts or numbers as values"
        assert refusal({"env-file": "a.env"}, directory=tmp_path) == (
            "docker_args: env-file: 'a.env' line 3: expected NAME=VALUE, no blank in the name and no NUL"
        )
        assert refusal({"env-file": "b.env"}, directory=tmp_path).endswith("'b.env' is not UTF-8 text")
        assert refusal({"env-file": "c.env"}, directory=tmp_path).endswith("cannot be read: No such file or directory")


class TestVolumes:
    @pytest.fixture
    def host(self, tmp_path):
        return Host(tmp_path, {"HOME": "/home/me", "DATA": "/big/data", "PWD": "/where/the/caller/is"})

    @pytest.mark.parametrize(
        ("written", "meant"),
        [
            ("/data:/data:ro", "/data:/data:ro"),
            ("models:/models", "models:/models"),
            ("/anonymous", "/anonymous"),
            ("~/data:/data", "/home/me/data:/data"),
            ("$DATA:/data", "/big/data:/data"),
            ("${DATA}/x:/data:ro,z", "/big/data/x:/data:ro,z"),
            ("./data:/data", "{directory}/data:/data"),
            (".:/data", "{directory}:/data"),
            ("$(pwd)/data:/data", "{directory}/data:/data"),
            ("`pwd`:/data", "{directory}:/data"),
            ("$PWD:/data", "{directory}:/data"),
        ],
    )
    def test_start_where_the_shell_of_mlflow_would_have_them(self, host, written, meant):
        meant = meant.format(directory=host.directory)
        assert resolve_volumes([written], host) == (meant,)
        read = read_docker_args({"v": written}, directory=host.directory, environ=host.environ)
        assert read.volumes == (meant,)

    @pytest.mark.parametrize(
        ("written", "why"),
        [
            ("$NOWHERE/data:/data", "names the variable NOWHERE, which is not set"),
            ("$(id -u):/data", "is text for a shell, and none reads it"),
            ("`id`:/data", "is text for a shell, and none reads it"),
            ("data/x:/data", "if a directory of the project is meant, write ./data/x"),
            ("/data:data", "must be SOURCE:/TARGET"),
            ("data", "must be SOURCE:/TARGET"),
            ("/data:/data:", "must be SOURCE:/TARGET"),
            ("", "must be SOURCE:/TARGET"),
            ("/data:/data:r", "has the mode r; known are"),
        ],
    )
    def test_that_are_none_are_refused(self, host, written, why):
        assert why in refusal({"volumes": [written]}, directory=host.directory, environ=host.environ)
        with pytest.raises(UserError, match=re.escape(why)) as refused:
            resolve_volumes(["/good:/one", written], host)
        assert str(refused.value).startswith(f"docker_env.volumes of the MLproject: {written!r}")

    def test_may_be_mappings(self):
        volumes = {"/a": "/b", "/c": "/d:ro", "/e": {"bind": "/f", "mode": "ro"}, "/g": {"bind": "/h"}}
        assert read_docker_args({"volumes": volumes}).volumes == ("/a:/b", "/c:/d:ro", "/e:/f:ro", "/g:/h")

    @pytest.mark.parametrize("target", [1, None, {"to": "/b"}, {"bind": "/b", "mode": 1}, ["/b"]])
    def test_of_bad_mappings_are_refused(self, target):
        assert 'must be {"/here": "/there"}' in refusal({"volumes": {"/a": target}})

    def test_are_mounts_of_a_body(self):
        assert placed_volumes(["/a:/b", "/c", "d:/e:ro"]) == {
            "HostConfig": {"Binds": ["/a:/b", "d:/e:ro"]},
            "Volumes": {"/c": {}},
        }


class TestDockerArguments:
    ARGUMENTS = {
        "image": "trainer:1",
        "platform": "linux/amd64",
        "e": ["TOKEN=geheim", "COPIED"],
        "v": ["/data:/data", "/scratch"],
        "memory": "1g",
        "user": 1000,
        "label": "team=ml",
        "cap-add": "SYS_PTRACE",
        "network": "own",
        "network-alias": "trainer",
        "entrypoint": "python",
    }

    def test_are_json_and_back(self):
        read = read_docker_args(self.ARGUMENTS)
        assert DockerArguments.from_dict(json.loads(json.dumps(read.to_dict(secrets=True)))) == read

    def test_hide_the_values_of_variables_from_a_claim(self):
        read = read_docker_args(self.ARGUMENTS)
        claim = json.dumps(read.to_dict(secrets=False))
        assert "geheim" not in claim
        assert json.loads(claim)["names"] == ["TOKEN", "COPIED"]
        assert DockerArguments.from_dict(json.loads(claim)) == dataclasses.replace(read, environment=())
        assert "geheim" not in repr(read)

    def test_do_not_change(self):
        with pytest.raises(dataclasses.FrozenInstanceError):
            DockerArguments().image = "other"

    def test_go_into_a_body(self):
        body = {
            "Image": "trainer:1",
            "Cmd": ["train.py"],
            "User": "root",
            "Entrypoint": ["sh", "-c"],
            "Labels": {"mlproj.key": "k"},
            "HostConfig": {"Binds": ["/store:/store"], "NetworkMode": "host", "Memory": 1},
        }
        before = json.dumps(body)
        assert read_docker_args(self.ARGUMENTS).merged_into(body) == {
            "Image": "trainer:1",
            "Cmd": ["train.py"],
            "User": "1000",
            "Entrypoint": ["python"],
            "Labels": {"mlproj.key": "k", "team": "ml"},
            "Volumes": {"/scratch": {}},
            "HostConfig": {
                "Binds": ["/store:/store", "/data:/data"],
                "NetworkMode": "own",
                "Memory": 1024**3,
                "CapAdd": ["CAP_SYS_PTRACE"],
            },
            "NetworkingConfig": {"EndpointsConfig": {"own": {"Aliases": ["trainer"]}}},
        }
        assert json.dumps(body) == before

    def test_that_are_none_leave_a_body_as_it_is(self):
        body = {"Image": "a", "HostConfig": {"NetworkMode": "host"}}
        assert DockerArguments().merged_into(body) == body


class TestABody:
    def test_is_merged_of_parts(self):
        first = {"a": {"list": [1], "one": 1}, "Cmd": ["x"]}
        second = {"a": {"list": [2], "one": 2, "new": 3}, "Cmd": ["y"], "b": 4}
        assert merged(first, second) == {"a": {"list": [1, 2], "one": 2, "new": 3}, "Cmd": ["y"], "b": 4}

    def test_has_a_place_for_each_value(self):
        assert placed("HostConfig.LogConfig.Type", "local") == {"HostConfig": {"LogConfig": {"Type": "local"}}}


class TestTheDockerSdk:
    def test_is_loaded_only_by_flags_that_need_it(self):
        program = (
            "import sys; from mlproj_core.containers.arguments import read_docker_args\n"
            "read_docker_args({'image': 'a', 'memory': '1g', 'v': '/a:/b', 'gpus': 'all'})\n"
            "assert not {'docker', 'requests'} & set(sys.modules)\n"
            "read_docker_args({'p': '80'})\n"
            "assert 'docker' in sys.modules\n"
        )
        subprocess.run([sys.executable, "-c", program], check=True)

    def test_that_is_missing_is_asked_for(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "docker", None)
        assert read_docker_args({"image": "a"}).image == "a"
        assert refusal({"p": "80"}) == (
            "Containers need the docker SDK, which is not installed here: pip install 'mlproj[docker]'"
        )
