"""The blocks, saved in a real server and loaded by other programs: who is let in where, and a project as a job."""

import json
import subprocess
import sys

import pytest
from mlflow_world import MlflowServer

ADMIN, PASSWORD = "admin", "administrator's secret"
TOKEN, GREETING = "a token for Git", "a secret greeting"

MLPROJECT = """
name: job
entry_points:
  main:
    parameters:
      alpha: {type: float, default: 0.5}
    command: "python job.py {alpha}"
  fail:
    command: "exit 3"
"""

JOB = """
import base64, json, os, sys, time, urllib.request

alpha = float(sys.argv[1])
if "MLFLOW_TRACKING_USERNAME" in os.environ:
    login = f'{os.environ["MLFLOW_TRACKING_USERNAME"]}:{os.environ["MLFLOW_TRACKING_PASSWORD"]}'
    login = base64.b64encode(login.encode()).decode()
    body = {"run_id": os.environ["MLFLOW_RUN_ID"], "key": "score", "value": alpha, "timestamp": int(time.time() * 1000)}
    request = urllib.request.Request(
        os.environ["MLFLOW_TRACKING_URI"] + "/api/2.0/mlflow/runs/log-metric",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json", "Authorization": f"Basic {login}"},
    )
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request).read()
wanted = ("MLFLOW_TRACKING", "PREFECT", "GREETING")
seen = {name: value for name, value in os.environ.items() if name.startswith(wanted)}
with open(os.environ["MLPROJ_RESULT"], "w") as file:
    json.dump(seen, file)
"""

SAVE = """
from prefect_mlproj import GitCredentials, MLflowCredentials, MLProject

server = MLflowCredentials(tracking_uri={uri!r}, username={admin!r}, password={password!r})
server.save("guarded")
git = GitCredentials(token={token!r}, host="git.example.org")
git.save("git")
job = MLProject(
    uri={project!r}, parameters={{"alpha": 0.25}}, env_manager="local", env_vars={{"GREETING": {greeting!r}}},
    mlflow_credentials=server, git_credentials=git,
)
job.save("training")
"""

RUN = """
import asyncio, json, pickle
from contextlib import closing
from prefect import flow
from prefect.blocks.core import Block

job = Block.load("mlflow-project/training")  # nothing of mlproj is imported here
told = {"type": f"{type(job).__module__}.{type(job).__name__}"}

def see_through():
    run = job.trigger()
    run.wait_for_completion()
    return run.fetch_result()

async def see_through_async():
    run = await job.trigger()
    await run.wait_for_completion()
    return await run.fetch_result()

async def see_through_atrigger():
    run = await job.atrigger()
    await run.await_for_completion()
    return await run.afetch_result()

if __name__ == "__main__":
    ways = {
        "outside": see_through,
        "outside, async": lambda: asyncio.run(see_through_async()),
        "flow": flow(see_through, name="sync-job"),
        "flow, async": lambda: asyncio.run(flow(see_through_async, name="async-job")()),
        "flow, atrigger": lambda: asyncio.run(flow(see_through_atrigger, name="atrigger-job")()),
    }
    told["results"] = {way: do().model_dump() for way, do in ways.items()}

    run = job.trigger()
    run.wait_for_completion()
    told["json"] = run.model_dump_json()
    told["pickled"] = str(pickle.dumps(run))
    told["another process"] = pickle.loads(pickle.dumps(run)).get_status()

    with closing(Block.load("mlflow-credentials/guarded").get_client()) as client:
        told["client"] = [client.uri, dict(client.metrics(run.run_id))]

    from prefect_mlproj import MLProject
    failing = MLProject(
        uri=job.uri, entry_point="fail", env_manager="local", mlflow_credentials=job.mlflow_credentials
    ).trigger()
    try:
        failing.wait_for_completion()
    except Exception as error:
        told["failure"] = [type(error).__name__, str(error)]
    print("TOLD", json.dumps(told))
"""

ASK = """
import json
from prefect_mlproj import GitCredentials, MLflowCredentials, MLProject

def outcome(function, *args, **kwargs):
    try:
        return function(*args, **kwargs)
    except Exception as error:
        return f"{type(error).__name__}: {error}"

git = GitCredentials(token="T0KEN", host="git.example.org")
anywhere = GitCredentials(token="T0KEN")
full = MLflowCredentials(
    tracking_uri=" https://mlflow.example.com ", username="u", password="p", token="t", workspace="w",
    insecure_tls=True, server_cert_path="/s", client_cert_path="/c",
)
print("TOLD", json.dumps({
    "tokens": {uri: outcome(git.token_for, uri) for uri in %(uris)r},
    "anywhere": anywhere.token_for("https://another.example.org/me/project"),
    "port": outcome(GitCredentials(token="T0KEN", host="Git.example.org:8443").token_for, "https://git.example.org/me"),
    "hosts": [outcome(GitCredentials, token="T0KEN", host=host) for host in ("https://git.example.org", "me@git")],
    "triggered": outcome(MLProject(uri="https://another.example.org/me/project.git", git_credentials=git).trigger),
    "addresses": [str(outcome(MLflowCredentials, tracking_uri=uri)) for uri in %(addresses)r],
    "malformed": outcome(MLflowCredentials, password="p4ssword"),
    "full": full.variables(),
    "least": MLflowCredentials(tracking_uri="databricks").variables(),
    "shown": repr(full) + str(full),
}))
"""

URIS = [
    "https://git.example.org/me/project",
    "git+https://GIT.example.org:8443/me/project.git@main#subdirectory=train",
    "https://me@git.example.org/me/project#train",
    "https://another.example.org/me/project",
    "https://git.example.org@another.example.org/me/project",
    "https://git.example.org.another.example/me/project",
    "http://another.example.org/git.example.org",
    "git@another.example.org:me/project",
    "ssh://git@git.example.org/me/project",
    "/srv/projects/train#sub",
    "projects/train",
]
SENT = URIS[:3]
REFUSED = URIS[3:7]
NOT_SENT = URIS[7:]

ADDRESSES = [
    "https://grace:hush@mlflow.example.com",
    "https://grace:hu/sh@mlflow.example.com",
    "postgresql://me:hush@db/m",
]


@pytest.fixture(scope="module")
def guarded(mlflow_python, mlflow_environment, tmp_path_factory):
    """The URI of a real tracking server that lets nobody in but its administrator."""
    directory = tmp_path_factory.mktemp("guarded")
    settings = directory / "auth.ini"
    settings.write_text(
        "[mlflow]\n"
        "default_permission = NO_PERMISSIONS\n"
        f"database_uri = sqlite:///{directory}/auth.db\n"
        f"admin_username = {ADMIN}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    environment = {
        **mlflow_environment,
        "MLFLOW_AUTH_CONFIG_PATH": str(settings),
        "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "only for this test",
    }
    server = MlflowServer(mlflow_python, directory, environment, "--app-name", "basic-auth")
    yield server.uri
    server.stop()


@pytest.fixture(scope="module")
def saved(prefect, guarded):
    """What the API tells, without being asked for secrets, of the blocks that a program has saved."""
    project = prefect.directory / "job"
    project.mkdir()
    (project / "MLproject").write_text(MLPROJECT)
    (project / "job.py").write_text(JOB)
    text = SAVE.format(
        uri=guarded, project=str(project), admin=ADMIN, password=PASSWORD, token=TOKEN, greeting=GREETING
    )
    script = prefect.start_script("saving", text)
    assert script.wait() == 0, script.log
    documents = prefect.ask("POST", "block_documents", "filter", body={})
    return {each["name"]: each for each in documents if each["name"] in ("guarded", "git", "training")}


@pytest.fixture(scope="module")
def told(prefect, saved):
    """What came of the job in another program, whose own variables name another server and another user."""
    other = {
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
        "MLFLOW_TRACKING_TOKEN": "another's",
        "PREFECT_API_KEY": "a key",
    }
    return tell(prefect, "running", RUN, other)


@pytest.fixture(scope="module")
def asked(prefect):
    """What the blocks answer that need no server."""
    return tell(prefect, "asking", ASK % {"uris": URIS, "addresses": [*ADDRESSES, "", "  "]})


def tell(prefect, name, text, env=None):
    script = prefect.start_script(name, text, env)
    assert script.wait(180) == 0, script.log
    [line] = [line for line in script.log_file.read_text().splitlines() if line.startswith("TOLD ")]
    return json.loads(line.removeprefix("TOLD "))


class TestTheServer:
    def test_it_gives_no_secret_to_whoever_does_not_ask_for_it(self, saved):
        text = json.dumps(saved)
        assert set(saved) == {"guarded", "git", "training"}
        assert all(secret not in text for secret in (PASSWORD, TOKEN, GREETING))

    def test_it_tells_the_rest(self, saved, guarded):
        data = saved["guarded"]["data"]
        assert (data["tracking_uri"], data["username"]) == (guarded, ADMIN)
        assert set(data["password"]) == {"*"}
        assert saved["git"]["data"]["host"] == "git.example.org"
        assert saved["training"]["data"]["parameters"] == {"alpha": 0.25}
        assert set(saved["training"]["data"]["env_vars"]) == {"GREETING"}

    def test_its_database_holds_no_secret_in_plain_text(self, prefect, saved):
        written = b"".join(file.read_bytes() for file in prefect.home.glob("*.db*"))
        assert b"guarded" in written
        assert all(secret.encode() not in written for secret in (PASSWORD, TOKEN, GREETING))

    def test_the_types_are_registered_by_the_package_and_shown_under_their_names(self, prefect):
        done = subprocess.run(
            [sys.executable, "-m", "prefect", "block", "register", "-m", "prefect_mlproj"],
            env=prefect.environment, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        names = {"mlflow-credentials", "mlflow-project", "mlproj-git-credentials"}
        types = {each["slug"]: each for each in prefect.ask("POST", "block_types", "filter", body={})}
        assert names <= set(types)
        assert [types[slug]["name"] for slug in sorted(names)] == [
            "MLflow Credentials",
            "MLflow Project",
            "Git Credentials for MLflow Projects",
        ]


@pytest.mark.parametrize("way", ["outside", "outside, async", "flow", "flow, async", "flow, atrigger"])
class TestTheJob:
    def test_it_is_triggered_waited_for_and_leaves_its_result(self, told, way, guarded):
        result = told["results"][way]
        assert result["status"] == "FINISHED"
        assert result["tracking_url"].startswith(guarded)

    def test_what_the_server_tells_only_to_its_user_is_in_the_result(self, told, way):
        assert told["results"][way]["metrics"] == {"score": 0.25}

    def test_the_project_sees_the_variables_of_the_credentials_and_no_others_of_a_server_or_of_prefect(
        self, told, way, guarded
    ):
        assert told["results"][way]["result"] == {
            "MLFLOW_TRACKING_URI": guarded,
            "MLFLOW_TRACKING_USERNAME": ADMIN,
            "MLFLOW_TRACKING_PASSWORD": PASSWORD,
            "GREETING": GREETING,
        }


def test_a_job_is_found_by_its_type_where_nothing_of_mlproj_was_imported(told):
    assert told["type"] == "prefect_mlproj.blocks.MLProject"


@pytest.mark.parametrize("name", ["sync-job", "async-job", "atrigger-job"])
def test_in_a_flow_a_job_is_a_task_that_submits_it(prefect, told, name):
    [run] = prefect.runs_of(name)
    assert run["state_name"] == "Completed"
    [task] = prefect.task_runs(run["id"])
    assert prefect.wait_for_task_run(run["id"], "job/main")["id"] == task["id"]


def test_a_run_takes_no_credentials_to_another_process(told):
    assert PASSWORD not in told["json"]
    assert PASSWORD not in told["pickled"]
    assert "administrator" not in told["pickled"]
    assert told["another process"] == "FINISHED"


def test_a_client_is_one_of_the_credentials_server_and_user(told, guarded):
    assert told["client"] == [guarded, {"score": 0.25}]


def test_waiting_for_a_job_that_fails_says_why(told):
    kind, text = told["failure"]
    assert kind == "ExecutionException"
    assert "exit" in text
    assert "3" in text


class TestGitCredentials:
    @pytest.mark.parametrize("uri", SENT)
    def test_the_token_is_sent_to_its_host(self, asked, uri):
        assert asked["tokens"][uri] == "T0KEN"

    @pytest.mark.parametrize("uri", REFUSED)
    def test_another_host_is_refused(self, asked, uri):
        assert asked["tokens"][uri].startswith("UserError: The Git credentials are for 'git.example.org'")
        assert "T0KEN" not in asked["tokens"][uri]

    @pytest.mark.parametrize("uri", NOT_SENT)
    def test_where_no_token_is_sent_there_is_none(self, asked, uri):
        assert asked["tokens"][uri] == ""

    def test_without_a_host_it_is_sent_to_the_projects_own(self, asked):
        assert asked["anywhere"] == "T0KEN"

    def test_a_host_with_a_port_is_that_port_only(self, asked):
        assert asked["port"].startswith("UserError: ")

    def test_a_host_is_a_name(self, asked):
        assert all(each.startswith("UserError: host must be a host's name") for each in asked["hosts"])

    def test_a_job_on_another_host_is_not_started(self, asked):
        assert asked["triggered"].startswith("UserError: The Git credentials are for 'git.example.org'")


class TestMLflowCredentials:
    def test_credentials_in_the_address_are_refused_and_not_repeated(self, asked):
        for refusal in asked["addresses"][: len(ADDRESSES)]:
            assert refusal.startswith("UserError: There are credentials in tracking_uri.")
            assert "hu" not in refusal

    def test_an_empty_address_is_refused(self, asked):
        for refusal in asked["addresses"][len(ADDRESSES) :]:
            assert refusal.startswith("UserError: tracking_uri is empty")

    def test_no_secret_is_shown(self, asked):
        assert "p4ssword" not in asked["malformed"]
        assert "'p'" not in asked["shown"]
        assert "'t'" not in asked["shown"]

    def test_the_variables_are_those_of_mlflow(self, asked):
        assert asked["full"] == {
            "MLFLOW_TRACKING_URI": "https://mlflow.example.com",
            "MLFLOW_TRACKING_USERNAME": "u",
            "MLFLOW_TRACKING_PASSWORD": "p",
            "MLFLOW_TRACKING_TOKEN": "t",
            "MLFLOW_WORKSPACE": "w",
            "MLFLOW_TRACKING_INSECURE_TLS": "true",
            "MLFLOW_TRACKING_SERVER_CERT_PATH": "/s",
            "MLFLOW_TRACKING_CLIENT_CERT_PATH": "/c",
        }
        assert asked["least"] == {"MLFLOW_TRACKING_URI": "databricks"}
