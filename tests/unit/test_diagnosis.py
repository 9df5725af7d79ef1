"""What was seen of servers and engines, and what it must be told as.

The text is in diagnosis/CLASS/*.txt: facts as TOML, `---`, then the log. `expect` are the classes that it must be told
as, the cause first; `source` says whether it was recorded here (tests/judge/failures.py, tests/judge/engines.py), is
known from elsewhere, or made from what is no text; all else are fields of `Seen`. diagnosis/healthy are logs of servers
that were well, diagnosis/others those of other programs.

`python -m tests.unit.test_diagnosis` writes the table of docs/diagnosis.md anew.
"""

from __future__ import annotations

import itertools
import json
import random
import re
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from composer.diagnosis import (
    TAIL,
    UNCLASSIFIED,
    Diagnosis,
    Refusal,
    Seen,
    classes,
    diagnose,
    failures,
    harmless,
    loading,
    of_engine,
    records,
)
from composer.recipe import parse_recipe

TEXTS: Final = Path(__file__).parent / "diagnosis"
PAGE: Final = Path(__file__).parents[2] / "docs/diagnosis.md"
NOISE: Final = "cpu-noise"
HEALTHY, OTHERS = "healthy", "others"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One recorded failure."""

    name: str
    expect: tuple[str, ...]
    source: str
    seen: Seen

    @property
    def kind(self) -> str:
        return self.name.partition("/")[0]


def _read(path: Path) -> Case:
    head, _, log = path.read_text().partition("---\n")
    facts: dict[str, Any] = tomllib.loads(head)
    expect, source = tuple(facts.pop("expect")), facts.pop("source")
    refusals = tuple(Refusal(**one) for one in facts.pop("refusals", ()))
    name = str(path.relative_to(TEXTS).with_suffix(""))
    return Case(name=name, expect=expect, source=source, seen=Seen(log=log, refusals=refusals, **facts))


@cache
def cases() -> tuple[Case, ...]:
    paths = sorted(path for path in TEXTS.glob("*/*.txt") if path.parent.name not in (HEALTHY, OTHERS))
    return tuple(_read(path) for path in paths)


@cache
def healthy() -> tuple[Case, ...]:
    return tuple(_read(path) for path in sorted((TEXTS / HEALTHY).glob("*.txt")))


def _ids(found: Sequence[Diagnosis]) -> list[str]:
    return list(dict.fromkeys(one.id for one in found))


# -- each class ---------------------------------------------------------------------------------------------------


def test_all_failure_classes_are_there() -> None:
    assert {kind.number for kind in classes().values()} == set(range(70))


def test_every_class_has_text() -> None:
    assert {case.kind for case in cases()} == classes().keys() - {UNCLASSIFIED, NOISE}


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_what_was_seen_is_told_as_its_class(case: Case) -> None:
    found = diagnose(case.seen)
    assert _ids(found)[: len(case.expect)] == list(case.expect)
    for one in found:
        assert all((one.title, one.why, one.fix))
        assert not re.search(r"\{\w+\}|\bNAME, |  \(|: $|: ;|^of ", one.title + one.why), one
        assert not re.search(r"(?<!\$)\{(?!\w+:|gpus|\})\w+\}", one.fix), one


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_the_lines_that_tell_are_shown(case: Case) -> None:
    first = diagnose(case.seen)[0]
    said = "\n".join((case.seen.log, case.seen.engine_error, *(one.message for one in case.seen.refusals)))
    if (
        case.source.startswith("recorded")
        and first.lines
        and not first.lines[0].startswith(("exit status", "the engine says"))
    ):
        shown = [line.partition(": ")[2] or line for line in first.lines]
        assert any(line in said or line.partition(" ")[2] in said for line in (*first.lines, *shown))


_KEYS: Final = "backends|caches|files|packages|platforms|repoagents|run|server|validate"


def _snippets(fix: str) -> Iterator[str]:
    """Parts of a recipe in a sentence: a key of its, and all up to where the brackets are closed."""
    for found in re.finditer(rf"(?<![\w./-])(?:{_KEYS}): (?=[\[{{])", fix):
        depth = 0
        for at in range(found.end(), len(fix)):
            depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(fix[at], 0)
            if depth == 0:
                yield fix[found.start() : at + 1]
                break


def test_what_is_to_be_pasted_into_a_recipe_is_one(tmp_path: Path) -> None:
    tried = {
        snippet.replace("PACKAGE", "package")
        for case in cases()
        for one in diagnose(case.seen)
        for snippet in _snippets(one.fix)
    }
    for name in ("FILE", "libPLUGIN.so"):
        (tmp_path / name).touch()
    for snippet in tried:
        rest = "" if snippet.startswith("backends") else "backends: [python]\n"
        parse_recipe(f'triton: "24.10"\n{rest}{snippet}\n', path=tmp_path / "recipe.yaml", environ={})
    assert len(tried) > 20


def test_of_servers_that_wrote_what_is_recorded_many_releases_are_there() -> None:
    assert len({case.seen.release for case in healthy()}) >= 10


# -- among other lines --------------------------------------------------------------------------------------------


def _lines_of_the_well() -> list[str]:
    """Lines of healthy servers whose models have other names, so that they say nothing of the model that failed."""
    text = "\n".join(case.seen.log for case in healthy())
    return [re.sub(r"'m'|\bm:1\b|\bm_0\b", "'fine'", line) for line in text.splitlines() if line.strip()]


_OF_GPUS: Final = re.compile(r"CudaDriverHelper|CUDA driver version|CUDA memory pool|NVML|DCGM|pinned")


def _mixed(seen: Seen, draw: random.Random) -> str:
    """The log's lines in their order, among 200 of healthy servers, which have a GPU where one is wanted."""
    lines = seen.log.splitlines()
    well = [line for line in _lines_of_the_well() if not (seen.gpu_wanted and _OF_GPUS.search(line))]
    others = draw.sample(well, 200)
    places = sorted(draw.sample(range(200 + len(lines)), len(lines)))
    mixed = iter(others)
    own = dict(zip(places, lines, strict=True))
    return "\n".join(own[at] if at in own else next(mixed) for at in range(200 + len(lines)))


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_it_is_told_among_200_lines_of_healthy_servers(case: Case) -> None:
    mixed = replace(case.seen, log=_mixed(case.seen, random.Random(case.name)))
    assert _ids(diagnose(mixed)) == _ids(diagnose(case.seen))


@cache
def _one_of_each() -> tuple[Case, ...]:
    """The shortest text of each class."""
    found: dict[str, Case] = {}
    for case in sorted(cases(), key=lambda case: len(case.seen.log)):
        if case.expect == (case.kind,):
            found.setdefault(case.kind, case)
    return tuple(found.values())


def _with_gpu(log: str) -> str:
    return "".join(line for line in log.splitlines(keepends=True) if not _OF_GPUS.search(line))


def _both(one: Seen, other: Seen) -> Seen | None:
    """Both at once, of two models; None where that cannot be: a server ends in one way, and has a GPU or none."""
    codes = {code for code in (one.exit_code, other.exit_code) if code not in (None, 1)}
    if len(codes) > 1 or one.oom_killed != other.oom_killed or one.stopped != other.stopped:
        return None
    if any(
        on.on_cpu and (off.gpus == 0 or "NVIDIA_VISIBLE_DEVICES" in off.env) for on, off in ((one, other), (other, one))
    ):
        return None
    wanted = one.gpu_wanted or other.gpu_wanted
    logs = [seen.log if seen.gpu_wanted or not wanted else _with_gpu(seen.log) for seen in (one, other)]
    logs[1] = re.sub(r"'m'|/m/|\bm:1\b", lambda found: found[0].replace("m", "n"), logs[1])
    merged: dict[str, Any] = {"log": "".join(logs)}
    merged["refusals"] = (*one.refusals, *(replace(refusal, model="n") for refusal in other.refusals))
    for name in ("unanswered", "empty", "on_cpu", "leftovers"):
        merged[name] = (*getattr(one, name), *getattr(other, name))
    for name in ("engine_error", "release", "numpy"):
        merged[name] = " ".join(dict.fromkeys(filter(None, (getattr(one, name), getattr(other, name)))))
    merged["release"] = one.release or other.release
    merged["env"] = {**one.env, **other.env}
    merged["gpus"] = other.gpus if one.gpus is None else one.gpus
    merged["mig"] = one.mig or other.mig
    for name in ("hung", "ready", "gpu_wanted"):
        merged[name] = getattr(one, name) or getattr(other, name)
    return Seen(exit_code=codes.pop() if codes else None, oom_killed=one.oom_killed, stopped=one.stopped, **merged)


def test_of_two_failures_both_are_told_the_one_that_explains_more_first() -> None:
    pairs = list(itertools.permutations(_one_of_each(), 2))
    tried = 0
    for one, other in random.Random(5).sample(pairs, 800):
        both = _both(one.seen, other.seen)
        kinds = [classes()[case.kind] for case in (one, other)]
        if both is None or any(kind.id in next_.follows for kind, next_ in itertools.permutations(kinds)):
            continue
        found = _ids(diagnose(both))
        alone = {*_ids(diagnose(one.seen)), *_ids(diagnose(other.seen))}
        assert {one.kind, other.kind} <= set(found), (one.name, other.name)
        ranked = [name for name in found if name != "ensemble-member"]  # which comes after its member, if that is told
        assert ranked == sorted(ranked, key=lambda name: classes()[name].rank)
        assert set(found) <= alone, (one.name, other.name)
        tried += 1
    assert tried > 500


# -- what is no failure that is known -----------------------------------------------------------------------------


@pytest.mark.parametrize("case", healthy(), ids=lambda case: case.name)
def test_the_log_of_a_healthy_server_fits_no_class(case: Case) -> None:
    assert _ids(diagnose(case.seen)) == [UNCLASSIFIED]


def test_lines_of_healthy_servers_in_any_order_fit_no_class() -> None:
    lines, draw = _lines_of_the_well(), random.Random(3)
    for _ in range(30):
        shuffled = draw.sample(lines, 300)
        found = diagnose(Seen(log="\n".join(shuffled), exit_code=draw.choice((None, 0, 1))))
        assert _ids(found) == [UNCLASSIFIED]
        assert list(found[0].lines) == shuffled[-TAIL:]


@pytest.mark.parametrize("path", sorted((TEXTS / OTHERS).glob("*.txt")), ids=lambda path: path.stem)
def test_the_logs_of_other_programs_fit_no_class(path: Path) -> None:
    found = diagnose(Seen(log=path.read_text(), exit_code=1))
    assert _ids(found) == [UNCLASSIFIED]


@settings(max_examples=200, deadline=None)
@given(
    log=st.text(max_size=2000),
    exit_code=st.sampled_from((None, 0, 1, 2)),
    engine_error=st.text(max_size=200),
    hung=st.booleans(),
)
def test_random_text_fits_no_class(log: str, exit_code: int | None, engine_error: str, hung: bool) -> None:
    found = diagnose(Seen(log=log, exit_code=exit_code, engine_error=engine_error, hung=hung))
    assert _ids(found) == [UNCLASSIFIED]


@pytest.mark.parametrize(
    "words",
    [
        "dial unix /var/run/docker.sock: connect: permission denied",
        "error while mounting volume '/data': stat /data: no such file or directory",
        "open /var/lib/docker/tmp/1: permission denied",
        "Get https://nvcr.io/v2/: net/http: TLS handshake timeout",
        "invalid mount config for type bind: bind source path does not exist: /data",
        "Conflict. The container name /x is already in use by container 12",
        "network x not found",
    ],
)
def test_what_engines_say_of_other_things_fits_no_class(words: str) -> None:
    assert of_engine(words) is None
    assert _ids(diagnose(Seen(engine_error=words))) == [UNCLASSIFIED]


@pytest.mark.parametrize(
    "message",
    [
        "[request id: 1] unexpected inference input 'Z' for model 'm'",
        "[request id: 1] inference input 'X' data-type is 'INT32', but model 'm' expects 'FP32'",
        "Request for unknown model: 'q' is not found",
        "[request id: 1] expected 2 inputs but got 1 inputs for model 'm'",
        "Failed to process the request(s) for model 'm_0', message: ValueError: no",
    ],
)
def test_other_refusals_fit_no_class(message: str) -> None:
    seen = Seen(refusals=[Refusal(model="m", code=400, message=message)], ready=True)
    assert _ids(diagnose(seen)) == [UNCLASSIFIED]


@pytest.mark.parametrize(
    "line",
    [
        "W1121 17:26:51.1 1 memory.cc:1] Failed to allocate CUDA memory with byte size 78 on GPU 0: "
        "CNMEM_STATUS_OUT_OF_MEMORY, falling back to pinned system memory",
        "W1121 17:26:51.1 1 model_lifecycle.cc:1] ignore version directory 'v1' which fails to convert",
        "I1121 17:26:51.1 1 my.cc:1] ModuleNotFoundError: No module named 'x': going on without it",
        "INFO ImportError in plugin, skipped: libfoo.so.1: cannot open shared object file",
        "inside: /etc/resolv.conf: No such file or directory",
        "E1121 17:26:51.1 1 model_lifecycle.cc:1] failed to unload 'm': it is in use",
    ],
)
def test_lines_that_are_no_cause_fit_no_class(line: str) -> None:
    assert _ids(diagnose(Seen(log=line, exit_code=1))) == [UNCLASSIFIED]


WORDS: Final = sorted({word for case in cases() for word in re.findall(r"[A-Za-z_]{3,}", case.seen.log)})


@settings(max_examples=200, deadline=None)
@given(words=st.lists(st.sampled_from(WORDS), max_size=200))
def test_the_words_of_failures_in_any_order_fit_no_class(words: list[str]) -> None:
    lines = [" ".join(words[at : at + 8]) for at in range(0, len(words), 8)]
    assert _ids(diagnose(Seen(log="\n".join(lines), exit_code=1))) == [UNCLASSIFIED]


def test_the_last_lines_are_shown_where_nothing_is_known() -> None:
    found = diagnose(Seen(log="".join(f"line {number}\n" for number in range(100)), exit_code=3))
    assert found[0].lines == tuple(f"line {number}" for number in range(70, 100))


def test_what_an_engine_says_is_shown_where_nothing_is_known() -> None:
    assert diagnose(Seen(engine_error="the moon is full"))[0].lines == ("the moon is full",)


def test_a_long_log_takes_no_long_time() -> None:
    log = "\n".join(f"step {number}: loss {number / 7}, it goes on" for number in range(50_000))
    began = time.perf_counter()
    diagnose(Seen(log=log + "\nSignal (11) received.\n", exit_code=139))
    assert time.perf_counter() - began < 5


# -- GPUs ---------------------------------------------------------------------------------------------------------


def test_that_there_is_no_gpu_is_told_only_where_one_was_to_be_had() -> None:
    log = next(case.seen.log for case in healthy() if case.name.endswith("healthy-24.10"))
    assert _ids(diagnose(Seen(log=log, gpu_wanted=True)))[0] == "gpu-none"
    assert _ids(diagnose(Seen(log=log))) == [UNCLASSIFIED]


@pytest.mark.parametrize("case", healthy(), ids=lambda case: case.name)
def test_errors_of_a_healthy_server_without_a_gpu_are_harmless(case: Case) -> None:
    bad = [line for line in records(case.seen.log) if line.level in ("E", "W")]
    assert all(harmless(line, gpu_wanted=False) for line in bad if line.level == "E")
    assert not any(harmless(line, gpu_wanted=True) for line in bad)
    assert bad


@pytest.mark.parametrize("word", ["tritonserver", "a", "Stub process '", "failed to load '", "/a/1/"])
def test_a_line_of_any_length_is_looked_through_at_once(word: str) -> None:
    begun = time.process_time()
    diagnose(Seen(log=f"{word * (100_000 // len(word))}\n" * 20, exit_code=1))
    assert time.process_time() - begun < 5


def test_a_failure_is_not_harmless_on_any_machine() -> None:
    for case in cases():
        if case.seen.gpu_wanted or not case.source.startswith("recorded: tritonserver"):
            continue
        failed = [line for line in records(case.seen.log) if line.level == "E" and "failed to load" in line.message]
        assert not any(harmless(line, gpu_wanted=False) for line in failed)


# -- what the judge of models saw ---------------------------------------------------------------------------------

JUDGED: Final = Path(__file__).parents[1] / "judge"


def _judged(release: str) -> Iterator[tuple[str, Seen]]:
    """Repositories that a real server refused, and what it said: without times and most of what is no error."""
    for kind in ("", "-mutations"):
        for name, verdict in json.loads((JUDGED / f"verdicts-{release}{kind}.json").read_text()).items():
            if verdict["outcome"] == "refused":
                log = "\n".join(_as_logged(words) for words in verdict["words"])
                yield name, Seen(log=log, release=release, exit_code=1)


def _as_logged(words: str) -> str:
    found = re.fullmatch(r"([EWI]) (\S+\.cc) (.*)", words, re.DOTALL)
    return f"{found[1]}1121 00:00:00.0 1 {found[2]}:1] {found[3]}" if found else words


@pytest.mark.parametrize("release", ["24.10", "23.07"])
def test_of_what_the_judge_saw_refused_each_model_is_told(release: str) -> None:
    judged = list(_judged(release))
    assert len(judged) > 900
    for name, seen in judged[::5]:
        found = diagnose(seen)
        failed = failures(seen.log)
        assert failed.keys() <= {one.model for one in found}, name
        assert failed or found[0].id in (UNCLASSIFIED, "models-failed", "cache-absent"), name


# -- parts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ('could not select device driver "" with capabilities: [[gpu]]', "gpu-driver-not-selectable"),
        ('could not select device driver "cdi" with capabilities: []', "gpu-cdi-off"),
        ("Bind for 0.0.0.0:8000 failed: port is already allocated", "port-taken"),
        ("the moon is full", None),
        ("", None),
    ],
)
def test_what_engines_say(words: str, expected: str | None) -> None:
    found = of_engine(words)
    assert (found.id if found else None) == expected


@pytest.mark.parametrize(
    ("raw", "level", "where", "message"),
    [
        ("E1120 13:16:08.512345 2227 server.cc:241] oh no", "E", "server.cc:241", "oh no"),
        ('E1120 13:16:08.512345 2227 server.cc:241] "oh \\"no\\"\\nreally"', "E", "server.cc:241", 'oh "no"\nreally'),
        ('2026-11-21T17:27:06Z W 24689 metrics.cc:798] "oh"', "W", "metrics.cc:798", "oh"),
        ("I1121 17:26:52.808287 24116 server.cc:604] ", "I", "server.cc:604", ""),
        ("I1121 17:26:54.289457 24238 pb_stub.cc:2105]  Failed to", "I", "pb_stub.cc:2105", " Failed to"),
        ("\x1b[31mE1120 13:16:08.5 2227 a.cc:1] red\x1b[0m", "E", "a.cc:1", "red"),
        ("Error: Failed to initialize NVML", "", "", "Error: Failed to initialize NVML"),
        ("E is for elephant", "", "", "E is for elephant"),
        ('E1120 13:16:08.5 2227 a.cc:1] "cut off', "E", "a.cc:1", '"cut off'),
        ('E1120 13:16:08.5 2227 a.cc:1] "a \\x bad\\nescape"', "E", "a.cc:1", "a \\x bad\nescape"),
    ],
)
def test_a_line_of_each_form(raw: str, level: str, where: str, message: str) -> None:
    (line,) = records(f"\n{raw}\n\n")
    assert (line.level, line.where, line.message, line.raw) == (level, where, message, raw)


@settings(max_examples=200, deadline=None)
@given(log=st.text())
def test_every_line_that_is_not_empty_is_a_record(log: str) -> None:
    assert [line.raw for line in records(log)] == [line for line in log.splitlines() if line.strip()]


def _log(*messages: str) -> str:
    return "".join(f"I1120 13:16:08.5 2227 model_lifecycle.cc:1] {message}\n" for message in messages)


def test_models_that_began_to_load_and_did_not_end() -> None:
    log = _log("loading: a:1", "loading: a:2", "loading: b c:1", "loading: d:1", "successfully loaded 'd'")
    assert loading(log) == (("a", "1"), ("a", "2"), ("b c", "1"))
    assert loading(log + _log("failed to load 'a' version 2: Internal: no")) == (("a", "1"), ("b c", "1"))
    assert loading(log + _log("successfully loaded 'a' version 1", "successfully loaded 'b c'")) == (("a", "2"),)
    assert loading(log + _log("failed to load 'a'")) == (("b c", "1"),)
    assert loading("loading: of what a program says:1") == ()


def test_a_model_that_is_loaded_anew_may_hang_then() -> None:
    log = _log("loading: a:1", "successfully loaded 'a'", "loading: a:1")
    assert loading(log) == (("a", "1"),)


def test_reasons_of_models_that_failed() -> None:
    log = _log(
        "failed to load 'a' version 1: Internal: one",
        "failed to load 'a' version 2: Internal: two",
        "Poll failed for model directory 'b': three",
        "failed to load model 'c': at least one version must be available under the version policy of model 'c'",
        "Invalid argument: ensemble 'e' depends on 'b' which has no loaded version.",
    )
    assert failures(log) == {
        "a": "Internal: one",
        "b": "three",
        "c": "at least one version must be available under the version policy of model 'c'",
        "e": "ensemble 'e' depends on 'b' which has no loaded version.",
    }


def test_a_model_that_says_what_the_server_would_is_not_believed() -> None:
    log = "failed to load 'a' version 1: Internal: ModuleNotFoundError: No module named 'b'\nloading: a:1\n"
    assert _ids(diagnose(Seen(log=log, hung=True))) == [UNCLASSIFIED]


# -- names that are filled in -------------------------------------------------------------------------------------


def _failed(reason: str, **seen: Any) -> Diagnosis:
    return diagnose(Seen(log=_log(f"failed to load 'm' version 1: {reason}").replace("I1120", "E1120"), **seen))[0]


@pytest.mark.parametrize(
    ("module", "package"),
    [
        ("cv2", "opencv-python-headless"),
        ("PIL", "pillow"),
        ("sklearn.svm", "scikit-learn"),
        ("yaml", "pyyaml"),
        ("tqdm", "tqdm"),
    ],
)
def test_a_module_is_told_by_its_package(module: str, package: str) -> None:
    found = _failed(f"Internal: ModuleNotFoundError: No module named '{module}'")
    assert found.model == "m"
    assert f"pip: [{package}]" in found.fix


def test_a_module_that_may_be_a_slip_is_asked_about() -> None:
    assert _failed("Internal: ModuleNotFoundError: No module named 'nunpy'").fix.endswith("; or is numpy meant?")
    for module in ("tqdm", "cv2", "nvidia.dali", "polars"):
        assert "meant" not in _failed(f"Internal: ModuleNotFoundError: No module named '{module}'").fix


@pytest.mark.parametrize(
    ("library", "told"),
    [
        ("libGL.so.1", "apt: [libgl1]"),
        ("libgomp.so.1", "apt: [libgomp1]"),
        ("libsndfile.so.1", "apt: [libsndfile1]"),
        ("libpython3.8.so.1.0", "Python 3.8"),
        ("libcuda.so.1", "gpus: all"),
        ("libcudnn.so.9", "tritonserver:24.10-py3"),
        ("libodd.so.3", "apt-file search libodd.so.3"),
    ],
)
def test_a_library_is_told_by_what_brings_it(library: str, told: str) -> None:
    reason = f"Internal: ImportError: {library}: cannot open shared object file: No such file or directory"
    found = _failed(reason, release="24.10")
    assert told in found.why + found.fix


@pytest.mark.parametrize(
    ("backend", "release", "told"),
    [
        ("onnxruntime", "24.10", "backends: [onnxruntime, python]"),
        ("tensorflow", "25.03", "the last with it is 25.02"),
        ("vllm", "24.09", "variant: vllm-python-py3"),
    ],
)
def test_a_backend_is_told_by_the_recipe_or_the_release(backend: str, release: str, told: str) -> None:
    reason = f"Invalid argument: unable to find backend library for backend '{backend}', try specifying runtime on it"
    assert told in _failed(reason, release=release, backends=("python",)).fix


def test_a_hang_is_told_by_what_the_release_does() -> None:
    said = "I1121 17:26:54.2 24238 pb_stub.cc:2105]  Failed to preinitialize Python stub: no such program"
    log = _log("loading: a:1", "loading: b:3", "successfully loaded 'b'") + said
    before, after = (diagnose(Seen(log=log, hung=True, release=release))[0] for release in ("24.10", "25.08"))
    assert before.title == "the server hangs, or needs longer, while it loads a (version 1)"
    assert before.model == "a"
    assert "until 25.08" in before.why
    assert "until 25.08" not in after.why
    assert "no such program" in before.why
    assert before.lines == (said,)


def test_what_tensorrt_says_is_told_of_the_model_that_fails_next() -> None:
    said = "E0530 23:11:46.2 1 logging.cc:43] 6: The engine plan file is generated on an incompatible device\n"
    failed = _log("failed to load 'a' version 1: Internal: unable to load plan file").replace("I1120", "E1120")
    found = diagnose(Seen(log=said + _log("loading: b:1") + failed, exit_code=1))
    assert [(one.id, one.model) for one in found] == [("tensorrt-device", "a")]


def test_what_the_entry_script_says_is_no_models_last_word() -> None:
    log = "WARNING: no driver was found.\n" + _log("loading: m:1")
    refused = Refusal(model="m", message="Stub process 'm_0_0' is not healthy.", code=500)
    assert "last" not in diagnose(Seen(log=log, ready=True, refusals=[refused]))[0].why
    assert "it wrote: oh no" in diagnose(Seen(log=f"{log}oh no\n", ready=True, refusals=[refused]))[0].why


def test_of_models_that_failed_each_has_its_own_reason() -> None:
    log = "".join(
        f"E1120 13:16:08.5 2227 model_lifecycle.cc:1] failed to load '{model}' version 1: Internal: {reason}\n"
        for model, reason in {"a": "odd", "b": "ModuleNotFoundError: No module named 'x'", "c": "strange"}.items()
    )
    found = diagnose(Seen(log=f"{log}error: creating server: Internal - failed to load all models\n", exit_code=1))
    assert [(one.id, one.model) for one in found] == [
        ("python-module-missing", "b"),
        ("models-failed", "a"),
        ("models-failed", "c"),
    ]
    assert found[1].why == "Internal: odd"


def test_the_index_tells_as_the_log_does() -> None:
    row = {"name": "m", "version": "1", "state": "UNAVAILABLE", "reason": "Internal: something odd"}
    assert [(one.id, one.model, one.why) for one in diagnose(Seen(index=[row], ready=True))] == [
        ("models-failed", "m", "Internal: something odd")
    ]
    assert _ids(diagnose(Seen(index=[{**row, "reason": "unloaded"}], ready=True))) == [UNCLASSIFIED]


def test_a_diagnosis_as_json() -> None:
    told = _failed("Internal: ModuleNotFoundError: No module named 'cv2'").to_json()
    assert told["id"] == "python-module-missing"
    assert told["number"] == 52
    assert told["model"] == "m"
    assert list(told) == ["id", "number", "title", "why", "fix", "lines", "model"]


# -- the page -----------------------------------------------------------------------------------------------------


def table() -> str:
    rows = ["| | class | what happened | text |", "|---|---|---|---|"]
    rows += [_row(name) for name in sorted(classes(), key=lambda name: (classes()[name].number, classes()[name].rank))]
    return "\n".join(rows) + "\n"


def _row(name: str) -> str:
    kind = classes()[name]
    what = (
        re.sub(r"\{\w+_\}|\{of_\w+\}|\{for_\w+\}", "", kind.title)
        .replace("{", "*")
        .replace("}", "*")
        .replace("|", "\\|")
    )
    return f"| {kind.number or ''} | `{name}` | {what} | {_marks(name)} |"


def _marks(name: str) -> str:
    if name in (UNCLASSIFIED, NOISE):
        return "recorded"
    sources = [case.source for case in cases() if case.kind == name]
    found = {source.partition(":")[0] for source in sources}
    return ", ".join(mark for mark in ("recorded", "read", "made") if mark in found)


def _page() -> tuple[str, str, str]:
    head, begin, rest = PAGE.read_text().partition("<!-- classes -->\n")
    _, end, tail = rest.partition("<!-- /classes -->")
    return head + begin, rest.removesuffix(end + tail), end + tail


def test_the_page_says_so() -> None:
    assert _page()[1] == table(), "run: python -m tests.unit.test_diagnosis"


if __name__ == "__main__":
    head, _, tail = _page()
    PAGE.write_text(head + table() + tail)
