"""U7. Slices vanish while they are used (a GPU is lost, MIG is cut anew): what ran there ends, who waits gets another place,
and nothing is ever put on a slice that is no more."""

from __future__ import annotations

from tests.core.support import Story


def test_who_waits_for_a_server_on_a_lost_gpu_gets_it_elsewhere() -> None:
    story = Story("a 1g:2; b 1g:1").serving("llama", busy=1)
    story.arrives("r1", "llama").then()
    story.inventory("b 1g:1").then()
    story.failed("llama", "lost", "the GPU is gone").then("launch llama on 1g@b")
    story.gone("llama-1").then()
    story.ready("llama").then("seat r1 at llama")


def test_a_start_on_a_slice_that_vanishes_begins_anew_once() -> None:
    story = Story("a 1g:1; b 2g:1")
    story.arrives("r1", "llama").anyhow()
    story.described("llama", 8).then("launch llama on 1g@a")
    story.inventory("b 2g:1").then()
    story.failed("llama", "lost").then("launch llama on 2g@b")
    story.failed("llama", "lost").then("refuse r1: 503 model_failed")


def test_nothing_is_launched_on_a_slice_that_has_vanished() -> None:
    story = Story("a 1g:2", slice_wait=120.0).serving("llama", busy=1)
    story.inventory("a 1g:1").then()
    story.arrives("r1", "other").anyhow()
    story.described("other", 8).then()
    story.gone("llama-1").then()
    story.inventory("").then("refuse r1: 503 no_slices")
    story.failed("llama", "lost").then()
    assert not any(pool.total or pool.ours for pool in story.fleet.statistics(story.now).slices)


def test_a_gpu_that_is_cut_anew_gives_what_waits_its_new_slices() -> None:
    story = Story("a 3g:2", dwell=0.0).serving("idle", 30)
    story.arrives("r1", "small", caller="bob").anyhow()
    story.described("small", 8).then("launch small on 3g@a")
    story.arrives("r2", "other").anyhow()
    story.described("other", 8).then("stop idle: evicted for other")
    story.inventory("a 1g:7").then("launch other on 1g@a")  # what stops on the old slices does not stop for it any more
    story.stopped("idle").then()
    story.failed("small", "lost").then("launch small on 1g@a")
    story.ready("small").then("seat r1 at small")
    story.ready("other").then("seat r2 at other")
