"""``ckptrun kube role``: the rights, bound to a service account, as Kubernetes takes them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import yaml
from support import chart

from ckptrun.kube import rbac

pytestmark = pytest.mark.slow


def test_role_is_bound_to_the_account_and_is_what_is_made_use_of():
    argv = [
        sys.executable,
        "-m",
        "ckptrun",
        "kube",
        "role",
        "-n",
        "ml",
        "--service-account",
        "training",
        "--nodes",
    ]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    items = json.loads(done.stdout)["items"]
    chart.validate(yaml.safe_dump_all(items), chart.NEWEST)
    role, binding, cluster_role, cluster_binding = items
    assert (role["rules"], cluster_role["rules"]) == (rbac.ROLE_RULES, rbac.CLUSTER_ROLE_RULES)
    for rights, given in ((role, binding), (cluster_role, cluster_binding)):
        assert given["subjects"] == [{"kind": "ServiceAccount", "name": "training", "namespace": "ml"}]
        assert (given["roleRef"]["kind"], given["roleRef"]["name"]) == (
            rights["kind"],
            rights["metadata"]["name"],
        )


def test_role_without_an_account_is_refused_by_the_options_name():
    argv = [sys.executable, "-m", "ckptrun", "kube", "role", "-n", "ml"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 64
    assert "--service-account" in done.stderr
