"""The table of needs answers as Starlette's router does, and knows every route."""

from __future__ import annotations

from ssis_dispatcher.gateway.needs import Need, NeedTable, Stated

TABLE = NeedTable(
    [
        Stated("/open", "GET", Need.PUBLIC),
        Stated("/things", "GET", Need.USE),
        Stated("/things/{id}", "GET", Need.OPERATE),
        Stated("/things/{id}", "DELETE", Need.ADMIN),
        Stated("/names/{id:path}", "GET", Need.USE),
    ]
)


def test_a_path_without_parameters_is_found() -> None:
    assert TABLE.of("GET", "/open") is Need.PUBLIC
    assert TABLE.of("GET", "/things") is Need.USE


def test_each_method_has_its_own_need() -> None:
    assert TABLE.of("GET", "/things/x") is Need.OPERATE
    assert TABLE.of("DELETE", "/things/x") is Need.ADMIN


def test_a_parameter_is_one_segment_unless_it_says_path() -> None:
    assert TABLE.of("GET", "/things/a/b") is None
    assert TABLE.of("GET", "/names/org/name") is Need.USE


def test_what_does_not_exist_has_no_need() -> None:
    assert TABLE.of("GET", "/nothing") is None
    assert TABLE.of("POST", "/things") is None
    assert TABLE.of("get", "/things") is None
    assert TABLE.of("GET", "/things/") is None


def test_a_path_that_the_router_would_take_for_a_route_is_never_without_need() -> None:
    # Python's "$" also matches before a line feed at the end, in Starlette's expressions as in any other.
    assert TABLE.of("GET", "/things\n") is Need.USE
