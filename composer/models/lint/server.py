"""The server's flags: what it refuses of them, and what makes no sense with these models, or in an image.

Values and names of flags are judged by `composer.server`; here is what they mean together, and for the models.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path, PurePosixPath
from posixpath import normpath
from typing import Final, NamedTuple

from composer.models.lint.rule import (
    ERROR,
    INFO,
    WARNING,
    Case,
    Found,
    Repositories,
    Severity,
    at,
    on,
    rule,
    rule_of_all,
)
from composer.models.repository import Model
from composer.releases.flags import FlagValue, Scalar, flags
from composer.server import flag_faults, spelled, values_of

_PARSER: Final = "server: command_line_parser.cc"
_SEEN: Final = "seen on a real server"

ALL: Final = "*"
"""What load-model has for all models."""


# -- what flags say -------------------------------------------------------------------------------


def _release(case: Case) -> str | None:
    return case.release.name if case.release else None


def _flags(case: Case) -> Mapping[str, FlagValue]:
    """The flags by the names of the release."""
    return spelled(case.server, _release(case))


def _texts(case: Case, name: str) -> tuple[str, ...]:
    """What is said by a flag, once for each time that it is given."""
    given = _flags(case)
    return tuple(str(value) for value in values_of(name, given[name])) if name in given else ()


def _one(case: Case, name: str) -> Scalar | None:
    """What holds for a flag that is given once: the default where nothing is said. The last of several counts."""
    given = _flags(case)
    said = values_of(name, given[name]) if name in given else ()
    return said[-1] if said else flags()[name].default


def mode(case: Case) -> str:
    """Who loads models: `none`, `poll` or `explicit`."""
    return str(_one(case, "model-control-mode")).lower()


def strict(case: Case) -> bool:
    """Whether models must say everything in config.pbtxt: until 22.06 they must, unless the flags say otherwise."""
    given = _flags(case)
    if given.get("disable-auto-complete-config") is True:
        return True
    said = given.get("strict-model-config")
    return said is True if said is not None else case.before("22.07")


def loaded_at_start(case: Case, names: frozenset[str]) -> frozenset[str]:
    """Which of the models the server loads when it starts."""
    if mode(case) != "explicit":
        return names
    wanted = _texts(case, "load-model")
    return names if wanted == (ALL,) else names & frozenset(wanted)


def _at(
    every: Repositories,
    case: Case,
    flag: str,
    message: str,
    *,
    fix: str | None = None,
    severity: Severity | None = None,
    **says: object,
) -> Found:
    """Something found at a flag: where the recipe has it, or where nothing says so, at the first repository."""
    repository = every.all[0].path if every.all else Path()
    path, place = case.server_at.get(flag) or case.server_at.get("") or (repository, None)
    return Found(path=path, message=message, place=place, fix=fix, severity=severity, says=says)


def _brought(every: Repositories, case: Case) -> bool:
    """Whether models go into the image. An image without any is given them when it starts: nothing is known of them."""
    return case.baked and bool(every.all)


# -- flags ----------------------------------------------------------------------------------------


@rule_of_all(
    "SRV001",
    ERROR,
    says="Usage: tritonserver [options]",
    source=f"{_PARSER}, TritonParser::Parse; {_SEEN}",
    fix="tricompose releases RELEASE shows which flags came and went",
)
def no_such_flag(every: Repositories, case: Case) -> Iterator[Found]:
    """The server has no such flag, or would not take its value."""
    for fault in flag_faults(case.server, _release(case)):
        yield _at(every, case, fault.flag, fault.message, fix=fault.hint)


# -- which models are loaded ----------------------------------------------------------------------


@rule_of_all(
    "SRV002",
    ERROR,
    says="failed to poll model '{name}': model not found in any model repository.",
    source=f"core: model_repository_manager.cc; {_SEEN}",
    fix="name a model of the repository",
)
def loaded_model_is_missing(every: Repositories, case: Case) -> Iterator[Found]:
    """load-model names a model that is not there."""
    for name in dict.fromkeys(_texts(case, "load-model")):
        if every.all and mode(case) == "explicit" and name not in (ALL, *every.models):
            known = ", ".join(every.models) or "none"
            yield _at(
                every,
                case,
                "load-model",
                f"load-model: there is no model {name}",
                fix=f"the models are: {known}",
                name=name,
            )


@rule_of_all(
    "SRV009",
    ERROR,
    says="Error: Use of '--load-model' requires setting '--model-control-mode=explicit' as well.",
    source=f"{_PARSER}; before 24.06 the flag is passed over",
    fix="model-control-mode: explicit",
)
def load_without_explicit(every: Repositories, case: Case) -> Iterator[Found]:
    """load-model is given, and the server loads models by itself."""
    if _texts(case, "load-model") and mode(case) != "explicit":
        message = f"load-model means nothing with model-control-mode: {mode(case)}"
        yield _at(every, case, "load-model", message, severity=None if case.from_("24.06") else WARNING)


@rule_of_all(
    "SRV003",
    ERROR,
    says="Wildcard model name '*' must be the ONLY startup model if specified at all.",
    source="core: model_repository_manager.cc",
    fix='load-model: "*"',
    since="22.05",
)
def all_and_more(every: Repositories, case: Case) -> Iterator[Found]:
    """load-model names all models, and others besides."""
    named = frozenset(_texts(case, "load-model"))
    if ALL in named and len(named) > 1 and mode(case) == "explicit":
        yield _at(
            every, case, "load-model", f"load-model: '*' stands alone, not beside {', '.join(sorted(named - {ALL}))}"
        )


@rule_of_all(
    "SRV004",
    WARNING,
    source=f"{_SEEN}: it is ready, and serves nothing",
    fix='load-model: "*"',
)
def explicit_and_nothing(every: Repositories, case: Case) -> Iterator[Found]:
    """Clients are to load the models, and none is loaded at the start."""
    if every.all and mode(case) == "explicit" and not _texts(case, "load-model"):
        message = "model-control-mode: explicit loads no model until a client asks for it; the server is ready without"
        yield _at(every, case, "model-control-mode", message)


@rule_of_all(
    "SRV010",
    INFO,
    source="core: model_repository_manager.cc",
    fix='load-model: "*", or leave the models out of the image',
)
def never_loaded_at_start(every: Repositories, case: Case) -> Iterator[Found]:
    """A model is in the image, and is not loaded at the start."""
    names = frozenset(every.models)
    if _brought(every, case) and _texts(case, "load-model") and ALL not in _texts(case, "load-model"):
        # What an ensemble calls is loaded with it.
        members = {member for name in loaded_at_start(case, names) for member in every.models[name].members}
        for name in sorted(names - loaded_at_start(case, names) - members):
            yield on(every.models[name].folder, f"load-model does not name {name}: it waits for a client to load it")


@rule_of_all(
    "SRV005",
    WARNING,
    source=f"{_SEEN}: it is looked up from where the server is started",
    fix="model-repository: /models",
)
def repository_from_nowhere(every: Repositories, case: Case) -> Iterator[Found]:
    """The path of the repository is no absolute path, so where it is depends on who starts the server."""
    for name in ("model-repository", "model-store"):
        for path in _texts(case, name):
            if "://" in path and _brought(every, case):
                yield _at(
                    every, case, name, f"{name}: {path} is not in the image, where the models are", severity=WARNING
                )
            elif "://" not in path and not path.startswith("/"):
                message = f"{name}: {path} is looked up from the server's working folder"
                yield _at(
                    every,
                    case,
                    name,
                    message,
                    fix=f"{name}: {normpath(f'/{path}')}",
                    severity=ERROR if _brought(every, case) else None,
                )


@rule_of_all(
    "SRV008",
    WARNING,
    source="core: model_repository_manager.cc, PollAndUpdate",
    fix="remove model-control-mode: the models of an image do not change",
)
def polling_an_image(every: Repositories, case: Case) -> Iterator[Found]:
    """The server looks for changes of models that are in an image, where nothing changes."""
    if mode(case) == "poll" and _brought(every, case):
        every_so_often = _one(case, "repository-poll-secs")
        yield _at(
            every,
            case,
            "model-control-mode",
            f"every {every_so_often} s all models of the image are looked through for changes",
        )


@rule_of_all(
    "SRV011",
    WARNING,
    source=f"{_PARSER}: set to 0 in all other modes",
    fix="model-control-mode: poll",
)
def poll_seconds_without_polling(every: Repositories, case: Case) -> Iterator[Found]:
    """repository-poll-secs is given, and nothing is polled."""
    if "repository-poll-secs" in _flags(case) and mode(case) != "poll":
        yield _at(
            every,
            case,
            "repository-poll-secs",
            f"repository-poll-secs means nothing with model-control-mode: {mode(case)}",
        )


@rule_of_all(
    "SRV013",
    WARNING,
    source=f"{_SEEN}: it is ready although models are missing",
    fix="remove the flag, or let checks ask every model",
)
def failures_that_do_not_show(every: Repositories, case: Case) -> Iterator[Found]:
    """The server goes on, and says that it is ready, when a model did not load."""
    for name in ("exit-on-error", "strict-readiness"):
        if _one(case, name) is False:
            yield _at(every, case, name, f"with {name}: false the server is ready although models did not load")


# -- how it is reached ----------------------------------------------------------------------------


class _Listener(NamedTuple):
    name: str
    address: str
    port: Scalar | None


_ANY: Final = "0.0.0.0"  # noqa: S104 - what servers say for all addresses
_PROTOCOLS: Final = ("http", "grpc", "metrics", "sagemaker", "vertex-ai")


def _listeners(case: Case) -> Iterator[_Listener]:
    """What the server listens on. Metrics follow the address of HTTP; SageMaker and Vertex AI take any."""
    addresses = {
        "http": _one(case, "http-address"),
        "grpc": _one(case, "grpc-address"),
        "metrics": _one(case, "metrics-address") or _one(case, "http-address"),
    }
    for name in _PROTOCOLS:
        if _one(case, f"allow-{name}") is True:
            yield _Listener(name, str(addresses.get(name, _ANY)), _one(case, f"{name}-port"))


@rule_of_all(
    "SRV007",
    ERROR,
    says="The server cannot listen to {one} requests and {other} requests at the same address and port {socket}",
    source=f"{_PARSER}, CheckPortCollision; {_SEEN}",
    fix="give each a port of its own",
)
def two_at_one_port(every: Repositories, case: Case) -> Iterator[Found]:
    """Two protocols have the same port."""
    for one, other in combinations(_listeners(case), 2):
        if one.port == other.port and (one.address == other.address or _ANY in (one.address, other.address)):
            message = f"{one.name} and {other.name} both listen on port {one.port}"
            fix = f"{other.name}-port: {_free(case)}"
            socket = f"{other.address}:{other.port}"
            yield _at(
                every, case, f"{other.name}-port", message, fix=fix, one=one.name, other=other.name, socket=socket
            )


def _free(case: Case) -> int:
    """A port that nothing here listens on."""
    taken = {listener.port for listener in _listeners(case)}
    return next(port for port in range(8000, 8999) if port not in taken)


@rule_of_all(
    "SRV014",
    ERROR,
    says="The server cannot listen to {service} requests at port {port}, allowed port range is [{least}, {most}]",
    source=f"{_PARSER}, CheckPortCollision",
    fix="raise the range, or move the port",
    since="21.06",
)
def outside_of_the_safe_range(every: Repositories, case: Case) -> Iterator[Found]:
    """A port is outside of the range that SageMaker leaves to others."""
    span = _one(case, "sagemaker-safe-port-range")
    if _one(case, "allow-sagemaker") is not True or not isinstance(span, str) or not _is_range(span):
        return
    least, _, most = span.partition("-")
    for one in _listeners(case):
        inside = isinstance(one.port, int) and int(least) <= one.port <= int(most)
        if one.name != "sagemaker" and not inside:
            message = f"{one.name}-port {one.port} is outside of {span}"
            yield _at(every, case, f"{one.name}-port", message, service=one.name, port=one.port, least=least, most=most)


def _is_range(text: str) -> bool:
    least, _, most = text.partition("-")
    return least.isdecimal() and most.isdecimal()


@rule_of_all(
    "SRV012",
    WARNING,
    source=_PARSER,
    fix="allow-http: true",
)
def nobody_is_answered(every: Repositories, case: Case) -> Iterator[Found]:
    """No protocol is answered, so no model can be asked."""
    # Vertex AI sets its own at the start, by what its environment says.
    if not {one.name for one in _listeners(case)} - {"metrics"} and case.env.get("AIP_MODE") != "PREDICTION":
        yield _at(every, case, "allow-http", "neither HTTP nor gRPC is answered")


_TLS: Final = ("grpc-server-cert", "grpc-server-key", "grpc-root-cert")


@rule_of_all(
    "SRV006",
    ERROR,
    says="Invalid cert chain file.",
    source=f"server: grpc_server.cc; {_SEEN}: it then says that the socket is in use",
    fix="files: [{source: server.crt, target: /certs/server.crt}]",
    since="20.08",
)
def certificate_is_missing(every: Repositories, case: Case) -> Iterator[Found]:
    """gRPC is to use TLS, and its certificate or key is not there."""
    if not _uses_tls(case):
        return
    for name in _TLS:
        path = _one(case, name)
        if path is None:
            yield from _unnamed(every, case, name)
        elif case.files is not None and not any(PurePosixPath(str(path)).is_relative_to(one) for one in case.files):
            # A container may be given it when it starts, and should be: a key in an image is everybody's.
            message = f"{name}: the image has no {path}, unless it is mounted"
            yield _at(every, case, name, message, severity=WARNING)


def _unnamed(every: Repositories, case: Case, name: str) -> Iterator[Found]:
    """Without certificate and key the server ends; without a root it starts."""
    fix = f"{name}: /certs/{name.removeprefix('grpc-')}.pem"
    if name != "grpc-root-cert":
        yield _at(every, case, "grpc-use-ssl", f"gRPC over TLS needs {name}", fix=fix)
    elif _one(case, "grpc-use-ssl-mutual") is True:
        message = "grpc-use-ssl-mutual without grpc-root-cert: it is not said whose certificates clients must have"
        yield _at(every, case, "grpc-use-ssl-mutual", message, fix=fix, severity=WARNING)


def _uses_tls(case: Case) -> bool:
    """Whether gRPC uses TLS. grpc-use-ssl-mutual turns it on even when it is false; the last of both counts."""
    tls = False
    for name, value in _flags(case).items():
        tls = value is True if name == "grpc-use-ssl" else tls or name == "grpc-use-ssl-mutual"
    return tls and _one(case, "allow-grpc") is True


@rule_of_all(
    "SRV015",
    WARNING,
    source=_PARSER,
    fix="grpc-use-ssl: true",
    since="20.08",
)
def certificate_without_tls(every: Repositories, case: Case) -> Iterator[Found]:
    """There is a certificate for gRPC, and TLS is not on."""
    given = [name for name in _TLS if name in _flags(case)]
    if given and not _uses_tls(case):
        yield _at(every, case, given[0], f"{' and '.join(given)}: gRPC is answered without TLS all the same")


# -- backends and caches --------------------------------------------------------------------------


@rule_of_all(
    "SRV016",
    WARNING,
    source="core: backend_config.cc",
    fix="remove it, or add the backend",
    since="20.08",
)
def settings_of_no_backend(every: Repositories, case: Case) -> Iterator[Found]:
    """backend-config has settings of a backend that the image lacks."""
    if case.backends is None:
        return
    for name in _named(case, "backend-config"):
        if name not in case.backends:
            yield _at(every, case, "backend-config", f"backend-config: the image has no backend {name}")


def _named(case: Case, flag: str) -> tuple[str, ...]:
    """The names that settings of a flag stand under."""
    before = (text.partition("=")[0].rpartition(",") for text in _texts(case, flag))
    return tuple(dict.fromkeys(name for name, comma, _ in before if comma))


def _caches(case: Case) -> tuple[str, ...]:
    """The caches that the flags turn on. Before 23.03 the only one was part of the server."""
    return _named(case, "cache-config")


@rule(
    "CCH003",
    WARNING,
    source=f"core: backend_model.cc; {_SEEN}",
    fix="server: {cache-config: {local: {size: 67108864}}}",
    since="21.10",
)
def cache_is_off(model: Model, case: Case) -> Iterator[Found]:
    """The model wants its answers kept, and the server has no cache."""
    if model.config.response_cache.enable and not _caches(case) and not _one(case, "response-cache-byte-size"):
        yield at(model, "response_cache", message="no answers are kept: the server is not told which cache to use")


@rule_of_all(
    "CCH004",
    ERROR,
    says="error: creating server: Invalid argument - unable to find 'libtritoncache_{cache}.so' for cache.",
    source=f"core: cache_manager.cc; {_SEEN}",
    fix="caches: [local]",
    since="23.03",
)
def cache_is_missing(every: Repositories, case: Case) -> Iterator[Found]:
    """The flags name a cache that the image lacks."""
    for name in _caches(case) if case.caches is not None else ():
        if name not in (case.caches or ()):
            yield _at(
                every,
                case,
                "cache-config",
                f"cache-config: the image has no cache {name}",
                fix=f"caches: [{name}]",
                cache=name,
            )


@rule_of_all(
    "CCH005",
    INFO,
    source="core: backend_model.cc",
    fix="response_cache { enable: true }, in the config.pbtxt of the models whose answers are to be kept",
    since="21.10",
)
def cache_for_nobody(every: Repositories, case: Case) -> Iterator[Found]:
    """The server has a cache, and no model wants its answers kept."""
    wanted = any(model.config.response_cache.enable for model in every.models.values())
    if every.models and not wanted and (_caches(case) or _one(case, "response-cache-byte-size")):
        yield _at(every, case, "cache-config", "there is a cache, and no model's answers are kept in it")


# -- what models rely on --------------------------------------------------------------------------


@rule(
    "RL003",
    WARNING,
    source="core: rate_limiter.cc",
    fix="server: {rate-limit: execution_count}",
    since="21.09",
)
def rate_limiter_is_off(model: Model, case: Case) -> Iterator[Found]:
    """The model says what its instances need, and the server does not count it."""
    for number, group in enumerate(model.config.instance_group):
        if group.HasField("rate_limiter") and str(_one(case, "rate-limit")).lower() != "execution_count":
            key = ("instance_group", number, "rate_limiter")
            yield at(model, *key, message="rate_limiter means nothing while the server's rate-limit is off")


@rule(
    "CFG030",
    WARNING,
    source="core: model_repository_manager.cc, GetModelConfigFullPath",
    fix="add the file, or remove model-config-name",
    since="24.05",
    unreadable_too=True,
)
def no_config_of_that_name(model: Model, case: Case) -> Iterator[Found]:
    """model-config-name names a configuration that the model does not have: it gets the usual one."""
    for name in _texts(case, "model-config-name"):
        if f"configs/{name}.pbtxt" not in model.by_path:
            yield on(model.folder, f"there is no configs/{name}.pbtxt: config.pbtxt is taken in its place")


@rule(
    "CFG035",
    ERROR,
    says="failed to open text file for read {path}: No such file or directory",
    source=f"core: model_config_utils.cc, GetNormalizedModelConfig; {_SEEN}",
    fix="write a config.pbtxt, or remove disable-auto-complete-config",
)
def no_config_and_none_is_made(model: Model, case: Case) -> Iterator[Found]:
    """There is no config.pbtxt, and the server may not read it off the model's files."""
    names = _texts(case, "model-config-name")
    other = any(f"configs/{name}.pbtxt" in model.by_path for name in names)
    if strict(case) and not model.configured and not other:
        path = model.configuration.path
        yield on(model.folder, "there is no config.pbtxt, and the server may not write one itself", path=path)
