"""Flag > environment > file > default, and everything that can be wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssis_dispatcher.settings import CpuShare, Settings, SettingsError, load
from ssis_dispatcher.settings.declared import SECTIONS
from ssis_dispatcher.settings.fields import fields

HOME = {"HOME": "/home/somebody"}


def write(folder: Path, text: str) -> Path:
    file = folder / "config.toml"
    file.write_text(text, encoding="utf-8")
    return file


def problems(**kwargs: object) -> tuple[str, ...]:
    kwargs.setdefault("environ", HOME)
    with pytest.raises(SettingsError) as caught:
        load(**kwargs)  # type: ignore[arg-type]
    return caught.value.problems


ports = st.none() | st.integers(1, 65535)


@given(flag=ports, variable=ports, key=ports)
def test_the_first_place_that_has_a_value_wins_and_is_named(
    flag: int | None, variable: int | None, key: int | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = write(tmp_path_factory.mktemp("settings"), f"port = {key}" if key else "")
    environ = HOME | ({"SSIS_PORT": str(variable)} if variable else {})
    loaded = load(flags={"port": flag}, environ=environ, config=file)
    places = [(flag, "flag", "--port"), (variable, "env", "SSIS_PORT"), (key, "file", str(file)), (8080, "default", "")]
    value, source, place = next(found for found in places if found[0] is not None)
    assert loaded.settings.port == value
    assert (loaded.origins["port"].source, loaded.origins["port"].place) == (source, place)
    assert loaded.origins["host"].source == "default"


def test_without_anything_the_settings_are_those_of_the_declaration() -> None:
    assert load(environ=HOME).settings == Settings(
        keys_file=Path("/home/somebody/.config/ssis/keys.jsonl"),
        cache_dir=Path("/home/somebody/.cache/ssis"),
        state_dir=Path("/home/somebody/.local/state/ssis"),
    )


def test_every_setting_can_be_written_in_all_places_where_it_may_be(tmp_path: Path) -> None:
    for field in fields().values():
        if field.about.table or not isinstance(field.default, int | float | str | bool):
            continue
        written = field.kind.write(field.default)
        file = write(tmp_path, f'{field.name} = "{written}"')
        for loaded in (
            load(flags={field.name: written}, environ=HOME),
            load(environ=HOME | {field.variable: written}),
            load(environ=HOME, config=file),
        ):
            assert getattr(loaded.settings, field.name) == field.default
            assert loaded.origins[field.name].source != "default"


def test_every_setting_has_a_sentence_a_section_and_a_default_within_its_bounds() -> None:
    for field in fields().values():
        assert field.about.section in SECTIONS
        assert field.about.doc[0].isupper()
        assert field.about.doc.endswith(".")
        if isinstance(field.default, int | float | str | bool):
            assert field.read(field.default) == field.default


def test_directories_follow_the_xdg_variables_when_they_are_absolute() -> None:
    environ = HOME | {"XDG_STATE_HOME": "/var/lib", "XDG_CACHE_HOME": "relative"}
    settings = load(environ=environ).settings
    assert settings.state_dir == Path("/var/lib/ssis")
    assert settings.cache_dir == Path("/home/somebody/.cache/ssis")


def test_without_a_home_the_defaults_are_below_the_root() -> None:
    assert load(environ={}).settings.state_dir == Path("/.local/state/ssis")


def test_the_usual_file_is_read_when_it_is_there(tmp_path: Path) -> None:
    (tmp_path / "ssis").mkdir()
    file = write(tmp_path / "ssis", 'keep_alive = "20m"')
    loaded = load(environ={"XDG_CONFIG_HOME": str(tmp_path)})
    assert loaded.settings.keep_alive == 1200
    assert loaded.file == file


def test_the_flag_for_the_file_goes_before_the_variable(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    chosen, other = write(tmp_path, "port = 1"), write(tmp_path / "other", "port = 2")
    environ = HOME | {"SSIS_CONFIG": str(other)}
    assert load(environ=environ, config=chosen).settings.port == 1
    assert load(environ=environ).settings.port == 2


def test_a_file_that_is_asked_for_must_be_there(tmp_path: Path) -> None:
    missing = tmp_path / "missing.toml"
    assert problems(config=missing) == (f"there is no settings file {missing} (asked for by --config)",)
    assert problems(environ={"SSIS_CONFIG": str(missing)}) == (
        f"there is no settings file {missing} (asked for by SSIS_CONFIG)",
    )


@pytest.mark.parametrize("text", ["port = \n", "\ufeffport = 1", "port = 1\nport = 2\n"])
def test_a_file_that_is_no_toml_says_where(tmp_path: Path, text: str) -> None:
    (problem,) = problems(config=write(tmp_path, text))
    assert problem.startswith(f"{tmp_path}/config.toml cannot be read: ")
    assert "line" in problem


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes(b'host = "\xff"')
    (problem,) = problems(config=file)
    assert "utf-8" in problem


def test_unknown_keys_are_errors_with_a_suggestion(tmp_path: Path) -> None:
    file = write(tmp_path, "prot = 80\nquux = 1")
    assert problems(config=file) == (
        f'unknown key "prot" in {file}; did you mean "port"?',
        f'unknown key "quux" in {file}; `ssis config` lists all there are',
    )


def test_settings_inside_a_table_are_told_where_they_belong(tmp_path: Path) -> None:
    file = write(tmp_path, "[listen]\nport = 80")
    assert problems(config=file) == (
        f'unknown table [listen] in {file}: settings stand at the top of the file, so "port" goes above it',
    )


def test_unknown_variables_are_errors_with_a_suggestion() -> None:
    assert problems(environ=HOME | {"SSIS_PROT": "80", "SSIS_QUUX": "1"}) == (
        "unknown variable SSIS_PROT in the environment; did you mean SSIS_PORT?",
        "unknown variable SSIS_QUUX in the environment; `ssis config` lists all there are",
    )


def test_the_variables_of_kubernetes_services_are_not_taken_for_settings() -> None:
    link = "tcp://10.0.0.7:8080"
    environ = HOME | {
        "SSIS_PORT": link,
        "SSIS_SERVICE_HOST": "10.0.0.7",
        "SSIS_SERVICE_PORT": "8080",
        "SSIS_SERVICE_PORT_HTTP": "8080",
        "SSIS_PORT_8080_TCP": link,
        "SSIS_PORT_8080_TCP_PROTO": "tcp",
        "SSIS_PORT_8080_TCP_PORT": "8080",
        "SSIS_PORT_8080_TCP_ADDR": "10.0.0.7",
        "SSIS_DISPATCHER_PORT": link,
        "SSIS_DISPATCHER_SERVICE_HOST": "10.0.0.7",
    }
    assert load(environ=environ).settings.port == 8080


def test_an_empty_variable_counts_as_not_set() -> None:
    assert load(environ=HOME | {"SSIS_PORT": "", "SSIS_NONSENSE": ""}).origins["port"].source == "default"


def test_wrong_values_say_the_value_the_place_and_what_is_expected(tmp_path: Path) -> None:
    file = write(tmp_path, "port = 80.5\nhost = 7\nkeep_alive = [1]\ninsecure = 1")
    assert problems(
        flags={"max_body": "big"}, environ=HOME | {"SSIS_HEARTBEAT": "2h", "SSIS_PLATFORM": "moon"}, config=file
    ) == (
        '--max-body "big": expected a size such as 65536, 512KiB, 4MiB or 1.5GB, 1KiB to 1GiB',
        'SSIS_HEARTBEAT="2h": expected a duration such as 90, 1.5s, 2m30s or 1h, 0.1s to 1m',
        'SSIS_PLATFORM="moon": expected one of auto, process, knative, fake',
        f"port = 80.5 in {file}: expected a whole number, 0 to 65535",
        f"host = 7 in {file}: expected text",
        f"keep_alive = [1] in {file}: expected a duration such as 90, 1.5s, 2m30s or 1h",
        f"insecure = 1 in {file}: expected true or false",
    )


def test_a_secret_is_neither_printed_nor_in_an_error() -> None:
    environ = HOME | {"SSIS_HUB_TOKEN": "hf_canary\0", "SSIS_API_KEY": "ssis-canary"}
    (problem,) = problems(environ=environ)
    assert problem == "SSIS_HUB_TOKEN=********: expected text, or none"
    assert fields()["api_key"].show("ssis-canary") == "********"
    assert fields()["api_key"].show(None) == "none"


def test_variables_of_other_programs_count_after_ours() -> None:
    environ = HOME | {"HF_TOKEN": "theirs", "HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "https://hub.example.org/"}
    loaded = load(environ=environ)
    assert loaded.settings.hub_token == "theirs"
    assert loaded.origins["hub_token"].place == "HF_TOKEN"
    assert loaded.settings.hub_offline is True
    assert loaded.settings.hub_endpoint == "https://hub.example.org"
    assert load(environ=environ | {"SSIS_HUB_TOKEN": "ours"}).settings.hub_token == "ours"


def test_paths_of_the_file_are_relative_to_it_and_others_are_not(tmp_path: Path) -> None:
    file = write(tmp_path, 'catalogue = "models.yaml"\nstate_dir = "/state"')
    settings = load(environ=HOME | {"SSIS_CACHE_DIR": "cache"}, config=file).settings
    assert settings.catalogue == tmp_path / "models.yaml"
    assert settings.state_dir == Path("/state")
    assert settings.cache_dir == Path("cache")


def test_an_inventory_is_a_file_beside_the_settings_or_a_name(tmp_path: Path) -> None:
    file = write(tmp_path, 'inventory = "mine.yaml"')
    assert load(environ=HOME, config=file).settings.inventory == "mine.yaml"
    (tmp_path / "mine.yaml").write_text("nodes: []")
    assert load(environ=HOME, config=file).settings.inventory == str(tmp_path / "mine.yaml")


def test_lists_tables_and_shares_are_read_from_the_file_and_from_variables(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        'cors_origins = ["https://a.example", "https://b.example"]\n'
        'cpu_slices = ["2GiB", "4 x 1GiB:0.5"]\n'
        'server_env = {OMP_NUM_THREADS = 1, LANG = "C"}',
    )
    written = {"SSIS_TRUSTED_PROXIES": "10.0.0.0/8, ::1", "SSIS_SERVER_LABELS": "auto-scaler=scaling"}
    settings = load(environ=HOME | written, config=file).settings
    assert settings.server_labels == (("auto-scaler", "scaling"),)
    assert settings.cors_origins == ("https://a.example", "https://b.example")
    assert settings.cpu_slices == (CpuShare(1, 2 * 2**30), CpuShare(4, 2**30, 0.5))
    assert settings.server_env == (("LANG", "C"), ("OMP_NUM_THREADS", "1"))
    assert settings.trusted_proxies == ("10.0.0.0/8", "::1/128")


def test_none_can_be_written_where_it_is_allowed() -> None:
    assert (
        load(environ=HOME | {"SSIS_UPSTREAM_FIRST_BYTE_TIMEOUT": "none"}).settings.upstream_first_byte_timeout is None
    )
    assert problems(environ=HOME | {"SSIS_HEARTBEAT": "none"})


def test_half_of_a_tls_pair_is_an_error() -> None:
    assert problems(flags={"tls_cert": "x"}) == ("tls_cert is set and tls_key is not: HTTPS needs both",)
    assert problems(flags={"tls_key": "x"}) == ("tls_key is set and tls_cert is not: HTTPS needs both",)
    assert problems(flags={"retry_pause": "1h"}) == ("retry_pause is longer than retry_pause_limit",)


def test_the_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        load(environ=HOME).settings.port = 1  # type: ignore[misc]
