"""What docs/kubernetes.md says is so."""

import re
from pathlib import Path

import yaml
from kubernetes_parts import accept, build, main_of, pod_of
from kubernetes_schema import JOBS

from mlproj_core.backends.kubernetes.config import SETTINGS, KubernetesConfig
from mlproj_core.backends.kubernetes.role import role
from mlproj_core.backends.kubernetes.template import read_template

TEXT = (Path(__file__).parents[2] / "docs" / "kubernetes.md").read_text()
SECTIONS = {part.partition("\n")[0]: part for part in re.split(r"^## ", TEXT, flags=re.MULTILINE)}


def first_cells(section):
    """What stands in code style in the first column of a section's tables."""
    cells = [line.split("|")[1] for line in section.split("\n") if line.startswith("| `")]
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


class TestTheDocumentation:
    def test_names_every_setting_and_no_other(self):
        assert sorted(first_cells(SECTIONS["Settings"])) == sorted(SETTINGS)

    def test_shows_settings_that_are_taken(self):
        (shown,) = re.findall(r"backend_config=(\{.*?\n *\}),?\n?\)", TEXT, re.DOTALL)
        config = KubernetesConfig.read(yaml.safe_load(shown), {})
        assert config.resources["limits"] == {"memory": "8Gi"}

    def test_shows_a_template_that_is_taken(self, tmp_path):
        (shown,) = re.findall(r"```yaml\n(.*?)```", SECTIONS["Your own template"], re.DOTALL)
        path = tmp_path / "job.yaml"
        path.write_text(shown)
        template = read_template(KubernetesConfig.read({"kube-job-template-path": str(path)}, {}))
        assert template.warnings == ()
        job = build(template=dict(template.job))
        accept(JOBS, job)
        assert main_of(job)["args"][:2] == ["python3", "-I"]
        assert [one["name"] for one in pod_of(job)["initContainers"]] == ["proxy"]

    def test_names_the_permissions_that_are_shipped(self):
        granted, _ = yaml.safe_load_all(role("ml", "x"))
        rows = re.findall(r"^\| `(?:batch/)?(\S+)` \| ([a-z, ]+) \|", SECTIONS["Permissions"], re.MULTILINE)
        assert {name: verbs.split(", ") for name, verbs in rows} == {
            resource: rule["verbs"] for rule in granted["rules"] for resource in rule["resources"]
        }
