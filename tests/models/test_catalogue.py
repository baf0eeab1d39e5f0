from __future__ import annotations

from pathlib import Path

import pytest

from ssis_dispatcher.files import BadFile
from ssis_dispatcher.models.catalogue import DEMO, Entry, built_in, demo_path, load
from ssis_dispatcher.models.gguf import file_facts

YAML = """
models:
  tiny:
    path: models/tiny-Q4_K_M.gguf
    context: 4096
  assistant:
    id: meta-llama/Llama-3.1-8B-Instruct
    revision: refs/pr/1
    engine: vllm
    keep_alive: 1h
    pinned: true
    start_seconds: 95
    image: example.com/vllm:1
    max_servers: 2
    description: for everybody
  Qwen/Qwen2.5-0.5B-Instruct:
    seats: 8
    floor: 6GiB
    ceiling: 24576
    arguments: {MAX_TOTAL_TOKENS: 4096, DTYPE: bfloat16, FLASH: true}
  org/plain:
  big:
    path: /models/big.gguf
    weights: 20GB
    kv_bytes_per_token: 131072
"""
TOML = """
[models.tiny]
path = "models/tiny-Q4_K_M.gguf"
context = 4096

[models.assistant]
id = "meta-llama/Llama-3.1-8B-Instruct"
revision = "refs/pr/1"
engine = "vllm"
keep_alive = "60m"
pinned = true
start_seconds = 95
image = "example.com/vllm:1"
max_servers = 2
description = "for everybody"

[models."Qwen/Qwen2.5-0.5B-Instruct"]
seats = 8
floor = "6144MiB"
ceiling = "24 GiB"
arguments = { MAX_TOTAL_TOKENS = 4096, DTYPE = "bfloat16", FLASH = true }

[models."org/plain"]

[models.big]
path = "/models/big.gguf"
weights = "20GB"
kv_bytes_per_token = 131072
"""


@pytest.mark.parametrize(("name", "text"), [("c.yaml", YAML), ("c.toml", TOML)])
def test_both_formats_say_the_same(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    catalogue = load(tmp_path / name)
    assert list(catalogue.entries) == [
        DEMO,
        "tiny",
        "assistant",
        "Qwen/Qwen2.5-0.5B-Instruct",
        "org/plain",
        "big",
    ]
    assert catalogue.get("tiny") == Entry(name="tiny", path=tmp_path / "models/tiny-Q4_K_M.gguf", context=4096)
    assert catalogue.get("assistant") == Entry(
        name="assistant",
        id="meta-llama/Llama-3.1-8B-Instruct",
        revision="refs/pr/1",
        engine="vllm",
        keep_alive=3600.0,
        pinned=True,
        start_seconds=95.0,
        image="example.com/vllm:1",
        max_servers=2,
        description="for everybody",
    )
    assert catalogue.get("Qwen/Qwen2.5-0.5B-Instruct") == Entry(
        name="Qwen/Qwen2.5-0.5B-Instruct",
        id="Qwen/Qwen2.5-0.5B-Instruct",
        seats=8,
        floor_mib=6144,
        ceiling_mib=24576,
        arguments=(("DTYPE", "bfloat16"), ("FLASH", "true"), ("MAX_TOTAL_TOKENS", "4096")),
    )
    assert catalogue.get("org/plain") == Entry(name="org/plain", id="org/plain")
    assert catalogue.get("big") == Entry(
        name="big", path=Path("/models/big.gguf"), weights_mib=19074, kv_bytes_per_token=131072
    )
    assert catalogue.get("none") is None


def test_the_packaged_model_is_in_every_catalogue_and_is_one(tmp_path: Path) -> None:
    file = tmp_path / "empty.yaml"
    file.write_text("")
    for catalogue in (built_in(), load(None), load(file)):
        entry = catalogue.get(DEMO)
        assert entry is not None
        assert entry.path == demo_path()
        assert file_facts(demo_path()).context == 1024


def test_an_operator_may_give_the_name_of_the_packaged_model_to_another(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("models: {demo: {path: /my.gguf}}")
    entry = load(file).get(DEMO)
    assert entry is not None
    assert entry.path == Path("/my.gguf")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model: {}", "unknown key `model`. Did you mean `models`?"),
        ("models: []", "c.yaml: models: expected a mapping of names to values, not a list"),
        ("models: {a: 5}", "c.yaml: a: expected a mapping of names to values, not int"),
        ("models: {a: {}}", "c.yaml: a: give `path` (a file) or `id`"),
        ("models: {a: {id: b}, a: {id: c}}", "c.yaml:1: `a` occurs twice"),
        ("models: {a: {path: x, id: o/n}}", "c.yaml: a: give `id` (a model of the hub) or `path` (a file), not both"),
        ("models: {a: {path: x, contxt: 1}}", "c.yaml: a: unknown key `contxt`. Did you mean `context`?"),
        ("models: {a: {path: x, zzz: 1}}", "c.yaml: a: unknown key `zzz`. Known are: id, path, revision"),
        ("models: {a: {path: x, context: many}}", "c.yaml: a: expected int | null, got str at context"),
        ("models: {a: {path: x, context: 0}}", "c.yaml: a, context: must be at least 1, not 0"),
        ("models: {a: {path: x, seats: -1}}", "c.yaml: a, seats: must be at least 1"),
        ("models: {a: {path: x, pinned: 1}}", "expected bool, got int at pinned"),
        ("models: {a: {path: x, floor: 6 apples}}", "a, floor: `6 apples` is no size; write `6GiB`"),
        ("models: {a: {path: x, floor: -4}}", "a, floor: a size of -4 MiB makes no sense"),
        ("models: {a: {path: x, floor: 9GiB, ceiling: 8GiB}}", "`ceiling` (8192 MiB) is below `floor` (9216 MiB)"),
        ("models: {a: {path: x, keep_alive: soon}}", "a, keep_alive: `soon` is no time; write `90s`"),
        ("models: {a: {path: x, keep_alive: -1}}", "a time of -1 seconds makes no sense"),
        ("models: {a: {path: x, start_seconds: .inf}}", "a time of inf seconds makes no sense"),
        ("models: {a: {path: x, arguments: {A: [1]}}}", "got array at arguments[...]"),
        ("models: {a: {path: ''}}", "a, path: '' is no path"),
        ("models: {a: {path: ~nobody-here/x}}", "a, path: Could not determine home directory"),
        ("models: {a: {id: ../x}}", "`id` is no model of the hub: '../x' is no model name"),
        ("models: {a: {id: o/n@main}}", "a revision goes into `revision`"),
        ("models: {../a: {path: x}}", "this name cannot be requested"),
        ("models: {a@b: {path: x}}", "a revision goes into `revision`"),
        ("models: {o/n: {revision: -x}}", "o/n, revision: `-x` is no branch, tag or commit"),
        ("models: {o/n: {engine: vlm}}", "o/n, engine: there is no engine `vlm`. Did you mean `vllm`?"),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(BadFile) as caught:
        load(file, engines=("vllm", "llamacpp"))
    assert words in str(caught.value)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"none\.yaml: No such file"):
        load(tmp_path / "none.yaml")
    broken = tmp_path / "broken.toml"
    broken.write_text("[models\n")
    with pytest.raises(BadFile, match=r"broken\.toml: .*line 1"):
        load(broken)
