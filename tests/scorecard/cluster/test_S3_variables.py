"""S3. A caller's variables are not copied into a container: each is an argument of the engine, or is refused by its name."""

from __future__ import annotations

import random
import string

import pytest
from tests.assembly.cluster_site import NS, Site, services
from tests.kube.kinds import SERVICES

from ssis_dispatcher.engines.registry import ENGINES
from ssis_dispatcher.engines.variables import LAUNCHER
from ssis_dispatcher.errors import Unprocessable
from ssis_dispatcher.launchers.process import environment

ALWAYS_REFUSED = (
    *(
        "LD_PRELOAD",
        "LD_LIBRARY_PATH",
        "PYTHONPATH",
        "PYTHONSTARTUP",
        "PATH",
        "HOME",
        "BASH_ENV",
        "HTTP_PROXY",
        "no_proxy",
    ),
    *("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "CUDA_MPS_PIPE_DIRECTORY", "K_SERVICE", "PORT"),
    *("KUBERNETES_SERVICE_HOST", "HF_ENDPOINT", "TRUST_REMOTE_CODE", "AWS_SECRET_ACCESS_KEY"),
)
FAMILIES = ("LD_", "PYTHON", "CUDA_MPS_", "NVIDIA_", "K_", "KUBERNETES_", "AWS_", "VLLM_", "SSIS_", "")


def generated(count: int) -> list[str]:
    """Names that nobody has thought of, most of them of a dangerous family."""
    chance = random.Random(3)
    letters = string.ascii_uppercase + string.digits + "_"
    return [
        chance.choice(FAMILIES)
        + "".join(chance.choices(letters, k=chance.randint(1, 12)))
        + chance.choice(("", "_PROXY"))
        for _ in range(count)
    ]


@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_of_a_thousand_names_none_slips_through(engine: str) -> None:
    for name in (*ALWAYS_REFUSED, *(name for name in generated(1000) if name not in LAUNCHER)):
        with pytest.raises(Unprocessable) as caught:
            ENGINES[engine].environment({name: "1"})
        assert caught.value.problem.param == f"env.{name}"


@pytest.mark.looptime
async def test_a_pod_has_the_variables_of_its_engine_and_no_others_of_its_callers(site: Site) -> None:
    async with site.dispatcher() as one:
        await one.leading()

        async def ask(**env: str) -> int:
            body = {"token": "Hello", "par": {}, "env": {"MODEL_ID": "a", **env}}
            return (await one.client.post("/", json=body)).status_code

        for name in ALWAYS_REFUSED:
            assert await ask(**{name: "CANARY"}) == 422, name
        assert services(site) == []
        assert await ask(QUANTIZE="awq", MAX_BATCH_SIZE="7") == 200
        (service,) = site.cluster.all(SERVICES, NS)
        container = service["spec"]["template"]["spec"]["containers"][0]
        variables = {variable["name"]: variable.get("value") for variable in container["env"]}
        assert (variables["QUANTIZE"], variables["MAX_BATCH_SIZE"]) == ("awq", "7"), "TGI takes its arguments so"
        assert not variables.keys() & {"LD_PRELOAD", "PATH", "HOME", "PORT", "TRUST_REMOTE_CODE", "HF_ENDPOINT"}
        assert "CANARY" not in repr(service)


def test_a_server_on_this_machine_starts_from_an_empty_environment() -> None:
    parent = dict.fromkeys((*ALWAYS_REFUSED, *generated(1000)), "CANARY") | {"LANG": "C.UTF-8"}
    kept = environment.base(parent, embedded=True)
    assert kept.keys() == {"LANG", "LD_LIBRARY_PATH"}, "it finds its libraries, and nothing else"
