"""The flow that the README shows runs, as it stands there."""

import shutil

import pytest
import readme
from rest import address, request


@pytest.mark.timeout(600)  # it builds the project's environment
def test_the_flow_of_the_readme(prefect, tracked):
    (text,) = [text for kind, text in readme.blocks() if kind == "python" and "prefect_mlproj" in text]
    shutil.copytree(readme.ROOT / "example_flows", prefect.files / "example_flows", dirs_exist_ok=True)
    (prefect.files / "readme.py").write_text(text)
    served = prefect.serve_file("mondays", "readme.py", tracked)
    assert [schedule["schedule"]["cron"] for schedule in served.deployment["schedules"]] == ["0 6 * * 1"]
    flow_run_id = served.run()
    prefect.wait_for_flow_run(flow_run_id, timeout=400)
    served.stop()
    names = sorted(run["name"] for run in prefect.task_runs(flow_run_id))
    assert names == ["wine_quality/prepare", "wine_quality/train", "wine_quality/train"]
    found = request(
        "POST",
        address(f"{tracked['MLFLOW_TRACKING_URI']}/api/2.0/mlflow", "runs", "search"),
        body={"experiment_ids": ["0"], "filter": f"tags.`prefect.flow_run_id` = '{flow_run_id}'"},
    )["runs"]
    values = [{metric["key"]: metric["value"] for metric in run["data"]["metrics"]} for run in found]
    assert sorted(0.9 < each["cv_accuracy"] < 1 for each in values if "cv_accuracy" in each) == [True, True]
