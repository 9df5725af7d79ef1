"""`packages.pip`: which wheels come of it for an image's own Python and platform, and what they install.

The index is on a loopback port, and the images are trees made by hand. The Python of this machine must not matter.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import pytest

from composer.cache import clear, look
from composer.errors import Corrupt, Denied, NotFound, Problem, RecipeError, TricomposeError, Unplannable, Unreachable
from composer.events import Event, Warned
from composer.files import LocalFile
from composer.inventory import Inventory
from composer.network.proxies import address_for
from composer.oci.image import Image, Platform, canonical_json, parse_image
from composer.oci.layout import LayoutStore
from composer.oci.tar import DIRECTORY, FILE, SYMLINK, Entry
from composer.oci.tree import NeedsLower
from composer.recipe import Recipe, parse_recipe
from composer.routing import of_network
from composer.wheels import Shelf, Target, Wheels, find_sources, find_target, survey_wheels
from tests.images import picture
from tests.services.web import Web, web
from tests.services.wheels import PipIndex, guarded, wheel_bytes, wheel_name

AMD64, ARM64 = Platform(os="linux", architecture="amd64"), Platform(os="linux", architecture="arm64")
LOCAL = "usr/local/lib/python3.10/dist-packages"
OTHER = f"3.{sys.version_info.minor + 1}"
"""A Python that is not the one of this machine."""


def tree(*names: str, links: Mapping[str, str] | None = None) -> list[Entry]:
    """Entries of a layer: folders end in a slash."""
    found = [Entry(name.rstrip("/"), DIRECTORY if name.endswith("/") else FILE, 0o755, 0, 0, 0, 0) for name in names]
    return found + [Entry(path, SYMLINK, 0o777, 0, 0, 0, 0, goal) for path, goal in (links or {}).items()]


def inventory(*layers: list[Entry] | None) -> Inventory:
    """Of an image with these layers, from the bottom up; None was not read."""
    image = some_image(len(layers))
    known = {one.digest: entries for one, entries in zip(image.layers, layers, strict=True) if entries is not None}
    return Inventory(image=image, layers=known)


def some_image(layers: int) -> Image:
    made = picture(layers=layers)
    return parse_image(made.manifest, made.data[made.manifest.config.digest])


UBUNTU = tree(
    "usr/bin/python3.10",
    "usr/lib/python3/dist-packages/six-1.16.0.egg-info",
    "usr/lib/python3/dist-packages/numpy-1.21.5.egg-info/",
    "usr/lib/python3/dist-packages/distro_info-1.1+ubuntu0.2.egg-info",
    "usr/lib/python3/dist-packages/python_debian-0.1.43ubuntu1.egg-info",
    f"{LOCAL}/numpy-1.26.4.dist-info/",
    f"{LOCAL}/numpy/__init__.py",
    f"{LOCAL}/tensorrt-10.5.0.18.dist-info/",
    f"{LOCAL}/torch-2.5.0a0+b465a5843b.nv24.9.dist-info/",
    links={"usr/bin/python3": "python3.10", "lib": "usr/lib"},
)


@dataclass(slots=True, kw_only=True)
class Bench:
    """An index, a cache, and a folder that recipes lie in. `events` is what was told."""

    folder: Path
    index: PipIndex
    site: Web
    cache: str = "cache"
    events: list[Event] = field(default_factory=list)

    def recipe(self, *pip: str, network: str | None = None) -> Recipe:
        where = network if network is not None else f"pip_index: '{self.site.url}/simple'"
        text = (
            f'triton: "24.10"\nbackends: [python]\npackages: {{pip: {canonical_json(pip).decode()}}}\n'
            f"network: {{{where}}}\n"
        )
        return parse_recipe(text, path=self.folder / "recipe.yaml", environ={})

    def survey(
        self,
        *pip: str,
        image: Inventory | None = None,
        python: str = "3.10",
        platform: Platform = AMD64,
        network: str | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Wheels:
        recipe = self.recipe(*pip, network=network)
        shelf = Shelf(
            cache=LayoutStore.ensure(self.folder / self.cache),
            environ=environ if environ is not None else {"PIP_CONFIG_FILE": os.devnull},
            routes=of_network(recipe.network, recipe.base),
            emit=self.events.append,
        )
        return survey_wheels(recipe, platform, image, shelf, python=python, ubuntu="22.04")

    def brought(self, *pip: str, **how: object) -> dict[str, str]:
        return {wheel.name: wheel.version for wheel in self.survey(*pip, **how).wheels}  # type: ignore[arg-type]

    def problem(self, *pip: str, **how: object) -> Problem:
        with pytest.raises(RecipeError) as caught:
            self.survey(*pip, **how)  # type: ignore[arg-type]
        (problem,) = caught.value.problems
        assert problem.hint
        return problem

    def wheels_asked(self) -> list[str]:
        return [path.rpartition("/")[2] for path in self.site.asked if path.endswith(".whl")]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    index = PipIndex(folder=tmp_path / "index")
    with web(index.folder) as site:
        yield Bench(folder=tmp_path, index=index, site=site)


# -- the image ----------------------------------------------------------------------------------------------------


def target(image: Inventory | None, **facts: str | None) -> Target:
    known = {"python": None, "ubuntu": None} | facts
    return find_target(AMD64, image, python=known["python"], ubuntu=known["ubuntu"], where="r.yaml:1:1")


def test_the_target_is_what_the_tree_says() -> None:
    found = target(inventory(UBUNTU), python="3.12", ubuntu="24.04")
    assert found.python == "3.10"
    assert found.glibc == 39
    assert found.packages == LOCAL
    assert found.installed == {
        "six": "1.16.0",
        "numpy": "1.26.4",
        "distro-info": "1.1+ubuntu0.2",
        "python-debian": "0.1.43ubuntu1",
        "tensorrt": "10.5.0.18",
        "torch": "2.5.0a0+b465a5843b.nv24.9",
    }


def test_python_may_be_an_alternative_and_the_libraries_folder_a_link() -> None:
    links = {
        "usr/bin/python3": "/etc/alternatives/python3",
        "etc/alternatives/python3": "/usr/bin/python3.8",
        "lib": "usr/lib",
    }
    found = target(inventory(tree("usr/bin/python3.8", "usr/lib/x86_64-linux-gnu/libc-2.31.so", links=links)))
    assert (found.python, found.glibc, found.full_python) == ("3.8", 31, "3.8.2")


def test_what_the_tree_does_not_say_the_release_does() -> None:
    found = target(None, python="3.12", ubuntu="24.04")
    assert str(found) == "Python 3.12 on linux/amd64 with glibc 2.39"
    assert target(inventory(tree("etc/")), python="3.12").glibc == 28


def test_an_image_without_python_is_refused() -> None:
    with pytest.raises(Unplannable, match=r"r\.yaml:1:1: the image has no Python"):
        target(inventory(tree("usr/bin/", links={"usr/bin/python3": "python3.10"})))


def test_an_image_with_an_old_python_is_refused() -> None:
    with pytest.raises(Unplannable, match=r"the image's Python is 3\.6"):
        target(None, python="3.6")


def test_all_layers_must_be_known_before_anything_is_said_of_packages() -> None:
    with pytest.raises(NeedsLower):
        target(inventory(None, UBUNTU), python="3.10")


def test_tags_best_first() -> None:
    found = [str(tag) for tag in Target(python="3.10", platform=ARM64, glibc=35).tags()]
    order = [
        "cp310-cp310-manylinux_2_35_aarch64",
        "cp310-cp310-manylinux_2_17_aarch64",
        "cp310-cp310-manylinux2014_aarch64",
        "cp310-cp310-linux_aarch64",
        "cp310-abi3-manylinux_2_35_aarch64",
        "cp310-none-manylinux_2_35_aarch64",
        "cp38-abi3-manylinux_2_17_aarch64",
        "py3-none-any",
    ]
    assert sorted(order, key=found.index) == order
    assert not [tag for tag in found if "x86_64" in tag or "2_36" in tag or "cp311" in tag]
    assert "cp310-cp310-manylinux1_x86_64" in map(str, Target(python="3.10", platform=AMD64, glibc=35).tags())


# -- which wheels -------------------------------------------------------------------------------------------------


def test_nothing_is_asked_for_nothing_is_done(bench: Bench) -> None:
    assert bench.survey() == Wheels()
    assert not (bench.folder / "cache" / "wheels").exists()


def test_markers_are_judged_for_the_image_and_not_for_this_machine(bench: Bench) -> None:
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    bench.index.add(
        "top",
        "1",
        requires=[
            f"here; python_version == '{here}'",
            f"later; python_version == '{OTHER}'",
            "arm; platform_machine == 'aarch64'",
            "intel; platform_machine == 'x86_64'",
            "windows; sys_platform == 'win32'",
        ],
    )
    for name in ("here", "later", "arm", "intel", "windows"):
        bench.index.add(name, "1")
    assert set(bench.brought("top", python=here)) == {"top", "here", "intel"}
    assert set(bench.brought("top", python=OTHER)) == {"top", "later", "intel"}
    assert set(bench.brought("top", python=OTHER, platform=ARM64)) == {"top", "later", "arm"}
    assert set(bench.brought(f"here; python_version < '{here}'", "later", python=OTHER)) == {"later"}


def test_the_wheel_that_fits_best_is_taken(bench: Bench) -> None:
    tags = {
        "any": "py3-none-any",
        "old": "cp310-cp310-manylinux_2_17_x86_64",
        "new": "cp310-cp310-manylinux_2_35_x86_64",
        "too new": "cp310-cp310-manylinux_2_36_x86_64",
        "other": "cp311-cp311-manylinux_2_17_x86_64",
        "arm": "cp310-cp310-manylinux2014_aarch64",
    }
    for tag in tags.values():
        bench.index.add("lib", "1.0", {"lib.so": tag.encode()}, tag=tag)
    bench.index.add("lib", "2.0", tag=tags["too new"])

    def content(platform: Platform) -> bytes:
        (file,) = (one for one in bench.survey("lib", platform=platform).files if one.target.endswith("lib.so"))
        assert file.source
        return file.source.read_bytes()

    assert content(AMD64) == tags["new"].encode()
    assert content(ARM64) == tags["arm"].encode()


def test_a_python_too_new_for_the_image_is_not_taken(bench: Bench) -> None:
    bench.index.add("lib", "1", python=">=3.8")
    bench.index.add("lib", "2", python=">=3.11")
    assert bench.brought("lib") == {"lib": "1"}


# -- what the image has already -----------------------------------------------------------------------------------


def test_what_the_image_has_is_not_brought_again(bench: Bench) -> None:
    for name, number in (("numpy", "1.26.4"), ("numpy", "2.1.0"), ("six", "1.17.0")):
        bench.index.add(name, number)
    bench.index.add("top", "1", requires=["numpy", "six>=1.10"])
    assert bench.brought("top", "numpy", image=inventory(UBUNTU)) == {"top": "1"}
    assert bench.brought("numpy==1.26.4", image=inventory(UBUNTU)) == {}
    assert bench.brought("numpy", image=None) == {"numpy": "2.1.0"}


def test_it_is_told_where_nobody_looked_into_the_image(bench: Bench) -> None:
    bench.index.add("numpy", "2.1.0")
    bench.survey("numpy", image=inventory(tree("etc/")))
    assert not [event for event in bench.events if isinstance(event, Warned)]
    bench.survey("numpy", image=None)
    (warning,) = (event for event in bench.events if isinstance(event, Warned))
    assert "which Python packages the image has" in warning.message


def test_versions_that_no_index_knows_count(bench: Bench) -> None:
    """NVIDIA's own builds, and what Debian patched."""
    bench.index.add("torch", "2.6.0")
    bench.index.add("top", "1", requires=["torch>=2.4", "tensorrt", "distro-info"])
    assert bench.brought("top", image=inventory(UBUNTU)) == {"top": "1"}


def test_an_older_version_that_fits_the_image_is_found(bench: Bench) -> None:
    bench.index.add("numpy", "2.1.0")
    bench.index.add("scipy", "1.14", requires=["numpy>=2"])
    bench.index.add("scipy", "1.11", requires=["numpy<2"])
    assert bench.brought("scipy", image=inventory(UBUNTU)) == {"scipy": "1.11"}


def test_another_version_than_the_image_s_is_refused(bench: Bench) -> None:
    bench.index.add("numpy", "2.1.0")
    bench.index.add("scipy", "1.14", requires=["numpy>=2"])
    for wish in ("numpy>=2", "scipy"):
        problem = bench.problem("six", wish, image=inventory(UBUNTU))
        assert problem.where == f"{bench.folder}/recipe.yaml:3:24"
        assert "numpy" in problem.message
        assert problem.hint == "the image has numpy==1.26.4, which must stay as it is: pin what goes with it"


def test_a_version_that_cannot_be_compared_is_not_hidden_either(bench: Bench) -> None:
    bench.index.add("python-debian", "1.0")
    problem = bench.problem("python-debian", image=inventory(UBUNTU))
    assert "python-debian 1.0 would hide the image's own 0.1.43ubuntu1" in problem.message


def test_extras_of_what_the_image_has_are_brought(bench: Bench) -> None:
    bench.index.add("six", "1.16.0", requires=["addon; extra == 'more'"], extras=["more"])
    bench.index.add("addon", "1")
    bench.index.add("top", "1", requires=["six[more]"])
    assert bench.brought("top", image=inventory(UBUNTU)) == {"top": "1", "addon": "1"}
    assert bench.brought("six[more]", image=inventory(UBUNTU)) == {"addon": "1"}


# -- what cannot be met -------------------------------------------------------------------------------------------


def test_a_package_without_a_wheel_is_named(bench: Bench) -> None:
    bench.index.put("solid-1.0.tar.gz", b"sources")
    bench.index.add("top", "1", requires=["solid==1.0"])
    for wish in ("solid", "top"):
        problem = bench.problem(wish)
        assert "solid" in problem.message
        assert "pip wheel --no-deps solid" in str(problem.hint)
        assert "Python is 3.10" in str(problem.hint)


def test_a_package_that_nobody_knows_is_named(bench: Bench) -> None:
    problem = bench.problem("numpi")
    assert problem.where == f"{bench.folder}/recipe.yaml:3:18"
    assert "numpi was not found" in problem.message
    assert problem.hint == f"check the spelling of numpi; the packages came from {bench.site.url}/simple"


def test_requirements_that_contradict_each_other(bench: Bench) -> None:
    for number in ("1", "2"):
        bench.index.add("lib", number)
    bench.index.add("top", "1", requires=["lib<2"])
    problem = bench.problem("top", "lib>=2")
    assert "for Python 3.10 on linux/amd64 with glibc 2.35 this cannot be met" in problem.message
    assert "lib" in problem.message


def test_constraints_hold(bench: Bench) -> None:
    for number in ("1", "2"):
        bench.index.add("lib", number)
    (bench.folder / "r.txt").write_text("lib\n-c limits.txt\n")
    (bench.folder / "limits.txt").write_text("lib<2\nother==7\n")
    assert bench.brought("-r r.txt") == {"lib": "1"}


# -- hashes -------------------------------------------------------------------------------------------------------


def test_with_hashes_every_wheel_must_have_its_own(bench: Bench) -> None:
    lib = bench.index.add("lib", "1")
    top = bench.index.add("top", "1", requires=["lib"])
    good = (f"top==1 --hash=sha256:{top}", f"lib==1 --hash=sha256:{'0' * 64} --hash=sha256:{lib}")
    assert bench.brought(*good) == {"lib": "1", "top": "1"}
    problem = bench.problem(good[0])
    assert "lib-1-py3-none-any.whl has no hash" in problem.message
    assert problem.hint == f"lib==1 --hash=sha256:{lib}"
    problem = bench.problem(good[0], f"lib==1 --hash=sha256:{'0' * 64}")
    assert "lib-1-py3-none-any.whl has another digest than the given ones" in problem.message


def test_of_several_wheels_the_one_with_the_hash_is_taken(bench: Bench) -> None:
    bench.index.add("lib", "1", {"lib.so": b"x"}, tag="cp310-cp310-manylinux_2_17_x86_64")
    plain = bench.index.add("lib", "1")
    (wheel,) = bench.survey(f"lib==1 --hash=sha256:{plain}").wheels
    assert wheel.sha256 == plain


def test_bytes_that_are_not_what_the_index_promised(bench: Bench) -> None:
    bench.index.put("lib-1-py3-none-any.whl", wheel_bytes("lib", "1"), promised="0" * 64)
    with pytest.raises(Corrupt, match=r"lib-1-py3-none-any\.whl from .* is not what its index says"):
        bench.survey("lib")
    assert not list((bench.folder / "cache" / "wheels").rglob("lib-1-py3-none-any.whl"))


# -- the network --------------------------------------------------------------------------------------------------


def test_what_is_pinned_is_asked_for_once(bench: Bench) -> None:
    bench.index.add("lib", "1")
    bench.index.add("top", "1", requires=["lib"])
    first = bench.survey("top==1", "lib==1")
    asked = list(bench.site.asked)
    assert bench.survey("top==1", "lib==1") == first
    assert bench.site.asked == asked


def test_what_is_not_pinned_is_looked_up_but_not_fetched_again(bench: Bench) -> None:
    bench.index.add("lib", "1")
    first = bench.survey("lib")
    bench.site.asked.clear()
    assert bench.survey("lib") == first
    assert bench.wheels_asked() == []
    bench.index.add("lib", "2")
    assert [wheel.version for wheel in bench.survey("lib").wheels] == ["2"]


def test_a_spoilt_file_is_brought_again(bench: Bench) -> None:
    bench.index.add("lib", "1", {"lib/__init__.py": b"good"})
    first = bench.survey("lib==1")
    for path in (first.wheels[0].file, *(one.source for one in first.files if one.target.endswith("__init__.py"))):
        assert path
        path.write_bytes(b"bad")
    (bench.folder / "cache" / "wheels" / "sha256" / first.wheels[0].sha256 / "3.10" / "more").write_bytes(b"stray")
    assert bench.survey("lib==1") == first
    assert {one.source.read_bytes() for one in first.files if one.source and one.target.endswith("__init__.py")} == {
        b"good"
    }


def test_an_index_that_wants_a_login(bench: Bench) -> None:
    bench.index.add("lib", "1")
    with guarded(bench.index.folder, username="joe", password="s3cret@x") as site:
        bare = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": f"http://{site.host}/simple"}
        known = bare | {"PIP_INDEX_URL": f"http://joe:s3cret%40x@{site.host}/simple"}
        wrong = bare | {"PIP_INDEX_URL": f"http://joe:wr0ng@{site.host}/simple"}
        assert bench.brought("lib", network="", environ=known) == {"lib": "1"}
        for environ in (bare, wrong):
            with pytest.raises(Denied) as caught:
                bench.survey("lib", network="", environ=environ)
            assert "wr0ng" not in str(caught.value) + str(caught.value.hint)
            assert site.host in caught.value.message
    kept = [path for path in (bench.folder / "cache").rglob("*") if path.is_file()]
    assert not [path for path in kept if b"s3cret" in path.read_bytes()]


def test_of_several_indexes_the_one_that_wants_a_login_is_named(bench: Bench) -> None:
    private = PipIndex(folder=bench.folder / "private")
    private.add("secret-lib", "1")
    with guarded(private.folder, username="joe", password="pw") as site:
        environ = {
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": f"{bench.site.url}/simple",
            "PIP_EXTRA_INDEX_URL": f"http://{site.host}/simple",
        }
        with pytest.raises(Denied, match=f"did not let us in: http://{site.host}/simple"):
            bench.survey("secret-lib", network="", environ=environ)
        environ["PIP_EXTRA_INDEX_URL"] = f"http://joe:pw@{site.host}/simple"
        assert bench.brought("secret-lib", network="", environ=environ) == {"secret-lib": "1"}
        with pytest.raises(RecipeError, match="nobody was not found"):
            bench.survey("nobody", network="", environ=environ)


def test_an_index_that_is_not_there(bench: Bench) -> None:
    with pytest.raises(Unreachable, match=r"could not be looked up at http://127\.0\.0\.1:1/simple.*refused"):
        bench.survey("lib", network="pip_index: 'http://127.0.0.1:1/simple'")


def test_a_file_that_is_not_there(bench: Bench) -> None:
    data = wheel_bytes("lib", "1")
    bench.index.put("lib-1-py3-none-any.whl", data)
    bench.survey("lib==1")
    (bench.index.folder / "simple" / "lib" / "lib-1-py3-none-any.whl").unlink()
    for path in (bench.folder / "cache" / "wheels" / "sha256").rglob("*.whl"):
        path.unlink()
    with pytest.raises(NotFound, match=r"answered 404 for lib-1-py3-none-any\.whl"):
        bench.survey("lib==1")


def test_the_cache_knows_of_them(bench: Bench) -> None:
    bench.index.add("lib", "1", {"lib/data": b"x" * 100_000})
    bench.survey("lib==1")
    place = bench.folder / "cache"
    assert look(place).size > 100_000
    assert clear(place) > 100_000
    assert not list(place.iterdir())


# -- where packages come from -------------------------------------------------------------------------------------


def indexes(bench: Bench, environ: Mapping[str, str], network: str = "") -> tuple[str, ...]:
    recipe = bench.recipe("lib", network=network)
    return find_sources(recipe, environ, of_network(recipe.network, recipe.base)).public


def test_pip_s_own_settings_hold(bench: Bench) -> None:
    home = bench.folder / "home"
    (home / ".config" / "pip").mkdir(parents=True)
    (home / ".config" / "pip" / "pip.conf").write_text(
        "[global]\nindex-url = https://one/simple\nfind_links = /a\n    /b\nextra-index-url = https://two/simple\n"
        "[install]\nindex-url = https://three/simple\n[list]\nindex-url = https://four/simple\n"
    )
    environ = {"HOME": str(home)}
    assert indexes(bench, environ) == ("https://three/simple", "https://two/simple", "/a", "/b")
    named = bench.folder / "named.conf"
    named.write_text("[global]\nindex-url = https://user:pw@five/simple\n")
    environ |= {"PIP_CONFIG_FILE": str(named), "PIP_FIND_LINKS": "/c"}
    assert indexes(bench, environ) == ("https://five/simple", "https://two/simple", "/c")
    assert indexes(bench, environ | {"PIP_INDEX_URL": "https://six/simple"})[0] == "https://six/simple"
    assert indexes(bench, environ | {"PIP_NO_INDEX": "1"}) == ("/c",)
    assert indexes(bench, {"PIP_CONFIG_FILE": os.devnull}) == ("PyPI",)


def test_the_recipe_s_index_is_asked_alone(bench: Bench) -> None:
    environ = {
        "PIP_INDEX_URL": "https://one/simple",
        "PIP_EXTRA_INDEX_URL": "https://two/simple",
        "PIP_FIND_LINKS": "/a",
    }
    assert indexes(bench, environ, "pip_index: 'https://seven/simple'") == ("https://seven/simple",)


def test_settings_that_cannot_be_read(bench: Bench) -> None:
    named = bench.folder / "named.conf"
    named.write_text("index-url = https://one\n")
    with pytest.raises(NotFound, match=r"named\.conf cannot be read"):
        indexes(bench, {"PIP_CONFIG_FILE": str(named)})


def test_an_index_without_tls_must_be_said_to_be_trusted(bench: Bench) -> None:
    plain = "pip_index: 'http://mirror.test:8080/simple'"
    problem = bench.problem("lib", network=plain)
    assert problem.where == f"{bench.folder}/recipe.yaml:4:22"
    assert problem.hint == "https://..., or network: {insecure: ['mirror.test:8080']}"
    assert indexes(bench, {}, f"{plain}, insecure: ['mirror.test:8080']") == ("http://mirror.test:8080/simple",)
    environ = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "http://mirror.test/simple"}
    assert "mirror.test" in bench.problem("lib", network="", environ=environ).message
    assert indexes(bench, environ | {"PIP_TRUSTED_HOST": "mirror.test"}) == ("http://mirror.test/simple",)


def test_proxies(bench: Bench) -> None:
    def proxy(network: str, url: str, **environ: str) -> str | None:
        recipe = bench.recipe("lib", network=network)
        sources = find_sources(recipe, environ, of_network(recipe.network, recipe.base))
        return address_for(url, sources.routes.proxies)

    url = "https://index.test/x"
    quiet = {"PIP_CONFIG_FILE": os.devnull}
    assert proxy("", url, **quiet, HTTPS_PROXY="http://p:1") == "http://p:1"
    assert proxy("", url, **quiet, https_proxy="http://p:1", NO_PROXY="index.test") is None
    assert proxy("", url, **quiet, https_proxy="http://p:1", PIP_PROXY="http://q:1") == "http://q:1"
    said = "proxy: {https: 'http://r:1', no_proxy: [inner.test]}"
    assert proxy(said, url, **quiet, PIP_PROXY="http://q:1") == "http://r:1"
    assert proxy(said, "https://inner.test/x", **quiet, PIP_PROXY="http://q:1") is None


def test_find_links_do_without_an_index(bench: Bench) -> None:
    shelf = bench.folder / "shelf"
    shelf.mkdir()
    (shelf / wheel_name("lib", "1")).write_bytes(wheel_bytes("lib", "1"))
    environ = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "true", "PIP_FIND_LINKS": str(shelf)}
    assert bench.brought("lib", network="", environ=environ) == {"lib": "1"}


# -- wheels of one's own ------------------------------------------------------------------------------------------


def test_a_wheel_of_this_machine(bench: Bench) -> None:
    bench.index.add("lib", "1")
    own = bench.folder / "mine-1.0+us.1-py3-none-any.whl"
    own.write_bytes(wheel_bytes("mine", "1.0+us.1", {"mine.py": b"1"}, requires=["lib"]))
    assert bench.brought(f"./{own.name}") == {"lib": "1", "mine": "1.0+us.1"}
    own.write_bytes(wheel_bytes("mine", "1.0+us.1", {"mine.py": b"2"}, requires=["lib"]))
    found = bench.survey(f"./{own.name}", "lib==1")
    assert found.wheels[1].sha256 == hashlib.sha256(own.read_bytes()).hexdigest()


def test_a_wheel_of_this_machine_for_another_image(bench: Bench) -> None:
    own = bench.folder / "mine-1.0-cp311-cp311-linux_x86_64.whl"
    own.write_bytes(wheel_bytes("mine", "1.0", tag="cp311-cp311-linux_x86_64"))
    problem = bench.problem(f"./{own.name}")
    assert problem.message == f"{own.name} does not fit Python 3.10 on linux/amd64 with glibc 2.35"
    assert bench.brought(f"./{own.name}", python="3.11") == {"mine": "1.0"}


def test_a_wheel_by_its_url(bench: Bench) -> None:
    digest = bench.index.add("lib", "1")
    url = f"{bench.site.url}/simple/lib/lib-1-py3-none-any.whl"
    (wheel,) = bench.survey(f"{url}#sha256={digest}", network="pip_index: 'http://127.0.0.1:1/simple'").wheels
    assert (wheel.name, wheel.version, wheel.sha256) == ("lib", "1", digest)


# -- what they install --------------------------------------------------------------------------------------------


def everything(bench: Bench) -> None:
    bench.index.add(
        "greet",
        "1.0",
        {
            "greet/__init__.py": b"def main(): print('hello')\n",
            "greet/native.so": b"\x7fELF",
            "greet/__pycache__/__init__.cpython-310.pyc": b"old",
            "{data}/scripts/tool": b"#!python\nprint('tool')\n",
            "{data}/data/share/greet/words.txt": b"hello",
            "{data}/headers/greet.h": b"// hello\n",
            "{data}/platlib/greet_more.py": b"",
        },
        scripts={"greet": "greet:main"},
        runnable=["greet/native.so", "greet-1.0.data/scripts/tool"],
    )


def test_files_go_where_debian_s_pip_would_put_them(bench: Bench) -> None:
    everything(bench)
    files = {file.target: file for file in bench.survey("greet").files}
    info = f"{LOCAL}/greet-1.0.dist-info"
    assert {target: oct(file.mode) for target, file in files.items()} == {
        f"{info}/INSTALLER": "0o644",
        f"{info}/METADATA": "0o644",
        f"{info}/RECORD": "0o644",
        f"{info}/WHEEL": "0o644",
        f"{info}/entry_points.txt": "0o644",
        f"{LOCAL}/greet/__init__.py": "0o644",
        f"{LOCAL}/greet/native.so": "0o755",
        f"{LOCAL}/greet_more.py": "0o644",
        "usr/local/bin/greet": "0o755",
        "usr/local/bin/tool": "0o755",
        "usr/local/include/python3.10/greet/greet.h": "0o644",
        "usr/local/share/greet/words.txt": "0o644",
    }
    assert list(files) == sorted(files, key=lambda path: path.split("/"))
    for script in ("greet", "tool"):
        assert read(files[f"usr/local/bin/{script}"]).startswith(b"#!/usr/bin/python3\n")
    assert read(files[f"{info}/INSTALLER"]) == b"tricompose\n"
    record = read(files[f"{info}/RECORD"]).decode()
    assert "../../../bin/greet,sha256=" in record
    assert len(record.splitlines()) == len(files)


def read(file: LocalFile) -> bytes:
    assert file.source
    data = file.source.read_bytes()
    assert len(data) == file.size
    return data


def test_they_run(bench: Bench) -> None:
    everything(bench)
    files = {file.target: file for file in bench.survey("greet").files}
    script = files["usr/local/bin/greet"].source
    package = files[f"{LOCAL}/greet/__init__.py"].source
    assert script
    assert package
    environ = {"PYTHONPATH": str(package.parents[1]), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, script], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout == "hello\n"


def test_the_same_wheels_give_the_same_files(bench: Bench) -> None:
    everything(bench)
    first = [(file.target, file.mode, read(file)) for file in bench.survey("greet").files]
    bench.cache = "another"
    umask = os.umask(0o077)
    try:
        again = [(file.target, file.mode, read(file)) for file in bench.survey("greet").files]
    finally:
        os.umask(umask)
    assert again == first


def test_two_wheels_with_the_same_path(bench: Bench) -> None:
    bench.index.add("one", "1", {"tests/__init__.py": b"same", "tests/data": b"1"})
    bench.index.add("two", "1", {"tests/__init__.py": b"same", "tests/data": b"2"})
    files = {file.target: file for file in bench.survey("two", "one").files}
    assert read(files[f"{LOCAL}/tests/data"]) == b"2"
    warnings = [event.message for event in bench.events if isinstance(event, Warned)]
    assert warnings[1:] == [f"one and two both bring /{LOCAL}/tests/data: the latter's is taken"]


BAD: dict[str, tuple[Mapping[str, bytes], dict[str, Mapping[str, str]]]] = {
    "up": ({"../evil": b""}, {}),
    "up later": ({"lib/../../evil": b""}, {}),
    "absolute": ({"/tmp/evil": b""}, {}),
    "backslash": ({"..\\evil": b""}, {}),
    "up in data": ({"{data}/data/../../evil": b""}, {}),
    "no such scheme": ({"{data}/etc/evil": b""}, {}),
    "link": ({}, {"links": {"lib/evil": "/etc/passwd"}}),
    "script up": ({}, {"scripts": {"../../../../../../evil": "lib:main"}}),
    "script is no function": ({}, {"scripts": {"evil": "lib"}}),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_wheel_cannot_write_elsewhere(bench: Bench, kind: str) -> None:
    files, more = BAD[kind]
    bench.index.put(wheel_name("lib", "1"), wheel_bytes("lib", "1", files, **more))  # type: ignore[arg-type]
    with pytest.raises(Corrupt, match=r"lib-1-py3-none-any\.whl cannot be installed"):
        bench.survey("lib")
    assert not [path for path in bench.folder.rglob("*evil*") if bench.index.folder not in path.parents]
    assert not Path("/tmp/evil").exists()
    left = [path for path in (bench.folder / "cache" / "wheels" / "sha256").rglob("*") if path.is_file()]
    assert [path.name for path in left] == ["lib-1-py3-none-any.whl"]


def test_what_is_no_archive(bench: Bench) -> None:
    own = bench.folder / "mine-1.0-py3-none-any.whl"
    own.write_bytes(b"PK no")
    with pytest.raises(TricomposeError, match="mine"):
        bench.survey(f"./{own.name}")


# -- the real index -----------------------------------------------------------------------------------------------


def test_a_real_package_for_another_python_and_another_machine(bench: Bench) -> None:
    """MarkupSafe has a library of machine code; the version is the one that this very environment has."""
    number = version("markupsafe")
    found = bench.survey(f"markupsafe=={number}", network="", environ=os.environ, platform=ARM64, python="3.12")
    (library,) = (read(file) for file in found.files if file.target.endswith(".so"))
    assert library[:4] == b"\x7fELF"
    assert int.from_bytes(library[18:20], "little") == 183, "the machine of the ELF header is not AArch64"
    assert {file.target.split("/")[3] for file in found.files} == {"python3.12"}
