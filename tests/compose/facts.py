"""What a Dockerfile does, as facts: which images, which settings, which packages, which files. Not how it says so."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final


@dataclass(slots=True, kw_only=True)
class Facts:
    """What a Dockerfile does to its last stage, and `stages`: the images of the others, by name."""

    base: str = ""
    stages: dict[str, str] = field(default_factory=dict)
    environment: list[list[str]] = field(default_factory=list)
    """Names and values in their order. `${NAME}` is what the variable was before."""
    labels: dict[str, str] = field(default_factory=dict)
    user: dict[str, Any] = field(default_factory=dict)
    """`added`, `removed`, and the `ids` that it must have."""
    apt: list[dict[str, Any]] = field(default_factory=list)
    """One for each `apt-get install`: `packages` and whether `recommends` come along."""
    pip: list[list[str]] = field(default_factory=list)
    dcgm: dict[str, Any] = field(default_factory=dict)
    core: list[list[str]] = field(default_factory=list)
    """What is copied from /opt/tritonserver but the parts: names, each with its owner if it is given one."""
    parts: list[list[str]] = field(default_factory=list)
    """`backends/python` and the like, likewise."""
    copied: list[list[str]] = field(default_factory=list)
    """Whatever else is copied: where from (a stage, or `context`), source, target."""
    owned: list[str] = field(default_factory=list)
    """Folders that are given to the user."""
    linker: list[str] = field(default_factory=list)
    """Files written under /etc/ld.so.conf.d."""
    cuda_compat: bool = False
    other: list[str] = field(default_factory=list)
    """Things that have a name in `_KNOWN`."""
    entrypoint: list[str] = field(default_factory=list)


def read(text: str) -> Facts:
    """The facts of a Dockerfile as compose.py writes them. What it does not know is an error, so nothing is missed."""
    facts, arguments = Facts(), dict[str, str]()
    for word, rest in _instructions(text):
        _INSTRUCTIONS[word](facts, arguments, rest)
    facts.stages.pop("", None)
    return facts


def _instructions(text: str) -> Iterator[tuple[str, str]]:
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    for line in re.sub(r"\\\n", " ", lines).splitlines():
        if line.strip():
            word, _, rest = " ".join(line.split()).partition(" ")
            yield word, rest


# -- instructions -------------------------------------------------------------------------------------------------


def _arg(facts: Facts, arguments: dict[str, str], rest: str) -> None:
    name, _, value = rest.partition("=")
    if value:
        arguments[name] = value


def _from(facts: Facts, arguments: dict[str, str], rest: str) -> None:
    image, name = ([*re.split(r" as ", rest, flags=re.IGNORECASE), ""])[:2]
    facts.stages[name] = image
    facts.base = image


def _env(facts: Facts, arguments: dict[str, str], rest: str) -> None:
    name, _, value = rest.partition(" ")
    pairs = [word.split("=", 1) for word in shlex.split(rest)] if "=" in name else [[name, *shlex.split(value)]]
    for name, value in pairs:
        plain = re.sub(r"\$\{?(\w+)\}?", lambda found: arguments.get(found[1], f"${{{found[1]}}}"), value)
        facts.environment.append([name, plain])


def _label(facts: Facts, arguments: dict[str, str], rest: str) -> None:
    name, _, value = rest.partition("=")
    plain = value.strip('"')
    if variable := re.fullmatch(r"\$\{(\w+)\}", plain):
        plain = dict(facts.environment)[variable[1]]
    facts.labels[name] = plain


_CORE: Final = "/opt/tritonserver/"


def _copy(facts: Facts, arguments: dict[str, str], rest: str) -> None:
    add_copy(facts, rest)


def add_copy(facts: Facts, rest: str) -> None:
    """What a COPY says, in its form without JSON."""
    words = rest.split()
    options = dict(word[2:].split("=", 1) for word in words if word.startswith("--"))
    source, target = [word for word in words if not word.startswith("--")]
    origin, owner = options.get("from", "context"), options.get("chown")
    owned = [owner] if owner else []
    if origin == "full" and source.startswith(_CORE):
        name = source.removeprefix(_CORE)
        (facts.parts if "/" in name else facts.core).append([name, *owned])
    else:
        facts.copied.append([origin, source, target, *owned])


def _entrypoint(facts: Facts, arguments: dict[str, str], rest: str) -> None:
    facts.entrypoint = json.loads(rest)


def _workdir(facts: Facts, arguments: dict[str, str], rest: str) -> None:
    assert rest == "/opt/tritonserver", rest


def _run(facts: Facts, arguments: dict[str, str], rest: str) -> None:
    for command in re.split(r"&&|;", rest):
        _command(facts, command.strip(" ()"))


_INSTRUCTIONS: Final[dict[str, Callable[[Facts, dict[str, str], str], None]]] = {
    "ARG": _arg,
    "FROM": _from,
    "ENV": _env,
    "LABEL": _label,
    "COPY": _copy,
    "ENTRYPOINT": _entrypoint,
    "WORKDIR": _workdir,
    "RUN": _run,
}


# -- commands -----------------------------------------------------------------------------------------------------


def _command(facts: Facts, command: str) -> None:
    for pattern, act in _COMMANDS:
        if found := re.fullmatch(pattern, command):
            act(facts, *found.groups())
            return
    raise AssertionError(f"what is this? {command}")


def nothing(facts: Facts, *ignored: str) -> None:
    """Housekeeping: package lists, temporary files, the linker's cache, folders that are copied into."""


def add_packages(facts: Facts, arguments: str) -> None:
    """The words of an `apt-get install`."""
    words = shlex.split(arguments)
    packages = sorted(word for word in words if not word.startswith("-"))
    recommends = "--no-install-recommends" not in words
    if packages == ["/tmp/cuda-keyring.deb"]:
        return
    if any(name.startswith("datacenter-gpu-manager") for name in packages):
        facts.dcgm |= {"packages": packages, "recommends": recommends}
    else:
        facts.apt.append({"packages": packages, "recommends": recommends})


def add_pip(facts: Facts, arguments: str) -> None:
    """The words of a `pip install`."""
    facts.pip.append([word for word in shlex.split(arguments) if not word.startswith("--")])


def _removed(facts: Facts, name: str) -> None:
    facts.user.setdefault("removed", []).append(name)


def _added(facts: Facts, name: str) -> None:
    facts.user["added"] = dict(facts.environment)[name]


def _ids(facts: Facts, kind: str) -> None:
    facts.user.setdefault("ids", []).append(f"{kind}=1000")


def _key(facts: Facts, repository: str, name: str) -> None:
    facts.dcgm |= {"repository": repository, "key": name}


def _keyring(facts: Facts, repository: str, name: str) -> None:
    facts.dcgm |= {"repository": repository, "keyring": name}


def _owned(facts: Facts, path: str) -> None:
    facts.owned.append(path)


def _compat(facts: Facts) -> None:
    facts.cuda_compat = True


def _linker(facts: Facts, path: str) -> None:
    facts.linker.append(path)


def _named(name: str) -> Callable[..., None]:
    def act(facts: Facts, *values: str) -> None:
        facts.other.append(" ".join([name, *values]))

    return act


_REPOSITORY: Final = r"(https://developer\.download\.nvidia\.com/compute/cuda/repos/ubuntu\d+/(?:x86_64|sbsa))"
_COMMANDS: Final[Sequence[tuple[str, Callable[..., None]]]] = (
    (r"(?:apt|apt-get) update(?: -qq)?", nothing),
    (r"(?:apt|apt-get) install (.*)", add_packages),
    (r"rm -rf /var/lib/apt/lists/\*|rm /tmp/cuda-keyring\.deb|ldconfig|mkdir -p .*|fi", nothing),
    (r"pip3 install (.*)", add_pip),
    (r"userdel ([\w-]+) > /dev/null 2>&1 \|\| true", _removed),
    (r"if ! id -u \$TRITON_SERVER_USER > /dev/null 2>&1", nothing),
    (r"then useradd \$(\w+)", _added),
    (r"\[ `id -(\w) \$TRITON_SERVER_USER` -eq 1000 \]", _ids),
    (r"apt-key adv --fetch-keys " + _REPOSITORY + r"/(\w+\.pub)", _key),
    (r'add-apt-repository "deb ' + _REPOSITORY + r'/ /"', nothing),
    (r"wget " + _REPOSITORY + r"/(cuda-ubuntu\d+\.pin)", nothing),
    (r"mv cuda-ubuntu\d+\.pin /etc/apt/preferences\.d/(cuda-repository-pin-600)", _named("pin")),
    (r"curl -o /tmp/cuda-keyring\.deb " + _REPOSITORY + r"/(cuda-keyring_[\d.-]+_all\.deb)", _keyring),
    (r"chown triton-server:triton-server (\S+)", _owned),
    (r"ln -sf \$\{_CUDA_COMPAT_PATH\}/lib\.real \$\{_CUDA_COMPAT_PATH\}/lib", _compat),
    (r"echo \$\{_CUDA_COMPAT_PATH\}/lib > (/etc/ld\.so\.conf\.d/00-cuda-compat\.conf)", _linker),
    (r"rm -f \$\{_CUDA_COMPAT_PATH\}/lib", nothing),
    (r"dpkg -L libnvshmem3-cuda-13 .*> (/etc/ld\.so\.conf\.d/\S+)", _linker),
    (r"rm -fr (/opt/tritonserver)/\*", _named("empties")),
    (r"wget -O /tmp/boost\.tar\.gz https://([\w.]+)/\S+/boost_([\d_]+)\.tar\.gz", _named("boost")),
    (
        r"cd /tmp|tar xzf boost\.tar\.gz|cd /tmp/boost_[\d_]+|\./bootstrap\.sh .*|\./b2 install|rm -rf /tmp/boost\*",
        nothing,
    ),
)
