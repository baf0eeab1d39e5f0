"""``docs/settings.md``, written from the declarations."""

from __future__ import annotations

from ssis_dispatcher.settings.commands import BUILT_IN, PLACEHOLDERS
from ssis_dispatcher.settings.declared import CONFIG_FILE, SECTIONS, Place
from ssis_dispatcher.settings.fields import Field, fields

_HEAD = f"""# Settings

<!-- Written by `ssis config --docs`; edit src/ssis_dispatcher/settings/declared.py instead. -->

A setting comes from the first of these places that has it:

1. a flag of `ssis serve`, where the table does not say that there is none: `--keep-alive 20m`
2. the environment: `SSIS_KEEP_ALIVE=20m` (an empty variable counts as not set)
3. the settings file: `keep_alive = "20m"`. The file is that of `--config`, else that of `$SSIS_CONFIG`, else
   `{CONFIG_FILE}`. It is TOML; settings stand at its top, and paths in it are relative to it.
4. the default

`ssis config` prints every setting, its value and where it came from. A name that does not exist is an error, in the file
and in the environment, and so is a value of the wrong kind.

How values are written:

| kind | examples |
|---|---|
| duration | `90` (seconds), `"1.5s"`, `"2m30s"`, `"1h"` |
| size | `65536` (bytes), `"512KiB"`, `"4MiB"`, `"1.5GB"` |
| switch | `true`, `false`; in the environment also `1`, `0`, `yes`, `no`, `on`, `off`; as a flag `--NAME` or `--no-NAME` |
| list | `["a", "b"]`; in the environment and as a flag `a,b` |
| table, variables | `{{NAME = "value"}}`; in the environment and as a flag `NAME=value,OTHER=value` |
| list of shares | `["2GiB", "4x1GiB", "2x4GiB:1.5"]`: count x memory : cores |

Where the default is `none`, or the kind allows it, `none` can be written to say so.
"""

_PLACES = ", ".join(f"`{{{name}}}`" for name in PLACEHOLDERS)
_BUILT_IN = ", ".join(f"`{name}`" for name in BUILT_IN)
_ENGINES = f"""### Tables of engines

```toml
[engines.transformers]
command = ["transformers", "serve", "--host", "{{host}}", "--port", "{{port}}", "--force-model", "{{model}}"]
env = {{HF_HUB_OFFLINE = "1"}}
health = "/health"
```

| key | default | |
|---|---|---|
| `like` | the engine's own name, else `"vllm"` | The built-in engine that it behaves like: {_BUILT_IN}. |
| `command` | the built-in's | The program and its arguments, as a list or as one string that is split as by a shell. |
| `env` | empty | Its environment, besides `server_env`. |
| `port` | `0` | Its port; 0 chooses a free one for each server and puts it where `{{port}}` stands in `command`. |
| `health` | the built-in's | Path that answers 200 when the server can serve. |
| `dialects` | the built-in's | What it speaks: `openai`, `tgi`. |
| `seats` | the built-in's | The most requests that it works on at once. |
| `kinds` | `mig`, `mps`, `gpu` | Slice kinds that it runs on: `cpu`, `mig`, `mps`, `gpu`. |

A table that has the name of a built-in engine changes how that one is started; any other name, without `like`, needs a
`command`. `command` and `env` may contain {_PLACES}; a brace that is meant is written twice.
"""


def _default(field: Field) -> str:
    if isinstance(field.default, Place):
        return f"`{field.default}`"
    if field.default == ():
        return "empty"
    return f"`{field.kind.write(field.default)}`"


def _remarks(field: Field) -> str:
    """What is out of the ordinary about the places that may set it."""
    also = "".join(f" Also `{variable}`." for variable in field.about.also)
    return also + (" File only." if field.about.table else "" if field.is_flag else " No flag of `ssis serve`.")


def _row(field: Field) -> str:
    return (
        f"| `{field.name}` | {field.kind.name}{field.bounds} | {_default(field)} | {field.about.doc}{_remarks(field)} |"
    )


def page() -> str:
    """The whole page, as Markdown."""
    parts = [_HEAD]
    for section, title in SECTIONS.items():
        rows = [_row(field) for field in fields().values() if field.about.section == section]
        parts.append("\n".join([f"## {title}\n", "| name | kind | default | |", "|---|---|---|---|", *rows, ""]))
        if section == "models":
            parts.append(_ENGINES)
    return "\n".join(parts)
