"""Request bodies, read strictly: a field that is misspelt and ignored would be found out much later."""

from __future__ import annotations

import difflib
import re
from typing import Annotated, TypeVar

import msgspec
from starlette.requests import Request

from ssis_dispatcher.errors import CallerError, InvalidRequest
from ssis_dispatcher.gateway.dialects.base import Wish
from ssis_dispatcher.gateway.dialects.reading import engine_name, plain_wish, revision

T = TypeVar("T")

_UNKNOWN = re.compile(r"unknown field `(?P<name>.*?)`")
_MISSING = re.compile(r"missing required field `(?P<name>.*?)`")
_WHERE = re.compile(r" - at `\$\.?(?P<path>.*?)`")
_LONGEST_NAME = 64

Count = Annotated[int, msgspec.Meta(ge=1, le=100_000_000)]


class UnsupportedMediaType(CallerError):
    """The body has to be JSON: send 'Content-Type: application/json'."""

    status = 415
    code = "unsupported_media_type"


class ModelBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Names a model, as `/api/models/warm` takes it. ``org/name@revision`` says the revision as well."""

    model: str
    revision: str | None = None
    engine: str | None = None
    context: Count | None = None

    def wish(self, token: str | None) -> Wish:
        """The same as a `Wish`, with the caller's hub token. Raises `InvalidRequest` that names the field."""
        named = plain_wish(self.model, "model")
        branch = revision(self.revision, "revision")
        if named.revision and branch and named.revision != branch:
            raise InvalidRequest("`revision` is another revision than `model` names.", param="revision")
        engine = engine_name(self.engine, "engine")
        return Wish(named.id, branch or named.revision, engine, self.context, token=token)


class PlanBody(ModelBody, frozen=True, forbid_unknown_fields=True):
    """What `/api/plan` takes; ``concurrency`` is how many seats are wanted at once."""

    concurrency: Count | None = None


class PinBody(ModelBody, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `/api/models/pin` takes."""

    pinned: bool


async def read(request: Request, shape: type[T]) -> T:
    """The body as ``shape``. Raises `UnsupportedMediaType`, and `InvalidRequest` that names the field."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise UnsupportedMediaType()
    try:
        return msgspec.json.decode(await request.body(), type=shape)
    except msgspec.ValidationError as error:
        raise _invalid(str(error), shape) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"The body is not JSON: {error}.", code="invalid_json") from None


def _invalid(message: str, shape: type) -> InvalidRequest:
    """msgspec's complaint with the field as ``param``, and what was probably meant."""
    if match := _UNKNOWN.search(message):
        name = match["name"][:_LONGEST_NAME]
        known = [field.encode_name for field in msgspec.structs.fields(shape)]
        close = difflib.get_close_matches(name, known, 1)
        hint = f"Did you mean `{close[0]}`?" if close else f"The fields are {', '.join(known)}."
        return InvalidRequest(f"`{name}` is not known here. {hint}", param=name)
    if match := _MISSING.search(message):
        return InvalidRequest(f"`{match['name']}` is missing.", param=match["name"])
    where = _WHERE.search(message)
    said = _WHERE.sub("", message)
    if where is None or not where["path"]:
        return InvalidRequest(f"The body must be a JSON object: {said}.", code="invalid_json")
    return InvalidRequest(f"`{where['path']}`: {said}.", param=where["path"])
