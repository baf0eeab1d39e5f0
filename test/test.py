"""Send payload.json to the dispatcher and print the model's answer. Ends with 0 only when there is one.

make forward                                # in another terminal
pip install -r requirements.txt
python test.py                              # HF_TOKEN=… python test.py for gated models
"""

import argparse
import base64
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import requests


def find_key(namespace: str) -> str:
    """SSIS_API_KEY, else the key that `make deploy` left in the cluster; empty where there is neither."""
    if key := os.environ.get("SSIS_API_KEY"):
        return key
    kubectl = shlex.split(os.environ.get("KUBECTL") or "kubectl")
    words = ["-n", namespace, "get", "secret", "dispatcher-api-key", "-o", "jsonpath={.data.api-key}"]
    try:
        found = subprocess.run([*kubectl, *words], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return base64.b64decode(found.stdout).decode() if found.returncode == 0 else ""


def show_stream(answer: requests.Response) -> bool:
    """Print the text as it comes. Whether it came to its end."""
    for line in answer.iter_lines(chunk_size=1):
        if line.startswith(b":"):
            print(line[1:].decode().strip(), file=sys.stderr)
        if not line.startswith(b"data:") or line[5:].strip() == b"[DONE]":
            continue
        event = json.loads(line[5:])
        if "token" not in event:
            print(f"\n{json.dumps(event)}", file=sys.stderr)
            return False
        print(event["token"]["text"], end="", flush=True)
        if event.get("generated_text") is not None:
            print()
            return True
    print("\nthe stream ended before the answer did", file=sys.stderr)
    return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://localhost:8080", help="where the dispatcher is")
    parser.add_argument(
        "--host", help="Host header, where --url is Knative's gateway: dispatcher.nthulab.svc.cluster.local"
    )
    parser.add_argument("--namespace", default="nthulab", help="where the API key is looked for")
    parser.add_argument("--model", help="ask this model instead of the payload's")
    parser.add_argument("--stream", action="store_true", help="print the answer as it is made")
    parser.add_argument("--timeout", type=float, default=600, help="seconds of silence after which to give up")
    args = parser.parse_args()

    payload = json.loads(Path(__file__).with_name("payload.json").read_text())
    payload["env"]["HF_TOKEN"] = os.environ.get("HF_TOKEN", "")
    if args.model:
        payload["env"]["MODEL_ID"] = args.model
    if args.stream:
        payload["stream"] = True
    key = find_key(args.namespace)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    if args.host:
        headers["Host"] = args.host
    try:
        answer = requests.post(args.url, json=payload, headers=headers, timeout=args.timeout, stream=args.stream)
        if not answer.ok:
            print(f"HTTP {answer.status_code}: {answer.text}", file=sys.stderr)
            if answer.status_code == 401 and not key:
                print("No API key was found: set SSIS_API_KEY, or let kubectl reach the cluster.", file=sys.stderr)
            return 1
        if args.stream:
            return 0 if show_stream(answer) else 1
        print(answer.text)
    except requests.ConnectionError as error:
        print(f"{args.url} cannot be reached (is `make forward` running?): {error}", file=sys.stderr)
        return 1
    except requests.RequestException as error:
        print(f"no answer: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
