"""Ask the add_sub model of the quickstart one question, and show question and answer.

The argument is the file that `tricompose run --json` writes when the server is ready.
"""

import json
import sys
import urllib.request
from pathlib import Path

NUMBERS = {"INPUT0": [1, 2, 3, 4], "INPUT1": [10, 20, 30, 40]}


def main() -> int:
    server = json.loads(Path(sys.argv[1]).read_text())["server"]["http"]
    inputs = [{"name": name, "shape": [4], "datatype": "INT32", "data": data} for name, data in NUMBERS.items()]
    url = f"{server}/v2/models/add_sub/infer"
    request = urllib.request.Request(url, json.dumps({"inputs": inputs}).encode())
    with urllib.request.urlopen(request, timeout=10) as answer:
        outputs = {output["name"]: output["data"] for output in json.load(answer)["outputs"]}
    print(f"POST {url}\n  {NUMBERS}\n  -> {outputs}")
    sums = [left + right for left, right in zip(NUMBERS["INPUT0"], NUMBERS["INPUT1"], strict=True)]
    return 0 if outputs["OUTPUT0"] == sums else 1


if __name__ == "__main__":
    sys.exit(main())
