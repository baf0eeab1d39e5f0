"""No secret reaches a log."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssis_dispatcher.telemetry.redact import HIDDEN, is_secret_name, redact

SECRET = "Canary0123456789abcdefCANARY0123456789abcdefX"


@pytest.mark.parametrize(
    "text",
    [
        f"hf_{SECRET}",
        f"download with hf_{SECRET}, then wait",
        f"path/hf_{SECRET}/x",
        f"key ssis-{SECRET} was used",
        f"sk-{SECRET}",
        f"Authorization: Bearer {SECRET}",
        f"authorization: basic {SECRET} trailing words",
        f'{{"authorization":"Bearer {SECRET}","x":1}}',
        f"-H 'Authorization: {SECRET}'",
        f"bearer {SECRET}",
        f"https://hub/file?token={SECRET}&x=1",
        f"https://cdn/file?X-Amz-Credential={SECRET}&X-Amz-Signature={SECRET}",
        f"https://user:{SECRET}@host/path",
        f"HF_TOKEN={SECRET}",
        f"{{'HF_TOKEN': '{SECRET}'}}",
        f'{{"env": {{"HF_TOKEN": "{SECRET}"}}}}',
        json.dumps(json.dumps({"token": SECRET})),
        f"api_key = {SECRET}",
        f"X-Api-Key: {SECRET}",
        f"apikey={SECRET}",
        f"key={SECRET}",
        f"client_secret: {SECRET}",
        f"password={SECRET}",
        f"vllm serve --api-key {SECRET} --port 1",
        f"llama-server --hf-token={SECRET}",
    ],
)
def test_secrets_are_hidden_wherever_they_stand(text: str) -> None:
    hidden = redact(text)
    assert SECRET not in hidden
    assert HIDDEN in hidden


@pytest.mark.parametrize(
    "text",
    [
        "print_info: EOS token        = 50256 '<|endoftext|>'",
        "EOS token = 2",
        "max_new_tokens=20, tokens: 128",
        "HF_HUB_CACHE=/data/hub hf_hub_download hf_transfer",
        "monkey=banana",
        "disk-usage-of-the-cache is 12 GiB",
        "ssis-dispatcher 0.1.0 listens",
        '{"token": null}',
        "http://127.0.0.1:8080/v1/models",
        "server demo7kq2x4 ready after 0.31 s",
    ],
)
def test_what_is_no_secret_stays_readable(text: str) -> None:
    assert redact(text) == text


def test_the_rest_of_the_line_stays() -> None:
    assert redact(f"GET /x?token={SECRET}&page=2 failed") == f"GET /x?token={HIDDEN}&page=2 failed"


def test_a_header_is_hidden_to_the_end_of_its_line_only() -> None:
    assert redact(f"Authorization: Custom a b {SECRET}\nHost: x") == f"Authorization: {HIDDEN}\nHost: x"


@given(st.dictionaries(st.sampled_from(["token", "api_key", "model", "text"]), st.text(max_size=40), max_size=4))
def test_redacted_json_is_still_json(fields: dict[str, str]) -> None:
    json.loads(redact(json.dumps(fields)))


@given(st.text(max_size=200))
def test_redacting_twice_changes_nothing_more(text: str) -> None:
    assert redact(redact(text)) == redact(text)


@pytest.mark.parametrize("name", ["HF_TOKEN", "token", "api_key", "X-Api-Key", "client_secret", "Authorization"])
def test_names_of_secrets_are_known(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize("name", ["tokens", "model", "max_new_tokens", "key", "tokenizer"])
def test_other_names_are_not_taken_for_secrets(name: str) -> None:
    assert not is_secret_name(name)
