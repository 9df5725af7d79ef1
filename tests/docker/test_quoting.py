"""What composer.docker_syntax spells is what Docker reads: in the classic builder and in BuildKit, byte for byte."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from composer.docker_syntax import comment, copy_form, json_form, legible, pair, parse_fragment, word
from tests.docker.test_building import system
from tests.services.dockerd import DOCKER, Dockerd, running_dockerd

pytestmark = pytest.mark.docker

BOTH = pytest.mark.parametrize("buildkit", [False, True], ids=["classic", "buildkit"])

LINES = (
    *("", " ", "\t", " lead", "trail ", "\u3000wide\xa0", "\\", "a\\", "\\\\", 'a\\"', '"', '\\"', "'", "it's", "''"),
    *('""', "$X", "${X}", "\\$X", "\\${PATH}", "$", "$$", "${", "${X:-y}", "$(id)", "`id`", "#", "# escape=`", "a #b"),
    *("<<EOF", "<<-'EOF' x", "a=b", "=", "\\n", "a\\ b", "%s", "{{x}}", "{% x %}", "FROM evil:1", "a\u2028FROM evil:1"),
    *("a\u2029b", "a\x85b", "a\x0bb", "a\x0cb", "\x1c#x", "\ufeffa", "a\ufeff", "é€🙂", "e\u0301", "\x01", "\x7f"),
    "[a]",
)
TEXTS = (*LINES, "a\nb", "\n", "a\r\nb", "\r", " \\\nRUN evil", "cat <<EOF\nx\nEOF", "a\n# b\n", "\n\nFROM evil:1\n")
NAMES = (
    *("[", "]", "[]", "[a]", "[^a]", "*", "?", "a*b", "a?b", "$X", "${X}", "$", "\\$", "a b", " a", "b ", "it's", '"'),
    *('"q"', "'", "\\", "a\\b", "\\[", "b\\", "\\'", "a\\\\b", "-x", "--from=x", "--", "#c", "<<EOF", "{", "!x", "^"),
    *("~", "`", "%", "a,b", "&", "a=b", "http:", ".x", "..x", "@", "x", "a", "q", "c"),
)
ODD_NAMES = (
    "é€🙂",
    "e\u0301",
    "\ufeffa",
    "a\ufeff",
    "a\nb",
    "\n",
    "\t",
    "\r",
    "a\u2028b",
    "a\x85b",
    "\x01",
    "\x7f",
    "\u3000",
)
"""Names that BuildKit of 20.10 takes out of an image, but not out of the context."""
LABEL_NAMES = ("a.b/c-d", 'q"', "q'", "$X", "\\", "#", "é", "\ufeff", "[", "`", "{{x}}", "<<EOF", "-", "--x", "a,b")


def fuzzed(count: int) -> list[str]:
    """Texts put together out of others, the same at every run."""
    drawn = random.Random(3)
    return ["".join(drawn.choices([*LINES, "\\", '"', "$", "X", "}"], k=drawn.randrange(2, 6))) for _ in range(count)]


VALUES = (*LINES, *fuzzed(300), "long \\" * 9_000)
"""What ENV and LABEL are tried with: the last takes nearly all that a line holds."""
SAID = (*TEXTS, *fuzzed(100), "long $ " * 8_000)
"""What JSON forms are tried with, in one line each."""


@pytest.fixture(scope="module")
def offering() -> Iterator[Dockerd]:
    """An engine that builds in both ways, and has the image `base:1`."""
    with running_dockerd(buildkit=True) as running:
        running.docker("import", "-", "base:1", stdin=system())
        yield running


def build(engine: Dockerd, context: Path, lines: Sequence[str], *, buildkit: bool) -> str:
    """Build a Dockerfile of these instructions with plain `docker build`, and return the image's ID."""
    built = run_build(engine, context, legible("\n".join(lines) + "\n"), buildkit=buildkit)
    assert built.returncode == 0, (built.stdout + built.stderr)[-3000:]
    return built.stdout.strip()


def run_build(engine: Dockerd, context: Path, text: str, *, buildkit: bool) -> subprocess.CompletedProcess[str]:
    (context / "Dockerfile").write_bytes(text.encode())
    environment = {"PATH": os.environ["PATH"], "HOME": str(context), "DOCKER_BUILDKIT": str(int(buildkit))}
    argv = [DOCKER, "--host", engine.host, "build", "--quiet", str(context)]
    return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)


def config_of(engine: Dockerd, image: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(engine.docker("image", "inspect", image))[0]["Config"]
    return found


def files_of(engine: Dockerd, image: str, folder: str) -> dict[str, bytes]:
    """The regular files below a folder, by their paths in it."""
    container = engine.docker("create", image, "/bin/sh").strip()
    try:
        with closing(engine.client()) as client:
            data = b"".join(client.api.export(container))
    finally:
        engine.docker("rm", container)
    with tarfile.open(fileobj=io.BytesIO(data), encoding="utf-8") as tar:
        return {
            member.name.removeprefix(f"{folder}/"): opened.read()
            for member in tar
            if member.name.startswith(f"{folder}/") and member.isreg() and (opened := tar.extractfile(member))
        }


@BOTH
def test_what_an_image_says_of_itself(offering: Dockerd, tmp_path: Path, buildkit: bool) -> None:
    settings = {f"V{number}": value for number, value in enumerate(VALUES)} | {"odd name.$X": "x"}
    labels = {f"l{number}": value for number, value in enumerate(VALUES)} | {name: name for name in LABEL_NAMES}
    lines = [
        *(f"# {comment(text)}" for text in TEXTS),
        "FROM base:1",
        "ENV X=evil \\\n    " + " \\\n    ".join(pair(name, value) for name, value in settings.items()),
        "LABEL " + " \\\n      ".join(pair(name, value) for name, value in labels.items()),
        f"# {comment(' '.join(TEXTS))}",
        f"ENTRYPOINT {json_form(TEXTS)}",
        f"CMD {json_form(SAID)}",
        f"HEALTHCHECK --interval=30s --retries=3 CMD {json_form(SAID)}",
        f"SHELL {json_form(TEXTS)}",
        f"USER {word('an odd $X user#')}",
    ]
    config = config_of(offering, build(offering, tmp_path, lines, buildkit=buildkit))
    found = dict(line.split("=", 1) for line in config["Env"])
    assert {name: value for name, value in found.items() if name not in ("PATH", "X")} == settings
    assert config["Labels"] == labels
    assert config["Entrypoint"] == list(TEXTS)
    assert config["Cmd"] == list(SAID)
    assert config["Healthcheck"]["Test"] == ["CMD", *SAID]
    assert config["Shell"] == list(TEXTS)
    assert config["User"] == "an odd $X user#"


@BOTH
def test_what_is_run(offering: Dockerd, tmp_path: Path, buildkit: bool) -> None:
    script = 'n=0; for one in "$@"; do printf %s "$one" > /said/$n; n=$((n + 1)); done'
    step = (
        "cat > /said/document <<EOF\n\\$X `printf ticked` \"'\\\\\nEOF\n# RUN no\nprintf '%s' '\\' >> /said/document\n"
    )
    lines = [
        "FROM base:1",
        "ENV X=evil",
        "WORKDIR /said",
        f"RUN {json_form(['/bin/sh', '-c', script, 'sh', *SAID])}",
        f"RUN {json_form(['/bin/sh', '-c', step])}",
    ]
    said = files_of(offering, build(offering, tmp_path, lines, buildkit=buildkit), "said")
    assert said.pop("document") == b"$X ticked \"'\\\n\\"
    assert said == {str(number): text.encode() for number, text in enumerate(SAID)}


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("origin", ["context", "stage"])
def test_what_is_copied(offering: Dockerd, tmp_path: Path, origin: str, buildkit: bool) -> None:
    """Each odd name, as a file and as a folder, from the context or from a stage, and to a place as odd."""
    names = (*NAMES, *ODD_NAMES) if origin == "stage" else NAMES
    for name in names:
        (tmp_path / "folders" / name).mkdir(parents=True)
        (tmp_path / "folders" / name / "in side").write_text(f"folder {name}")
        (tmp_path / "files").mkdir(exist_ok=True)
        (tmp_path / "files" / name).write_text(f"file {name}")
    # What patterns would bring in besides or instead.
    for decoy in ("axb", "a\\xb", "[x]", "b", "X"):
        (tmp_path / "files" / decoy).write_text("decoy")
    options, root = ("--from=all ", "/") if origin == "stage" else ("", "")
    copies = [
        f"COPY {options}{copy_form([f'{root}{kind}/{name}{slash}', f'/made/{kind}/{name}{slash}'])}"
        for name in names
        for kind, slash in (("files", ""), ("folders", "/"))
    ]
    lines = ["FROM base:1 AS all", "COPY files /files/", "COPY folders /folders/", *in_parts(copies)]
    made = files_of(offering, build(offering, tmp_path, lines, buildkit=buildkit), "made")
    assert made == {
        path: content.encode()
        for name in names
        for path, content in ((f"files/{name}", f"file {name}"), (f"folders/{name}/in side", f"folder {name}"))
    }


def in_parts(copies: Sequence[str]) -> Iterator[str]:
    """COPYs into stages of their own, and all together into the last: an image has no more than 125 layers."""
    starts = range(0, len(copies), 100)
    for start in starts:
        yield from (f"FROM base:1 AS part{start}", "ENV X=evil", *copies[start : start + 100])
    yield from ("FROM base:1", *(f"COPY --from=part{start} /made/ /made/" for start in starts))


@BOTH
@pytest.mark.parametrize("text", ["escape=`", "syntax = evil/frontend", "check=error=true", "\ufeffescape=`"])
def test_no_comment_at_the_top_is_a_directive(offering: Dockerd, tmp_path: Path, text: str, buildkit: bool) -> None:
    lines = [f"# {comment(text)}", "FROM base:1", f"LABEL {pair('a', '$X`')}"]
    assert config_of(offering, build(offering, tmp_path, lines, buildkit=buildkit))["Labels"] == {"a": "$X`"}


FRAGMENT = (
    'LABEL a="x \\\n   y\\\n\n  # no\n\x1c# b"\n'
    'label d=e\\\\\r\nLABEL f="g\u2028LABEL h=i" \\  \n j=k\n'
    "LABEL l=m \\\n\\\n\n"
)


@BOTH
def test_a_fragment_among_other_lines(offering: Dockerd, tmp_path: Path, buildkit: bool) -> None:
    alone = ["FROM base:1", FRAGMENT]
    among = ["FROM base:1", *(f"\n# {one.line}\n{one.text}\n" for one in parse_fragment(FRAGMENT)), "# end", "USER me"]
    first, second = (
        config_of(offering, build(offering, tmp_path, lines, buildkit=buildkit)) for lines in (alone, among)
    )
    assert first["Labels"] == second["Labels"]
    assert first["Labels"]["a"] == "x    y\x1c# b"
    assert first["Labels"]["f"] == "g\u2028LABEL h=i"
    assert (first["User"], second["User"]) == ("", "me")


@BOTH
def test_lines_are_read_up_to_the_length_that_is_allowed(offering: Dockerd, tmp_path: Path, buildkit: bool) -> None:
    line = "ENV LONG=" + "x" * (65_535 - len("ENV LONG="))
    made = build(offering, tmp_path, ["FROM base:1", line], buildkit=buildkit)
    assert config_of(offering, made)["Env"][-1] == line.removeprefix("ENV ")
    refused = run_build(offering, tmp_path, f"FROM base:1\n{line}x\n", buildkit=buildkit)
    assert "line greater than max" in refused.stderr
