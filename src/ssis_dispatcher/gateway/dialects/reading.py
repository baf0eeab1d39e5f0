"""Reading what strangers send: JSON that may be odd, and the fields by which a request names its model.

Whatever the bytes are, what comes out is a value or an `InvalidRequest` that names the field; nothing else is raised,
and no input takes more than a few milliseconds. Shared by the dialects.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from json import loads
from typing import Any, TypeVar

import msgspec

from ssis_dispatcher.errors import InvalidRequest
from ssis_dispatcher.gateway.dialects.base import Headers, Wish
from ssis_dispatcher.models.naming import is_revision, parse_name

TOKEN_HEADER = b"x-ssis-hf-token"

LONGEST_NUMBER = 4096
"""Digits in a number beyond which it is refused (about Python's own limit for whole numbers)."""

LARGEST_PARAMETERS = 256 * 1024
"""Bytes of generation parameters; the large ones are schemas."""

T = TypeVar("T")

_PLACE = re.compile(r" - at `\$\.?([^`]*)`$")
_FIELD = re.compile(r"field `([^`]*)`")
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_anything = msgspec.json.Decoder().decode
_parameters: Callable[[bytes], dict[str, Any] | None] = msgspec.json.Decoder(dict[str, Any] | None).decode

_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def decoded(decode: Callable[[bytes], T], body: bytes) -> T:
    """``body`` by a msgspec decoder. Raises `InvalidRequest`.

    A typed decoder skips unknown fields without looking into them; engines do look, so what it lets pass is checked here:
    strings that are not UTF-8, NUL characters, and numbers of thousands of digits.
    """
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError:
            raise InvalidRequest("The body is not UTF-8.", code="invalid_json") from None
    try:  # not by `part`, whose call every warm request would pay for
        value = decode(body)
    except _UNREADABLE as error:
        raise _refusal(error, "") from None
    if len(body) > LONGEST_NUMBER and _long_digits(body):
        part(_anything, body, "")
    if b"\\" in body and b"\\u0000" in body and _NUL.search(body):
        raise InvalidRequest("The body holds a NUL character (\\u0000), which no engine takes.", code="invalid_json")
    return value


def part(decode: Callable[[bytes], T], text: bytes, field: str) -> T:
    """JSON inside a body that `decoded` has seen, in its field ``field``. Raises `InvalidRequest`."""
    try:
        return decode(text)
    except _UNREADABLE as error:
        raise _refusal(error, field) from None


def parameters(raw: msgspec.Raw | None, field: str) -> dict[str, Any] | None:
    """The object of generation parameters, None where there is none. Its size is bounded before anything is made of it."""
    text = bytes(raw) if raw is not None else b"null"
    if len(text) > LARGEST_PARAMETERS:
        raise InvalidRequest(f"`{field}` is larger than {LARGEST_PARAMETERS >> 10} KiB.", param=field)
    return part(_parameters, text, field)


def _long_digits(body: bytes) -> bool:
    """Whether a run of more than `LONGEST_NUMBER` digits may be somewhere: such a run covers two neighbours of a sample
    taken at half that distance, so only one byte in two thousand is looked at."""
    step = LONGEST_NUMBER // 2
    sample = body[::step]
    return any(
        first in b"0123456789" and second in b"0123456789" and body[place * step : (place + 1) * step].isdigit()
        for place, (first, second) in enumerate(pairwise(sample))
    )


def _refusal(error: Exception, field: str) -> InvalidRequest:
    """What to say of JSON, in the field ``field``, that could not be read."""
    if isinstance(error, msgspec.ValidationError):
        return _invalid(str(error), field)
    if isinstance(error, RecursionError):
        return InvalidRequest("The body is nested too deeply.", code="invalid_json", param=field or None)
    return InvalidRequest(f"The body is not JSON: {error}.", code="invalid_json", param=field or None)


def _invalid(message: str, within: str) -> InvalidRequest:
    """msgspec's message, with the field first."""
    place, field = _PLACE.search(message), _FIELD.search(message)
    text = message[: place.start()] if place else message
    inner = [place.group(1).replace("[...]", "")] if place else []
    if field is not None:
        inner.append(field.group(1))
        text = "is missing" if "missing" in text else "is not known here"
    where = ".".join(name for name in (within, *inner) if name)
    if not where:
        return InvalidRequest(f"The body must be a JSON object: {text[0].lower()}{text[1:]}.", code="invalid_json")
    return InvalidRequest(f"`{where}`: {text[0].lower()}{text[1:]}.", param=where)


class Once:
    """Refuses a body that says one of some names twice at its top: readers disagree about which one counts. A name that
    is there twice at any depth is rare enough for a second look at the whole body."""

    def __init__(self, *names: str) -> None:
        self._names = names
        self._quoted = tuple(b'"%b"' % name.encode() for name in names)

    def check(self, body: bytes) -> None:
        """Raises `InvalidRequest`."""
        for quoted in self._quoted:
            if body.count(quoted) > 1:
                self._look(body)
                return

    def _look(self, body: bytes) -> None:
        try:
            keys = [key for key, _ in loads(body, object_pairs_hook=list)]
        except (ValueError, RecursionError):
            raise InvalidRequest(
                "The body is too deep, or has numbers that are too long.", code="invalid_json"
            ) from None
        for name in self._names:
            if keys.count(name) > 1:
                raise InvalidRequest(f"`{name}` is there twice.", param=name)


def hub_token(headers: Headers) -> str | None:
    """The caller's hub token from the header, None when there is none."""
    for name, value in headers:
        if name == TOKEN_HEADER:
            return token(value.decode("latin-1"), "X-SSIS-HF-Token")
    return None


def token(value: str | None, where: str) -> str | None:
    """A hub token, checked; None for none or an empty one."""
    value = (value or "").strip()
    if not value:
        return None
    if not re.fullmatch(r"[A-Za-z0-9_.\-]{1,512}", value):
        raise InvalidRequest(f"`{where}` is not a hub token.", param=where)
    return value


_ENGINE = re.compile(r"[A-Za-z0-9][\w.\-]{0,63}", re.ASCII)


@lru_cache(maxsize=4096)
def plain_wish(name: str, where: str) -> Wish:
    """The wish of a request that says no more than ``name``: a model, perhaps with ``@revision``. Equal names get the same
    object, so that whoever resolves it can remember it cheaply. Raises `InvalidRequest`."""
    found = parse_name(name, where)
    return Wish(found.id, found.revision)


def revision(value: str | None, where: str) -> str:
    """A branch, tag or commit; "" for none."""
    if value and not is_revision(value):
        raise InvalidRequest(f"`{where}` must be a branch, a tag or a commit of the model.", param=where)
    return value or ""


def one_revision(where: str, *found: str) -> str:
    """The revision that is named, in one place or in several; "" for none. Raises `InvalidRequest` when they differ."""
    names = {name for name in found if name}
    if len(names) > 1:
        raise InvalidRequest(f"`{where}` is another revision than the one named with the model.", param=where)
    return names.pop() if names else ""


def engine_name(value: str | None, where: str) -> str:
    """The name of an engine, perhaps one that does not exist; "" for none."""
    if value and not _ENGINE.fullmatch(value):
        raise InvalidRequest(f"`{where}` must be the name of an engine.", param=where)
    return value or ""


def context(value: int | str | None, where: str) -> int | None:
    """Tokens per request, prompt and answer together."""
    if value is None or value == "":
        return None
    if isinstance(value, str) and re.fullmatch(r"\s*\d{1,9}\s*", value):
        value = int(value)
    if not isinstance(value, int) or not 1 <= value <= 100_000_000:
        raise InvalidRequest(f"`{where}` must be a number of tokens.", param=where)
    return value


Scalar = str | int | float | bool | None


def environment(env: dict[str, Scalar], where: str) -> Wish:
    """What the caller's variables say of the model; ``id`` is "" when MODEL_ID is not among them, and what does not name
    the model is left in ``env``. Null and empty values are dropped, numbers and booleans are text. Raises
    `InvalidRequest` that names the variable."""
    given = {name: text for name, value in env.items() if value is not None and (text := _text(value))}
    if len(given) > 64:
        raise InvalidRequest(f"`{where}` holds more than 64 variables.", param=where)
    named = plain_wish(given.pop("MODEL_ID"), f"{where}.MODEL_ID") if "MODEL_ID" in given else Wish("")
    if not given:  # by far the most say no more
        return named
    for name, text in given.items():
        if len(text) > 1024 or not text.isprintable():
            at = f"{where}.{name[:64]}"
            raise InvalidRequest(f"`{at}` must be printable text of at most 1024 characters.", param=at)
    branch = revision(given.pop("REVISION", None), f"{where}.REVISION")
    tokens = [token(given.pop(name, None), f"{where}.{name}") for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")]
    return Wish(
        named.id,
        one_revision(f"{where}.REVISION", named.revision, branch),
        context=context(given.pop("MAX_TOTAL_TOKENS", None), f"{where}.MAX_TOTAL_TOKENS"),
        token=tokens[0] or tokens[1],
        env=tuple(sorted(given.items())),
    )


def _text(value: str | int | float | bool) -> str:
    if isinstance(value, str):
        return value.strip()
    return str(value).lower() if isinstance(value, bool) else str(value)
