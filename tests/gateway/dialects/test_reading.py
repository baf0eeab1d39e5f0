"""What strangers send is a value or a 400 that names the field, and nothing else."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssis_dispatcher.errors import DispatchError, InvalidRequest
from ssis_dispatcher.gateway.dialects import reading
from ssis_dispatcher.gateway.dialects.base import Dialect
from ssis_dispatcher.gateway.dialects.openai import OpenAI
from ssis_dispatcher.gateway.dialects.ssis import SSIS
from ssis_dispatcher.gateway.dialects.tgi import TGI

SHAPES: dict[str, tuple[Dialect, str, bytes]] = {
    "ssis": (SSIS(), "/", b'{"token":"Hi","env":{"MODEL_ID":"demo"},"par":{"seed":%b}}'),
    "openai": (OpenAI(), "/v1/completions", b'{"model":"demo","prompt":"Hi","seed":%b}'),
    "tgi": (TGI(), "/models/demo/generate", b'{"inputs":"Hi","parameters":{"seed":%b}}'),
}
"""A request of each dialect, with room for an odd value in it."""

ODD = {
    "deep arrays": b"[" * 100_000 + b"]" * 100_000,
    "deep arrays without end": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "a number of a million digits": b"1" * 1_000_000,
    "a number beyond all": b"1" + b"0" * 5000,
    "not a number": b"NaN",
    "infinity": b"Infinity",
    "a lone surrogate": b'"\\ud800"',
    "a lone low surrogate": b'"\\udc00abc"',
    "a surrogate before a letter": b'"\\ud800\\u0041"',
    "bytes that are not UTF-8": b'"\xff\xfe"',
    "an overlong encoding": b'"\xc0\xaf"',
    "a NUL byte": b'"\x00"',
    "an escaped NUL": b'"a\\u0000b"',
    "a control character": b'"\x01"',
    "a leading zero": b"01",
    "a trailing comma": b"[1,]",
    "a comment": b"/* */ 1",
    "single quotes": b"'1'",
    "nothing": b"",
}


@pytest.mark.parametrize("dialect", SHAPES)
@pytest.mark.parametrize("odd", ODD)
def test_odd_json_is_refused_quickly(dialect: str, odd: str) -> None:
    """The original program read bodies without a limit and answered every fault with the same two words."""
    reader, path, shape = SHAPES[dialect]
    body = shape % ODD[odd]
    began = time.process_time()
    with pytest.raises(InvalidRequest) as caught:
        reader.read("POST", path, b"", [], body)
    assert time.process_time() - began < 0.5
    assert caught.value.status == 400
    assert len(caught.value.problem.message) < 400


@pytest.mark.parametrize("dialect", SHAPES)
@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b'"x"', b"1", b"\xef\xbb\xbf{}", b"{}x", b"a=b&c=d", b"{", b"\x1f\x8b"]
)
def test_what_is_no_json_object_is_refused(dialect: str, body: bytes) -> None:
    reader, path, _ = SHAPES[dialect]
    with pytest.raises(InvalidRequest):
        reader.read("POST", path, b"", [], body)


def _refused(reader: Dialect, path: str, body: bytes) -> int | None:
    try:
        reader.read("POST", path, b"", [], body)
    except DispatchError as error:
        return error.status
    return None


@pytest.mark.parametrize("dialect", SHAPES)
@given(body=st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_refusal(dialect: str, body: bytes) -> None:
    reader, path, shape = SHAPES[dialect]
    for data in (body, shape % body):
        assert _refused(reader, path, data) in (None, 400, 422)


@pytest.mark.parametrize("dialect", SHAPES)
@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=9),
        lambda x: st.lists(x) | st.dictionaries(st.text(max_size=5), x),
        max_leaves=9,
    )
)
def test_no_json_raises_anything_but_a_refusal(dialect: str, value: object) -> None:
    reader, path, shape = SHAPES[dialect]
    data = json.dumps(value).encode()
    for body in (data, shape % data, b'{"model":%b,"token":%b,"inputs":%b,"par":%b,"env":%b}' % ((data,) * 5)):
        assert _refused(reader, path, body) in (None, 400, 422)


@pytest.mark.parametrize(
    ("dialect", "body", "name"),
    [
        ("openai", b'{"model":"demo","model":"other"}', "model"),
        ("openai", b'{"model":"demo","stream":true,"stream":false}', "stream"),
        ("ssis", b'{"token":"a","token":"b","env":{"MODEL_ID":"demo"}}', "token"),
        ("tgi", b'{"inputs":"a","inputs":"b"}', "inputs"),
        ("tgi", b'{"inputs":"a","parameters":{},"parameters":null}', "parameters"),
    ],
)
def test_a_field_that_is_there_twice_is_refused(dialect: str, body: bytes, name: str) -> None:
    reader, path, _ = SHAPES[dialect]
    with pytest.raises(InvalidRequest, match="twice") as caught:
        reader.read("POST", path, b"", [], body)
    assert caught.value.problem.param == name


def test_the_same_name_further_inside_is_no_ambiguity() -> None:
    body = b'{"model":"demo","tools":[{"model":"x","stream":1}],"metadata":{"model":"y","stream":2}}'
    assert OpenAI().read("POST", "/v1/completions", b"", [], body).body == body


def test_digits_in_a_text_are_no_number() -> None:
    body = b'{"model":"demo","prompt":"%b"}' % (b"3" * 20_000)
    assert OpenAI().read("POST", "/v1/completions", b"", [], body).body is body


def test_an_escaped_backslash_before_u0000_is_no_nul() -> None:
    body = rb'{"model":"demo","prompt":"in JSON, NUL is written \\u0000"}'
    assert OpenAI().read("POST", "/v1/completions", b"", [], body).body is body


@pytest.mark.parametrize(
    ("path", "body", "param", "says"),
    [
        ("openai", {"prompt": "x"}, "model", "`model`: is missing."),
        ("openai", {"model": 5}, "model", "`model`: expected `str`, got `int`."),
        ("openai", {"model": "demo", "stream": "yes"}, "stream", "`stream`: expected"),
        ("openai", {"model": "demo", "ssis": {"colour": 1}}, "ssis.colour", "`ssis.colour`: is not known here."),
        ("ssis", {"token": "x"}, "env.MODEL_ID", "`env.MODEL_ID` is missing"),
        ("ssis", {"env": {"MODEL_ID": "demo"}}, "token", "`token` is missing"),
        ("ssis", {"token": "x", "env": {"MODEL_ID": ["a"]}}, "env", "expected"),
        ("ssis", {"token": "x", "env": [], "par": {}}, "env", "`env`: expected"),
        ("ssis", {"token": "x", "env": {"MODEL_ID": "demo"}, "par": []}, "par", "`par`: expected"),
        ("ssis", {"token": 1, "env": {"MODEL_ID": "demo"}}, "token", "`token`: expected"),
        ("ssis", {"prompt": 1}, "prompt", "`prompt`: is not known here."),
        ("tgi", {"parameters": {}}, "inputs", "`inputs`: is missing."),
        ("tgi", {"inputs": "x", "parameters": 4}, "parameters", "`parameters`: expected"),
    ],
)
def test_each_fault_is_told_with_its_own_field(path: str, body: object, param: str, says: str) -> None:
    """The original program answered bad JSON, a wrong type and a missing name alike: ``Invalid request``."""
    reader, route, _ = SHAPES[path]
    with pytest.raises(InvalidRequest) as caught:
        reader.read("POST", route, b"", [], json.dumps(body).encode())
    assert caught.value.problem.param == param
    assert says in caught.value.problem.message


NO_NAMES = (
    *("/etc/passwd", "../../etc/passwd", "a/../b", "./x", "~/x", "C:\\models", "http://evil.host/x", "org/name/more"),
    *(
        "-rf",
        "--model",
        "",
        " ",
        "a b",
        "na\nme",
        "naïve",
        "模型",
        "a" * 300,
        "org/",
        "/name",
        "a//b",
        "demo;ls",
        "$(id)",
    ),
    *("demo@", "demo@../x", "demo:", "a\u0000b", "org/na?me", "a%2fb"),
)


@pytest.mark.parametrize("name", NO_NAMES)
def test_what_cannot_be_a_models_name_is_refused(name: str) -> None:
    """The original program took the text after the last slash, lower-cased and stripped, whatever it was."""
    named = json.dumps({"model": name}).encode()
    assert _refused(OpenAI(), "/v1/completions", named) == 400
    named = json.dumps({"token": "x", "env": {"MODEL_ID": name}}).encode()
    assert _refused(SSIS(), "/", named) == 400


def test_names_that_look_alike_stay_different() -> None:
    """With the original program ``a/gpt-2`` and ``b/gpt2`` shared a server, and got each other's answers."""
    names = ["a/gpt-2", "b/gpt2", "a/gpt2", "gpt2", "a/GPT-2", "a/gpt_2", "a/gpt-2:Q8_0", "a/gpt-2:q8_0"]
    wishes = {reading.plain_wish(name, "model") for name in names}
    assert {wish.id for wish in wishes} == set(names)


def test_equal_names_give_the_same_wish_object() -> None:
    body = b'{"model":"org/name"}'
    one, two = (OpenAI().read("POST", "/v1/completions", b"", [], body) for _ in range(2))
    assert one.wish is two.wish


def test_a_token_shows_in_no_repr_and_no_error() -> None:
    body = {"token": "x", "env": {"MODEL_ID": "demo", "HF_TOKEN": "hf_CANARY"}}
    request = SSIS().read("POST", "/", b"", [], json.dumps(body).encode())
    assert request.wish.token == "hf_CANARY"
    assert "CANARY" not in repr(request.wish) + repr(request)
    body["env"] = {"MODEL_ID": "demo", "HF_TOKEN": "hf CANARY\n"}
    with pytest.raises(InvalidRequest) as caught:
        SSIS().read("POST", "/", b"", [], json.dumps(body).encode())
    assert "CANARY" not in str(caught.value)


@pytest.mark.parametrize("value", [0, -1, "x", 1.5, True, 10**12, "1e3"])
def test_a_context_that_is_no_number_of_tokens_is_refused(value: object) -> None:
    with pytest.raises(InvalidRequest):
        OpenAI().read(
            "POST", "/v1/completions", b"", [], json.dumps({"model": "demo", "ssis": {"context": value}}).encode()
        )


def test_too_many_or_too_large_values_are_refused_before_anything_is_made_of_them() -> None:
    many = {"token": "x", "env": {"MODEL_ID": "demo"} | {f"V{n}": "1" for n in range(100)}}
    with pytest.raises(InvalidRequest, match="64 variables"):
        SSIS().read("POST", "/", b"", [], json.dumps(many).encode())
    wide = b'{"token":"x","env":{"MODEL_ID":"demo"},"par":{"stop":[%b]}}' % b",".join([b"{}"] * 200_000)
    with pytest.raises(InvalidRequest, match="256 KiB"):
        SSIS().read("POST", "/", b"", [], wide)
