"""What a Dockerfile of ours does, as the same facts as those of compose.py's."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from tests.compose.facts import Facts, add_copy, add_packages, add_pip, nothing

CUDA: Final = "https://developer.download.nvidia.com/compute/cuda/repos"
"""What ${CUDA_REPOS} is where the recipe names no other."""


def read_ours(text: str) -> Facts:
    """The facts of a Dockerfile of ours. What it does not know is an error, so nothing is missed."""
    stages = list(_stages(text))
    images = {name: image for image, name, _ in stages}
    image, _, last = stages[-1]
    facts = Facts(base=images[image], stages={name: one for one, name, _ in stages if name == "full"})
    for word, rest in _of("prepared", stages):
        # What is done in the side stage is in the image in the end, but for its variables.
        if word not in ("ENV", "LABEL"):
            _instruction(facts, word, rest)
    for word, rest in last:
        _instruction(facts, word, rest)
    return facts


def _of(name: str, stages: Sequence[tuple[str, str, list[tuple[str, str]]]]) -> list[tuple[str, str]]:
    return next((lines for _, stage, lines in stages if stage == name), [])


def _stages(text: str) -> Iterator[tuple[str, str, list[tuple[str, str]]]]:
    """Each stage: its image, its name, its instructions."""
    plain = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for stage in re.split(r"^FROM ", plain, flags=re.MULTILINE)[1:]:
        first, *lines = [line for line in re.sub(r" *\\\n *", " ", stage).splitlines() if line.strip()]
        image, _, name = first.partition(" AS ")
        yield image, name, [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def _instruction(facts: Facts, word: str, rest: str) -> None:
    if word in ("ENV", "LABEL"):
        _settings(facts, word, rest)
    elif word == "COPY":
        if "/tricompose/" not in rest:
            add_copy(facts, _copied(rest))
    elif word == "RUN":
        for command in [rest] if rest.startswith("[") else rest.split(" && "):
            _command(facts, command.strip())
    elif word == "ENTRYPOINT":
        facts.entrypoint = json.loads(rest)
    elif word not in ("USER", "SHELL", "WORKDIR"):
        raise AssertionError(f"what is this? {word} {rest}")


def _copied(rest: str) -> str:
    """The words of a COPY with its paths in the form without JSON."""
    options, bracket, paths = rest.partition("[")
    return f"{options}{' '.join(json.loads(bracket + paths))}" if bracket else rest


_PAIR: Final = re.compile(r'"?([\w.-]+)"?="((?:[^"\\]|\\.)*)"(?: |$)')


def _settings(facts: Facts, word: str, rest: str) -> None:
    """In one instruction `${NAME}` is what was before all of it, so that a name given twice would lose its first."""
    pairs = [(name, re.sub(r"\\(.)", r"\1", value)) for name, value in _PAIR.findall(rest)]
    assert _PAIR.sub("", rest) == "", rest
    assert len(dict(pairs)) == len(pairs), f"given twice: {rest}"
    if word == "ENV":
        facts.environment += [[name, value] for name, value in pairs]
    else:
        facts.labels |= dict(pairs)


def _command(facts: Facts, command: str) -> None:
    for pattern, act in _COMMANDS:
        if found := re.fullmatch(pattern, command):
            act(facts, *found.groups())
            return
    raise AssertionError(f"what is this? {command}")


def _removed(facts: Facts, name: str) -> None:
    facts.user.setdefault("removed", []).append(name)


def _added(facts: Facts, name: str) -> None:
    facts.user["added"] = name


def _ids(facts: Facts, ids: str) -> None:
    facts.user["ids"] = [f"{kind}={number}" for kind, number in zip("ug", ids.split(":"), strict=True)]


def _keyring(facts: Facts, folder: str, name: str) -> None:
    facts.dcgm |= {"repository": f"{CUDA}/{folder}", "keyring": name}


def _compat(facts: Facts) -> None:
    facts.cuda_compat = True


def _linker(facts: Facts, path: str) -> None:
    facts.linker.append(path)


def _empties(facts: Facts) -> None:
    facts.other.append("empties /opt/tritonserver")


def _owned(facts: Facts, folders: str) -> None:
    facts.owned += folders.split()


def _tool(facts: Facts, script: str) -> None:
    facts.other.append(script)


_COMMANDS: Final[Sequence[tuple[str, Callable[..., None]]]] = (
    (r"apt-get update|ldconfig|dpkg -i /tmp/keyring\.deb|rm /tmp/keyring\.deb", nothing),
    (r"DEBIAN_FRONTEND=noninteractive apt-get install (.*)", add_packages),
    (r"pip3 install (.*)", add_pip),
    (r"\{ userdel ([\w-]+) > /dev/null 2>&1 \|\| true; \}", _removed),
    (r"\{ id -u ([\w-]+) > /dev/null 2>&1 \|\| useradd \1; \}", _added),
    (r'\[ "\$\(id -u [\w-]+\):\$\(id -g [\w-]+\)" = ([\d:]+) \]', _ids),
    (r"curl -fsSL -o /tmp/keyring\.deb \$\{CUDA_REPOS\}/(\S+)/([^/]+)", _keyring),
    (r"ln -sf \$\{_CUDA_COMPAT_PATH:\?\}/lib\.real \$\{_CUDA_COMPAT_PATH\}/lib", _compat),
    (r"echo \S+ > (/etc/ld\.so\.conf\.d/\S+)", _linker),
    (r"rm -f \$\{_CUDA_COMPAT_PATH:\?\}/lib", nothing),
    (r"rm -rf /opt/tritonserver/\*", _empties),
    (r"install -d -o 1000 -g 1000 (.*)", _owned),
    (r"chmod a\+rX /tricompose /tricompose/\*", nothing),
    (r"cd /|xargs -0r rm -rf < \.removed|rm \.removed", nothing),
    (r'\["sh", "/tricompose/collect\.sh".*\]', nothing),
    (r'\["sh", "/tricompose/(purge|closure)\.sh".*\]|sh /tricompose/(?:closure)\.sh.*', _tool),
)
