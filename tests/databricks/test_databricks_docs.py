"""What docs/databricks.md says is so."""

import ast
import json
import re
from pathlib import Path

import pytest
import yaml
from databricks_schema import check_submission
from databricks_submission import check

from mlproj_core.backends.databricks import code, places
from mlproj_core.backends.databricks.body import submit_body
from mlproj_core.backends.databricks.compute import Cluster, ExistingCluster, Serverless
from mlproj_core.backends.databricks.config import OF_RUN, SETTINGS, DatabricksConfig
from mlproj_core.cli import main
from mlproj_core.launcher.program import task
from mlproj_core.spec import load_project

TEXT = (Path(__file__).parents[2] / "docs" / "databricks.md").read_text()
SECTIONS = {part.partition("\n")[0]: part for part in re.split(r"^## ", TEXT, flags=re.MULTILINE)}
EXAMPLES = [json.loads(one) for one in re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)]
EXAMPLES += [
    ast.literal_eval(keyword.value)
    for one in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    for call in ast.walk(ast.parse(one))
    if isinstance(call, ast.Call)
    for keyword in call.keywords
    if keyword.arg == "backend_config"
]


class TestTheDocumentation:
    @pytest.mark.parametrize("example", EXAMPLES, ids=[next(iter(one)) for one in EXAMPLES])
    def test_shows_settings_that_a_workspace_takes(self, example):
        config = DatabricksConfig.read(example)
        body = submit_body(
            f"mlproj-{'0' * 32}-1",
            title=config.run_name or "x",
            python_file="/Workspace/x.py",
            parameters=["a"],
            compute=config.compute.of_task(["polars"], config.tags, {}),
            settings={**config.settings, **config.compute.of_run(["polars"])},
        )
        check_submission(body)
        check(body, ["0101-120000-abcdefgh"])

    def test_has_an_example_of_each_kind_of_compute(self):
        found = [DatabricksConfig.read(one).compute for one in EXAMPLES]
        assert {type(one) for one in found} == {Cluster, ExistingCluster, Serverless}
        specs = [one.spec for one in found if isinstance(one, Cluster)]
        assert any("instance_pool_id" in spec for spec in specs)
        assert any("policy_id" in spec for spec in specs)
        for form in ("new_cluster", "job_clusters", "existing_cluster_id", "serverless", "spark_version"):
            assert any(form in one for one in EXAMPLES)

    def test_names_every_setting_and_no_other(self):
        rows = [line.split("|")[1] for line in SECTIONS["Settings"].split("\n") if line.startswith("| `")]
        assert sorted(name for row in rows for name in re.findall(r"`([^`]+)`", row)) == sorted([*SETTINGS, *OF_RUN])

    def test_says_the_limits_that_hold(self):
        assert f"{places.WorkspaceFiles.longest / 1e6:g} MB" in SECTIONS["Where the code goes"]
        assert f"{code.KEPT / 86_400:g} days" in SECTIONS["Where the code goes"]
        assert f"{task.LONGEST_RESULT >> 20} MB" in SECTIONS["On the cluster"]

    def test_shows_a_project_that_is_one(self, tmp_path):
        (shown,) = re.findall(r"```yaml\n(.*?)```", SECTIONS["Databricks Spark jobs"], re.DOTALL)
        (tmp_path / "MLproject").write_text(shown)
        assert yaml.safe_load(shown)["databricks_spark_job"]["parameters"] == ["--date", "2026-01-01"]
        assert load_project(tmp_path).entry_point("main").bind().command.rstrip() == (
            "python features.py --date 2026-01-01"
        )

    def test_shows_a_command_that_there_is(self, capsys):
        (shown,) = set(re.findall(r"`mlproj (databricks clean [^`]*)`", TEXT))
        assert main([*shown.split(), "--help"]) == 0
        assert "--older-than" in capsys.readouterr().out
