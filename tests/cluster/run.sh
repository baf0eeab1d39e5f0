#!/bin/sh
# `make test-cluster`. What needs the internet is done here, outside the cluster's network; the tests run behind CLUSTER_EXEC.
set -eu
.venv/bin/python tools/kubernetes build
.venv/bin/python tools/kubernetes test_image
if [ ! -x build/client/bin/python ]; then
    .venv/bin/python -m venv build/client
    build/client/bin/pip install --quiet --disable-pip-version-check -r test/requirements.txt
fi
[ $# -gt 0 ] || set -- tests/deploy tests/cluster
exec ${CLUSTER_EXEC:-} env SSIS_TEST_CLUSTER=1 .venv/bin/pytest -q -p no:randomly "$@"
