"""What the pages of the documentation list must be what the code has: examples, tables, error codes, routes, metrics."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ssis_dispatcher.core import views
from ssis_dispatcher.core.fleet import Fleet
from ssis_dispatcher.engines.command import CommandEngine
from ssis_dispatcher.engines.generation import READ, SAME, Generation
from ssis_dispatcher.engines.registry import ENGINES
from ssis_dispatcher.engines.routes import Routes
from ssis_dispatcher.engines.variables import LAUNCHER, Setting
from ssis_dispatcher.errors import Unprocessable
from ssis_dispatcher.gateway.operations import ROUTES
from ssis_dispatcher.models import catalogue
from ssis_dispatcher.settings import load
from ssis_dispatcher.telemetry.exposition import Exposition
from ssis_dispatcher.telemetry.metrics import Metrics

ROOT = Path(__file__).parents[2]
COLUMNS = ("tgi", "vllm", "sglang", "llamacpp")
"""Engines, in the order of the tables."""


def page(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")


def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page(name), re.DOTALL)


def cells(*values: str) -> str:
    return f"| {' | '.join(values)} |"


# Examples

TOML = [(name, text) for name in ("engines", "operating") for text in blocks(name, "toml")]


@pytest.mark.parametrize(("name", "text"), TOML, ids=[f"{name}-{at}" for at, (name, _) in enumerate(TOML)])
def test_every_settings_file_that_is_shown_is_a_good_one(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(text, encoding="utf-8")
    settings = load(environ={"HOME": "/home/somebody"}, config=tmp_path / "config.toml").settings
    for table in settings.engines:  # as the assembly makes them
        CommandEngine(table.name, ENGINES[table.like], command=table.command, env=table.env, port=table.port)


def test_the_catalogue_that_is_shown_is_a_good_one(tmp_path: Path) -> None:
    (text,) = blocks("catalogue", "yaml")
    (tmp_path / "models.yaml").write_text(text, encoding="utf-8")
    found = catalogue.load(tmp_path / "models.yaml", ENGINES)
    assert list(found.entries) == ["demo", "tiny", "assistant", "Qwen/Qwen2.5-0.5B-Instruct-GGUF"]
    tiny = found.entries["tiny"]
    assert (tiny.path, tiny.context, tiny.pinned) == (tmp_path / "tiny-Q4_K_M.gguf", 4096, True)
    assert found.entries["assistant"].keep_alive == 3600


def test_every_json_that_is_shown_is_json() -> None:
    for text in (*blocks("http", "json"), *re.findall(r"-d '(\{.*?\})'", page("http"), re.DOTALL)):
        assert isinstance(msgspec.json.decode(text), dict)


# The catalogue's keys


def test_the_page_of_the_catalogue_lists_its_keys_and_no_others() -> None:
    written = catalogue._Written.__struct_fields__
    rows = re.findall(r"^\| (`[a-z_`, ]+`) \|", page("catalogue"), re.MULTILINE)
    assert sorted(re.findall(r"[a-z_]+", " ".join(rows))) == sorted(written)


# The engines' tables

SAMPLES: dict[str, Any] = {
    "adapter_id": "adapter",
    "grammar": {"json": {}},
    "stop": ["."],
    "stop_token_ids": [1],
    "suppress_tokens": [1],
    **dict.fromkeys(("decoder_input_details", "details", "do_sample", "return_full_text", "watermark"), True),
}
"""Parameters that are no numbers."""


def can(engine: str, name: str) -> str:
    """``yes`` or a dash; ``seed`` is asked for together with sampling, without which it means nothing."""
    parameters = {name: SAMPLES.get(name, 2)} | ({"do_sample": True} if name == "seed" else {})
    try:
        ENGINES[engine].ask(Generation("prompt", parameters), "model")
    except Unprocessable:
        return "–"
    return "yes"


@pytest.mark.parametrize("name", READ)
def test_the_table_of_parameters_says_what_each_engine_can_do(name: str) -> None:
    assert cells(f"`{name}`", *(can(engine, name) for engine in COLUMNS)) in page("engines")


def test_other_names_of_parameters_are_on_the_page() -> None:
    text = page("engines")
    assert [name for name in SAME if f"`{name}`" not in text] == []


@pytest.mark.parametrize("name", LAUNCHER)
def test_the_table_of_variables_says_what_each_becomes(name: str) -> None:
    found = [variable_becomes(engine, name) for engine in COLUMNS]
    row = cells(f"`{name}`", *found)
    assert (row in page("engines")) == (set(found) != {"–"}), row


def variable_becomes(engine: str, name: str) -> str:
    settings: dict[str, Setting] = import_module(f"ssis_dispatcher.engines.{engine}").SETTINGS
    return f"`{settings[name].argument}`" if name in settings else "–"


@pytest.mark.parametrize("engine", COLUMNS)
def test_the_table_of_routes_lists_those_that_pass(engine: str) -> None:
    routes: Routes = import_module(f"ssis_dispatcher.engines.{engine}").ROUTES
    methods = (" ".join(f"`{path}`" for path in sorted(paths)) for paths in (routes.post, routes.get))
    assert cells(f"`{engine}`", *methods) in page("engines")


# The interface

NOT_FOR_CALLERS = {"keys_unreadable"}
"""Codes of errors that only the operator sees, when the dispatcher starts."""


def test_every_error_code_is_explained() -> None:
    source = "\n".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    codes = set(re.findall(r'\bcode\s*=\s*"([a-z_]+)"', source))
    codes |= set(re.findall(r'(?:Problem|refusal)\(\s*\d{3},\s*"([a-z_]+)"', source))
    explained = set(re.findall(r"`([a-z_]+)`", page("http")))
    assert sorted(codes - NOT_FOR_CALLERS - explained) == []


def test_every_operations_route_is_listed_with_its_role() -> None:
    rows = [line for line in page("http").splitlines() if line.startswith("| `")]
    for route in ROUTES:
        name = f"{route.method} {route.path.replace(':path', '')}"
        roles = {"public": "none"}.get(route.need.value, route.need.value)
        assert any(f"`{name}`" in row and row.split("|")[2].strip() == roles for row in rows), name


def test_every_metric_is_listed() -> None:
    fleet = Fleet()
    exposition = Exposition(Metrics(), lambda: views.statistics(fleet.book, 0.0), lambda: ())
    listed = set(re.findall(r"`(ssis_[a-z_]+)`", page("http")))
    for family in exposition.families():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        assert name in listed or not name.startswith("ssis_"), name
