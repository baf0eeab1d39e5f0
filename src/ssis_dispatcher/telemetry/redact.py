"""Takes secrets out of text before people or files see it.

Called by the logs (every line) and by launchers (whatever a child process printed). It errs on the side of hiding: a
harmless value next to the word ``password`` is lost, a secret is not.
"""

from __future__ import annotations

import re

HIDDEN = "[redacted]"

# A line without any of these words cannot match below. Looking for substrings costs a tenth of the expression.
_HINTS = (
    *("hf_", "ssis-", "sk-", "auth", "bearer", "basic", "token", "key"),
    *("secret", "passw", "signature", "credential", "://"),
)

# Value characters: everything up to white space, quotes or the next field, so that redacted JSON stays JSON.
_VALUE = r"""[^\s"'\\&,;{}()<>\[\]]+"""

# Between a name and its value: ``=`` or ``:``, quotes on either side (escaped where JSON holds JSON). Null is no secret.
_JOIN = r"""(?: \\?["']? \s? [:=] \s? \\?["']? ) (?! (?: None | null | true | false ) \b )"""

_SECRETS = re.compile(
    rf"""
      (?-i: hf_ (?! hub | xet | transfer ) \w{{8,}} )                               # by shape: the hub's, not HF_HOME
    | (?<![a-z0-9]) (?: ssis- [\w-]{{32,}} | sk- [\w-]{{8,}} )                       # our own, OpenAI's
    | (?P<header> \b authorization ["']? \s* [:=] \s* ["']? ) [^"'\\\r\n]+           # a header: to the end of its line
    | (?P<scheme> \b (?:bearer|basic) \s+ ) {_VALUE}
    | (?P<user> ://[^\s/:@"']* : ) [^\s/@"']+ (?=@)                                  # https://user:secret@host
    | (?P<flag> --[\w-]*(?:token|key|secret|password) \s+ ) {_VALUE}                 # --hf-token hf_…
    | (?P<token> (?<![a-z0-9]) token {_JOIN} ) (?! \d{{1,7}} \b ) {_VALUE}           # "EOS token = 2" is no secret
    | (?P<pair> (?<![a-z0-9]) (?: (?:api|access)?[_-]?key(?:[_-]?id)? | secret | passwo?r?d | signature | credential )
        {_JOIN} ) {_VALUE}
    """,
    re.VERBOSE | re.IGNORECASE | re.ASCII,
)

_SECRET_NAMES = re.compile(
    r"(?:^|[_-])(?:token|secret|password|passwd|authorization|api[_-]?key|credential)$", re.IGNORECASE
)


def redact(text: str) -> str:
    """``text`` with `HIDDEN` in place of hub tokens, API keys, bearer and basic credentials, ``Authorization``
    headers, passwords in URLs, and the values of ``token=``, ``key=``, ``secret=``, ``password=``, ``signature=``
    (also in JSON).

    Linear in the length of ``text``; about 1 µs for a line without any hint of a secret.
    """
    lowered = text.lower()
    for hint in _HINTS:
        if hint in lowered:
            return _SECRETS.sub(_hide, text)
    return text


def is_secret_name(name: str) -> bool:
    """Whether a field, variable or setting of this name holds a secret (``HF_TOKEN``, ``api_key``, ``password``)."""
    return _SECRET_NAMES.search(name) is not None


def _hide(found: re.Match[str]) -> str:
    kept = found["header"] or found["scheme"] or found["user"] or found["flag"] or found["token"] or found["pair"] or ""
    return kept + HIDDEN
