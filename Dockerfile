# The dispatcher: `ssis` with what it needs on Kubernetes, as an unprivileged user, able to run on a read-only root.
# `make build` builds it; any builder will do. BASE is used for building and for running, and needs Python 3.11 or newer;
# RUNTIME may be something smaller with the same Python at the same path.
ARG BASE=python:3.11-slim
ARG RUNTIME=${BASE}

FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN python3 -m venv /build/tools \
 && /build/tools/bin/pip install --quiet uv==0.13.9 \
 && python3 -m venv --without-pip /opt/ssis
WORKDIR /build
COPY pyproject.toml uv.lock README.md LICENSE ./
# Exactly what uv.lock names, hashes checked. The embedded llama.cpp (xllamacpp) stays out: on a cluster, models run in
# pods of their own. The same list is the image's bill of materials.
RUN for format in requirements.txt cyclonedx1.5; do \
      tools/bin/uv export --quiet --frozen --no-dev --extra k8s --no-emit-project --no-emit-package xllamacpp \
        --format "$format" --output-file "/build/$format" || exit 1; \
    done \
 && tools/bin/pip --python /opt/ssis/bin/python install --quiet --require-hashes -r requirements.txt
COPY src src
RUN tools/bin/pip --python /opt/ssis/bin/python install --quiet --no-deps . \
 && install -D -m 644 cyclonedx1.5 /opt/ssis/share/doc/ssis-dispatcher/sbom.cdx.json \
 && install -d -o 65532 -g 65532 -m 750 /build/state

FROM ${RUNTIME}
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="SSIS-Dispatcher" \
      org.opencontainers.image.description="One HTTP endpoint in front of every language model: places each on the smallest GPU slice that fits" \
      org.opencontainers.image.source="https://github.com/deeeelin/SSIS-Dispatcher" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /opt/ssis /opt/ssis
COPY --from=build /build/state /var/lib/ssis
# Nothing is written but below /var/lib/ssis, where a deployment mounts what may be written to.
ENV PATH=/opt/ssis/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    HOME=/var/lib/ssis \
    SSIS_STATE_DIR=/var/lib/ssis/state SSIS_CACHE_DIR=/var/lib/ssis/cache SSIS_KEYS_FILE=/etc/ssis/keys
USER 65532:65532
WORKDIR /var/lib/ssis
EXPOSE 8080
STOPSIGNAL SIGTERM
ENTRYPOINT ["/opt/ssis/bin/ssis"]
CMD ["serve"]
