"""A server as it is sent to the API server: what Knative demands, and what others look for in it."""

from __future__ import annotations

import msgspec
import pytest
import yaml
from tests.launchers.knative.objects import CPU, GPU, MIG, NVIDIA_MPS, order
from tests.launchers.knative.written import OLD, container_of, made, pod_of, written

from ssis_dispatcher.engines.command import CommandEngine
from ssis_dispatcher.engines.registry import ENGINES
from ssis_dispatcher.launchers.base import LaunchFailed
from ssis_dispatcher.launchers.knative import names
from ssis_dispatcher.launchers.knative.features import Features
from ssis_dispatcher.launchers.knative.manifests import token_secret
from ssis_dispatcher.launchers.knative.options import (
    KnativeOptions,
    PodSource,
    Toleration,
)


def test_the_whole_of_a_plain_server() -> None:
    """One example from beginning to end, as it is sent."""
    expected = yaml.safe_load("""
        apiVersion: serving.knative.dev/v1
        kind: Service
        metadata:
          name: somemodel7babcdefghij
          namespace: nthulab
          labels:
            networking.knative.dev/visibility: cluster-local
            app.kubernetes.io/managed-by: ssis-dispatcher
            app.kubernetes.io/part-of: ssis-dispatcher
        spec:
          template:
            metadata:
              labels:
                app.kubernetes.io/managed-by: ssis-dispatcher
                app.kubernetes.io/part-of: ssis-dispatcher
              annotations:
                autoscaling.knative.dev/min-scale: "1"
                autoscaling.knative.dev/max-scale: "1"
                autoscaling.knative.dev/target-burst-capacity: "0"
                serving.knative.dev/progress-deadline: 180s
                ssis-dispatcher.io/model-id: org/Some-Model_7B
            spec:
              timeoutSeconds: 600
              responseStartTimeoutSeconds: 600
              containerConcurrency: 0
              automountServiceAccountToken: false
              enableServiceLinks: false
              containers:
              - image: ghcr.io/huggingface/text-generation-inference:3.3.7
                imagePullPolicy: IfNotPresent
                terminationMessagePolicy: FallbackToLogsOnError
                ports: [{containerPort: 8080}]
                readinessProbe:
                  httpGet: {path: /health, port: 8080}
                  periodSeconds: 1
                  timeoutSeconds: 5
                  failureThreshold: 60
                resources:
                  requests: {cpu: 1120m, memory: 4096Mi, nvidia.com/mig-1g.5gb: "1"}
                  limits: {nvidia.com/mig-1g.5gb: "1"}
                securityContext:
                  allowPrivilegeEscalation: false
                  capabilities: {drop: [ALL]}
                  runAsNonRoot: false
                  seccompProfile: {type: RuntimeDefault}
                volumeMounts: [{name: weights, mountPath: /data}]
              volumes: [{name: weights, emptyDir: {sizeLimit: 20480Mi}}]
    """)
    found = written()
    env = found["spec"]["template"]["spec"]["containers"][0].pop("env")
    annotations = found["metadata"].pop("annotations")
    for labels in (found["metadata"]["labels"], found["spec"]["template"]["metadata"]["labels"]):
        assert labels.pop(names.MODEL).startswith("some-model-7b-")
    assert found == expected
    assert annotations.keys() == {names.MODEL_ID, names.SLICE, names.RECORD}
    assert [each["name"] for each in env] == sorted(each["name"] for each in env)


def test_trap_1_both_timeouts_are_the_longest_that_the_cluster_allows() -> None:
    """Left out, the time to the first byte is 300 s, whatever the other says."""
    pod = pod_of(features=msgspec.structs.replace(OLD, max_timeout=3600))
    assert (pod["timeoutSeconds"], pod["responseStartTimeoutSeconds"]) == (3600, 3600)
    assert pod["containerConcurrency"] == 0


def test_trap_8_nothing_that_a_default_knative_rejects() -> None:
    """Without flags: no runtimeClassName, nodeSelector, tolerations, affinity, hostIPC, pod securityContext, hostPath,
    PVC."""
    allowed = {
        *("containers", "volumes", "timeoutSeconds", "responseStartTimeoutSeconds", "containerConcurrency"),
        *("automountServiceAccountToken", "enableServiceLinks", "serviceAccountName", "imagePullSecrets"),
    }
    for slice in (MIG, GPU, NVIDIA_MPS, CPU):
        pod = pod_of(order(slice), pull_secrets=("registry",), service_account="models")
        assert pod.keys() <= allowed
        assert all(set(volume) == {"name", "emptyDir"} for volume in pod["volumes"])


def test_trap_14_autoscaling_is_said_on_the_template_and_nowhere_else() -> None:
    found = written()
    assert not [key for key in found["metadata"]["annotations"] if key.startswith("autoscaling")]
    assert {
        key: value for key, value in found["spec"]["template"]["metadata"]["annotations"].items() if "-scale" in key
    } == {
        "autoscaling.knative.dev/min-scale": "1",
        "autoscaling.knative.dev/max-scale": "1",
    }


def test_trap_15_no_resource_claims_which_knative_would_drop_in_silence() -> None:
    assert "resourceClaims" not in pod_of()
    assert "claims" not in container_of()["resources"]


def test_siss_own_autoscaler_finds_one_slice_in_the_first_container() -> None:
    """It reads the first ``nvidia.com…`` request, writes to the service's annotations (which must be there), and takes
    the service's name for what is before the first hyphen of the pod's label ``app``."""
    found = written()
    resources = found["spec"]["template"]["spec"]["containers"][0]["resources"]
    assert resources["requests"]["nvidia.com/mig-1g.5gb"] == resources["limits"]["nvidia.com/mig-1g.5gb"] == "1"
    assert found["metadata"]["annotations"]
    assert "-" not in found["metadata"]["name"]
    assert "app" not in found["spec"]["template"]["metadata"]["labels"]


def test_it_can_be_told_to_keep_off() -> None:
    found = written(labels=((names.AUTO_SCALER, "scaling"), (names.MANAGED_BY, "somebody")))
    assert found["metadata"]["labels"][names.AUTO_SCALER] == "scaling"
    assert found["metadata"]["labels"][names.MANAGED_BY] == "ssis-dispatcher"


def test_the_token_is_referred_to_and_never_written() -> None:
    source = PodSource("org/name", token="hf_secretsecret", env=(("HF_TOKEN", "hf_leaked"),))
    found = written(source=source, env=(("HUGGING_FACE_HUB_TOKEN", "hf_leaked"),))
    assert "hf_" not in str(found)
    assert found["spec"]["template"]["spec"]["containers"][0]["env"][-1] == {
        "name": "HF_TOKEN",
        "valueFrom": {"secretKeyRef": {"name": "somemodel7babcdefghij", "key": "token"}},
    }
    assert "hf_secretsecret" not in repr(source)


def test_without_one_the_operators_own_is_used_if_it_is_there() -> None:
    env = container_of(token_secret="hf", token_key="HF_TOKEN")["env"]
    reference = {"name": "hf", "key": "HF_TOKEN", "optional": True}
    assert env[-1] == {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": reference}}
    assert not [each for each in container_of()["env"] if "valueFrom" in each]


def test_the_secret_of_a_server_goes_by_its_name() -> None:
    secret = token_secret(order(), "hf_x", KnativeOptions(namespace="models", labels=(("team", "a"),)))
    assert secret["metadata"]["name"] == order().server
    assert secret["metadata"]["namespace"] == "models"
    assert secret["metadata"]["labels"][names.MANAGED_BY] == "ssis-dispatcher"
    assert secret["metadata"]["labels"]["team"] == "a"
    assert secret["data"] == {"token": "aGZfeA=="}


def test_nothing_is_expanded_in_what_we_say() -> None:
    """Kubernetes replaces ``$(NAME)`` in values, commands and arguments."""
    engine = CommandEngine("own", ENGINES["vllm"], command=("serve", "$(PORT)", "{port}"))
    container = container_of(engine=engine, source=PodSource("m", image="own:1"), env=(("X", "a$(PORT)b"),))
    assert container["command"] == ["serve", "$$(PORT)", "8080"]
    assert {"name": "X", "value": "a$$(PORT)b"} in container["env"]


def test_what_the_operator_configured_for_pods() -> None:
    flags = {"kubernetes.podspec-runtimeclassname": "enabled", "kubernetes.podspec-tolerations": "Enabled"}
    features = Features.of({"data": flags}, None)
    tolerations = (
        Toleration("nvidia.com/gpu", "Exists", effect="NoSchedule"),
        Toleration("team", value="a"),
        Toleration(operator="Exists"),
    )
    pod = pod_of(
        features=features,
        pull_secrets=("one", "two"),
        service_account="models",
        runtime_class="nvidia",
        tolerations=tolerations,
    )
    assert pod["imagePullSecrets"] == [{"name": "one"}, {"name": "two"}]
    assert (pod["serviceAccountName"], pod["runtimeClassName"]) == ("models", "nvidia")
    assert pod["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
        {"key": "team", "operator": "Equal", "value": "a"},
        {"operator": "Exists"},
    ]
    with pytest.raises(LaunchFailed, match=r"the runtime class 'nvidia' needs .* the tolerations of servers needs"):
        made(runtime_class="nvidia", tolerations=tolerations)
