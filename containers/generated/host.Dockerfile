# mspipeline without an engine: submit, collect, report, ONNX
# Made from containers/recipes.py by `make definitions`: change the recipe or the template, not this file.
# Build it from the repository's root: mspipeline image build host
ARG BASE=docker.io/library/python:3.12-slim-bookworm

FROM ${BASE} AS build
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
COPY requirements/images/build.txt requirements/images/host.txt /src/requirements/images/
RUN set -eux; \
    python3 -m venv /build/venv; \
    /build/venv/bin/python -m pip install --quiet --disable-pip-version-check --no-cache-dir --require-hashes --only-binary :all: -r /src/requirements/images/build.txt; \
    python3 -m venv /opt/mspipeline; \
    /opt/mspipeline/bin/python -m pip install --quiet --disable-pip-version-check --no-cache-dir --require-hashes --only-binary :all: -r /src/requirements/images/host.txt
COPY setup.cfg pyproject.toml README.md LICENSE /src/
COPY mspipeline /src/mspipeline
COPY jobs /src/jobs
COPY slurm /src/slurm
COPY benchmarks /src/benchmarks
COPY containers /src/containers
RUN set -eux; \
    /build/venv/bin/python -m pip wheel --no-index --no-deps --no-build-isolation --wheel-dir /build/wheels /src; \
    /opt/mspipeline/bin/python -m pip install --no-index --no-deps /build/wheels/*.whl; \
    /opt/mspipeline/bin/python -m pip uninstall --yes pip

FROM ${BASE}
ARG BASE
ARG BASE_DIGEST=
ARG REVISION
ARG CREATED
ARG SOURCE
COPY --from=build /opt/mspipeline /opt/mspipeline
RUN mkdir --mode=1777 /var/cache/mspipeline
ENV PATH="/opt/mspipeline/bin:/usr/local/bin:/usr/bin:/bin"
ENV LANG="C.UTF-8"
ENV LC_ALL="C.UTF-8"
ENV HOME="/var/cache/mspipeline"
ENV TMPDIR="/tmp"
ENV XDG_CACHE_HOME="/var/cache/mspipeline/cache"
ENV XDG_CONFIG_HOME="/var/cache/mspipeline/config"
ENV KERAS_HOME="/var/cache/mspipeline/keras"
ENV MPLCONFIGDIR="/var/cache/mspipeline/matplotlib"
ENV NUMBA_CACHE_DIR="/var/cache/mspipeline/numba"
ENV PYTHONNOUSERSITE="1"
ENV PYTHONDONTWRITEBYTECODE="1"
ENV UCX_POSIX_USE_PROC_LINK="n"
LABEL org.opencontainers.image.title="mspipeline-host"
LABEL org.opencontainers.image.description="mspipeline without an engine: submit, collect, report, ONNX"
LABEL org.opencontainers.image.authors="the authors of mspipeline"
LABEL org.opencontainers.image.vendor="mspipeline"
LABEL org.opencontainers.image.licenses="Apache-2.0"
LABEL org.opencontainers.image.version="0.1.0"
LABEL org.opencontainers.image.revision="${REVISION}"
LABEL org.opencontainers.image.created="${CREATED}"
LABEL org.opencontainers.image.source="${SOURCE}"
LABEL org.opencontainers.image.url="${SOURCE}"
LABEL org.opencontainers.image.base.name="${BASE}"
LABEL org.opencontainers.image.base.digest="${BASE_DIGEST}"
LABEL org.mspipeline.backend="host"
USER 1000:1000
WORKDIR /var/cache/mspipeline
ENTRYPOINT ["/opt/mspipeline/bin/mspipeline"]
CMD ["--help"]
