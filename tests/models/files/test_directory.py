"""The directory: which model is meant, what it needs, where its files are."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from ssis_dispatcher.core.messages import Remember
from ssis_dispatcher.core.slices import SliceKind
from ssis_dispatcher.engines.llamacpp import LlamaCpp
from ssis_dispatcher.engines.tgi import TGI
from ssis_dispatcher.errors import (
    DispatchError,
    Forbidden,
    InvalidRequest,
    ModelNotServable,
    NotFound,
    Unavailable,
    Unprocessable,
)
from ssis_dispatcher.models.access import Access
from ssis_dispatcher.models.cache import ModelCache
from ssis_dispatcher.models.catalogue import Catalogue, Entry, built_in, demo_path
from ssis_dispatcher.models.directory import Directory, Served
from ssis_dispatcher.models.download import Cancelled, Fetcher
from ssis_dispatcher.models.hub import Hub
from ssis_dispatcher.models.naming import parse_name
from ssis_dispatcher.models.sources import Sources
from ssis_dispatcher.store.lessons import Lessons
from ssis_dispatcher.store.memory import MemoryStore

CPU = (SliceKind.CPU,)
DEMO = demo_path().read_bytes()
LLAMACPP = Served(LlamaCpp(), files=True, kinds=CPU, parallel=())
TGI_ON_GPUS = Served(TGI(), files=False)

Make = Callable[..., Directory]


def catalogue(*entries: Entry) -> Catalogue:
    return Catalogue(MappingProxyType({**built_in().entries, **{entry.name: entry for entry in entries}}))


@pytest.fixture
def sources(hub: Any, tmp_path: Path) -> Sources:
    return Sources(Hub(hub.endpoint), ModelCache(tmp_path / "cache", Fetcher(hub.endpoint, tries=2, pause=0.001)))


@pytest.fixture
def make(hub: Any, sources: Sources) -> Iterator[Make]:
    made: list[Directory] = []

    def build(
        *entries: Entry, engines: dict[str, Served] | None = None, default: str = "llamacpp", **options: Any
    ) -> Directory:
        directory = Directory(
            catalogue(*entries),
            engines or {"llamacpp": LLAMACPP},
            default,
            options.pop("sources", sources),
            Access(Hub(hub.endpoint)),
            options.pop("lessons", None) or Lessons(MemoryStore()),
            **options,
        )
        made.append(directory)
        return directory

    yield build
    for directory in made:
        directory.close()


def holds_demo(path: str) -> bool:
    return Path(path).read_bytes() == DEMO


# Which model is meant


def test_the_packaged_model_is_there(make: Make) -> None:
    model = make().identify("demo")
    assert (model.id, model.engine, model.revision, model.scope) == ("demo", "llamacpp", "", "public")


def test_the_same_wish_is_the_same_model_and_saying_a_default_aloud_changes_nothing(make: Make) -> None:
    directory = make(Entry(name="tiny", id="org/tiny-GGUF", context=2048))
    plain = directory.identify("org/m-GGUF")
    assert directory.identify("org/m-GGUF") is plain
    assert directory.identify("org/m-GGUF", revision="main") == plain
    assert directory.identify("org/m-GGUF@main") == plain
    assert directory.identify("org/m-GGUF", engine="llamacpp") == plain
    assert directory.identify("tiny", context=2048) == directory.identify("tiny")


def test_whatever_changes_the_server_changes_the_model(make: Make) -> None:
    directory = make(engines={"llamacpp": LLAMACPP, "tgi": TGI_ON_GPUS})
    keys = {
        directory.identify("org/m").key,
        directory.identify("org/m", revision="v2").key,
        directory.identify("org/m", engine="tgi").key,
        directory.identify("org/m", context=4096).key,
        directory.identify("org/m:Q8_0").key,
        directory.identify("org/m", engine="tgi", env=(("DTYPE", "float16"),)).key,
    }
    assert len(keys) == 6


@pytest.mark.parametrize(
    ("one", "other"), [("a/gpt-2", "b/gpt2"), ("a/gpt-2", "a/gpt2"), ("a/x", "b/x"), ("a/X", "a/x"), ("a/x.y", "a/x-y")]
)
def test_names_that_look_alike_are_different_models(make: Make, one: str, other: str) -> None:
    directory = make()
    assert directory.identify(one).key != directory.identify(other).key


@pytest.mark.parametrize(
    "id", ["", "/etc/passwd", "../x", "https://hub/org/m", "-flag", "org/möd", "org/m x", "a/b/c", "x" * 300, "org/m\n"]
)
def test_what_is_no_name_is_refused_as_such(make: Make, id: str) -> None:
    with pytest.raises(InvalidRequest):
        make().identify(id)


def test_an_unknown_name_is_refused_with_what_there_is_and_what_was_meant(make: Make) -> None:
    with pytest.raises(
        ModelNotServable, match=r"no model 'dem' here.*mean 'demo'.*Here are: demo; and models of the hub"
    ):
        make().identify("dem")


def test_an_unknown_engine_is_refused_with_those_there_are(make: Make) -> None:
    with pytest.raises(InvalidRequest, match="there are: llamacpp") as caught:
        make().identify("demo", engine="warp")
    assert caught.value.problem.param == "engine"


def test_an_entry_whose_engine_does_not_run_here_says_so(make: Make) -> None:
    with pytest.raises(ModelNotServable, match="needs the engine vllm, which does not run here"):
        make(Entry(name="big", id="org/big", engine="vllm")).identify("big")


def test_variables_are_mapped_or_refused_by_the_engine(make: Make) -> None:
    directory = make(engines={"tgi": TGI_ON_GPUS}, default="tgi")
    assert directory.identify("org/m", env=(("DTYPE", "float16"),)).arguments
    with pytest.raises(Unprocessable, match="LD_PRELOAD"):
        directory.identify("org/m", env=(("LD_PRELOAD", "/x.so"),))


def test_the_catalogue_sets_engine_revision_and_arguments_and_the_caller_overrides_them(make: Make) -> None:
    entry = Entry(name="a", id="org/a", engine="tgi", revision="v1", arguments=(("DTYPE", "bfloat16"),))
    directory = make(entry, engines={"llamacpp": LLAMACPP, "tgi": TGI_ON_GPUS})
    model = directory.identify("a")
    assert (model.id, model.engine, model.revision, model.arguments) == ("a", "tgi", "v1", (("DTYPE", "bfloat16"),))
    assert directory.identify("a", revision="v2").revision == "v2"
    assert directory.identify("a", env=(("DTYPE", "float16"),)).arguments == (("DTYPE", "float16"),)


def test_a_file_of_several_is_for_engines_that_load_files(make: Make) -> None:
    both = {"tgi": TGI_ON_GPUS, "llamacpp": LLAMACPP}
    assert make(engines=both, default="tgi").identify("org/m:Q4_K_M").engine == "llamacpp"
    with pytest.raises(Unprocessable, match="leave ':Q4_K_M' out"):
        make(engines={"tgi": TGI_ON_GPUS}, default="tgi").identify("org/m:Q4_K_M")


def test_a_file_has_no_revisions_and_a_context_is_a_number_of_tokens(make: Make) -> None:
    with pytest.raises(Unprocessable, match="no revisions"):
        make().identify("demo", revision="v2")
    for context in (0, -1, 1 << 40):
        with pytest.raises(InvalidRequest, match="context"):
            make().identify("demo", context=context)
    with pytest.raises(InvalidRequest, match="no revision"):
        make().identify("org/m", revision="../x")


def test_ever_new_names_take_no_memory(make: Make) -> None:
    directory = make()
    for number in range(10_000):
        directory.identify(f"org/m{number}", token="t")
    assert len(directory._meant) <= 4096
    assert len(directory._tokens) <= 4096


# Tokens


async def test_a_public_model_is_shared_whatever_token_is_shown(make: Make, hub: Any) -> None:
    hub.files["org/m/m.gguf"] = DEMO
    directory = make()
    assert not directory.acquainted("org/m", "mine")
    await directory.acquaint("org/m", "mine")
    assert directory.acquainted("org/m", "mine")
    assert directory.identify("org/m", token="mine") is directory.identify("org/m")


async def test_a_gated_model_is_for_those_whose_token_is_accepted(make: Make, hub: Any) -> None:
    hub.files["org/m/m.gguf"], hub.readers = DEMO, {"good", "fine"}
    directory = make()
    for token in ("good", "fine", "bad"):
        await directory.acquaint("org/m", token)
    model = directory.identify("org/m", token="good")
    assert model.scope == "gated"
    assert directory.identify("org/m", token="fine") == model
    assert directory.token_of(model) == "fine"
    with pytest.raises(Forbidden):
        directory.identify("org/m", token="bad")
    assert directory.identify("org/m").key != model.key


def test_a_token_the_hub_was_not_asked_about_is_alone(make: Make) -> None:
    directory = make()
    mine, yours = (directory.identify("org/m", token=token) for token in ("mine", "yours"))
    assert len({mine.key, yours.key, directory.identify("org/m").key}) == 3
    assert "mine" not in repr(mine)


def test_a_token_makes_no_difference_to_a_file(make: Make) -> None:
    directory = make()
    assert directory.acquainted("demo", "mine")
    assert directory.identify("demo", token="mine") is directory.identify("demo")


# What it needs


async def test_the_packaged_model_is_described_by_its_header(make: Make) -> None:
    directory = make()
    profile = await directory.describe(directory.identify("demo"))
    assert profile.facts.source == "gguf"
    assert profile.kinds == CPU
    assert profile.engine_seats == LlamaCpp().seats
    assert profile.facts.weight_bytes is not None
    assert profile.facts.weight_bytes < len(DEMO)


async def test_a_model_of_the_hub_is_described_by_the_header_of_the_file_that_is_chosen(make: Make, hub: Any) -> None:
    for quant in ("Q8_0", "Q4_K_M", "F16"):
        hub.files[f"org/m/m-{quant}.gguf"] = DEMO
    directory = make()
    profile = await directory.describe(directory.identify("org/m"))
    assert (profile.facts.source, profile.facts.note) == ("gguf", "file m-Q4_K_M.gguf")
    other = await directory.describe(directory.identify("org/m:q8_0"))
    assert other.facts.note == "file m-Q8_0.gguf"


@pytest.mark.parametrize(
    ("files", "id", "error", "message"),
    [
        ((), "org/none", ModelNotServable, "no model org/none"),
        (("config.json",), "org/m", ModelNotServable, "no GGUF files.*often called …-GGUF.*configure an engine"),
        (("m-Q8_0.gguf",), "org/m:Q4_K_M", ModelNotServable, "no GGUF file Q4_K_M; it has: Q8_0"),
    ],
)
async def test_what_cannot_be_served_is_refused_with_what_to_do(
    make: Make, hub: Any, files: tuple[str, ...], id: str, error: type[DispatchError], message: str
) -> None:
    for name in files:
        hub.files[f"org/m/{name}"] = DEMO
    directory = make()
    for _ in range(2):
        with pytest.raises(error, match=message):
            await directory.describe(directory.identify(id))


async def test_a_gated_model_without_a_token_is_refused_with_what_to_do(make: Make, hub: Any) -> None:
    hub.files["org/m/m-Q8_0.gguf"], hub.readers = DEMO, {"good"}
    directory = make()
    with pytest.raises(Forbidden, match="gated"):
        await directory.resolve(directory.identify("org/m"))


async def test_with_the_hub_down_the_caller_is_told_to_come_back(make: Make, hub: Any) -> None:
    hub.down = True
    directory = make()
    with pytest.raises(Unavailable, match="cannot be looked up") as caught:
        await directory.describe(directory.identify("org/m"))
    assert caught.value.problem.retry_after


async def test_an_engine_that_fetches_by_itself_needs_no_hub_to_be_described(make: Make, hub: Any) -> None:
    hub.down = True
    directory = make(engines={"tgi": TGI_ON_GPUS}, default="tgi")
    profile = await directory.describe(directory.identify("org/Big-7B"))
    assert profile.facts.source == "name"
    assert profile.facts.parameters == 7_000_000_000
    assert await directory.resolve(directory.identify("org/Big-7B")) == "org/Big-7B"


async def test_a_file_that_is_gone_or_broken_is_the_operators_turn(make: Make, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(DEMO[: len(DEMO) // 2])
    directory = make(Entry(name="gone", path=tmp_path / "gone.gguf"), Entry(name="broken", path=broken))
    for name, why in (("gone", "is not there"), ("broken", "truncated")):
        with pytest.raises(Unavailable, match=f"{why}.*operator") as caught:
            await directory.describe(directory.identify(name))
        assert caught.value.problem.code == "model_unusable"
        assert str(tmp_path) not in str(caught.value)
    with pytest.raises(Unavailable, match="is not there"):
        await directory.resolve(directory.identify("gone"))


async def test_what_launches_taught_raises_the_floor_and_predicts_the_start(make: Make) -> None:
    directory = make()
    model = directory.identify("demo")
    directory.remember(Remember("r", model, "cpu-1gib", "cpu", 1024, "out_of_memory", 1.0))
    directory.remember(Remember("r", model, "cpu-2gib", "cpu", 2048, "ready", 3.5))
    profile = await directory.describe(model)
    assert (profile.floor_mib, profile.start_seconds) == (1025, 3.5)
    directory.forget("demo")
    assert (await directory.describe(model)).floor_mib == 0


async def test_a_context_that_the_model_has_not_is_refused(make: Make) -> None:
    directory = make()
    with pytest.raises(Unprocessable, match="context"):
        await directory.describe(directory.identify("demo", context=1_000_000))


# Where its files are


async def test_the_packaged_model_is_a_file_that_is_checked(make: Make) -> None:
    directory = make()
    assert await directory.resolve(directory.identify("demo")) == str(demo_path())


async def test_a_damaged_installation_says_so(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssis_dispatcher.models.sources.DEMO_SHA256", "0" * 64)
    directory = make()
    with pytest.raises(Unavailable, match="install the program again"):
        await directory.resolve(directory.identify("demo"))


async def test_a_model_of_the_hub_is_fetched_with_progress_and_listed(make: Make, hub: Any) -> None:
    hub.files["org/m/m-Q8_0.gguf"] = DEMO
    directory = make()
    told: list[tuple[int, int | None]] = []
    path = await directory.resolve(directory.identify("org/m"), lambda done, total: told.append((done, total)))
    assert holds_demo(path)
    await asyncio.sleep(0)
    assert told[-1] == (len(DEMO), len(DEMO))
    assert directory.listing() == ["demo", "org/m:Q8_0"]


async def test_a_split_model_is_fetched_whole_and_its_progress_is_one(make: Make, hub: Any) -> None:
    for number in (1, 2, 3):
        hub.files[f"org/big/big-Q8_0-0000{number}-of-00003.gguf"] = DEMO
    directory = make()
    told: list[tuple[int, int | None]] = []
    path = await directory.resolve(directory.identify("org/big"), lambda done, total: told.append((done, total)))
    await asyncio.sleep(0)
    assert sorted(file.name for file in Path(path).parent.glob("*.gguf"))[0] == Path(path).name
    assert len(list(Path(path).parent.glob("*.gguf"))) == 3
    assert told[-1] == (3 * len(DEMO), 3 * len(DEMO))
    assert [done for done, _ in told] == sorted(done for done, _ in told)


async def test_a_file_is_kept_while_its_model_has_a_server(make: Make, hub: Any, sources: Sources) -> None:
    hub.files["org/m/m-Q8_0.gguf"] = DEMO
    running: list[str] = []
    directory = make(running=lambda: running)
    model = directory.identify("org/m")
    await directory.resolve(model)
    running.append(model.key)
    await directory.resolve(directory.identify("demo"))
    with pytest.raises(Unprocessable, match="in use"):
        sources.remove(parse_name("org/m"))
    running.clear()
    await directory.resolve(directory.identify("demo"))
    assert sources.remove(parse_name("org/m")) == len(DEMO)
    with pytest.raises(NotFound):
        sources.remove(parse_name("org/m"))


async def test_a_cancelled_start_stops_the_download(make: Make, hub: Any, tmp_path: Path) -> None:
    hub.files["org/m/m-Q8_0.gguf"] = DEMO
    hub.stop_at = 1_500_000
    directory = make()
    fetching = asyncio.get_running_loop().create_task(directory.resolve(directory.identify("org/m")))
    assert await asyncio.to_thread(hub.stopped.wait, 5)
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    hub.go.set()
    await asyncio.to_thread(threads_ended)
    assert not list((tmp_path / "cache").rglob("*.gguf"))
    assert list((tmp_path / "cache").rglob("*.part"))


def threads_ended() -> None:
    for thread in threading.enumerate():
        if thread.name == "models-fetch":
            thread.join(5)


async def test_closing_ends_downloads(make: Make, hub: Any, tmp_path: Path) -> None:
    hub.files["org/m/m-Q8_0.gguf"] = DEMO
    hub.stop_at = 1_500_000
    directory = make()
    fetching = asyncio.get_running_loop().create_task(directory.resolve(directory.identify("org/m")))
    assert await asyncio.to_thread(hub.stopped.wait, 5)
    directory.close()
    hub.go.set()
    with pytest.raises(Cancelled):
        await fetching
    assert list((tmp_path / "cache").rglob("*.part"))


async def test_offline_what_is_here_is_served_and_the_rest_is_refused_with_what_to_do(
    make: Make, hub: Any, tmp_path: Path
) -> None:
    hub.files["org/m/m-Q8_0.gguf"] = DEMO
    first = make()
    await first.resolve(first.identify("org/m"))
    offline = Sources(
        Hub(hub.endpoint, offline=True), ModelCache(tmp_path / "cache", Fetcher(hub.endpoint, offline=True))
    )
    directory = make(sources=offline)
    assert (await directory.describe(directory.identify("org/m"))).facts.source == "gguf"
    assert holds_demo(await directory.resolve(directory.identify("org/m")))
    with pytest.raises(ModelNotServable, match=r"offline.*ssis pull org/other") as caught:
        await directory.describe(directory.identify("org/other"))
    assert caught.value.problem.code == "model_not_here"


async def test_another_catalogue_changes_what_names_mean(make: Make, tmp_path: Path) -> None:
    directory = make(Entry(name="a", id="org/a"), Entry(name="b", id="org/b"))
    before = directory.identify("a")
    changed = directory.change_catalogue(catalogue(Entry(name="a", id="org/a", engine="llamacpp", context=99)))
    assert changed == ["a", "b"]
    assert directory.identify("a") == before
    with pytest.raises(ModelNotServable):
        directory.identify("b")


async def test_a_name_that_left_the_catalogue_is_looked_for_nowhere_else(make: Make, hub: Any) -> None:
    directory = make(Entry(name="gpt2", id="org/gpt2"))
    model = directory.identify("gpt2")
    directory.change_catalogue(catalogue())
    for ask in (directory.describe, directory.resolve):
        with pytest.raises(ModelNotServable, match="any more"):
            await ask(model)
    assert hub.asked == []
