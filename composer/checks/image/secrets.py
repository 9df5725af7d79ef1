"""What nobody should be able to read out of an image: keys, tokens, passwords. Found, told where, and never shown.

An alarm that is false once is not read the second time, so only what is well known by its form counts, and passwords
only where they are kept: in files made for them, variables and build arguments.

Source of the forms: what their issuers publish for scanners, and GitHub's list of patterns for secret scanning.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

MOST: Final = 256 << 10
"""Bytes of the largest file that is searched: what people keep secrets in is small."""

RULES: Final = "3"
"""To be raised with every change here: what was found by other rules is then looked for again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """A secret: in which file of a layer, in which line of it (from 1), and what it is."""

    path: str
    line: int
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Form:
    """What a kind of secret looks like. One of `marks` stands in each: text without is not searched further."""

    what: str
    marks: tuple[bytes, ...]
    pattern: re.Pattern[bytes]


def _form(what: str, marks: bytes, pattern: bytes) -> _Form:
    return _Form(what=what, marks=tuple(marks.split(b"|")), pattern=re.compile(pattern))


_FORMS: Final = (
    _form(
        "a private key",
        b"PRIVATE KEY",
        # With its content behind it: programs that read keys name the line alone. Possessive, so that lines between
        # that can be read in two ways are not tried in all of them.
        rb"-----BEGIN (?:(?:RSA|DSA|EC|OPENSSH|ENCRYPTED|PGP|SSH2 ENCRYPTED) )?PRIVATE KEY(?: BLOCK)?-----"
        rb"(?:[A-Za-z-]+: [^\n]*\n|\\?r?\\?n|\s)++[A-Za-z0-9+/=]{40}",
    ),
    _form("a PuTTY private key", b"PuTTY-User-Key-File", rb"^PuTTY-User-Key-File-\d+: "),
    _form("an access key of AWS", b"AKIA|ASIA", rb"\bA[KS]IA[A-Z2-7]{16}\b(?<!EXAMPLE)"),
    _form(
        "a secret key of AWS",
        b"aws_secret_access_key",
        rb"aws_secret_access_key\"?\s*[=:]\s*\"?[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+])(?<!EXAMPLEKEY)",
    ),
    _form("a token of GitHub", b"ghp_|gho_|ghu_|ghs_|ghr_", rb"\bgh[pousr]_[A-Za-z0-9]{36}\b"),
    _form("a token of GitHub", b"github_pat_", rb"\bgithub_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}\b"),
    _form("a token of GitLab", b"glpat-", rb"\bglpat-[A-Za-z0-9_-]{20}"),
    _form("a token of Slack", b"xoxa|xoxb|xoxp|xoxr|xoxs", rb"\bxox[abprs]-[0-9]{8,}-[0-9A-Za-z-]{20,}"),
    _form("a key of Stripe", b"k_live_", rb"\b[sr]k_live_[0-9A-Za-z]{24,}\b"),
    _form("a token of Hugging Face", b"hf_", rb"\bhf_[A-Za-z]{34}\b"),
    _form("a token of npm", b"npm_", rb"\bnpm_[A-Za-z0-9]{36}\b"),
    _form("a token of PyPI", b"pypi-AgE", rb"\bpypi-AgE[A-Za-z0-9_-]{50,}"),
    _form("an API key of NVIDIA", b"nvapi-", rb"\bnvapi-[A-Za-z0-9_-]{60,}"),
    _form("a key of OpenAI", b"T3BlbkFJ", rb"\bsk-[A-Za-z0-9_-]*T3BlbkFJ[A-Za-z0-9_-]{16,}"),
    _form("a key of Anthropic", b"sk-ant-", rb"\bsk-ant-[A-Za-z0-9]+-[A-Za-z0-9_-]{60,}"),
    _form("a key of Azure Storage", b"AccountKey=", rb"AccountKey=[A-Za-z0-9+/]{86}=="),
)

_IN_TEXT: Final = (
    # Programs for everyone have these in their sources, where they are no secrets.
    _form("an API key of Google", b"AIza", rb"\bAIza[0-9A-Za-z_-]{35}(?![0-9A-Za-z_-])"),
)

_URL: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]{0,30}://[^\s/:@\"']*:([^\s/@\"']+)@[A-Za-z0-9\[]")
_BEARER: Final = re.compile(rb"[Aa]uthorization:\s*(?:[Bb]earer|[Bb]asic|[Tt]oken)\s+([A-Za-z0-9._~+/=-]{16,})")
_PASSWORD_LINE: Final = re.compile(rb"^[ \t]*password[ \t]*[=:][ \t]*(\S+)", re.IGNORECASE | re.MULTILINE)
_NETRC: Final = re.compile(rb"\bpassword[ \t\r\n]+(\S+)")
_NPM: Final = re.compile(rb"^.*?(?:_authToken|_auth|_password)[ \t]*=[ \t]*(\S+)", re.MULTILINE)
_PGPASS: Final = re.compile(rb"^(?!#)[^:\n]*:[^:\n]*:[^:\n]*:[^:\n]*:(\S+)", re.MULTILINE)
_KUBE: Final = re.compile(rb"^[ \t]*(?:token|client-key-data|password):\s*(\S+)", re.MULTILINE)
_ASSIGNED: Final = re.compile(rb"^[ \t]*(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)=[\"']?([^\s\"']+)", re.MULTILINE)

_PLACEHOLDER: Final = re.compile(
    rb"[$%{<\[(]|\*{3}|x{3,}$|\.{3}|(?:my|your|some|the|a|test|user)?[-_]?(?:pass(?:word|wd|phrase)?|pwd|secret|token|key)s?$"
    rb"|changeme|example|redacted|none$|null$|true$|false$|\d{1,5}$",
    re.IGNORECASE,
)
"""What stands where a secret would stand, in documents and templates."""

_SECRETIVE: Final = frozenset(("PASSWORD", "PASSWD", "SECRET", "TOKEN", "APIKEY", "CREDENTIAL", "CREDENTIALS"))
_SECRETIVE_PAIRS: Final = (("API", "KEY"), ("ACCESS", "KEY"), ("PRIVATE", "KEY"), ("AUTH", "KEY"), ("ACCOUNT", "KEY"))
_ABOUT: Final = frozenset(
    ("FILE", "PATH", "DIR", "URL", "URI", "NAME", "ID", "TTL", "LENGTH", "LIMIT", "TYPE", "COUNT")
)
"""Last words of names that tell of a secret and do not hold it."""

_NEVER: Final = re.compile(
    r"^usr/share/(?:doc|man|info|locale|i18n|perl|zoneinfo|mime|terminfo)/"
    # What is installed brings keys to test itself with, that the whole world has.
    r"|^(?:(?:usr|opt)|(?:.*/)?lib/python[23][.0-9]*)/(?:.*/)?"
    r"(?:tests?|testing|testdata|test_data|examples?|docs?|dummyserver)/"
    # Made anew by Debian's package on every machine, and nobody trusts it.
    r"|^etc/ssl/private/ssl-cert-snakeoil\.key$"
)


def worth_reading(path: str, size: int) -> bool:
    """Whether a file of a layer may hold secrets, by its path and its size in bytes."""
    return 0 < size <= MOST and not _NEVER.search(path)


def leaks(path: str, data: bytes) -> Iterator[Leak]:
    """The secrets in a file of a layer, each kind once: where it comes first."""
    if b"\0" in data[:4096]:
        return
    told: set[str] = set()
    for at, what in sorted([*_by_form(data), *_by_place(path, data)]):
        if what not in told:
            told.add(what)
            yield Leak(path=path, line=1 + data.count(b"\n", 0, at), what=what)


def told_by_text(text: str) -> Iterator[str]:
    """The kinds of secrets in a label, a command or a line of history."""
    data = text.encode("utf-8", "replace")
    found = dict.fromkeys(what for _, what in _by_form(data, (*_FORMS, *_IN_TEXT)))
    found |= dict.fromkeys(what for _, what in (*_urls(data), *_matches(_BEARER, data, "a login")))
    yield from found


def told_by_name(name: str, value: str) -> str | None:
    """What a variable holds, if it is a secret: by its name, unless that only tells of one."""
    words = [word for word in re.split(r"[^A-Z]+", name.upper()) if word]
    if not words or words[-1] in _ABOUT or value.startswith("/"):
        return None
    paired = any(pair in pairwise(words) for pair in _SECRETIVE_PAIRS)
    if not (paired or _SECRETIVE & {*words}):
        return None
    return None if _empty(value.encode("utf-8", "replace")) else "a secret by its name"


def assignments(text: str) -> Mapping[str, str]:
    """The `NAME=value` words of a command, as builders write build arguments into the history."""
    return dict(re.findall(r"(?:^|[\s|])([A-Za-z_][A-Za-z0-9_]*)=([^\s\"';&|]+)", text))


def _by_form(data: bytes, forms: Iterable[_Form] = _FORMS) -> Iterator[tuple[int, str]]:
    for form in forms:
        if any(mark in data for mark in form.marks):
            yield from ((found.start(), form.what) for found in form.pattern.finditer(data))


def _by_place(path: str, data: bytes) -> Iterator[tuple[int, str]]:
    """What a file holds that is made for secrets."""
    for suffix, search in _PLACES.items():
        if f"/{path}".endswith(suffix):
            yield from search(data)
    name = path.rpartition("/")[2]
    if name == ".env" or name.endswith(".env"):
        yield from _variables(data)
    if f"/{path}".startswith("/etc/apt/"):
        yield from _urls(data)


def _variables(data: bytes) -> Iterator[tuple[int, str]]:
    for found in _ASSIGNED.finditer(data):
        if told_by_name(found[1].decode(), found[2].decode("utf-8", "replace")):
            yield found.start(), "a secret in a file of variables"


def _urls(data: bytes) -> Iterator[tuple[int, str]]:
    yield from _matches(_URL, data, "an address with a password")


def _matches(pattern: re.Pattern[bytes], data: bytes, what: str) -> Iterator[tuple[int, str]]:
    yield from ((found.start(1), what) for found in pattern.finditer(data) if not _empty(found[1]))


def _empty(value: bytes) -> bool:
    return not value or _PLACEHOLDER.match(value) is not None


def _docker(data: bytes) -> Iterator[tuple[int, str]]:
    """Docker's config.json: a login is there if `auth` is, which is its name and password in base64."""
    try:
        auths = json.loads(data).get("auths") or {}
        logins = [one.get("auth") or one.get("identitytoken") for one in auths.values()]
        held = any(login and (len(login) > 64 or b":" in base64.b64decode(login)) for login in logins)
    except (ValueError, AttributeError, TypeError, RecursionError, binascii.Error):
        return
    if held:
        yield max(data.find(b'"auth"'), 0), "a login to a registry"


def _lines(pattern: re.Pattern[bytes], what: str) -> Callable[[bytes], Iterable[tuple[int, str]]]:
    return lambda data: _matches(pattern, data, what)


_Search = Callable[[bytes], Iterable[tuple[int, str]]]

_PLACES: Final[Mapping[str, _Search]] = {
    "/.netrc": _lines(_NETRC, "a password"),
    "/_netrc": _lines(_NETRC, "a password"),
    "/etc/apt/auth.conf": _lines(_NETRC, "a password"),
    "/.docker/config.json": _docker,
    "/.dockerconfigjson": _docker,
    "/containers/auth.json": _docker,
    "/.pypirc": _lines(_PASSWORD_LINE, "a password"),
    "/.npmrc": _lines(_NPM, "a token of a package registry"),
    "/.pgpass": _lines(_PGPASS, "a password"),
    "/.kube/config": _lines(_KUBE, "a login to Kubernetes"),
    "/.git-credentials": _urls,
    "/.gitconfig": _urls,
    "/.git/config": _urls,
    "/pip.conf": _urls,
    "/.condarc": _urls,
    "/uv.toml": _urls,
    "/.vault-token": lambda data: [(0, "a token of Vault")] if data.strip() else [],
    "/.huggingface/token": lambda data: [(0, "a token of Hugging Face")] if data.strip() else [],
    "/.ngc/config": _lines(re.compile(rb"^[ \t]*apikey\s*=\s*(\S+)", re.MULTILINE), "an API key of NVIDIA"),
}
"""Files that are made for secrets, by the end of their path, and what is looked for in them."""
