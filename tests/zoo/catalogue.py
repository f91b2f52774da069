"""The zoo's table: what each program is, how it is started, and what is compared after it ended."""

from __future__ import annotations

import dataclasses
import enum
from pathlib import Path

FOLDER = Path(__file__).parent / "programs"
ENVIRONMENT = Path(__file__).parents[2] / ".venv-zoo"
"""The jobs' own interpreter and packages, made by ``make zoo-packages``."""


class Place(enum.Enum):
    """Where a killed program is restored."""

    HERE = "here"
    ELSEWHERE = "elsewhere"


@dataclasses.dataclass(frozen=True)
class Program:
    """One program.

    Args:
        name: of the test, and of the file unless `words` names another.
        exercises: what is special about it, for docs/compatibility.md.
        words: the command line; `{python}`, `{bin}` (where pip puts programs) and `{folder}` are filled in.
        quick: where `make test` has it killed once; None: only `make zoo` runs it.
        terminal: it runs on a terminal.
        volatile: patterns of side files whose bytes differ from run to run, even alone.
        refusal: what ckptrun says about a program that it cannot checkpoint; it must end as if left alone.
        note: what users should know.
    """

    name: str
    exercises: str
    words: tuple[str, ...] = ()
    quick: Place | None = None
    terminal: bool = False
    volatile: tuple[str, ...] = ()
    refusal: str = ""
    note: str = ""

    @property
    def argv(self) -> list[str]:
        """The command line."""
        fill = {
            "python": str(ENVIRONMENT / "bin" / "python"),
            "bin": str(ENVIRONMENT / "bin"),
            "folder": str(FOLDER),
        }
        words = self.words or ("{python}", f"{{folder}}/{self.name}.py")
        return [word.format_map(fill) for word in words]


PROGRAMS = (
    Program(
        "torch_adam", "PyTorch training with Adam, weights saved over the last ones", quick=Place.ELSEWHERE
    ),
    Program("torch_dataloader", "PyTorch with DataLoader workers, batches in shared memory"),
    Program(
        "torchrun_ddp",
        "torchrun, DistributedDataParallel of 2 processes over gloo",
        ("{bin}/torchrun", "--standalone", "--nproc-per-node=2", "{folder}/torchrun_ddp.py"),
    ),
    Program("sklearn_loky", "scikit-learn in joblib's loky workers", quick=Place.HERE),
    Program("lightgbm_openmp", "LightGBM with OpenMP threads"),
    Program("jax_gradient", "JAX: compiled gradient descent"),
    Program("numpy_memmap", "NumPy memmap changed in place", quick=Place.ELSEWHERE),
    Program(
        "pandas_parquet",
        "pandas and Arrow writing a Parquet data set in parts",
    ),
    Program(
        "polars_parquet",
        "Polars writing a Parquet table over the last one",
    ),
    Program("duckdb_parquet", "DuckDB: a database file, Parquet at the end", volatile=("data.duckdb*",)),
    Program(
        "sqlite_wal",
        "SQLite in WAL mode, a writer and a reader",
        quick=Place.ELSEWHERE,
    ),
    Program(
        "asyncio_subprocesses", "asyncio with children that live on and children that end", quick=Place.HERE
    ),
    Program("uvicorn_httpx", "uvicorn, and an httpx client with keep-alive"),
    Program("notebook_kernel", "a notebook executed in a Jupyter kernel (nbclient, ipykernel, ZeroMQ)"),
    Program("dask_cluster", "Dask LocalCluster of worker processes"),
    Program(
        "pool_spawn",
        "ProcessPoolExecutor, start method spawn",
        ("{python}", "{folder}/process_pool.py", "spawn"),
        quick=Place.ELSEWHERE,
    ),
    Program(
        "pool_fork",
        "ProcessPoolExecutor, start method fork",
        ("{python}", "{folder}/process_pool.py", "fork"),
    ),
    Program(
        "pool_forkserver",
        "ProcessPoolExecutor, start method forkserver",
        ("{python}", "{folder}/process_pool.py", "forkserver"),
    ),
    Program(
        "shared_memory_blocks", "multiprocessing.shared_memory between spawned processes", quick=Place.HERE
    ),
    Program("manager_server", "multiprocessing.Manager: dict, list and queues of a server process"),
    Program("tqdm_terminal", "tqdm on a terminal", quick=Place.HERE, terminal=True),
    Program("rich_live", "rich live display on a terminal", terminal=True),
    Program("curses_screen", "curses on a terminal", terminal=True),
    Program(
        "log_rotation",
        "logging with rotation: files renamed and deleted",
    ),
    Program("temporary_files", "tempfile in all its forms, unlinked files", quick=Place.ELSEWHERE),
    Program("file_locks", "flock and lockf between two processes"),
    Program("threading_timers", "threading timers, conditions with time-outs, sched"),
    Program("pipeline_of_children", "a generator pipeline through Popen pipes", quick=Place.HERE),
    Program("signal_alarms", "signal handlers, SIGALRM, a blocked signal pending"),
    Program("langgraph_agent", "a LangGraph graph with deterministic nodes and a checkpointer"),
    Program(
        "celery_worker",
        "a Celery worker of 2 processes with a broker of files",
        volatile=("broker/*", "results/*"),
        note="its client renames whole messages into the queue: kombu itself shows a message before its content is "
        "there, and a worker that takes it empty ends with `JSONDecodeError`, without ckptrun too",
    ),
    Program(
        "gunicorn_workers",
        "gunicorn with 2 workers and a client",
        volatile=("access.log",),
        note="its client repeats a SIGTERM that is not answered: before Python 3.13 a time-out of "
        "`SimpleQueue.get` can be lost at a checkpoint ([why](design/objects.md#interrupted-waits))",
    ),
    Program("shared_mappings", "files mapped shared by two processes"),
    Program("outside_memory", "memory outside Python: malloc, C structs"),
    Program("many_threads", "64 threads handing work on through queues"),
    Program("many_processes", "200 processes in a ring of pipes"),
    Program("perl_child", "a child in Perl with a log of its own"),
    Program(
        "uv_run",
        "a script launched by `uv run`",
        ("{bin}/uv", "run", "--offline", "--no-project", "--python", "{python}", "{folder}/plain_script.py"),
    ),
    Program(
        "packet_pipe",
        "pipes in packet mode (O_DIRECT)",
        refusal="holds a packet pipe",
        note="CRIU saves no packets: its dump fails with `The packetized mode for pipes is not supported`",
    ),
)
