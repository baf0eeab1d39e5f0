"""Models on slices: where they go, what happens when there is none, and what callers are told when something fails."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor

from tests.cluster.support import NAMESPACE, SLICES, Site
from tests.live.support import Answer, until


def told(answer: Answer) -> str:
    """What the error says."""
    return str(answer.json["detail"])


def test_the_smallest_slices_go_first_until_there_is_none(site: Site) -> None:
    models = ("kept-1", "kept-2", "kept-3", "kept-4", "kept-5")
    for model in models:
        assert site.ask(model).status == 200
    taken = {model: server["slice"] for model, server in site.servers().items()}
    smallest_first = [
        "nvidia.com/gpu-4gb",
        *["nvidia.com/mig-1g.5gb"] * 2,
        "nvidia.com/gpu-8gb",
        "nvidia.com/mig-2g.10gb",
    ]
    assert [taken[model] for model in models] == smallest_first
    assert sum(SLICES.values()) == len(models)
    # All of them are pinned: nobody gives way, and the caller is told so when its patience is over.
    begun = time.monotonic()
    refused = site.ask("six")
    assert refused.status == 503
    assert 15 < time.monotonic() - begun < 60
    assert "retry-after" in refused.headers
    assert "six" not in site.servers()


def test_who_waits_gets_the_slice_of_an_idle_model_within_seconds(site: Site) -> None:
    for model in ("one", "two", "three", "four", "five"):
        assert site.ask(model).status == 200
    begun = time.monotonic()
    assert site.ask("six").status == 200
    assert time.monotonic() - begun < 15  # 10 s for the slice to be free, and a start
    assert len(site.servers()) == 5
    assert "one" not in site.servers()  # idle for longest


def test_fifty_callers_of_a_cold_model_share_one_server(site: Site) -> None:
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: site.ask("one"), range(50)))
    assert {answer.status for answer in answers} == {200}
    assert len(site.ours()) == 1


def test_a_model_that_fits_nowhere_is_refused_with_the_reason(site: Site) -> None:
    refused = site.ask("large")
    assert refused.status == 422
    assert "large fits on no slice" in told(refused)
    assert not site.ours()


def test_a_model_that_runs_out_of_memory_gets_the_next_larger_slice_and_that_is_remembered(site: Site) -> None:
    site.offer("nvidia.com/gpu-4gb", "nvidia.com/gpu-8gb")
    assert site.ask("needs-6000").status == 200
    assert site.servers()["needs-6000"]["slice"] == "nvidia.com/gpu-8gb"
    site.clear()
    launches = site.log().count('"event":"launch"')
    assert site.ask("needs-6000").status == 200
    assert site.log().count('"event":"launch"') == launches + 1
    site.offer()


def test_a_wrong_image_is_told_within_seconds_and_leaves_nothing(site: Site) -> None:
    begun = time.monotonic()
    refused = site.ask("wrong-image")
    assert refused.status >= 500
    assert "dev.local/nobody-made-this:1" in told(refused)
    assert time.monotonic() - begun < 20
    until(lambda: not site.ours(), "its Knative Service is gone", 60)


def test_a_server_that_ends_at_once_is_told_with_its_last_words(site: Site) -> None:
    refused = site.ask("crash")
    assert refused.status >= 500
    assert "it was made to fail" in told(refused)
    until(lambda: not site.ours(), "its Knative Service is gone", 60)


def test_a_stream_has_signs_of_life_then_words_and_an_end(site: Site) -> None:
    answer = site.ask("slow", tokens=16, stream=True)
    assert answer.status == 200
    assert answer.complete
    assert len(answer.comments()) >= 3
    events = answer.events()
    assert events[-1]["generated_text"]
    assert len([event for event in events if event["token"]["text"]]) >= 15


def test_a_caller_that_leaves_frees_its_seat(site: Site) -> None:
    call = site.begin_long()
    assert call.line()
    assert site.servers()["long"]["busy"] == 1
    call.leave()
    until(lambda: site.servers()["long"]["busy"] == 0, "the seat is free", 2)


def test_the_token_is_in_a_secret_and_nowhere_else(site: Site) -> None:
    token = "hf_" + "secretsecretsecret"
    answer = site.ask("one", env={"MODEL_ID": "one", "HF_TOKEN": token})
    assert answer.status == 200
    services = site.cluster.kubectl("get", "ksvc,revisions,deployments,pods", "-n", NAMESPACE, "-o", "json")
    assert token not in services
    assert token not in site.log()


def test_a_killed_server_comes_back_or_is_replaced_and_is_one(site: Site) -> None:
    assert site.ask("one").status == 200
    [name] = site.ours()
    selected = ("-n", NAMESPACE, "-l", f"serving.knative.dev/service={name}")
    site.cluster.kubectl("delete", "pods", *selected, "--grace-period=1")
    answers: list[Answer] = []

    def served() -> bool:
        answers.append(site.ask("one"))
        return answers[-1].status == 200

    until(served, "it serves again", 60)
    assert all(one.status in {200, 502, 503} for one in answers)
    assert len(site.ours()) == 1


def test_a_killed_dispatcher_loses_no_server_and_starts_none_twice(site: Site) -> None:
    assert site.ask("long").status == 200
    held = site.begin("slow", stream=True)
    assert held.line(b":")
    until(lambda: len(site.ours()) == 2, "both are in the cluster")
    before = site.ours()
    running = site.begin_long()
    assert running.line()
    site.kill()
    for call, last in ((running, b"[DONE]"), (held, b"generated_text")):
        with contextlib.suppress(OSError):
            answer = call.answer()
            assert not answer.complete or last in answer.body, "a half answer looks whole"
    until(site.answers, "another dispatcher serves", 60)
    assert site.ask("long").status == 200
    assert site.ask("slow").status == 200
    assert site.ours() == before
