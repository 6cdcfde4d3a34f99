# knock-exporter as a container image, for a read-only file system without capabilities:
#
#   docker build --build-arg VERSION=… --build-arg REVISION=… --tag knock-exporter .
#   docker run --read-only --cap-drop=all -p 10187:10187 -v "$PWD:/etc/knock-exporter:ro" knock-exporter
#   docker run --read-only --cap-drop=all -p 10187:10187 knock-exporter demo
ARG BASE=docker.io/library/python:3.13.16-slim-trixie
# What the exporter stands on: `debian`, the base as it is, or `minimal`, of the same base Python and its libraries alone,
# without shell, package manager and setuid programs.
ARG ROOT=debian

FROM ${BASE} AS debian

FROM debian AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1
WORKDIR /src

# pip has a venv of its own: the one that is shipped never sees it.
RUN python3 -m venv /pip && python3 -m venv --without-pip /opt/knock-exporter
COPY requirements/run.txt requirements/build.txt requirements/
RUN /pip/bin/pip --python /opt/knock-exporter/bin/python3 \
        install --no-compile --require-hashes --only-binary=:all: --requirement requirements/run.txt \
    && /pip/bin/pip install --require-hashes --only-binary=:all: --requirement requirements/build.txt

COPY pyproject.toml README.md LICENSE ./
COPY exporter exporter
# Bytecode that does not look at its source's time, as pip's own does: a copy that sets new times would cost every start
# a compilation, which a read-only file system cannot keep.
RUN /pip/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheel . \
    && /pip/bin/pip --python /opt/knock-exporter/bin/python3 install --no-compile --no-deps --no-index /wheel/*.whl \
    && /opt/knock-exporter/bin/python3 -m compileall -q --invalidation-mode unchecked-hash /opt/knock-exporter/lib \
    && mkdir /state

FROM build AS files
COPY tools/minimal_root.py tools/
RUN python3 tools/minimal_root.py /opt/knock-exporter /minimal

FROM scratch AS minimal
COPY --from=files /minimal /
ENV PATH=/usr/local/bin:/usr/bin

FROM ${ROOT}
COPY --from=build /opt/knock-exporter /opt/knock-exporter
# A new volume that is mounted here gets this owner.
COPY --from=build --chown=65532:65532 /state /var/lib/knock-exporter
WORKDIR /etc/knock-exporter
USER 65532:65532

# The address is a variable, so that `demo` too is reached from outside, and the health check knows where to ask. The
# check does not see --web.listen-address: set the variable in its place. It speaks neither TLS nor passwords: with those,
# set KNOCK_EXPORTER_WEB_HEALTH_LISTEN_ADDRESS.
ENV PATH=/opt/knock-exporter/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    KNOCK_EXPORTER_WEB_LISTEN_ADDRESS=:10187
EXPOSE 10187
# http.client, for it knows no proxies.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s CMD ["python3", "-c", "\
import http.client, os, sys; \
where = os.environ.get('KNOCK_EXPORTER_WEB_HEALTH_LISTEN_ADDRESS') or os.environ['KNOCK_EXPORTER_WEB_LISTEN_ADDRESS']; \
host, _, port = where.split()[0].rpartition(':'); \
web = http.client.HTTPConnection(host.strip('[]') or 'localhost', int(port), timeout=4); \
web.request('GET', '/-/healthy'); \
sys.exit(web.getresponse().status != 200)"]
ENTRYPOINT ["knock-exporter"]

ARG VERSION=unknown
ARG REVISION=unknown
ENV KNOCK_EXPORTER_REVISION=${REVISION}
LABEL org.opencontainers.image.title="knock-exporter" \
      org.opencontainers.image.description="Prometheus exporter for Knock bulk operations" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
