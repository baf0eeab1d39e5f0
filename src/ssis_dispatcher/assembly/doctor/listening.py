"""Where the dispatcher listens, and who may call it there."""

from __future__ import annotations

import errno
import http.client
import json
import socket
import time
from typing import TYPE_CHECKING

from ssis_dispatcher.assembly.doctor.check import Check

if TYPE_CHECKING:
    from ssis_dispatcher.settings import Settings

_ASK_SECONDS = 1.0


def port(settings: Settings) -> Check:
    """Listens for a moment, as the dispatcher would."""
    where = f"{settings.host} port {settings.port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(1)
    except OSError as error:
        return _cannot_listen(settings, where, error)
    return Check("port", True, f"{where} is free" if settings.port else "the system chooses a free one")


def _cannot_listen(settings: Settings, where: str, error: OSError) -> Check:
    if error.errno == errno.EADDRINUSE and _is_ours(settings):
        return Check("port", None, f"a dispatcher listens on {where} already")
    if error.errno == errno.EADDRINUSE:
        other = settings.port % 65535 + 1
        fix = f"ssis serve --port {other}   (ss -ltnp 'sport = :{settings.port}' shows who has it)"
        return Check("port", False, f"{where} is taken by another program", fix)
    if error.errno == errno.EACCES:
        return Check("port", False, f"{where} is for root only", "ssis serve --port 8080")
    if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        return Check("port", False, f"{settings.host} is no address of this machine", "ssis serve --host 127.0.0.1")
    return Check("port", False, f"{where}: {error.strerror or error}", "ssis serve --host 127.0.0.1 --port 8080")


def _is_ours(settings: Settings) -> bool:
    """Whether a dispatcher answers there. One that speaks HTTPS is not recognised."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    connection = http.client.HTTPConnection(host, settings.port, timeout=_ASK_SECONDS)
    try:
        connection.request("GET", "/healthz")
        body = json.loads(connection.getresponse().read(1024))
    except (OSError, ValueError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    from ssis_dispatcher.gateway.operations.health import PROGRAM

    return isinstance(body, dict) and body.get("program") == PROGRAM


def keys(settings: Settings) -> Check:
    """Beyond loopback, callers need keys; how many there are, and whether any still count."""
    if settings.is_private:
        return Check("keys", True, f"{settings.host} is reached from this machine only: no keys are needed")
    make = "ssis keys create NAME"
    if settings.insecure:
        detail = f"insecure is set: anybody who reaches {settings.host} may use this machine's models"
        return Check("keys", None, detail, f"{make}, and serve without --insecure")
    from ssis_dispatcher.errors import DispatchError
    from ssis_dispatcher.gateway.keys import read_keys

    try:
        records = read_keys([settings.keys_file])
    except DispatchError as error:
        return Check("keys", False, str(error), f"mend {settings.keys_file}, or name another with SSIS_KEYS_FILE")
    now = time.time()
    valid = [record for record in records if record.expires is None or record.expires.timestamp() > now]
    if valid:
        return Check("keys", True, f"{len(valid)} of {len(records)} in {settings.keys_file} are valid")
    what = "holds none that is still valid" if records else "holds none"
    why = "require_keys is set" if settings.require_keys else f"{settings.host} can be reached from elsewhere"
    return Check("keys", False, f"{why}, and {settings.keys_file} {what}", make)
