"""What is behind the make targets for clusters. Settings are variables of the make command line, exported by the Makefile."""

from __future__ import annotations

import sys
from collections.abc import Callable

import deployment
import forwarding
import images
import knative
from kubectl import Kubectl, Problem

COMMANDS: dict[str, Callable[[Kubectl], None]] = {
    "setup_knative": knative.setup,
    "remove_knative": knative.remove,
    "build": images.build,
    "test_image": images.build_test_image,
    "deploy": deployment.deploy,
    "clean": deployment.clean,
    "forward": forwarding.forward,
}


def main(name: str) -> int:
    try:
        COMMANDS[name](Kubectl())
    except Problem as problem:
        print(f"{name}: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
