"""The verdicts on file are of the corpus as it is, and the judge still comes to them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.judge import records
from tests.judge.asking import TooLarge, _request, zeros
from tests.judge.corpus import Entry, entries
from tests.judge.mutations import COUNT, mutations
from tests.judge.records import Record, judge_entry, recorded
from tests.judge.server import RELEASES, Server, prepared
from tests.judge.words import decisive

LATEST = RELEASES[0]
HINT = "python -m tests.judge record"


@pytest.mark.parametrize("release", RELEASES)
def test_every_entry_has_a_verdict_that_is_of_it(release: str) -> None:
    known = recorded(records.verdicts(release))
    stale = [entry.name for entry in entries(release) if not _is_of(entry, known)]
    assert stale == [], f"{HINT} --release {release}"
    assert set(known) == {entry.name for entry in entries(release)}


@pytest.mark.parametrize("release", RELEASES)
def test_every_mutation_has_a_verdict_that_is_of_it(release: str) -> None:
    known = recorded(records.mutation_verdicts(release))
    drawn = mutations(release)
    assert len(drawn) == COUNT
    stale = [entry.name for entry in drawn if not _is_of(entry, known)]
    assert stale == [], f"{HINT} --mutations --release {release}"


def _is_of(entry: Entry, known: dict[str, Record]) -> bool:
    return entry.name in known and known[entry.name].digest == entry.digest


def test_good_entries_are_served() -> None:
    known = recorded(records.verdicts(LATEST))
    assert [entry.name for entry in entries(LATEST) if entry.rule is None and not known[entry.name].good] == []


def test_the_corpus_is_large_and_most_of_it_is_broken() -> None:
    known = recorded(records.verdicts(LATEST))
    assert len(known) >= 300
    assert sum(not record.good for record in known.values()) >= 150


@pytest.mark.parametrize("release", RELEASES)
def test_onnx_models_were_judged_by_the_real_backend(release: str) -> None:
    known = recorded(records.verdicts(release))
    with_onnx = [entry.name for entry in entries(release) if any(path.endswith(".onnx") for path in entry.files)]
    assert with_onnx
    assert [name for name in with_onnx if known[name].judge == "stand-in"] == []


def test_words_have_no_times_and_no_paths_of_this_machine() -> None:
    log = "\n".join(
        (
            'E1121 14:08:23.710265 17996 server.cc:241] "CudaDriverHelper has not been initialized."',
            'E1121 14:08:23.710265 17996 model_lifecycle.cc:642] "failed to load \'m\': /tmp/x/m/1 \\"a\\""',
            "E1121 14:08:23.710265 17996 model_lifecycle.cc:642] failed to load 'n'",
            'W1121 14:08:23.710265 17996 onnxruntime.cc:1105] "autofilled"',
            "[libprotobuf ERROR /tmp/build/text_format.cc:337] Error parsing: 1:2: x",
            "error: creating server: Internal - failed to load all models",
        )
    )
    words = decisive(log, "E", {"/tmp/x": "/models"})
    assert words == (
        "E model_lifecycle.cc failed to load 'm': /models/m/1 \"a\"",
        "E model_lifecycle.cc failed to load 'n'",
        "[libprotobuf ERROR] Error parsing: 1:2: x",
        "error: creating server: Internal - failed to load all models",
    )


def test_a_request_has_what_the_config_says() -> None:
    config = {
        "max_batch_size": 4,
        "input": [
            {"name": "X", "data_type": "TYPE_FP16", "dims": ["-1", "3"]},
            {"name": "T", "data_type": "TYPE_STRING", "dims": ["2"]},
        ],
        "sequence_batching": {},
    }
    head, tail = _request(config)
    assert tail == b"\0" * 6 + b"\1\0\0\0a" * 2
    assert b'"shape": [1, 1, 3]' in head
    assert b'"sequence_start": true' in head


def test_a_tensor_too_large_to_send_is_not_made() -> None:
    with pytest.raises(TooLarge):
        zeros({"data_type": "TYPE_FP32", "dims": [1 << 40]}, batch=False)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with prepared(LATEST) as one:
        yield one


@pytest.mark.triton
@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "layout/python",
        "parse/unknown-field",
        "layout/version-with-letters-python",
        "layout/version-too-large",
        "io/input-twice",
    ],
)
def test_the_server_says_again_what_it_said(server: Server, name: str) -> None:
    """A server for each outcome, by repositories of which the onnxruntime backend has no part."""
    (entry,) = [entry for entry in entries(LATEST) if entry.name == name]
    before = recorded(records.verdicts(LATEST))[name]
    verdict = judge_entry(entry, server)
    assert (verdict.outcome, verdict.words) == (before.outcome, before.words)
