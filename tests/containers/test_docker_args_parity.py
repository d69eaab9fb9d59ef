"""`docker_args` make the container that docker's own command line makes of the same flags.

The command line is the specification: what `docker inspect` shows must be the same, and what it refuses is refused.
"""

import os
import shutil
import subprocess

import pytest
from docker.errors import APIError
from docker_world import SHELL
from missing import missing

from mlproj_core.containers.arguments import read_docker_args
from mlproj_core.containers.flags import FLAGS
from mlproj_core.containers.variables import resolve_environment
from mlproj_core.errors import UserError

BODY = {
    "Image": SHELL,
    "Cmd": ["true"],
    # What docker's command line says of every container, and whoever calls the engine for mlproj says as well.
    "AttachStdout": True,
    "AttachStderr": True,
    "HostConfig": {"RestartPolicy": {"Name": "no"}},
}

BIND = "type=bind,source=./data,target=/data,readonly"
SLAVE = "type=bind,src=/tmp,dst=/a,bind-propagation=rslave,ro=false"
TMPFS = "type=tmpfs,dst=/b,tmpfs-size=1m,tmpfs-mode=1777"
VOLUME = (
    "src=models,dst=/m,volume-nocopy,volume-label=a=b,volume-driver=local,volume-opt=type=tmpfs,volume-opt=device=tmpfs"
)

SAME = [
    ("", {}),
    # Memory
    ("--memory 64m", {"memory": "64m"}),
    ("-m 64m", {"m": "64m"}),
    ("--memory 67108864", {"memory": 67108864}),
    ("--memory 0.0625g --memory-swap -1", {"memory": "0.0625g", "memory-swap": -1}),
    ("--memory 64MiB --memory-swap 128mb", {"memory": "64MiB", "memory_swap": "128mb"}),
    ("--memory 64m --memory-reservation 32m", {"memory": "64m", "memory-reservation": "32m"}),
    ("--memory-swappiness 60", {"memory-swappiness": 60}),
    ("--memory 64m --oom-kill-disable", {"memory": "64m", "oom-kill-disable": True}),
    ("--oom-score-adj 500", {"oom-score-adj": "500"}),
    ("--shm-size 1g", {"shm-size": "1g"}),
    # Processors
    ("--cpus 1.5", {"cpus": 1.5}),
    ("--cpus 0.123456789", {"cpus": "0.123456789"}),
    ("--cpus 3/2", {"cpus": "3/2"}),
    ("--cpu-shares 512", {"cpu-shares": 512}),
    ("-c 512", {"c": 512}),
    ("--cpu-period 50000 --cpu-quota 25000", {"cpu_period": 50000, "cpu_quota": 25000}),
    ("--cpuset-cpus 0-1 --cpuset-mems 0", {"cpuset-cpus": "0-1", "cpuset-mems": 0}),
    # GPUs and other devices
    ("--gpus all", {"gpus": "all"}),
    ("--gpus 2", {"gpus": 2}),
    ("--gpus '\"device=0,1\"'", {"gpus": '"device=0,1"'}),
    ("--gpus '\"device=0,1\"'", {"gpus": "device=0,1"}),
    ("--gpus device=GPU-3a23c669", {"gpus": "device=GPU-3a23c669"}),
    (
        "--gpus 'all,\"capabilities=compute,utility\",driver=nvidia'",
        {"gpus": "all,capabilities=compute,utility,driver=nvidia"},
    ),
    ("--gpus 'count=1,\"options=a=b,c=d\"'", {"gpus": "count=1,options=a=b,c=d"}),
    ("--gpus capabilities=utility", {"gpus": "capabilities=utility"}),
    ("--device /dev/null", {"device": "/dev/null"}),
    (
        "--device /dev/null:/dev/nichts --device /dev/zero:r --device /dev/full:/dev/voll:rw",
        {"device": ["/dev/null:/dev/nichts", "/dev/zero:r", "/dev/full:/dev/voll:rw"]},
    ),
    ("--device vendor.com/class=one", {"device": "vendor.com/class=one"}),
    ("--device-cgroup-rule 'c 1:3 rwm'", {"device-cgroup-rule": "c 1:3 rwm"}),
    (
        "--device-read-bps /dev/null:1m --device-write-bps /dev/null:2m --device-read-iops /dev/null:10 "
        "--device-write-iops /dev/null:20",
        {
            "device-read-bps": "/dev/null:1m",
            "device-write-bps": ["/dev/null:2m"],
            "device-read-iops": "/dev/null:10",
            "device-write-iops": "/dev/null:20",
        },
    ),
    ("--blkio-weight 300", {"blkio-weight": 300}),
    ("--blkio-weight-device /dev/null:300", {"blkio-weight-device": "/dev/null:300"}),
    ("--cpu-rt-period 1000 --cpu-rt-runtime 500", {"cpu-rt-period": 1000, "cpu-rt-runtime": 500}),
    # Limits and rights
    ("--ulimit nofile=1024:2048 --ulimit memlock=-1", {"ulimit": ["nofile=1024:2048", "memlock=-1"]}),
    ("--ulimit nofile=1024:2048 --ulimit memlock=-1", {"ulimit": {"nofile": "1024:2048", "memlock": -1}}),
    ("--ulimit nofile=1:2 --ulimit nofile=3", {"ulimit": ["nofile=1:2", "nofile=3"]}),
    ("--pids-limit 100", {"pids-limit": 100}),
    ("--cap-add SYS_PTRACE --cap-add ipc_lock", {"cap-add": ["SYS_PTRACE", "ipc_lock"]}),
    ("--cap-drop ALL", {"cap-drop": "ALL"}),
    ("--privileged", {"privileged": True}),
    ("--privileged=false", {"privileged": "false"}),
    ("", {"privileged": False}),
    ("--security-opt no-new-privileges", {"security-opt": "no-new-privileges"}),
    (
        "--security-opt seccomp=unconfined --security-opt label:disable",
        {"security_opt": ["seccomp=unconfined", "label:disable"]},
    ),
    ("--security-opt seccomp=seccomp.json", {"security-opt": "seccomp=seccomp.json"}),
    ("--security-opt systempaths=unconfined", {"security-opt": "systempaths=unconfined"}),
    ("--sysctl net.core.somaxconn=1024", {"sysctl": "net.core.somaxconn=1024"}),
    (
        "--sysctl kernel.shmmax=65536 --sysctl net.ipv4.ip_forward=1",
        {"sysctl": {"kernel.shmmax": 65536, "net.ipv4.ip_forward": 1}},
    ),
    # Namespaces
    ("--ipc host", {"ipc": "host"}),
    ("--ipc shareable", {"ipc": "shareable"}),
    ("--ipc container:neighbour", {"ipc": "container:neighbour"}),
    ("--pid host", {"pid": "host"}),
    ("--pid container:neighbour", {"pid": "container:neighbour"}),
    ("--uts host", {"uts": "host"}),
    ("--userns host", {"userns": "host"}),
    ("--cgroupns host", {"cgroupns": "host"}),
    ("--cgroupns private", {"cgroupns": "private"}),
    ("--cgroup-parent /mlproj", {"cgroup-parent": "/mlproj"}),
    # The image's settings
    ("--user 1000:100", {"user": "1000:100"}),
    ("-u 1000", {"u": 1000}),
    ("--group-add 27 --group-add video", {"group-add": [27, "video"]}),
    ("--entrypoint env", {"entrypoint": "env"}),
    ("--entrypoint ''", {"entrypoint": ""}),
    ("--workdir /tmp", {"workdir": "/tmp"}),
    ("-w /tmp", {"w": "/tmp"}),
    ("--platform linux/amd64", {"platform": "linux/amd64"}),
    ("--read-only", {"read-only": True}),
    ("--init", {"init": True}),
    ("--init=false", {"init": "false"}),
    ("--runtime runc", {"runtime": "runc"}),
    ("--stop-signal SIGINT --stop-timeout 30", {"stop-signal": "SIGINT", "stop-timeout": 30}),
    ("--label a=b --label c", {"label": ["a=b", "c"]}),
    ("-l a=b=c", {"l": {"a": "b=c"}}),
    ("--label-file labels --label one=3", {"label-file": "labels", "label": "one=3"}),
    # Files
    ("-v ./data:/data", {"v": "./data:/data"}),
    ("--volume ./data:/data:ro -v /tmp:/host:rw,rslave", {"volume": ["./data:/data:ro", "/tmp:/host:rw,rslave"]}),
    ("-v ./data:/data:ro -v /tmp:/host", {"volumes": {"./data": {"bind": "/data", "mode": "ro"}, "/tmp": "/host"}}),
    ("-v ./data:/data -v models:/models", {"volumes": ["./data:/data", "models:/models"]}),
    ("-v /anonymous", {"v": "/anonymous"}),
    ("-v $HOME/x:/x -v ~/y:/y", {"v": ["$HOME/x:/x", "~/y:/y"]}),
    ("-v $(pwd)/data:/data -v ${PWD}:/there", {"v": ["$(pwd)/data:/data", "${PWD}:/there"]}),
    (f"--mount {BIND}", {"mount": BIND}),
    (f"--mount {SLAVE} --mount {TMPFS}", {"mount": [SLAVE, TMPFS]}),
    (f"--mount {VOLUME}", {"mount": VOLUME}),
    (
        "--mount type=bind,src=/tmp,dst=/a,bind-nonrecursive",
        {"mount": "type=bind,src=/tmp,dst=/a,bind-recursive=disabled"},
    ),
    ("--tmpfs /run:rw,size=64m --tmpfs /tmp", {"tmpfs": ["/run:rw,size=64m", "/tmp"]}),
    ("--tmpfs /run:size=64m", {"tmpfs": {"/run": "size=64m"}}),
    ("--volumes-from neighbour:ro", {"volumes-from": "neighbour:ro"}),
    ("-v data:/data --volume-driver local", {"v": "data:/data", "volume-driver": "local"}),
    # The network
    ("--network host", {"network": "host"}),
    ("--net none", {"net": "none"}),
    ("--network container:neighbour", {"network": "container:neighbour"}),
    ("--network own", {"network": "own"}),
    (
        "--network own --network-alias a --net-alias b --ip 10.1.2.3 --ip6 fd00::1 --link-local-ip 169.254.34.68 "
        "--link neighbour:n",
        {
            "network": "own",
            "network-alias": ["a"],
            "net-alias": "b",
            "ip": "10.1.2.3",
            "ip6": "fd00::1",
            "link-local-ip": "169.254.34.68",
            "link": "neighbour:n",
        },
    ),
    (
        "--network name=own,alias=a,ip=10.1.2.3,driver-opt=a=b",
        {"network": "name=own,alias=a,ip=10.1.2.3,driver-opt=a=b"},
    ),
    ("--hostname trainer --domainname example.org", {"hostname": "trainer", "domainname": "example.org"}),
    ("-h trainer", {"h": "trainer"}),
    (
        "--add-host db:10.0.0.7 --add-host six=[::1] --add-host host.docker.internal:host-gateway",
        {"add-host": ["db:10.0.0.7", "six=[::1]", "host.docker.internal:host-gateway"]},
    ),
    ("--add-host db:10.0.0.7", {"add_host": {"db": "10.0.0.7"}}),
    (
        "--dns 1.1.1.1 --dns fd00:0::1 --dns-option ndots:2 --dns-opt use-vc --dns-search example.org",
        {"dns": ["1.1.1.1", "fd00:0::1"], "dns-option": "ndots:2", "dns-opt": "use-vc", "dns-search": "example.org"},
    ),
    ("-p 8080:80 -p 8081:80", {"p": ["8080:80", "8081:80"]}),
    (
        "--publish 127.0.0.1:8000-8001:8000-8001/UDP -p [::1]::90",
        {"publish": "127.0.0.1:8000-8001:8000-8001/UDP", "p": "[::1]::90"},
    ),
    ("-p 80 -p 8000-8010:90", {"p": [80, "8000-8010:90"]}),
    ("-P --expose 7000-7002/udp --expose 80", {"P": True, "expose": ["7000-7002/udp", 80]}),
    # Output and health
    ("--log-driver local --log-opt max-size=10m", {"log-driver": "local", "log-opt": "max-size=10m"}),
    ("--log-opt max-size=10m --log-opt max-file=3", {"log-opt": {"max-size": "10m", "max-file": 3}}),
    (
        "--health-cmd 'true && true' --health-interval 1m30s --health-timeout 1.5s --health-start-period 500ms "
        "--health-retries 3",
        {
            "health-cmd": "true && true",
            "health-interval": "1m30s",
            "health-timeout": "1.5s",
            "health-start-period": "500ms",
            "health-retries": 3,
        },
    ),
    ("--no-healthcheck", {"no-healthcheck": True}),
    # What mlproj does in any case
    ("", {"rm": True, "d": True, "detach": True, "restart": "no", "pull": "missing"}),
]  # fmt: skip

REFUSED = [
    ("--memory '4 gigs'", {"memory": "4 gigs"}),
    ("--memory -5m", {"memory": "-5m"}),
    ("--memory m", {"memory": "m"}),
    ("--memory 4bb", {"memory": "4bb"}),
    ("--memory ''", {"memory": ""}),
    ("--memory-swap -2", {"memory-swap": -2}),
    ("--memory-swappiness 101", {"memory-swappiness": 101}),
    ("--cpus many", {"cpus": "many"}),
    ("--cpus 0.1234567891", {"cpus": "0.1234567891"}),
    ("--cpu-shares 1.5", {"cpu-shares": 1.5}),
    ("--ulimit 1024", {"ulimit": "1024"}),
    ("--ulimit files=1024", {"ulimit": "files=1024"}),
    ("--ulimit nofile=2:1", {"ulimit": "nofile=2:1"}),
    ("--ulimit nofile=1:2:3", {"ulimit": "nofile=1:2:3"}),
    ("--gpus some", {"gpus": "some"}),
    ("--gpus memory=1", {"gpus": "memory=1"}),
    ("--gpus device=0,device=1", {"gpus": "device=0,device=1"}),
    ("--device null", {"device": "null"}),
    ("--device /dev/null:/a:/b", {"device": "/dev/null:/a:/b"}),
    ("--device /dev/null:/a:rr", {"device": "/dev/null:/a:rr"}),
    ("--device-read-bps /dev/null", {"device-read-bps": "/dev/null"}),
    ("--device-read-iops /dev/null:1m", {"device-read-iops": "/dev/null:1m"}),
    ("--blkio-weight-device /dev/null:5", {"blkio-weight-device": "/dev/null:5"}),
    ("--device-cgroup-rule x", {"device-cgroup-rule": "x"}),
    ("-v aa:b", {"v": "aa:b"}),
    ("-v /a:/b:ro:rw", {"v": "/a:/b:ro:rw"}),
    ("-v :/a", {"v": ":/a"}),
    ("-v /a:/b:nonsense", {"v": "/a:/b:nonsense"}),
    ("-v some/where:/b", {"v": "some/where:/b"}),
    ("--mount type=bind,source=/tmp", {"mount": "type=bind,source=/tmp"}),
    ("--mount type=bind,target=/tmp", {"mount": "type=bind,target=/tmp"}),
    ("--mount type=tree,target=/tmp", {"mount": "type=tree,target=/tmp"}),
    ("--mount target=/tmp,colour=red", {"mount": "target=/tmp,colour=red"}),
    ("--mount target=/tmp,source", {"mount": "target=/tmp,source"}),
    ("--mount target=/tmp,tmpfs-size=1m", {"mount": "target=/tmp,tmpfs-size=1m"}),
    ("--mount type=tmpfs,target=/tmp,tmpfs-size=big", {"mount": "type=tmpfs,target=/tmp,tmpfs-size=big"}),
    ("--mount type=tmpfs,target=/tmp,tmpfs-mode=rwx", {"mount": "type=tmpfs,target=/tmp,tmpfs-mode=rwx"}),
    ("--mount '\"type=bind'", {"mount": '"type=bind'}),
    ("--network own --network own", {"network": ["own", "own"]}),
    ("--network own --network host", {"network": ["own", "host"]}),
    ("--network alias=a", {"network": "alias=a"}),
    ("--network name=own,colour=red", {"network": "name=own,colour=red"}),
    ("--network host --network-alias a", {"network": "host", "network-alias": "a"}),
    ("--network-alias a", {"network-alias": "a"}),
    ("--ip home", {"ip": "home"}),
    ("--add-host db", {"add-host": "db"}),
    ("--add-host db:home", {"add-host": "db:home"}),
    ("--dns home", {"dns": "home"}),
    ("--link a:b:c", {"link": "a:b:c"}),
    ("-p ten", {"p": "ten"}),
    ("-p 70000:80", {"p": "70000:80"}),
    ("-p 1-9999999:80", {"p": "1-9999999:80"}),
    ("-p 8000-8002:80-81", {"p": "8000-8002:80-81"}),
    ("-p 80:80/icmp", {"p": "80:80/icmp"}),
    ("-p 1.2.3:80:80", {"p": "1.2.3:80:80"}),
    ("--expose 80:80", {"expose": "80:80"}),
    ("--pid own", {"pid": "own"}),
    ("--uts own", {"uts": "own"}),
    ("--userns own", {"userns": "own"}),
    ("--cgroupns own", {"cgroupns": "own"}),
    ("-e =1", {"e": "=1"}),
    ("--env-file nowhere", {"env-file": "nowhere"}),
    ("--env-file bad.env", {"env-file": "bad.env"}),
    ("--label =1", {"label": "=1"}),
    ("--label 'a b=1'", {"label": "a b=1"}),
    ("--sysctl vm.swappiness=1", {"sysctl": "vm.swappiness=1"}),
    ("--sysctl net.core.somaxconn", {"sysctl": "net.core.somaxconn"}),
    ("--security-opt seccomp", {"security-opt": "seccomp"}),
    ("--security-opt seccomp=nowhere", {"security-opt": "seccomp=nowhere"}),
    ("--security-opt seccomp=labels", {"security-opt": "seccomp=labels"}),
    ("--storage-opt size", {"storage-opt": "size"}),
    ("--oom-score-adj 1001", {"oom-score-adj": 1001}),
    ("--privileged=maybe", {"privileged": "maybe"}),
    ("--workdir tmp", {"workdir": "tmp"}),
    ("--tmpfs run", {"tmpfs": "run"}),
    ("--health-interval soon", {"health-interval": "soon"}),
    ("--health-interval 1", {"health-interval": 1}),
    ("--no-healthcheck --health-cmd true", {"no-healthcheck": True, "health-cmd": "true"}),
    ("--platform linux/amd64/v1/x", {"platform": "linux/amd64/v1/x"}),
]  # fmt: skip
"""Some of these are refused by the engine; by us they are before any work is done."""


class Docker:
    """docker's command line and the Engine API, in one directory of a host."""

    def __init__(self, engine, directory):
        if shutil.which("docker") is None:
            missing("docker's command line is not installed: run scripts/system-packages.sh as root")
        self.engine = engine
        self.directory = directory

    def by_command_line(self, flags):
        """The container that `docker create` makes, and why it makes none. The flags are as a shell takes them."""
        command = f"docker create {flags} {SHELL} true"
        done = subprocess.run(["bash", "-c", command], cwd=self.directory, capture_output=True, text=True)
        return (self._inspected(done.stdout.strip()) if done.returncode == 0 else None), done.stderr

    def by_arguments(self, docker_args):
        arguments = read_docker_args(docker_args, directory=self.directory)
        with self.engine.client() as client:
            body = arguments.merged_into(BODY)
            container = client.create_container_from_config(body, platform=arguments.platform)
        return self._inspected(container)

    def _inspected(self, container):
        with self.engine.client() as client:
            return alike(client.inspect_container(container))


def alike(container):
    """What two containers that were made of the same flags have in common."""
    config, host_config = container["Config"], container["HostConfig"]
    if container["Id"].startswith(config["Hostname"] or "-"):
        del config["Hostname"]
    for key in ("Binds", "CapAdd", "CapDrop"):  # the command line gives them in an order of its own
        host_config[key] = sorted(host_config[key] or [])
    mounts = [
        {**mount, "Name": "", "Source": ""} if mount["Type"] == "volume" else mount for mount in container["Mounts"]
    ]
    networks = {
        name: {key: network[key] for key in ("Aliases", "IPAMConfig", "Links", "DriverOpts")}
        for name, network in container["NetworkSettings"]["Networks"].items()
    }
    return without_empty(
        {
            "Config": config,
            "HostConfig": host_config,
            "Networks": networks,
            "Mounts": sorted(mounts, key=lambda mount: mount["Destination"]),
        }
    )


def without_empty(value):
    """An empty list or mapping means what none means: the command line names all keys, the API's callers some."""
    if isinstance(value, dict):
        return {key: without_empty(each) for key, each in value.items() if each not in (None, [], {})}
    return value


@pytest.fixture
def docker(engine, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "labels").write_text("one=1\ntwo=2 \n# three=3\n")
    (tmp_path / "bad.env").write_text("two words=1\n")
    (tmp_path / "seccomp.json").write_text('{\n  "defaultAction": "SCMP_ACT_ALLOW"\n}\n')
    docker = Docker(engine, tmp_path)
    with engine.client() as client:
        client.create_container(
            SHELL, "true", name="neighbour", host_config=client.create_host_config(ipc_mode="shareable")
        )
    yield docker
    with engine.client() as client:
        for volume in client.volumes()["Volumes"] or []:
            if not client.containers(all=True, filters={"volume": volume["Name"]}):
                client.remove_volume(volume["Name"])


class TestDockerArguments:
    @pytest.mark.parametrize(("flags", "docker_args"), SAME, ids=[f"{flags} {args}" for flags, args in SAME])
    def test_make_the_container_of_docker_s_command_line(self, docker, flags, docker_args):
        expected, refusal = docker.by_command_line(flags)
        assert expected is not None, refusal
        assert docker.by_arguments(docker_args) == expected

    def test_of_every_kind_were_tried(self):
        names = {name.replace("_", "-") for _, docker_args in SAME for name in docker_args}
        tried = {FLAGS[name].name for name in names & FLAGS.keys()}
        elsewhere = {"image", "env", "env-file", "storage-opt"}  # below
        assert {flag.name for flag in FLAGS.values()} == tried | elsewhere

    def test_give_the_variables_of_docker_s_command_line(self, docker, monkeypatch):
        monkeypatch.setenv("COPIED", "from the host")
        (docker.directory / "some.env").write_text("\ufeffA=1\n  B= x=y \n#C=3\n\nCOPIED\nE='quoted'\n", "utf-8")
        (docker.directory / "more.env").write_text("A=2\r\n")
        expected, _ = docker.by_command_line("-e F=6 -e COPIED --env-file some.env -e E= --env-file more.env")
        asked = read_docker_args(
            {"e": ["F=6", "COPIED", "E="], "env_file": ["some.env", "more.env"]}, directory=docker.directory
        ).environment
        found = resolve_environment((), asked, os.environ).secret
        del (variables := dict(line.split("=", 1) for line in expected["Config"]["Env"]))["PATH"]  # the image's
        assert found == variables

    def test_may_name_the_image(self, docker):
        arguments = read_docker_args({"image": SHELL})
        assert arguments.image == docker.by_command_line("")[0]["Config"]["Image"]

    @pytest.mark.parametrize(
        ("flags", "docker_args"),
        [
            ("--storage-opt size=1g", {"storage-opt": {"size": "1g"}}),
            ("--cap-add FLY", {"cap-add": "FLY"}),
            ("--memory 1m", {"memory": "1m"}),
            ("--cpus 1000", {"cpus": 1000}),
            ("--runtime none-such", {"runtime": "none-such"}),
            ("-v /a:/b -v /c:/b", {"v": ["/a:/b", "/c:/b"]}),
            ("--mount type=bind,src=/nowhere,dst=/b", {"mount": "type=bind,src=/nowhere,dst=/b"}),
            ("--log-driver none-such", {"log-driver": "none-such"}),
            ("--stop-signal SIGNONE", {"stop-signal": "SIGNONE"}),
        ],
    )
    def test_that_only_the_engine_can_judge_are_refused_by_it_as_docker_s_are(self, docker, flags, docker_args):
        created, refusal = docker.by_command_line(flags)
        assert created is None
        with pytest.raises(APIError) as ours:
            docker.by_arguments(docker_args)
        assert ours.value.explanation in refusal

    @pytest.mark.parametrize(("flags", "docker_args"), REFUSED, ids=[flags for flags, _ in REFUSED])
    def test_are_refused_where_docker_refuses(self, docker, flags, docker_args):
        assert docker.by_command_line(flags)[0] is None
        with pytest.raises(UserError, match=next(iter(docker_args))):
            read_docker_args(docker_args, directory=docker.directory)
