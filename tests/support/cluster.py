"""A cluster for tests: a stand-in for the API server, or a real one, and what an administrator and a kubelet do there.

``make apiserver`` puts the programs kube-apiserver and etcd into ``.kubernetes`` (CKPTRUN_TEST_KUBERNETES names another
folder): then every test runs against both.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import os
import socket
import subprocess
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlencode

import urllib3
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from support import apiserver
from support.processes import PATIENCE, POLL_SECONDS, die_with_parent

from ckptrun.kube.rbac import CLUSTER_ROLE_RULES, ROLE_RULES

if TYPE_CHECKING:
    from collections.abc import Callable

NAMESPACE, ACCOUNT, NODE = "team", "trainer", "node-1"
USER = f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}"
TOKEN = "pod-token"
PROGRAMS = Path(os.environ.get("CKPTRUN_TEST_KUBERNETES") or Path(__file__).parents[2] / ".kubernetes")
ALL_RULES = [*ROLE_RULES, *CLUSTER_ROLE_RULES]


class Cluster:
    """What the two kinds have in common: everything that an administrator does over the API."""

    name = ""
    namespace = NAMESPACE
    """Of its pods."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.account = folder / "account"
        self.account.mkdir(parents=True)
        self.port = 0
        self.set_token(TOKEN)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        raise NotImplementedError

    def grant(self, rules: list[dict[str, Any]]) -> None:
        """Let the pod's account do what these rules say, and nothing else."""
        raise NotImplementedError

    def set_token(self, token: str) -> None:
        """Put a token where the pod finds it, as the kubelet does: by a rename."""
        new = self.account / "token.new"
        new.write_text(token)
        new.rename(self.account / "token")

    @property
    def environ(self) -> dict[str, str]:
        """What Kubernetes has in the environment of a container."""
        return {
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": str(self.port),
            "CKPTRUN_SERVICE_ACCOUNT_DIR": str(self.account),
        }

    def admin(self, method: str, path: str, body: Any = None, **query: str) -> dict[str, Any]:
        """Do something with all rights."""
        kind = "strategic-merge-patch+json" if method == "PATCH" else "json"
        with urllib3.PoolManager(ca_certs=str(self.account / "ca.crt")) as pool:
            response = pool.request(
                method,
                f"https://127.0.0.1:{self.port}{path}" + (f"?{urlencode(query)}" if query else ""),
                body=None if body is None else json.dumps(body),
                headers={"Authorization": f"Bearer {apiserver.ADMIN}", "Content-Type": f"application/{kind}"},
            )
        assert response.status < 300, f"{method} {path}: {response.status} {response.data.decode()}"
        return dict(response.json())

    def add_pod(self, name: str, uid: str = "") -> Pod:
        """Make a pod on the node, running; the stand-in takes a uid that it is given."""
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        container = {"name": "job", "image": "registry.invalid/train:1"}
        pod = self.admin(
            "POST",
            path,
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "namespace": self.namespace, **({"uid": uid} if uid else {})},
                "spec": {"nodeName": NODE, "containers": [container], "automountServiceAccountToken": False},
            },
        )
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
        self.admin("PATCH", f"{path}/{name}/status", {"status": {"phase": "Running", "conditions": [ready]}})
        return Pod(self, name, pod["metadata"]["uid"])

    def add_node(self) -> None:
        """Make the node."""
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}
        self.admin("POST", "/api/v1/nodes", node)

    def cordon(self) -> None:
        """Do what ``kubectl cordon`` does."""
        self.admin("PATCH", f"/api/v1/nodes/{NODE}", {"spec": {"unschedulable": True}})

    def leases(self) -> list[dict[str, Any]]:
        path = f"/apis/coordination.k8s.io/v1/namespaces/{self.namespace}/leases"
        return list(self.admin("GET", path)["items"])


class Pod:
    """A pod of the cluster, as others see it."""

    def __init__(self, cluster: Cluster, name: str, uid: str) -> None:
        self.cluster = cluster
        self.name = name
        self.uid = uid
        self._path = f"/api/v1/namespaces/{cluster.namespace}/pods/{name}"

    @property
    def environ(self) -> dict[str, str]:
        """What the downward API has in the environment of its containers, and the rest of Kubernetes."""
        return {
            **self.cluster.environ,
            "CKPTRUN_POD_NAME": self.name,
            "CKPTRUN_POD_NAMESPACE": self.cluster.namespace,
            "CKPTRUN_POD_UID": self.uid,
            "CKPTRUN_NODE_NAME": NODE,
            "CKPTRUN_SERVICE_ACCOUNT": ACCOUNT,
        }

    def get(self) -> dict[str, Any]:
        return self.cluster.admin("GET", self._path)

    @property
    def annotations(self) -> dict[str, str]:
        return dict(self.get()["metadata"].get("annotations") or {})

    @property
    def conditions(self) -> dict[str, dict[str, Any]]:
        return {entry["type"]: entry for entry in self.get()["status"]["conditions"]}

    def annotate(self, key: str, value: str) -> None:
        """Do what ``kubectl annotate --overwrite`` does."""
        self.cluster.admin("PATCH", self._path, {"metadata": {"annotations": {key: value}}})

    def disrupt(self) -> None:
        """Do what an eviction does first."""
        entry = {
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "EvictionByEvictionAPI",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        self.cluster.admin("PATCH", f"{self._path}/status", {"status": {"conditions": [entry]}})

    def delete(self, *, grace: int | None = None) -> None:
        """Do what ``kubectl delete pod`` does."""
        query = {} if grace is None else {"gracePeriodSeconds": str(grace)}
        self.cluster.admin("DELETE", self._path, **query)

    def events(self, reason: str = "") -> list[dict[str, Any]]:
        """Return the Events on this pod, of one reason or all."""
        path = f"/api/v1/namespaces/{self.cluster.namespace}/events"
        items = self.cluster.admin("GET", path)["items"]
        mine = [item for item in items if item["involvedObject"].get("uid") == self.uid]
        return [item for item in mine if reason in {"", item["reason"]}]


class StandIn(Cluster):
    """The stand-in, in this process."""

    name = "stand-in"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.state = apiserver.State()
        self.state.users[TOKEN] = USER
        authority(folder, self.account / "ca.crt")
        self._server = apiserver.Server(self.state, folder / "server.crt", folder / "server.key")

    def start(self) -> None:
        self._server.start()
        self.port = self._server.port

    def stop(self) -> None:
        self._server.stop()

    def grant(self, rules: list[dict[str, Any]]) -> None:
        self.state.rules = rules

    def forget(self) -> None:
        """Forget what has been: watches from before get 410, and are broken off to ask."""
        with self.state.changed:
            self.state.version += 1000
            self.state.forgotten = self.state.version
            self.state.generation += 1
            self.state.changed.notify_all()


class Real(Cluster):
    """A kube-apiserver with its etcd."""

    name = "real"

    def __init__(self, folder: Path, programs: Path) -> None:
        super().__init__(folder)
        self._programs = programs
        self._processes: list[subprocess.Popen[bytes]] = []
        authority(folder, self.account / "ca.crt")
        self.port, self._etcd, self._peer = free_port(), free_port(), free_port()
        users = [
            f"{apiserver.ADMIN},admin,admin,system:masters",
            f'{TOKEN},{USER},trainer,"system:serviceaccounts,system:serviceaccounts:{NAMESPACE}"',
        ]
        (folder / "tokens.csv").write_text("\n".join(users) + "\n")
        self._granted = False
        self._first = True

    def start(self) -> None:
        client = f"http://127.0.0.1:{self._etcd}"
        if not self._processes:
            peer = f"http://127.0.0.1:{self._peer}"
            self._launch(
                "etcd", f"--data-dir={self.folder}/etcd", f"--listen-client-urls={client}",
                f"--advertise-client-urls={client}", f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=default={peer}",
            )  # fmt: skip
        self._launch(
            "kube-apiserver", f"--etcd-servers={client}", f"--secure-port={self.port}",
            "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", f"--cert-dir={self.folder}",
            f"--tls-cert-file={self.folder}/server.crt", f"--tls-private-key-file={self.folder}/server.key",
            f"--token-auth-file={self.folder}/tokens.csv", "--authorization-mode=RBAC",
            "--disable-admission-plugins=ServiceAccount,TaintNodesByCondition",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self.folder}/server.crt",
            f"--service-account-signing-key-file={self.folder}/server.key",
            "--service-cluster-ip-range=10.0.0.0/24",
        )  # fmt: skip
        until("a ready API server", self._ready)
        if self._first:
            self._first = False
            body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
            self.admin("POST", "/api/v1/namespaces", body)

    def stop(self) -> None:
        self._processes.pop().kill()

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()

    def grant(self, rules: list[dict[str, Any]]) -> None:
        group, account = "rbac.authorization.k8s.io", {"kind": "User", "name": USER}
        meta = {"metadata": {"name": ACCOUNT}}
        role = {"apiVersion": f"{group}/v1", "kind": "ClusterRole", **meta, "rules": rules}
        path = f"/apis/{group}/v1/clusterroles"
        if self._granted:
            self.admin("PUT", f"{path}/{ACCOUNT}", role)
            return
        self._granted = True
        self.admin("POST", path, role)
        reference = {"apiGroup": group, "kind": "ClusterRole", "name": ACCOUNT}
        binding = {"roleRef": reference, "subjects": [{**account, "apiGroup": group}], **meta}
        kind = {"apiVersion": f"{group}/v1", "kind": "ClusterRoleBinding"}
        self.admin("POST", f"/apis/{group}/v1/clusterrolebindings", {**kind, **binding})
        time.sleep(1.0)  # the authorizer's own watch

    def _launch(self, program: str, *options: str) -> None:
        with (self.folder / f"{program}.log").open("ab") as log:
            self._processes.append(
                subprocess.Popen(
                    [self._programs / program, *options],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call
                )
            )

    def _ready(self) -> bool:
        headers = {"Authorization": f"Bearer {apiserver.ADMIN}"}
        with urllib3.PoolManager(ca_certs=str(self.account / "ca.crt"), retries=False) as pool:
            try:
                url = f"https://127.0.0.1:{self.port}/readyz"
                return pool.request("GET", url, headers=headers).status == 200
            except urllib3.exceptions.HTTPError:
                return False


def kinds() -> list[str]:
    """Return which clusters can be had here."""
    return [StandIn.name, *([Real.name] if PROGRAMS.is_dir() else [])]


def make(kind: str, folder: Path) -> Cluster:
    """Return a cluster of this kind, not started."""
    return StandIn(folder) if kind == StandIn.name else Real(folder, PROGRAMS)


def until(what: str, condition: Callable[[], Any], timeout: float = PATIENCE) -> Any:
    """Wait until `condition` returns something true, and return that."""
    deadline = time.monotonic() + timeout
    while not (found := condition()):
        assert time.monotonic() < deadline, f"no {what} within {timeout:g} s"
        time.sleep(POLL_SECONDS)
    return found


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def authority(folder: Path, shown: Path) -> None:
    """Make a server's certificate for this address, signed by an authority whose own is put at `shown`."""
    now = dt.datetime.now(dt.UTC)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"test-{uuid.uuid4()}")])
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kube-apiserver")])

    def made(subject: x509.Name, public: Any, *, ca: bool) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder().subject_name(subject).issuer_name(ca_name).public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1)).not_valid_after(now + dt.timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
            )
        )  # fmt: skip
        if ca:
            usage = dict.fromkeys(
                ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
                 "key_agreement", "encipher_only", "decipher_only"), False,
            )  # fmt: skip
            usage |= {"key_cert_sign": True, "crl_sign": True}
            builder = builder.add_extension(x509.KeyUsage(**usage), critical=True)
        else:
            address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
            builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
        return builder.sign(ca_key, hashes.SHA256())

    pem = serialization.Encoding.PEM
    shown.write_bytes(made(ca_name, ca_key.public_key(), ca=True).public_bytes(pem))
    (folder / "server.crt").write_bytes(made(name, key.public_key(), ca=False).public_bytes(pem))
    (folder / "server.key").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
    )
