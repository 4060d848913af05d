"""The manifests and the chart: what they render is what three versions of Kubernetes and a sidecar accept."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from shell import ROOT

from rumormill.discovery.api.routes import ROUTES
from rumormill.sidecar.settings_sources import load

BIN = ROOT / ".venv" / "kubernetes"
MANIFESTS = ROOT / "deploy" / "kubernetes"
CHART = ROOT / "deploy" / "helm" / "rumormill"
VERSIONS = ("1.30", "1.34", "1.37")
FOREIGN = {
    "ServiceMonitor": "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1",
    "ScaledObject": "@kubernetes-models/keda/keda.sh/v1alpha1",
}
"""Kinds of others' operators, and the module that has their schema."""
COMPONENTS = ("monitoring", "hpa", "keda")
VARIANTS = {
    "chart": [],
    "chart with keda": ["--set=keda.enabled=true,serviceMonitor.enabled=true"],
    "chart with hpa": ["--set=hpa.enabled=true,networkPolicy.enabled=false", f"--values={CHART}/vllm-values.yaml"],
}
POD = {
    "RUMORMILL_NAME": "rumormill-0",
    "RUMORMILL_ADVERTISE": "10.1.2.3:7946",
    "RUMORMILL_ADVERTISE_WORKER": "http://10.1.2.3:8000",
}

pytestmark = pytest.mark.skipif(not BIN.exists(), reason="helm and kubectl are missing: make .venv/kubernetes-ready")
Object = dict[str, Any]


def rendered(*argv: str | Path) -> list[Object]:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [found for found in yaml.safe_load_all(done.stdout) if found]


def kustomized(folder: Path) -> list[Object]:
    return rendered(BIN / "kubectl", "kustomize", folder)


def chart(*flags: str) -> list[Object]:
    return rendered(BIN / "helm", "template", "rumormill", CHART, *flags)


def with_component(name: str, folder: Path) -> list[Object]:
    """The base with one component, as a user of both would write it."""
    shutil.copytree(MANIFESTS, folder / "kubernetes")
    own = folder / "kubernetes" / "own"
    own.mkdir()
    (own / "kustomization.yaml").write_text(json.dumps({"resources": ["../base"], "components": [f"../{name}"]}))
    return kustomized(own)


@pytest.fixture(params=["base", "vllm", *COMPONENTS, *VARIANTS])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> list[Object]:
    name = request.param
    if name in VARIANTS:
        return chart(*VARIANTS[name])
    return with_component(name, tmp_path) if name in COMPONENTS else kustomized(MANIFESTS / name)


def named(objects: list[Object], kind: str, name: str = "rumormill") -> Object:
    return next(found for found in objects if found["kind"] == kind and found["metadata"]["name"] == name)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_one_that_kubernetes_knows(objects: list[Object], version: str) -> None:
    ours = [found for found in objects if found["kind"] not in FOREIGN]
    assert len(ours) >= 6
    for found in ours:
        kubernetes_validate.validate(found, version, strict=True)


def test_a_misspelled_field_would_be_found() -> None:
    workers = named(kustomized(MANIFESTS / "base"), "StatefulSet")
    workers["spec"]["replica"] = 3
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(workers, VERSIONS[-1], strict=True)


def test_objects_of_other_operators_fit_their_schemas(objects: list[Object]) -> None:
    foreign = [found for found in objects if found["kind"] in FOREIGN]
    for found in foreign:
        check = f"""import({FOREIGN[found["kind"]]!r})
            .then(models => new models.{found["kind"]}({json.dumps(found)}).validate())"""
        done = subprocess.run(
            ["node", "--input-type=module", "-e", check], cwd=BIN, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


def test_a_sidecar_takes_the_settings(objects: list[Object], tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(named(objects, "ConfigMap")["data"]["agent.toml"])
    settings = load({}, POD, file)
    assert settings.name == "rumormill-0"
    assert str(settings.advertised_address) == "10.1.2.3:7946"
    seeds = named(objects, "Service", settings.join[0].host)
    assert seeds["spec"]["publishNotReadyAddresses"] is True


def test_the_pod_is_the_one_that_the_docs_describe(objects: list[Object]) -> None:
    pod = named(objects, "StatefulSet")["spec"]["template"]["spec"]
    (sidecar,) = pod["initContainers"]
    (worker,) = pod["containers"]
    assert sidecar["restartPolicy"] == "Always", "it starts before the worker, and is ended after it"
    assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsGroup"]
    (secret,) = (volume["secret"] for volume in pod["volumes"] if "secret" in volume)
    assert secret["defaultMode"] == 0o440, "the sidecar refuses a key that everyone reads"
    probes = [part[name] for part in (sidecar, worker) for name in part if name.endswith("Probe")]
    paths = {probe["httpGet"]["path"] for probe in probes} - {"/health"}
    assert paths == {"/livez", "/readyz", "/worker/livez"}
    assert paths <= {route.path for route in ROUTES if route.public}
    assert "drain" in json.dumps(worker["lifecycle"]["preStop"])
    assert {variable["name"] for variable in sidecar["env"]} == {"POD_IP", *POD}


def test_the_chart_gives_what_the_manifests_give() -> None:
    def comparable(objects: list[Object]) -> dict[tuple[str, str], Object]:
        for found in objects:
            if found["kind"] == "ConfigMap":
                found["data"] = {"lines": sorted(found["data"]["agent.toml"].splitlines())}
            if found["kind"] == "StatefulSet":
                pod = found["spec"]["template"]["spec"]
                for part in (*pod["initContainers"], *pod["containers"]):
                    part.pop("imagePullPolicy", None)
        return {(found["kind"], found["metadata"]["name"]): found for found in objects}

    assert comparable(chart()) == comparable(kustomized(MANIFESTS / "base"))


def test_two_autoscalers_are_refused() -> None:
    argv = [BIN / "helm", "template", "rumormill", CHART, "--set=hpa.enabled=true,keda.enabled=true"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "not both" in done.stderr


def test_helm_finds_nothing_to_complain_about() -> None:
    subprocess.run([BIN / "helm", "lint", "--strict", CHART], check=True, capture_output=True)


@pytest.mark.parametrize("monitor", ["chart", "kustomize"])
def test_prometheus_sends_the_token_that_the_settings_ask_for(monitor: str, tmp_path: Path) -> None:
    found = chart(*VARIANTS["chart with keda"]) if monitor == "chart" else with_component("monitoring", tmp_path)
    (scraped,) = (each for each in found if each["kind"] == "ServiceMonitor")
    (settings,) = (each for each in found if each["kind"] == "ConfigMap" and "http-token-file" in json.dumps(each))
    (endpoint,) = scraped["spec"]["endpoints"]
    credentials = endpoint["authorization"]["credentials"]
    assert credentials["key"] == "read.token"
    assert f"/{credentials['key']}" in json.dumps(settings)
