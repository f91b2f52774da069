# ckptrun's image: the init container, the sidecar, and the wrapper's base. See README.md, "Container image".
#
#   make image                                        podman; Debian's packages make the base where no registry answers
#   podman build --tag ckptrun:dev .                  or docker
#   podman build --build-arg EXTRAS=kube,cuda .       other optional packages
#
# It runs as root and says no other USER: CRIU needs capabilities in its effective set, which a container started
# as an ordinary user does not get. The job itself is another user's, in its own container or by --user.

ARG BASE=debian:trixie-slim
# The stage that the rest stands on: `root`, or `base` where BASE has Python already.
ARG ROOT=root

FROM ${BASE} AS base

FROM base AS root
RUN set -eu; \
    export DEBIAN_FRONTEND=noninteractive; \
    apt-get -o Acquire::Retries=5 -qq update; \
    apt-get -o Acquire::Retries=5 -qq --yes --no-install-recommends install python3 ca-certificates >/dev/null; \
    rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/* /var/cache/ldconfig/aux-cache; \
    rm -f /var/cache/debconf/*-old /var/lib/dpkg/*-old

FROM ${ROOT} AS packages
LABEL ckptrun.image=build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1 PIP_ROOT_USER_ACTION=ignore PIP_RETRIES=10 \
    PIP_CONSTRAINT=/src/image/constraints.txt PIP_BUILD_CONSTRAINT=/src/image/constraints.txt
WORKDIR /src
COPY image/constraints.txt image/requirements.py image/
COPY pyproject.toml ./
ARG EXTRAS=kube,postgres,redis
# What changes seldom comes first, so that a change of ckptrun's own makes only the last layers anew.
RUN --mount=type=cache,target=/root/.cache set -eu; \
    export DEBIAN_FRONTEND=noninteractive; \
    apt-get -o Acquire::Retries=5 -qq update; \
    apt-get -o Acquire::Retries=5 -qq --yes --no-install-recommends install python3-venv binutils >/dev/null; \
    python3 -m venv /opt/tools; \
    python3 -m venv --without-pip /opt/ckptrun; \
    python3 image/requirements.py pyproject.toml "$EXTRAS" >/tmp/requirements.txt; \
    /opt/tools/bin/pip --python /opt/ckptrun/bin/python install --quiet --only-binary :all: -r /tmp/requirements.txt
COPY ckptrun/__init__.py ckptrun/errors.py ckptrun/
COPY ckptrun/core ckptrun/core
COPY ckptrun/criu ckptrun/criu
RUN /opt/ckptrun/bin/python -B -m ckptrun.criu.provision

FROM packages AS build
COPY . .
# The compiler of the static helper comes and goes with the building of the wheel.
RUN --mount=type=cache,target=/root/.cache set -eu; \
    CKPTRUN_HELPERS=own /opt/tools/bin/pip wheel --quiet --no-deps --wheel-dir /tmp/wheel .; \
    /opt/tools/bin/pip --python /opt/ckptrun/bin/python install --quiet --no-deps --no-index /tmp/wheel/*.whl; \
    python3 image/trim.py /opt/ckptrun /var/lib/ckptrun

FROM ${ROOT}
COPY --from=build /var/lib/ckptrun /var/lib/ckptrun
COPY --from=build /opt/ckptrun /opt/ckptrun
ENV PATH=/opt/ckptrun/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONDONTWRITEBYTECODE=1
ENTRYPOINT ["ckptrun"]
ARG VERSION=dev
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="ckptrun" \
      org.opencontainers.image.description="Checkpoints any long job, so that a lost pod costs seconds, not the run." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
