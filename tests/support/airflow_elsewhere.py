"""DAGs of two tasks that are equal but for where they run: `docker` and `kubernetes`."""

import json

from docker_world import PYTHON

TASKS = ("docker", "kubernetes")

BOTH = """
for task_id, where in WHERE.items():
    MLProjectOperator(
        task_id=task_id, **STEP, mlflow_conn_id="tracking",
        parameters={{"mark": "/tmp/mark", "seconds": {seconds}}}, **where{options}
    )
"""


class Both:
    """Such DAGs of an Airflow.

    Args:
        airflow: the world.
        steps: its project.
        elsewhere: where the runs are.
        registry: a closed registry, where the image of the task `docker` is.
        host: the engine's address for the tasks.
        tracking_uri: the tracking server, for the tasks and for the runs.
        docker_args: further ones of the task `docker`.
    """

    def __init__(self, airflow, steps, elsewhere, registry, host, tracking_uri, docker_args=None):
        self.airflow, self.steps, self.elsewhere = airflow, steps, elsewhere
        address, _, port = registry.address.partition(":")
        login = {"host": address, "port": int(port), "login": "me", "password": "geheim"}
        self._connect("tracking", conn_type="mlflow", host=tracking_uri)
        self._connect("registry", conn_type="docker", **login)
        extra = {"kube_config": elsewhere.kubeconfig(), "namespace": elsewhere.cluster.namespace}
        self._connect("cluster", conn_type="kubernetes", extra=json.dumps(extra))
        docker_args = {"image": elsewhere.private_image(registry), **(docker_args or {})}
        where = {
            "docker": {"docker_args": docker_args, "docker_conn_id": "registry"},
            "kubernetes": {
                "backend": "kubernetes",
                "kubernetes_conn_id": "cluster",
                "backend_config": {"image": PYTHON, "tracking-uri": tracking_uri},
            },
        }
        self._head = f"import os\nos.environ['DOCKER_HOST'] = {host!r}\nWHERE = {where!r}\n"

    def _connect(self, conn_id, **fields):
        self.airflow.ask("POST", "connections", body={"connection_id": conn_id, **fields})

    def begin(self, dag_id, seconds, **options):
        """A run of such a DAG, whose runs are both at work; and their handles by task."""
        more = "".join(f", {name}={value}" for name, value in options.items())
        self.steps.dag(dag_id, BOTH.format(seconds=seconds, options=more), imports=self._head)
        run = self.airflow.trigger(dag_id)
        for task_id in TASKS:
            self.airflow.wait_for_task(run, task_id, "running", "deferred", timeout=90)
            self.airflow.wait_for(
                lambda task_id=task_id: "line 1 of" in self.airflow.log(run, task_id),
                lambda task_id=task_id: f"{task_id} does not begin:\n{self.airflow.log(run, task_id)}",
                90,
            )
        return run, {task_id: self.airflow.xcom(run, task_id, "handle") for task_id in TASKS}

    def are_ended(self):
        """Wait until nothing is at work."""
        __tracebackhide__ = True
        living = self.elsewhere.living
        self.airflow.wait_for(lambda: not living(), lambda: f"there live {living()}", 60)
