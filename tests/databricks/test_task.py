"""What is submitted: its arguments, which are read back, its secrets, and what cannot be submitted."""

import subprocess
import textwrap

import pytest
from databricks_client import client_of
from databricks_schema import check_submission

import mlproj_core
from mlproj_core.backends.databricks import poll
from mlproj_core.backends.databricks.connect import forget_workspaces
from mlproj_core.backends.databricks.secrets import check_cluster, check_text, sort_variables
from mlproj_core.backends.databricks.task import (
    LIMIT,
    VARIABLE,
    fits,
    pack,
    read_arguments,
    read_task,
    unpack,
    write_arguments,
)
from mlproj_core.backends.databricks.work import _check_workspace
from mlproj_core.backends.databricks.workspace import Workspace
from mlproj_core.claim import Claim, Record
from mlproj_core.errors import UserError
from mlproj_core.tracking import UNTRACKED_URI

NEW = {"spark_version": "16.4.x-scala2.12", "node_type_id": "i3.xlarge", "num_workers": 1}
RECORD = Record(run_id="0" * 32, tracked=True, tracking_uri="https://mlflow.example.com", experiment_id="7")


def claim(key="k", **request):
    return Claim(key, 2, (1, 2), "f" * 64, request, created_at=1234.5)


class TestArguments:
    def test_are_read_back(self):
        arguments = write_arguments(claim(command="python x"), RECORD, "PLAN")
        assert read_arguments(arguments) == (claim(command="python x"), RECORD)
        assert arguments[2:] == ["--plan", "PLAN"]
        assert read_task({"spark_python_task": {"parameters": arguments}}) == (claim(command="python x"), RECORD)

    def test_are_words_that_nobody_replaces_anything_in(self):
        words = write_arguments(claim(command="echo {{job.id}} $HOME `x` '\"' \n"), RECORD, pack({"a": "{{x}}"}))
        assert all(word.strip("-=_").replace("-", "").replace("_", "").isalnum() for word in words)

    def test_drop_a_request_that_is_too_long(self):
        import random

        long = "".join(random.Random(1).choices("0123456789abcdef", k=40_000))
        arguments = write_arguments(claim(parameters={"x": long}), RECORD, "@" + "/x" * 200)
        assert fits(arguments)
        assert read_arguments(arguments) == (claim(), RECORD)

    def test_have_no_room_for_a_huge_key(self):
        import random

        long = "".join(random.Random(1).choices("0123456789abcdef", k=40_000))
        with pytest.raises(UserError, match="The key has 40000 characters"):
            write_arguments(claim(long), RECORD, "")

    def test_have_a_limit(self):
        assert fits(["x" * (LIMIT - 30)])
        assert not fits(["x" * LIMIT])

    @pytest.mark.parametrize("task", [{}, {"spark_python_task": {}}, {"spark_python_task": {"parameters": ["a", "b"]}},
                                      {"spark_python_task": {"parameters": ["--mlproj", "x"]}},
                                      {"spark_python_task": {"parameters": ["--mlproj"]}},
                                      {"notebook_task": {"notebook_path": "/x"}}])  # fmt: skip
    def test_of_others_are_none(self, task):
        assert read_task(task) is None

    def test_may_stand_among_the_variables(self):
        word = write_arguments(claim(), RECORD, "")[1]
        task = {"spark_python_task": {"parameters": ["a"]}, "new_cluster": {"spark_env_vars": {VARIABLE: word}}}
        assert read_task(task) == (claim(), RECORD)

    def test_that_are_not_packed_are_refused(self):
        assert unpack(pack({"a": [1, "ä"]})) == {"a": [1, "ä"]}
        for word in ("x", "", "eJyLjgUAARUAuQ=="):
            with pytest.raises(ValueError, match=r"."):
                unpack(word)


class TestVariables:
    def test_are_plain_or_references(self):
        found = sort_variables({"A": "1", "TOKEN": "{{secrets/my-scope/key.1}}", "B": ""})
        assert (found.plain, found.references) == ({"A": "1", "B": ""}, {"TOKEN": ("my-scope", "key.1")})
        assert found.as_cluster_s() == {"TOKEN": "{{secrets/my-scope/key.1}}"}

    @pytest.mark.parametrize(
        "name",
        [
            *("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
            *("AZURE_STORAGE_CONNECTION_STRING", "AZURE_CLIENT_SECRET", "DB_PASSWD", "AZURE_STORAGE_ACCESS_KEY"),
            "api_key",
        ],
    )
    def test_that_are_secrets_are_refused(self, name):
        with pytest.raises(UserError) as caught:
            sort_variables({name: "geheim-value"})
        assert name in str(caught.value)
        assert "{{secrets/mlproj/" in str(caught.value)
        assert "put-secret" in str(caught.value)
        assert "geheim" not in str(caught.value)

    def test_that_only_sound_like_it_are_none(self):
        plain = {
            "TOKENIZERS_PARALLELISM": "false", "MAX_TOKENS": "17", "DB_PASSWORD": "", "USE_TOKEN": "true",
            "URL": "https://host/x?y=z", "GIT": "ssh://git@github.com/x", "INDEX": "https://${USER}:${PW}@host/simple",
        }  # fmt: skip
        assert sort_variables(plain).plain == plain

    def test_with_a_password_in_a_url_are_refused(self):
        for url in ("https://me:geheim@host/simple", "postgresql://u:geheim@db/x", "https://geheim@host/simple"):
            with pytest.raises(UserError, match="INDEX") as caught:
                sort_variables({"INDEX": url})
            assert "geheim" not in str(caught.value)

    def test_that_the_project_calls_secret_are(self):
        with pytest.raises(UserError, match="The variable FAVOURITE_COLOUR is a secret"):
            sort_variables({"FAVOURITE_COLOUR": "blue"}, ["FAVOURITE_COLOUR"])

    @pytest.mark.parametrize(
        "value", ["{{secrets/a}}", "{{ secrets/a/b }}", "Bearer {{secrets/a/b}}", "{{secrets/a b/c}}"]
    )
    def test_with_what_is_no_reference_are_refused(self, value):
        with pytest.raises(UserError, match="is the whole of the value"):
            sort_variables({"A": value})

    @pytest.mark.parametrize(
        "spec",
        [
            {"spark_env_vars": {"MY_PASSWORD": "geheim"}},
            {"spark_conf": {"spark.hadoop.fs.s3a.secret.key": "geheim"}},
            {"spark_conf": {"fs.azure.account.key": "geheim"}},
            {"docker_image": {"url": "x", "basic_auth": {"username": "me", "password": "geheim"}}},
        ],
    )
    def test_of_a_cluster_are_no_secrets(self, spec):
        with pytest.raises(UserError, match="of the cluster is a secret") as caught:
            check_cluster({**NEW, **spec})
        assert "geheim" not in str(caught.value)

    def test_of_a_cluster_may_be_references(self):
        check_cluster(
            {
                **NEW,
                "spark_env_vars": {"MY_PASSWORD": "{{secrets/a/b}}"},
                "spark_conf": {"fs.azure.account.key": "{{secrets/a/b}}", "spark.x.token.enabled": "true"},
            }
        )

    @pytest.mark.parametrize("line", ["a @ https://me:geheim@host/a.whl", "--index-url https://geheim@host/simple",
                                      "https://conda.host/t/geheim/channel"])  # fmt: skip
    def test_stand_for_the_passwords_of_requirements(self, line):
        with pytest.raises(UserError, match=r"Write \$\{NAME\} in its place") as caught:
            check_text(line, "The project's environment")
        assert "geheim" not in str(caught.value)
        check_text("a @ git+ssh://git@github.com/x/a\nb @ https://${USER}:${PW}@host/b.whl", "x")


@pytest.fixture
def world(workspace, tmp_path, monkeypatch):
    for name in ("STATE", "CACHE"):
        monkeypatch.setenv(f"MLPROJ_{name}_DIR", str(tmp_path / name.lower()))
    yield World(workspace, tmp_path / "project")
    poll.stop_polling()
    forget_workspaces()


class World:
    """A project, and a workspace in which tasks succeed at once."""

    def __init__(self, workspace, directory):
        self.workspace, self.directory = workspace, directory
        directory.mkdir()

    def write(self, **files):
        for name, content in files.items():
            (self.directory / name.replace("_dot_", ".")).write_text(textwrap.dedent(content))

    def submit(self, config=NEW, **more):
        if not (self.directory / "MLproject").exists():
            self.write(MLproject="name: p\nentry_points: {main: {command: 'python main.py'}}\n", main_dot_py="")
        more = {"uri": str(self.directory), "env_manager": "local", "tracking_uri": UNTRACKED_URI, **more}
        return mlproj_core.submit(backend="databricks", backend_config=config, **more)

    def body(self, run):
        return self.workspace.runs.by_id[run.handle.ref["run"]].body

    def refusal(self, *arguments, **more):
        """What is said of what cannot be submitted; the workspace has heard nothing of it."""
        with pytest.raises(UserError) as caught:
            self.submit(*arguments, **more)
        assert not [one for one in self.workspace.log if one[0] != "GET"]
        return str(caught.value)


class TestASubmission:
    @pytest.mark.parametrize(
        "config",
        [
            NEW,
            {"cluster_spec": NEW, "tags": {"team": "ml"}, "libraries": [{"pypi": {"package": "polars"}}]},
            {"existing_cluster_id": "0101-1"},
            {"job_cluster": {"new_cluster": NEW}, "queue": True, "timeout_seconds": 60},
            {"serverless": {"environment_version": "4", "dependencies": ["polars"]}, "performance_target": "STANDARD"},
            {
                "new_cluster": {"policy_id": "p", "apply_policy_default_values": True},
                "email_notifications": {"on_failure": ["me@example.org"]},
                "webhook_notifications": {"on_start": [{"id": "w"}]},
                "notification_settings": {"no_alert_for_canceled_runs": True},
                "access_control_list": [{"group_name": "users", "permission_level": "CAN_VIEW"}],
                "run_as": {"user_name": "me@example.org"},
                "run_name": "weekly",
            },
        ],
    )
    def test_has_the_api_s_fields_only(self, world, config):
        world.workspace.add_cluster("0101-1")
        run = world.submit(config)
        body = world.body(run)
        check_submission(body)
        (task,) = body["tasks"]
        assert task["spark_python_task"]["python_file"].startswith("/Workspace/Users/me@example.org/.mlproj/tasks/")
        assert body["run_name"].startswith("weekly" if "run_name" in config else "p: main")
        for name in ("queue", "email_notifications", "webhook_notifications", "access_control_list", "run_as"):
            assert body.get(name) == ({"enabled": True} if config.get(name) is True else config.get(name))

    def test_uploads_once_what_is_the_same(self, world):
        world.submit()
        imports = world.workspace.counted("workspace/import")
        assert imports == 2
        world.submit()
        world.write(main_dot_py="print('changed')")
        world.submit()
        assert world.workspace.counted("workspace/import") == 3

    def test_is_refused_before_anything_is_uploaded(self, world):
        assert "does not say where on Databricks" in world.refusal({})
        assert "Keep it in a secret scope" in world.refusal(env_vars={"HF_TOKEN": "geheim"})
        assert "is for a Databricks Spark job" in world.refusal({**NEW, "code": "git"})
        assert "of the cluster is a secret" in world.refusal({**NEW, "spark_env_vars": {"A_TOKEN": "x"}})
        assert "which a cluster cannot reach" in world.refusal(tracking_uri="http://localhost:5000")

    def test_of_a_container_is_refused(self, world):
        world.write(MLproject="docker_env: {image: x}\nentry_points: {main: {command: 'true'}}\n")
        assert "cannot run on Databricks" in world.refusal(env_manager=None)

    def test_of_a_secret_in_a_requirement_is_refused(self, world):
        world.write(
            MLproject="python_env: env.yaml\nentry_points: {main: {command: 'true'}}\n",
            env_dot_yaml="dependencies: ['a @ https://me:geheim@host/a.whl']\n",
        )
        said = world.refusal(env_manager="virtualenv")
        assert "The project's environment has a URL with a password" in said
        assert "geheim" not in said

    def test_with_a_secret_parameter_takes_a_reference(self, world):
        world.write(
            MLproject="""
                mlproj: 1
                entry_points:
                  main:
                    parameters: {code_word: {type: string, secret: true}}
                    command: python main.py
            """,
            main_dot_py="",
        )
        assert "The variable code_word is a secret" in world.refusal(parameters={"code_word": "geheim"})
        world.workspace.secrets.put("ml", "word", "x")
        run = world.submit(parameters={"code_word": "{{secrets/ml/word}}"})
        assert world.body(run)["tasks"][0]["new_cluster"]["spark_env_vars"] == {"code_word": "{{secrets/ml/word}}"}

    def test_to_a_tracking_server_with_a_login_takes_a_reference(self, world):
        uri = "https://me:geheim@mlflow.example.com"
        said = world.refusal(tracking_uri=uri)
        assert "MLFLOW_TRACKING_PASSWORD" in said
        assert "geheim" not in said


class TestAProjectOfARepository:
    JOB = "databricks_spark_job: {python_file: main.py, parameters: [a, 1]}\n"

    @pytest.fixture
    def url(self, world, tmp_path, monkeypatch):
        """The https URL of a repository, which git is told to find on this host."""
        repository = tmp_path / "repository"
        (repository / "sub").mkdir(parents=True)
        (repository / "sub/MLproject").write_text(self.JOB)
        (repository / "sub/main.py").write_text("")
        for command in (
            ["init", "-q"],
            ["add", "."],
            ["-c", "user.name=a", "-c", "user.email=a", "commit", "-qm", "x"],
        ):
            subprocess.run(["git", *command], cwd=repository, check=True)
        for name, value in {
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"url.{repository}.insteadOf",
            "GIT_CONFIG_VALUE_0": "https://github.com/me/project",
        }.items():
            monkeypatch.setenv(name, value)
        self.commit = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=repository, text=True).strip()
        return "https://github.com/me/project"

    def test_is_checked_out_by_databricks(self, world, url):
        run = world.submit({**NEW, "tags": {"team": "ml"}}, uri=f"{url}#sub", env_manager=None)
        body = world.body(run)
        check_submission(body)
        (task,) = body["tasks"]
        assert body["git_source"] == {"git_url": url, "git_provider": "gitHub", "git_commit": self.commit}
        python = {"python_file": "sub/main.py", "parameters": ["a", "1"], "source": "GIT"}
        assert task["spark_python_task"] == python
        variables = task["new_cluster"]["spark_env_vars"]
        assert variables["MLPROJ_ATTEMPT"] == run.handle.tag
        assert world.workspace.counted("workspace/import") == 0
        again = mlproj_core.attach(run.handle)
        again.wait()
        assert again.get_status() == "FINISHED"
        assert world.submit({**NEW}, uri=f"{url}#sub", env_manager=None).handle.attempt == 1

    def test_is_uploaded_where_it_cannot_be(self, world, url):
        world.workspace.add_cluster("0101-1")
        old = {**NEW, "spark_version": "13.3.x-scala2.12"}  # it would run in another directory there
        for config in ({"existing_cluster_id": "0101-1"}, {**NEW, "code": "archive"}, old):
            body = world.body(world.submit(config, uri=f"{url}#sub", env_manager=None))
            assert "git_source" not in body
            assert world.workspace.counted("workspace/import") > 0

    def test_is_refused_where_it_has_to_be_and_cannot(self, world, url, monkeypatch):
        world.workspace.add_cluster("0101-1")
        said = world.refusal({"existing_cluster_id": "0101-1", "code": "git"}, uri=f"{url}#sub", env_manager=None)
        assert "can be given to a new cluster only" in said
        monkeypatch.setenv("GIT_CONFIG_VALUE_0", "https://git.example.com/me/project")
        said = world.refusal({**NEW, "code": "git"}, uri="https://git.example.com/me/project#sub", env_manager=None)
        assert "who serves git.example.com is not known: say so by 'git_provider'" in said
        config = {**NEW, "code": "git", "git_provider": "gitLabEnterpriseEdition"}
        body = world.body(world.submit(config, uri="https://git.example.com/me/project#sub", env_manager=None))
        assert body["git_source"]["git_provider"] == "gitLabEnterpriseEdition"


def test_a_databricks_spark_job_runs_nowhere_else(tmp_path):
    (tmp_path / "MLproject").write_text("databricks_spark_job: {python_file: a.py}\n")
    with pytest.raises(UserError, match="it can only run on the backend databricks"):
        mlproj_core.submit(str(tmp_path), tracking_uri=UNTRACKED_URI)


class TestTheWorkspaceOfATrackingUri:
    """`databricks://PROFILE` is of this host; where the run is, there is one workspace only."""

    @pytest.fixture
    def profiles(self, workspace, databricks_host):
        path = databricks_host / ".databrickscfg"
        workspace.write_profile(path, "here")
        with path.open("a") as file:
            file.write("[other]\nhost = https://other.cloud.databricks.com\ntoken = x\n")

    def test_may_be_the_one_that_the_run_is_in(self, workspace, profiles):
        with client_of(workspace) as client:
            for profile in ("here", "unknown", ""):
                _check_workspace(profile, f"databricks://{profile}", Workspace(client))

    def test_is_no_other_one(self, workspace, profiles):
        with client_of(workspace) as client, pytest.raises(UserError, match="is of the workspace https://other"):
            _check_workspace("other", "databricks://other", Workspace(client))
