"""Data from a tracking server that asks who is there: the run knows, and nothing that is written down does."""

import pytest

import mlproj_core
from mlproj_core.backends.local.directory import locate
from mlproj_core.tracking import NewRun, connect

PROJECT = """
name: reader
entry_points:
  main:
    parameters: {data: path}
    command: "cp {data} $OUT"
"""


@pytest.mark.usefixtures("no_tracking")
def test_a_run_fetches_artifacts_with_the_credentials_of_its_tracking_uri(
    world, mlflow_auth_server, monkeypatch, tmp_path
):
    uri = mlflow_auth_server.replace("://", "://admin:administrator%27s%20secret@")
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    (world.project / "MLproject").write_text(PROJECT)
    (tmp_path / "rows.csv").write_text("rows")
    source = connect(uri).create_run(NewRun(start_time=1.0))
    assert connect(uri).upload(source.run_id, tmp_path / "rows.csv", "in") is None
    data = f"runs:/{source.run_id}/in/rows.csv"
    run = mlproj_core.run(**world.arguments(parameters={"data": data}, tracking_uri=uri))
    assert (tmp_path / "out").read_text() == "rows"
    written = [path for root in (world.state, tmp_path / "cache") for path in root.rglob("*") if path.is_file()]
    assert locate(run.handle).path / "data-request.json" in written
    assert not any(b"secret" in path.read_bytes() for path in written)

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (tmp_path / "out").unlink()
    other = uri.replace("admin:", "nobody:")
    with pytest.raises(mlproj_core.MlprojError, match="nobody"):
        mlproj_core.run(**world.arguments(parameters={"data": data}, tracking_uri=other))
