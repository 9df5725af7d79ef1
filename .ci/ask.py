"""Ask the add_sub model of the quickstart one question, once its server is ready, and show question and answer."""

import json
import sys
import time
import urllib.error
import urllib.request

SERVER, PATIENCE = "http://127.0.0.1:8000", 60.0
NUMBERS = {"INPUT0": [1, 2, 3, 4], "INPUT1": [10, 20, 30, 40]}


def ready() -> bool:
    try:
        with urllib.request.urlopen(f"{SERVER}/v2/health/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def main() -> int:
    deadline = time.monotonic() + PATIENCE
    while not ready():
        if time.monotonic() > deadline:
            print(f"error: nothing answered at {SERVER} within {PATIENCE:.0f} s", file=sys.stderr)
            return 1
        time.sleep(0.5)
    inputs = [{"name": name, "shape": [4], "datatype": "INT32", "data": data} for name, data in NUMBERS.items()]
    url = f"{SERVER}/v2/models/add_sub/infer"
    request = urllib.request.Request(url, json.dumps({"inputs": inputs}).encode())
    with urllib.request.urlopen(request, timeout=10) as answer:
        outputs = {output["name"]: output["data"] for output in json.load(answer)["outputs"]}
    print(f"POST {url}\n  {NUMBERS}\n  -> {outputs}")
    sums = [left + right for left, right in zip(NUMBERS["INPUT0"], NUMBERS["INPUT1"], strict=True)]
    return 0 if outputs["OUTPUT0"] == sums else 1


if __name__ == "__main__":
    sys.exit(main())
