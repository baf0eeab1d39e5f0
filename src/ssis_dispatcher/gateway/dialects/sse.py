"""Server-sent events of our own, and how to tell that a reply came to its proper end.

Engines and gateways on the way may cut a reply short and still end it cleanly as far as HTTP can tell, so its last bytes
are looked at. Shared by the dialects; the gateway writes `heartbeat` while a streaming caller waits.
"""

from __future__ import annotations

import msgspec

EVENT_STREAM = b"text/event-stream"


_skim = msgspec.json.Decoder(msgspec.Raw).decode

_ERRORS = (b'data:{"error"', b'data: {"error"', b"error:", b"event: error", b"event:error")

_TERMINAL = (
    *(b'"type":"response.completed"', b'"type":"response.failed"', b'"type":"response.incomplete"'),
    b'"type":"message_stop"',
    b'"stop_type":',
)

_TERMINAL_ENDS = (b'"usage":{', b'"details":null}', b'"details":{"finish_reason"')
"""Marks in the last bytes of a terminal event whose beginning is out of sight."""


def heartbeat(phase: str, position: int | None, expected: float | None) -> bytes:
    """A comment that keeps a silent stream alive, and tells a curious reader what it waits for: the phase, the place in
    the line, and the expected wait in seconds."""
    text = f": waiting phase={phase}"
    if position is not None:
        text += f" position={position}"
    if expected is not None:
        text += f" expected={expected:.0f}s"
    return text.encode() + b"\n\n"


def json_closed(tail: bytes, content_type: bytes, whole: bool) -> bool:
    """Whether a reply that is not a stream came to its end: by all of it where ``tail`` is the ``whole`` of it, else as far
    as its last byte can tell. Only "too short" counts against it; what else may be odd about it is between caller and
    engine."""
    if b"json" not in content_type:
        return True
    if whole:
        try:
            _skim(tail)
            return True
        except msgspec.DecodeError as error:
            if "truncated" in str(error):
                return False
        except RecursionError:
            pass
    return tail.rstrip()[-1:] in (b"}", b"]")


def last_event(tail: bytes) -> tuple[bytes, bool]:
    """The last event in ``tail``, and whether its beginning is there too; ``b""`` when it is not closed by an empty line."""
    text = tail.replace(b"\r\n", b"\n") if b"\r" in tail else tail
    if not text.endswith(b"\n\n"):
        return b"", False
    text = text.rstrip(b"\n")
    start = text.rfind(b"\n\n")
    whole = start >= 0 or text.startswith((b"data:", b"event:", b"id:", b"error:"))
    return text[start + 2 :] if start >= 0 else text, whole


def stream_ended(tail: bytes) -> bool:
    """Whether a stream ended in one of the ways in which streams of engines do:

    - ``[DONE]`` (OpenAI's completions and chats, SGLang), or Anthropic's ``message_stop``;
    - a terminal event of OpenAI's responses, which holds the whole response and can be longer than the tail: then it is
      known by the usage at its end, which no other long event has;
    - TGI's last event, the only one whose ``generated_text`` is not null;
    - llama.cpp's last event, which says why it stopped;
    - an error event: the caller has been told.
    """
    event, whole = last_event(tail)
    event = event.replace(b'": ', b'":')
    if event.endswith(b"[DONE]") or (whole and event.startswith(_ERRORS)):
        return True
    if any(mark in event for mark in _TERMINAL):
        return True
    if b'"generated_text":' in event:
        return b'"generated_text":null' not in event
    return not whole and any(mark in event for mark in _TERMINAL_ENDS)
