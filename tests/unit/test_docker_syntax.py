"""No value of a recipe changes what a line of its Dockerfile means: the text is read again, by a reader of its own."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from composer.docker_syntax import comment, copy_form, json_form, legible, pair, parse_fragment, quoted, word
from composer.dockerfile import blueprint, on_top, render
from composer.errors import Unplannable
from composer.models.repository import ModelRepository
from composer.oci.image import parse_image
from composer.oci.names import is_docker_name
from composer.plan import model_root
from composer.recipe import Recipe
from composer.server import server_command
from tests.images import picture

# -- a reader of Dockerfiles ----------------------------------------------------------------------
#
# By the rules of the builders' parser (moby/buildkit, frontend/dockerfile/parser and shell). Where a variable is
# expanded, the text read has its name between two NULs, which no Dockerfile holds.

BLANK = " \t\n\v\f\r\x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
BLANK += "\u2028\u2029\u202f\u205f\u3000"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """An instruction: its keyword, its options, and the rest."""

    keyword: str
    options: tuple[str, ...]
    rest: str

    def list(self) -> list[str]:
        """The words of the JSON form."""
        words = json.loads(self.rest)
        assert isinstance(words, list)
        assert all(isinstance(one, str) for one in words)
        return words

    def pairs(self) -> dict[str, str]:
        """The names and values of ENV and LABEL."""
        split = [one.partition("=") for one in split_words(self.rest)]
        assert all(name and equals for name, equals, _ in split)
        return {expanded(name): expanded(value) for name, _, value in split}

    def paths(self) -> list[str]:
        """What COPY copies, and where to. A pattern that more than one path matches is not taken."""
        *sources, target = self.list() if self.rest.startswith("[") else split_words(self.rest)
        return [*(matched(expanded(one)) for one in sources), expanded(target)]


def read(text: str) -> list[Line]:
    """The instructions of a Dockerfile, which may begin with no directive, nor have a line that is too long."""
    lines = text.split("\n")
    assert all(len(line.encode()) < 65_536 for line in lines)
    assert not re.match(r"#\s*[A-Za-z][A-Za-z0-9]*\s*=", lines[0].removeprefix("\ufeff"))
    found: list[Line] = []
    whole: str | None = None
    for raw in lines:
        line = raw.removesuffix("\r")
        said = line.lstrip(BLANK)
        if said.startswith("#") or not said:
            continue
        bare = line.rstrip(" \t")
        on = bare.endswith("\\") and not bare.endswith("\\\\")
        whole = (said if whole is None else whole + line) if not on else (whole or "") + bare[:-1]
        if not on:
            found.append(instruction(whole))
            whole = None
    return found if whole is None else [*found, instruction(whole)]


def instruction(text: str) -> Line:
    keyword, *rest = re.split(r"[\t\v\f\r ]+", text.strip(BLANK), maxsplit=1)
    words, options = (rest[0] if rest else "").strip(BLANK), []
    while words.startswith("--"):
        option, _, words = words.partition(" ")
        options.append(option)
    return Line(keyword=keyword.upper(), options=tuple(options), rest=words)


def split_words(text: str) -> list[str]:
    """Words, with their quotes still on."""
    words, current, quote, position = list[str](), "", "", 0
    while position < len(text):
        character = text[position]
        if not quote and character in BLANK:
            words += [current] if current else []
            current = ""
        else:
            step = 2 if character == "\\" and quote != "'" else 1
            current += text[position : position + step]
            quote = ("" if quote == character else quote) if quote else character if character in "'\"" else ""
            position += step - 1
        position += 1
    return words + ([current] if current else [])


def expanded(text: str) -> str:
    """A word without its quotes, and with its variables marked."""
    text = text.removeprefix("\ufeff")
    made, quote, position = "", "", 0
    while position < len(text):
        character, following = text[position], text[position + 1 : position + 2]
        position += 1
        if (quote == "'" and character != "'") or (character == "\\" and quote and following not in ("\\", "$", '"')):
            made += character
        elif character == "\\":
            made += following
            position += 1
        elif character == "$":
            variable = re.compile(r"\{(\w+)\}|(\w+)").match(text, position)
            made += f"\0{variable[1] or variable[2]}\0" if variable else "\0\0"
            position = variable.end() if variable else position
        elif character in "'\"" and quote in ("", character):
            quote = "" if quote else character
        else:
            made += character
    assert not quote
    return made


def matched(pattern: str) -> str:
    """The one path that a pattern of Go's filepath.Match stands for."""
    if not re.search(r"[*?\[]", re.sub(r"\\.", "", pattern, flags=re.DOTALL)):
        return pattern
    parts = re.findall(r"\[(?:\\.|[^\\\]^])\]|[^*?\[\\]", pattern, re.DOTALL)
    assert "".join(parts) == pattern, "it may match something else"
    assert not pattern.endswith("/"), "in the classic builder it matches nothing"
    return "".join(one if len(one) == 1 else one[-2] for one in parts)


def test_the_reader_reads() -> None:
    text = '#\n# a=b\\\n\n  env A="x \\\n# no\n  y" B=\\$C"$D"\nRUN ["a", "\\u0041"]\nCOPY --from=x a[[]? "a b"\n'
    first, second, third = read(text)
    assert (first.keyword, first.pairs()) == ("ENV", {"A": "x   y", "B": "$C\0D\0"})
    assert (second.keyword, second.list()) == ("RUN", ["a", "A"])
    assert (third.options, split_words(third.rest)) == (("--from=x",), ["a[[]?", '"a b"'])
    assert [matched(one) for one in ("a[[]b[\\\\]", "a\\b")] == ["a[b\\", "a\\b"]
    with pytest.raises(AssertionError):
        third.paths()
    with pytest.raises(AssertionError):
        read("# escape=`\nFROM x\n")


# -- what people write ----------------------------------------------------------------------------

WORDS = (
    *("\\", '"', "'", "$", "${PATH}", "$PATH", "\\$", "\\\\", '\\"', "`id`", "$(id)", "#", "=", "<<EOF", "EOF"),
    *("\nFROM evil:1\n", "\r\n", "\r", "\n", " ", "\t", "\v", "\f", "\x85", "\xa0", "\u2028", "\u2029", "\u3000"),
    *(" \\\n", "\x1c", "\x01", "\x7f", "\ufeff", "é", "🙂", "{{ x }}", "{% x %}", "%s", "[", "]", "*", "?", "^"),
    *("# escape=`", "syntax=docker/x", "--from=x", "-", "~", "!", "&&", ";", "|", ":", "/", ".", "..", "a", "0"),
)
TEXT = st.lists(st.sampled_from(WORDS) | st.text(st.characters(exclude_characters="\0"), max_size=3), max_size=6).map(
    "".join
)
HALF = re.compile(r"[\ud800-\udfff]")
"""Half a character: a recipe can have one, and UTF-8 cannot."""
WRITABLE = TEXT.filter(lambda one: not HALF.search(one))


# -- the pieces -----------------------------------------------------------------------------------


@given(TEXT, TEXT)
def test_a_pair_is_its_name_and_its_value(name: str, value: str) -> None:
    told = not re.search(r"[\r\n]", name + value) and not HALF.search(name + value) and name and "=" not in name
    if not told:
        with pytest.raises(Unplannable) as caught:
            pair(name, value)
        assert caught.value.hint
        return
    one, two = read(f"FROM x\nENV {pair(name, value)} \\\n    {pair('B', value)}\n# USER x\nUSER {word(name)}")[1:]
    assert one.pairs() == {name: value, "B": value} if name != "B" else {"B": value}
    assert expanded(two.rest) == name


@given(st.lists(WRITABLE, min_size=1))
def test_json_is_what_was_put_in(words: list[str]) -> None:
    assert [line.list() for line in read(f"CMD {json_form(words)}\nRUN {json_form(words)}")] == [words, words]


@given(st.lists(WRITABLE.filter(bool), min_size=1, max_size=3), WRITABLE.filter(bool))
@example(["a\\"], "--from=x")
@example(["--link"], "-x")
@example(["[a]/", "b/"], "c/")
def test_copied_is_this_path_and_no_other(sources: list[str], target: str) -> None:
    form = copy_form([*sources, target])
    special = re.compile(r"[*?\[\\]")
    paths = [*(one.rstrip("/") if special.search(one) else one for one in sources), target]
    lines = read(f"COPY --from=x {form}\nCOPY {form}")
    assert [(line.options, line.paths()) for line in lines] == [(("--from=x",), paths), ((), paths)]


def test_plain_paths_stay_readable() -> None:
    assert copy_form(["/opt/a-b_c.d+e", "/x/"]) == "/opt/a-b_c.d+e /x/"
    assert word("1000:1000") == "1000:1000"
    assert word("") == '""'


@given(TEXT)
@example("escape=`")
@example("Syntax = docker/x")
@example("check=error")
def test_a_comment_is_one_line_and_no_directive(text: str) -> None:
    if HALF.search(text):
        return
    assert [line.keyword for line in read(f"# {comment(text)}\n\nFROM x")] == ["FROM"]
    assert [line.keyword for line in read(f"FROM x\n# {comment(text)}\nUSER x")] == ["FROM", "USER"]


def test_what_cannot_be_written_is_refused() -> None:
    for made in (
        lambda: quoted("a\0"),
        lambda: json_form(["\ud800"]),
        lambda: copy_form(["a", "\0"]),
        lambda: pair("", ""),
    ):
        with pytest.raises(Unplannable) as caught:
            made()
        assert caught.value.hint


def test_lines_are_as_long_as_builders_read() -> None:
    longest = "é" * 32_767 + "e"
    assert legible(longest + "\nx") == longest + "\nx"
    with pytest.raises(Unplannable, match="65535 bytes: xéé") as caught:
        legible("FROM a\nx" + longest)
    assert caught.value.hint


# -- fragments ------------------------------------------------------------------------------------

PIECES = (
    *(
        "RUN a",
        "run\tb",
        "ENV A=b",
        "LABEL x=y",
        "  USER c",
        "CO",
        "PY",
        "\\",
        " \\",
        "\\ \t",
        "\\\\",
        "\n",
        "\r\n",
        "\n\n",
    ),
    *(
        "# d\n",
        "  # e \\\n",
        "#",
        "\x1c# f\n",
        "\x1c",
        "\u2028",
        "\x85",
        "\v",
        "\f",
        "\xa0",
        "\r",
        '"',
        "  g",
        "\nFROM h\n",
    ),
)
FRAGMENT = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


@given(FRAGMENT)
@example("RUN a \\")
@example("RUN a \\\n\\\n # b\n\n")
@example("LABEL x=y\\\xa0")
@example("\\\r\r\nRUN a\\\r\n b\r\n")
@example("\\")
def test_a_fragment_means_the_same_among_other_lines(text: str) -> None:
    parts = parse_fragment(text)
    alone = read(f"FROM x\n{text}")[1:]
    around = read("FROM x\n" + "".join(f"\n# {one.line}\n{one.text}\n" for one in parts) + "\n# end\nUSER root")
    assert (around[0].keyword, around[-1]) == ("FROM", Line(keyword="USER", options=(), rest="root"))
    assert [line.keyword for line in around[1:-1]] == [one.keyword for one in parts]
    # What ends in nothing ends before it: there, blanks and backslashes at the very end are of no account.
    assert said(around[1:-1]) == said(alone)


def said(lines: list[Line]) -> list[tuple[str, str]]:
    cut = [(line.keyword.rstrip("\\" + BLANK), line.rest.rstrip("\\" + BLANK)) for line in lines]
    return [one for one in cut if any(one)]


def test_lines_of_a_fragment_are_those_of_builders() -> None:
    text = 'ENV A="x\u2028FROM y"\nRUN echo "a \\\n   b" \\\n\n # c\n\td\nLABEL\\\n x=1'
    assert [(one.keyword, one.line, one.text) for one in parse_fragment(text)] == [
        ("ENV", 1, 'ENV A="x\u2028FROM y"'),
        ("RUN", 2, 'RUN echo "a \\\n   b" \\\n\td'),
        ("LABEL", 7, "LABEL\\\n x=1"),
    ]


# -- whole Dockerfiles ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Values:
    """What stands in a recipe at all the places that end in a Dockerfile."""

    name: str = "slim"
    env: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    server: Mapping[str, Any] = field(default_factory=dict)
    user: str | None = None
    steps: tuple[str, ...] = ()
    apt: tuple[str, ...] = ()
    custom: str | None = None
    source: str = "upstream"
    engine: str = "dockerfile"
    mirror: str | None = None
    hosts: Mapping[str, str] = field(default_factory=dict)

    def harmless(self) -> Values:
        """The same of its kind, with values that nobody could misread."""
        return Values(
            env={f"A{number}": "a" for number in range(len(self.env))},
            labels={f"a{number}": "a" for number in range(len(self.labels))},
            server={"id": "a"} if self.server else {},
            user=self.user and "a",
            steps=("a",) * len(self.steps),
            apt=("aa",) * len(self.apt),
            custom=self.custom and "a",
            source=self.source,
            engine=self.engine,
            mirror=self.mirror and "a.example",
        )

    def recipe(self) -> Recipe:
        """Raises `ValidationError` where a recipe cannot have such a value."""
        custom = {"name": self.custom, "path": "./mine"}
        return Recipe.model_validate(
            {
                "name": self.name,
                "triton": "24.10",
                "backends": ("python",),
                "custom_backends": (custom,) if self.custom else (),
                "env": self.env,
                "labels": self.labels,
                "server": self.server,
                "user": self.user,
                "healthcheck": True,
                "steps": self.steps,
                "packages": {"apt": self.apt},
                "engine": self.engine,
                "dockerfile": {"source": self.source},
                "network": {"mirrors": {"nvcr.io": (self.mirror,)} if self.mirror else {}, "hosts": self.hosts},
            }
        )


def lines_of(values: Values) -> list[Line]:
    repositories = (ModelRepository(path=Path("models"), models=()),)
    return read(render(blueprint(values.recipe(), repositories=repositories, placed=True)))


def spelled(pattern: str) -> st.SearchStrategy[str]:
    return st.from_regex(pattern, fullmatch=True)


LINE = WRITABLE.filter(lambda one: not re.search(r"[\r\n]", one))
NAME = spelled(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
SCALAR = WRITABLE | st.integers() | st.booleans() | st.floats(allow_nan=False)
FLAGS = st.dictionaries(
    st.sampled_from(["model-repository", "log-file", "backend-config", "http-port"]) | WRITABLE.filter(str.strip),
    SCALAR | st.lists(WRITABLE, min_size=1, max_size=2).map(tuple) | st.dictionaries(WRITABLE, SCALAR, max_size=2),
    max_size=3,
)
# Some names are the release's own: they take the place of its settings, so that there may be none left.
VARIABLE = spelled(r"[A-Za-z_][A-Za-z0-9_]*").map(lambda one: f"V_{one}")
VALUES = st.builds(
    Values,
    name=NAME,
    env=st.dictionaries(VARIABLE, LINE, max_size=3),
    labels=st.dictionaries(LINE.filter(lambda one: one and not re.search(r"[\s=]", one)), LINE, max_size=3),
    server=FLAGS,
    user=st.none() | spelled(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?"),
    steps=st.lists(WRITABLE.filter(str.strip), max_size=3).map(tuple),
    apt=st.lists(spelled(r"[a-z0-9][a-z0-9+.-]*[a-z0-9+.]=[A-Za-z0-9][A-Za-z0-9.+:~-]*"), max_size=2).map(tuple),
    custom=st.none() | NAME.filter(lambda one: one != "python"),
    source=st.sampled_from(["upstream", "network"]),
    mirror=st.sampled_from([None, "m.example:5000/nvcr", "[::1]:5000"]),
    hosts=st.dictionaries(spelled("[A-Za-z0-9.-]+"), st.ip_addresses().map(str), max_size=2),
)


@given(VALUES)
def test_whatever_a_recipe_says_its_dockerfile_has_these_instructions_and_values(values: Values) -> None:
    lines = lines_of(values)
    assert [line.keyword for line in lines] == [line.keyword for line in lines_of(values.harmless())]
    assert_values(values.recipe(), values, lines)


ONE_OF_EACH = Values(
    env={"A": "a"}, labels={"a": "a"}, server={"id": "a"}, user="a", steps=("a",), apt=("aa",), custom="a", mirror="a.b"
)
PLACES: Mapping[str, Callable[[str], Any]] = {
    "name": str,
    "env": lambda text: {text: text},
    "labels": lambda text: {text: text},
    "server": lambda text: {text: text, "model-repository": text},
    "user": str,
    "steps": lambda text: (text,),
    "apt": lambda text: (text,),
    "custom": str,
    "mirror": str,
    "hosts": lambda text: {text: "10.0.0.7"},
}


@pytest.mark.parametrize("place", PLACES)
@given(TEXT)
@example("a\nFROM evil:1")
@example("a\n")
@example("\ud800")
def test_any_text_at_any_place_is_refused_or_has_no_meaning(place: str, text: str) -> None:
    values = replace(ONE_OF_EACH, **{place: PLACES[place](text)})
    try:
        recipe = values.recipe()
    except ValidationError:
        return
    if unwritable(values, recipe):
        with pytest.raises(Unplannable) as caught:
            lines_of(values)
        assert caught.value.hint
        return
    lines = lines_of(values)
    usual = [line.keyword for line in lines_of(values.harmless())]
    assert [line.keyword for line in lines] == usual
    assert_values(recipe, values, lines)


def unwritable(values: Values, recipe: Recipe) -> bool:
    """Whether a value is among those that no Dockerfile can hold."""
    said = [*values.env.values(), *values.labels, *values.labels.values()]
    place = f"{(values.mirror or 'nvcr.io').strip('/')}/nvidia/tritonserver:24.10-py3"
    root = str(recipe.server.get("model-repository", ""))
    return (
        any(re.search(r"[\r\n]", one) for one in said)
        or any(HALF.search(one) for one in (*said, *server_command(recipe.server), *values.steps, root))
        or not is_docker_name(place)
        or place.startswith("-")
    )


def assert_values(recipe: Recipe, values: Values, lines: list[Line]) -> None:
    """The values of a recipe stand in the lines, each where it belongs."""
    final = lines[max(number for number, line in enumerate(lines) if line.keyword == "FROM") :]
    settings, labels = (merged(final, keyword) for keyword in ("ENV", "LABEL"))
    assert {name: settings.get(name) for name in values.env} == values.env
    assert {name: labels.get(name) for name in values.labels} == values.labels
    assert not recipe.server or only(final, "CMD").list() == list(server_command(recipe.server, release=recipe.triton))
    assert only(final, "HEALTHCHECK").rest.startswith("CMD [")
    health = json.loads(only(final, "HEALTHCHECK").rest.removeprefix("CMD "))
    assert str(recipe.server.get("http-port", 8000)) in health[-1]
    assert [line.rest for line in final if line.keyword == "USER"][1:] == ([values.user] if values.user else [])
    run = [line.list() for line in lines if line.keyword == "RUN" and line.rest.startswith("[")]
    steps = [words[2].removeprefix("set -e\n") for words in run if words[:2] == ["/bin/sh", "/tricompose/shell.sh"]]
    assert tuple(steps) == values.steps
    shell = [shlex.split(line.rest) for line in lines if line.keyword == "RUN" and not line.rest.startswith("[")]
    assert not values.apt or any(tuple(words[-len(values.apt) :]) == values.apt for words in shell)
    copies = [line.paths() for line in final if line.keyword == "COPY"]
    assert not values.custom or [f"backends/{values.custom}/", f"/opt/tritonserver/backends/{values.custom}/"] in copies
    assert copies[-1] == ["models/", f"/{model_root(recipe)}/"]
    place = (values.mirror or "nvcr.io").strip("/")
    assert lines[0].rest == f"{place}/nvidia/tritonserver:24.10-py3 AS full"


def merged(lines: list[Line], keyword: str) -> dict[str, str]:
    return {name: value for line in lines if line.keyword == keyword for name, value in line.pairs().items()}


def only(lines: list[Line], keyword: str) -> Line:
    (line,) = (line for line in lines if line.keyword == keyword)
    return line


@given(st.lists(TEXT.filter(str.strip), min_size=1, max_size=3), TEXT)
def test_so_it_is_with_what_is_run_on_top_of_an_image(steps: list[str], user: str) -> None:
    if HALF.search("".join([*steps, user])):
        return
    made = picture()
    image = parse_image(made.manifest, made.data[made.manifest.config.digest])
    config = {**image.config, "config": {"User": user}}
    recipe = Values(steps=tuple(steps), engine="direct").recipe()
    try:
        lines = read(render(on_top(recipe, "base:1", type(image)(**{**parts(image), "config": config}))))
    except Unplannable:
        assert re.search(r"[\r\n]", user)
        return
    run = [line.list() for line in lines if line.keyword == "RUN" and "/tricompose/shell.sh" in line.rest]
    assert [words[-1].removeprefix("set -e\n") for words in run] == steps
    last = [line for line in lines if line.keyword == "USER"][-1]
    assert expanded(last.rest) == (user or "root")


def parts(image: Any) -> dict[str, Any]:
    return {name: getattr(image, name) for name in type(image).__dataclass_fields__}


@pytest.mark.parametrize("mirror", ["a.example\nRUN x", "a.example/x AS y", "$HOME", "--x", "a b", "/"])
def test_a_mirror_that_is_no_place_is_refused(mirror: str) -> None:
    with pytest.raises(ValidationError, match="is no place that could be asked"):
        Values(mirror=mirror).recipe()


def test_a_mirror_that_makes_no_name_is_refused() -> None:
    with pytest.raises(Unplannable, match="no name of an image") as caught:
        lines_of(Values(mirror="a.example/UPPER"))
    assert "mirrors" in str(caught.value.hint)


@pytest.mark.parametrize("kind", ["env", "labels"])
def test_a_value_of_several_lines_is_refused(kind: str) -> None:
    with pytest.raises(Unplannable, match="several lines") as caught:
        lines_of(Values(**{kind: {"A": "a\nb"}}))  # type: ignore[arg-type]
    assert "engine: direct" in str(caught.value.hint)


@pytest.mark.parametrize(
    "values",
    [Values(env={"A": "x" * 65_536}), Values(steps=("x" * 65_536,)), Values(labels={"x" * 40_000: "x" * 40_000})],
)
def test_a_value_that_is_too_long_for_a_line_is_refused(values: Values) -> None:
    with pytest.raises(Unplannable, match="65535 bytes") as caught:
        lines_of(values)
    assert "files:" in str(caught.value.hint)


def test_a_long_name_does_no_harm() -> None:
    assert lines_of(Values(name="x" * 70_000)) == lines_of(Values())
