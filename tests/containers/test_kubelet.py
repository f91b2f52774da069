"""The small kubelet plays a manifest as a real one would."""

from __future__ import annotations

import copy
import signal
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from podspec import ApiServer, Cluster, expand, pod_of, quantity

if TYPE_CHECKING:
    from kubelet import Kubelet

pytestmark = pytest.mark.slow

JOB = yaml.safe_load("""
apiVersion: batch/v1
kind: Job
metadata: {name: train}
spec:
  completionMode: Indexed
  template:
    metadata:
      labels: {app: train}
    spec:
      restartPolicy: Never
      shareProcessNamespace: true
      securityContext: {runAsUser: 1000, runAsGroup: 1000, fsGroup: 2000}
      volumes:
      - {name: shared, emptyDir: {}}
      - {name: memory, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
      - {name: settings, configMap: {name: settings}}
      - {name: keys, secret: {secretName: keys, items: [{key: key, path: sub/key.pem}], defaultMode: 0400}}
      - name: about
        downwardAPI: {items: [{path: name, fieldRef: {fieldPath: "metadata.labels['app']"}}]}
      initContainers:
      - name: install
        image: debian
        command: [sh, -c, "echo installed >/shared/file; echo init"]
        volumeMounts: [{name: shared, mountPath: /shared}]
      - name: sidecar
        image: debian
        restartPolicy: Always
        securityContext: {runAsUser: 0, capabilities: {drop: [ALL], add: [KILL, DAC_OVERRIDE]}}
        command: [bash, -c]
        args:
        - |
          trap 'echo sidecar ends >>/shared/ends; exit 0' TERM
          touch /shared/ready
          echo up $$
          while :; do sleep 0.05; done
        startupProbe: {exec: {command: [test, -e, /shared/ready]}, periodSeconds: 1, failureThreshold: 60}
        volumeMounts: [{name: shared, mountPath: /shared}]
      containers:
      - name: job
        image: debian
        env:
        - {name: WHO, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
        - name: INDEX
          valueFrom: {fieldRef: {fieldPath: "metadata.annotations['batch.kubernetes.io/job-completion-index']"}}
        - {name: JOB, valueFrom: {fieldRef: {fieldPath: "metadata.labels['batch.kubernetes.io/job-name']"}}}
        - {name: KEY, valueFrom: {secretKeyRef: {name: keys, key: key}}}
        - {name: GONE, valueFrom: {secretKeyRef: {name: nosuch, key: key, optional: true}}}
        - {name: LIMIT, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}}
        - {name: TOLD, value: "$(JOB)/$(INDEX) $$(JOB) $(UNKNOWN)"}
        envFrom: [{configMapRef: {name: settings}, prefix: SET_}]
        resources: {limits: {memory: 256Mi}}
        command: [bash, -c]
        args:
        - |
          set -u; id; cat /shared/file /settings/colour /about/name
          stat -c %a:%g /shared; echo $TOLD $LIMIT $SET_colour ${GONE-none}
        securityContext:
          allowPrivilegeEscalation: false
          readOnlyRootFilesystem: true
          capabilities: {drop: [ALL]}
          seccompProfile: {type: RuntimeDefault}
        volumeMounts:
        - {name: shared, mountPath: /shared, readOnly: true}
        - {name: settings, mountPath: /settings}
        - {name: keys, mountPath: /keys}
        - {name: about, mountPath: /about}
""")
UNTIL_TERM = "trap 'echo {0} ends >>/shared/ends; exit {1}' TERM; echo up; while :; do sleep 0.05; done"


@pytest.fixture
def cluster(base_image: str) -> Cluster:
    return Cluster(
        images={"debian": base_image},
        secrets={"keys": {"key": "s3cret"}},
        config_maps={"settings": {"colour": "blue"}},
    )


def job(**changes: Any) -> dict[str, Any]:
    """Return the manifest with changes to its main container; those that begin with ``pod_`` are the pod's."""
    manifest = copy.deepcopy(JOB)
    spec = manifest["spec"]["template"]["spec"]
    for key, value in changes.items():
        (spec if key.startswith("pod_") else spec["containers"][0])[key.removeprefix("pod_")] = value
    return manifest


def test_a_job_gets_what_its_manifest_says(kubelet: Kubelet, cluster: Cluster):
    pod = kubelet.play(job(), cluster, index=3)
    assert pod.wait() == "Succeeded", pod.story()
    said = pod.log("job").splitlines()
    assert said[0] == "uid=1000 gid=1000 groups=1000,2000"
    assert said[1] == "installed"
    assert said[2:4] == ["bluetrain2777:2000", "train/3 $(JOB) $(UNKNOWN) 256 blue none"]
    assert pod.log("install") == "init\n"
    assert pod.log("sidecar") == "up $\n"
    assert (pod.volume("shared") / "ends").read_text() == "sidecar ends\n"
    assert (pod.volume("keys") / "sub/key.pem").stat().st_mode & 0o777 == 0o400


def test_the_sidecar_is_ready_before_the_job_starts_and_is_restarted(kubelet: Kubelet, cluster: Cluster):
    pod = kubelet.play(job(args=[UNTIL_TERM.format("job", 5)], volumeMounts=rw()), cluster)
    pod.prints("job", "up")
    assert (pod.volume("shared") / "ready").exists()
    pod.container("sidecar").kill()
    pod.container("sidecar", incarnation=1).prints("up")
    assert (pod.restarts("sidecar"), pod.restarts("job")) == (1, 0)
    # One container's processes are seen, and signalled, by the other.
    seen = pod.container("sidecar").exec("sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '").out
    assert "job ends" in seen
    assert pod.terminate() == "Failed"
    assert pod.code("job") == 5
    assert (pod.volume("shared") / "ends").read_text() == "job ends\nsidecar ends\n"


def rw() -> list[dict[str, Any]]:
    return [{"name": "shared", "mountPath": "/shared"}]


def test_who_is_left_at_the_end_of_the_grace_is_killed(kubelet: Kubelet, cluster: Cluster):
    stubborn = "trap : TERM; echo up; while :; do sleep 0.05; done"
    pod = kubelet.play(job(args=[stubborn], pod_terminationGracePeriodSeconds=1), cluster)
    pod.prints("job", "up")
    assert pod.terminate() == "Failed"
    assert pod.code("job") == 128 + signal.SIGKILL
    assert pod.code("sidecar") == 0  # it gets a moment of its own


@pytest.mark.parametrize(
    ("policy", "restarts", "phase"), [("OnFailure", 1, "Succeeded"), ("Never", 0, "Failed")]
)
def test_the_restart_policy_decides(
    kubelet: Kubelet, cluster: Cluster, policy: str, restarts: int, phase: str
):
    once = "test -e /shared/again || { touch /shared/again; exit 3; }"
    pod = kubelet.play(job(args=[once], volumeMounts=rw(), pod_restartPolicy=policy), cluster)
    assert pod.wait() == phase, pod.story()
    assert pod.restarts("job") == restarts


def test_a_pod_taken_away_gets_no_signal_and_leaves_nothing(kubelet: Kubelet, cluster: Cluster):
    pod = kubelet.play(job(args=[UNTIL_TERM.format("job", 0)], volumeMounts=rw()), cluster)
    pod.prints("job", "up")
    folder, processes = pod.volume("shared"), pod.container("job").processes()
    assert processes
    pod.remove_without_warning()
    assert not folder.exists()
    assert pod.container("job").processes() == []
    assert "ends" not in pod.story()


def test_all_of_a_container_can_be_killed_at_once(kubelet: Kubelet, cluster: Cluster):
    pod = kubelet.play(job(args=["sleep 1000 & echo up; wait"], pod_restartPolicy="OnFailure"), cluster)
    pod.prints("job", "up")
    first = pod.container("job")
    assert len(first.processes()) == 2
    pod.kill_container("job")
    assert first.processes() == []
    pod.container("job", incarnation=1).prints("up")
    assert pod.code("job") == 128 + signal.SIGKILL


def test_a_missing_secret_and_a_forbidden_root_keep_the_pod_pending(kubelet: Kubelet, base_image: str):
    pod = kubelet.play(job(), Cluster(images={"debian": base_image}))
    assert pod.wait() == "Pending"
    assert 'configmap "settings" not found' in pod.problem
    bare = {
        "kind": "Pod",
        "metadata": {"name": "bare"},
        "spec": {"containers": [{"name": "c", "image": base_image}]},
    }
    bare["spec"]["securityContext"] = {"runAsNonRoot": True}
    pod = kubelet.play(bare)
    pod.until("complaint", lambda: "runAsNonRoot" in pod.problem)


def test_the_service_account_is_mounted(kubelet: Kubelet, base_image: str):
    cluster = Cluster(api=ApiServer(port=6443, token="t0ken", ca="pem"), namespace="here")
    read = "cd /var/run/secrets/kubernetes.io/serviceaccount; cat token ca.crt namespace; echo $KUBERNETES_SERVICE_PORT"
    container = {"name": "c", "image": base_image, "command": ["sh", "-c", read]}
    bare = {
        "kind": "Pod",
        "metadata": {"name": "bare"},
        "spec": {"containers": [container], "restartPolicy": "Never"},
    }
    pod = kubelet.play(bare, cluster)
    assert pod.wait() == "Succeeded", pod.story()
    assert pod.log("c") == "t0kenpemhere6443\n"


def test_a_limit_of_the_whole_pod_holds(kubelet: Kubelet, base_image: str):
    script = "b'x' * (256 << 20)"
    container = {"name": "c", "image": base_image, "command": ["python3", "-c", script]}
    spec = {"containers": [container], "restartPolicy": "Never", "resources": {"limits": {"memory": "100Mi"}}}
    pod = kubelet.play({"kind": "Pod", "metadata": {"name": "bare"}, "spec": spec})
    assert pod.wait() == "Failed", pod.story()
    assert pod.code("c") == 137


def test_what_is_not_played_is_refused():
    manifest = job(pod_hostPID=True)
    with pytest.raises(AssertionError, match="hostPID"):
        pod_of(manifest)


def test_references_and_quantities_are_read_as_kubernetes_reads_them():
    assert expand("$(A)-$$(A)-$(B)-$$-$C", {"A": "1"}) == "1-$(A)-$(B)-$-$C"
    assert [quantity(q) for q in ("1Gi", "500m", 3, "2M")] == [2**30, 0.5, 3, 2e6]
