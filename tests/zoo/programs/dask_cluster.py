"""Dask: a LocalCluster of two worker processes that hold their results between steps."""

from __future__ import annotations

from dask.distributed import Client, LocalCluster
from pace import report, sha, steps


def main() -> None:
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        states = client.map(sha, range(4), pure=False)
        for step in steps(80):
            states = client.map(sha, states, [step] * 4, pure=False)
            client.gather(states[step % 4])
        results = client.gather(states)
    report(results)


if __name__ == "__main__":
    main()
