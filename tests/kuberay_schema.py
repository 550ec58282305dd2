"""What a RayJob may hold, as JSON Schema: by hand from KubeRay's CRD, or the CRD itself.

    RAYJOB        every field of the job, the cluster and its groups; of pods only what deploy/kuberay/ uses. From
                  helm-chart/kuberay-operator/crds/ray.io_rayjobs.yaml of ray-project/kuberay (feeaf72fac, August 2026)
    crd_schema    of that file, where somebody has it: KUBERAY_CRD=FILE make test ARGS=tests/test_manifests.py

The API server drops unknown fields without a word, so a misspelt one would do nothing: both refuse them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

Schema = dict[str, Any]

_STRING: Schema = {"type": "string"}
_INT: Schema = {"type": "integer", "minimum": 0}
_BOOL: Schema = {"type": "boolean"}
_STRINGS: Schema = {"type": "object", "additionalProperties": _STRING}
_ANY_OBJECT: Schema = {"type": "object"}
_QUANTITIES: Schema = {
    "type": "object",
    "additionalProperties": {"type": ["string", "integer"], "pattern": r"^[0-9]+(\.[0-9]+)?(m|Ki|Mi|Gi|Ti|k|M|G|T)?$"},
}


def _object(required: tuple[str, ...] = (), **properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def _list(of: Schema) -> Schema:
    return {"type": "array", "items": of}


_NAMED = _object(("name",), name=_STRING)
_RESOURCES = _object(requests=_QUANTITIES, limits=_QUANTITIES)
_CONTAINER = _object(
    ("name", "image"),
    name=_STRING,
    image=_STRING,
    ports=_list(_object(("containerPort",), containerPort=_INT, name={"type": "string", "maxLength": 15})),
    env=_list(_object(("name", "value"), name=_STRING, value=_STRING)),
    envFrom=_list(_object(secretRef=_NAMED)),
    resources=_RESOURCES,
    volumeMounts=_list(_object(("name", "mountPath"), name=_STRING, mountPath=_STRING, readOnly=_BOOL)),
)
_POD = _object(
    ("spec",),
    spec=_object(
        ("containers",),
        terminationGracePeriodSeconds=_INT,
        tolerations=_list(
            _object(
                key=_STRING,
                operator={"enum": ["Exists", "Equal"]},
                value=_STRING,
                effect={"enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
            )
        ),
        containers=_list(_CONTAINER),
        volumes=_list(_object(("name",), name=_STRING, configMap=_NAMED)),
    ),
)
_HEAD = _object(
    ("template",), enableIngress=_BOOL, headService=_ANY_OBJECT, labels=_STRINGS, rayStartParams=_STRINGS,
    resources=_STRINGS, serviceType=_STRING, template=_POD,
)  # fmt: skip
_WORKERS = _object(
    ("groupName", "maxReplicas", "minReplicas", "template"),
    groupName=_STRING, idleTimeoutSeconds=_INT, labels=_STRINGS, maxReplicas=_INT, minReplicas=_INT, numOfHosts=_INT,
    priority=_INT, rayStartParams=_STRINGS, replicas=_INT, resources=_STRINGS, scaleStrategy=_ANY_OBJECT, suspend=_BOOL,
    template=_POD,
)  # fmt: skip
_CLUSTER = _object(
    ("headGroupSpec",),
    authOptions=_ANY_OBJECT,
    autoscalerOptions=_object(
        env=_list(_ANY_OBJECT), envFrom=_list(_ANY_OBJECT), idleTimeoutSeconds=_INT, image=_STRING, imagePullPolicy=_STRING,
        resources=_RESOURCES, upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
        version={"enum": ["v1", "v2"]},
    ),
    enableInTreeAutoscaling=_BOOL, gcsFaultToleranceOptions=_ANY_OBJECT, headGroupSpec=_HEAD,
    headServiceAnnotations=_STRINGS, managedBy=_STRING, networkPolicy=_ANY_OBJECT, rayVersion=_STRING, suspend=_BOOL,
    tlsOptions=_ANY_OBJECT, upgradeStrategy=_ANY_OBJECT, workerGroupSpecs=_list(_WORKERS),
)  # fmt: skip
RAYJOB = _object(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=_object(("name",), name={"type": "string", "maxLength": 47}, namespace=_STRING, labels=_STRINGS),
    spec=_object(
        activeDeadlineSeconds=_INT, backoffLimit=_INT, clusterSelector=_STRINGS, deletionStrategy=_ANY_OBJECT,
        entrypoint=_STRING, entrypointNumCpus={"type": "number"}, entrypointNumGpus={"type": "number"},
        entrypointResources=_STRING, jobId=_STRING, managedBy=_STRING, metadata=_STRINGS, preRunningDeadlineSeconds=_INT,
        rayClusterSpec=_CLUSTER, runtimeEnvYAML=_STRING, shutdownAfterJobFinishes=_BOOL,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]}, submitterConfig=_ANY_OBJECT,
        submitterPodTemplate=_ANY_OBJECT, suspend=_BOOL, ttlSecondsAfterFinished=_INT,
    ),
)  # fmt: skip


def crd_schema(path: Path) -> Schema:
    """The schema of ray.io/v1 in KubeRay's CRD, with unknown fields refused."""
    definition = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    (version,) = (each for each in definition["spec"]["versions"] if each["name"] == "v1")
    return _closed(version["schema"]["openAPIV3Schema"], top=True)


def _closed(schema: Schema, *, top: bool = False) -> Schema:
    """Kubernetes' dialect as JSON Schema: no unknown fields; int-or-string; metadata is the API server's own."""
    closed = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes-")}
    if schema.get("x-kubernetes-int-or-string"):
        closed.setdefault("anyOf", [{"type": "integer"}, {"type": "string"}])
    if "properties" in schema:
        closed["properties"] = {name: _closed(each) for name, each in schema["properties"].items()}
        if top:
            closed["properties"]["metadata"] = {"type": "object"}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            closed["additionalProperties"] = False
    if isinstance(schema.get("additionalProperties"), dict):
        closed["additionalProperties"] = _closed(schema["additionalProperties"])
    if "items" in schema:
        closed["items"] = _closed(schema["items"])
    return closed
