"""deploy/kuberay, deploy/ray-cluster.yaml and deploy/grafana against the schemas of those who read them.

The RayJob against KubeRay's own file: KUBERAY_CRD=…/ray.io_rayjobs.yaml make test ARGS=tests/test_manifests.py
"""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from jobs.config import load_config
from jobs.monitoring.metrics import METRICS
from tests.exported_metrics import exported
from tests.kuberay_schema import RAYJOB, Schema, crd_schema

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
CRD = os.environ.get("KUBERAY_CRD")
SCHEMAS = ["by hand", *([CRD] if CRD else [])]
RAY = re.search(r"^ray==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)


def _documents() -> dict[str, Any]:
    return {each["kind"]: each for each in yaml.safe_load_all((DEPLOY / "kuberay" / "rayjob.yaml").read_text())}


@pytest.fixture(scope="module", params=SCHEMAS)
def schema(request: pytest.FixtureRequest) -> Schema:
    return RAYJOB if request.param == "by hand" else crd_schema(Path(request.param))


def _workers(job: dict[str, Any]) -> dict[str, Any]:
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    return dict(group)


def test_the_rayjob_is_one(schema: Schema) -> None:
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(_documents()["RayJob"], schema)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda job: job["spec"].update(ttlSecondsAfterFinish=1),
        lambda job: job["spec"].update(backoffLimit="2"),
        lambda job: job["spec"]["rayClusterSpec"].pop("headGroupSpec"),
        lambda job: job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0].pop("minReplicas"),
        lambda job: job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0].update(maxReplicas="8"),
        lambda job: job["spec"]["rayClusterSpec"]["autoscalerOptions"].update(upscalingMode="Slow"),
        lambda job: job["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}),
        lambda job: job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"].update(toleration=[]),
    ],
)
def test_a_spoilt_one_is_not(schema: Schema, spoil: Callable[[dict[str, Any]], object]) -> None:
    """So that the check above cannot pass whatever the manifest says."""
    job = copy.deepcopy(_documents()["RayJob"])
    spoil(job)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(job, schema)


@pytest.mark.skipif(CRD is None, reason="KUBERAY_CRD names no file; the schema by hand is used alone")
def test_the_schema_by_hand_knows_no_field_that_the_crd_lacks() -> None:
    def fields(schema: Schema, at: str = "") -> Iterator[str]:
        for name, each in schema.get("properties", {}).items():
            yield f"{at}.{name}"
            yield from fields(each, f"{at}.{name}")
        if "items" in schema:
            yield from fields(schema["items"], f"{at}[]")

    known = set(fields(crd_schema(Path(CRD or ""))))
    assert {field for field in fields(RAYJOB) if not field.startswith(".metadata.")} - known == set()


def test_the_rayjob_does_what_its_comments_say(tmp_path: Path) -> None:
    documents = _documents()
    job = documents["RayJob"]["spec"]
    cluster = job["rayClusterSpec"]
    group = _workers(documents["RayJob"])
    ((name, text),) = documents["ConfigMap"]["data"].items()
    (tmp_path / name).write_text(text)
    config = load_config(tmp_path / name)
    (head,) = cluster["headGroupSpec"]["template"]["spec"]["containers"]
    (mount,) = head["volumeMounts"]
    assert job["entrypoint"] == f"python -m jobs.embed {mount['mountPath']}/{name}"
    assert (
        cluster["headGroupSpec"]["template"]["spec"]["volumes"][0]["configMap"]["name"]
        == documents["ConfigMap"]["metadata"]["name"]
    )
    assert "nvidia.com/gpu" not in str(head["resources"])
    (worker,) = group["template"]["spec"]["containers"]
    assert worker["image"] == head["image"], "driver and replicas run the same code"
    assert config.cluster.replicas == group["maxReplicas"], "`auto` would see none at the start"
    assert float(worker["resources"]["limits"]["nvidia.com/gpu"]) == config.cluster.gpus_per_replica
    assert float(worker["resources"]["requests"]["cpu"]) == config.cluster.cpus_per_replica
    assert head["envFrom"] == worker["envFrom"]
    assert "spot" in str(group["template"]["spec"]["tolerations"])
    drain = next(int(each["value"]) for each in worker["env"] if "DRAIN" in each["name"])
    assert drain < group["template"]["spec"]["terminationGracePeriodSeconds"]
    for container in (head, worker):
        assert {"containerPort": 8080, "name": "metrics"} in container["ports"]
    assert RAY is not None
    assert cluster["rayVersion"] == RAY[1]
    assert "docker build -f deploy/Dockerfile --build-arg VARIANT=cuda" in (DEPLOY / "kuberay" / "rayjob.yaml").read_text()
    assert f"rayproject/ray:{RAY[1]}-" in (DEPLOY / "ray-cluster.yaml").read_text()
    for path in ("kuberay/rayjob.yaml", "ray-cluster.yaml"):
        text = (DEPLOY / path).read_text()
        assert RAY[1] in text
        assert re.search(r"(?i)secret_access_key: |password|AKIA", text) is None


def _ray_schema() -> Schema:
    spec = importlib.util.find_spec("ray")
    assert spec is not None
    assert spec.origin is not None
    schema: Schema = json.loads((Path(spec.origin).parent / "autoscaler" / "ray-schema.json").read_text())
    return schema


def test_the_cluster_file_is_one() -> None:
    cluster = yaml.safe_load((DEPLOY / "ray-cluster.yaml").read_text())
    jsonschema.Draft7Validator.check_schema(_ray_schema())
    jsonschema.validate(cluster, _ray_schema())
    for spoil in ({"max_worker": 1}, {"idle_timeout_minutes": "5"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(cluster | spoil, _ray_schema())
    assert cluster["head_node_type"] in cluster["available_node_types"]
    for command in (cluster["head_start_ray_commands"], cluster["worker_start_ray_commands"]):
        assert "--metrics-export-port=8080" in command[-1]


@pytest.mark.ray
def test_rays_launcher_takes_the_cluster_file() -> None:
    """As `ray up` does before it calls a cloud: defaults filled in, then validated."""
    from ray.autoscaler._private.util import fillout_defaults, validate_config

    cluster = yaml.safe_load((DEPLOY / "ray-cluster.yaml").read_text())
    filled = fillout_defaults(copy.deepcopy(cluster))
    validate_config(filled)
    assert filled["available_node_types"]["spot-gpu"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    cluster["available_node_types"]["spot-gpu"]["min_workers"] = 9
    filled = fillout_defaults(cluster)
    with pytest.raises(ValueError, match="max_workers"):
        validate_config(filled)


DASHBOARD = json.loads((DEPLOY / "grafana" / "reembed.json").read_text())


def test_the_dashboard_shows_every_metric_and_no_other() -> None:
    exprs = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    used = {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"\bray_\w+", " ".join(exprs))}
    assert used == {exported(metric) for metric in METRICS}
    tags = {exported(metric): set(metric.tags) | {"SessionName", "le"} for metric in METRICS}
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            names = {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"\bray_\w+", target["expr"])}
            said = set(re.findall(r"\bby \((\w+)\)", target["expr"])) | set(re.findall(r"[{,](\w+)=", target["expr"]))
            said |= set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            for name in names:
                assert said <= tags[name], panel["title"]


def test_the_dashboard_is_grafanas_json_model() -> None:
    """https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/"""
    needed = {"uid", "title", "tags", "timezone", "editable", "graphTooltip", "time", "templating", "annotations", "refresh",
              "schemaVersion", "version", "panels"}  # fmt: skip
    assert needed <= set(DASHBOARD)
    assert "id" not in DASHBOARD, "it is the instance's"
    variables = {each["name"] for each in DASHBOARD["templating"]["list"]}
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        assert {"id", "type", "title", "datasource", "gridPos", "targets", "fieldConfig", "options"} <= set(panel)
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, f"{panel['title']} lies over another panel"
        taken |= cells
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references)
        said = set(re.findall(r"\$\{?(\w+)\}?", json.dumps(panel))) - {"__rate_interval"}
        assert said <= variables, panel["title"]
