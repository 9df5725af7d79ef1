"""The commands of `tricompose bundle`: images and all that made them as files, for where no network leads."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from composer.command import Desk, Usage, command

if TYPE_CHECKING:
    from composer.bundle.document import Found
    from composer.bundle.signing import Trust

_UNITS: Final = {
    "": 1,
    "K": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "KI": 1 << 10,
    "MI": 1 << 20,
    "GI": 1 << 30,
    "TI": 1 << 40,
}
_SIZE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?I?)B?", re.IGNORECASE)
_LEAST: Final = 1 << 16
"""The smallest parts, in bytes: smaller ones are a slip of the pen."""


@click.group("bundle")
def bundle() -> None:
    """Carry images, and all that made them, to where no network leads.

    \b
    Examples:
      tricompose bundle create recipe.yaml -o /media/usb/triton --part-size 4GB
      tricompose bundle load /media/usb/triton --to docker://harbor.far.example/tools
    """


_ALLOWED = click.option(
    "--allowed-signers",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Refuse what none of these has signed (the file of ssh-keygen -Y verify).",
)
_SIGNER = click.option("--signer", metavar="ID", help="Refuse what this one of them has not signed.")
_KEY = click.option(
    "--key",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Refuse what was not signed by this key: the public one.",
)
_PATH = click.Path(path_type=Path, readable=False)
_BUNDLE = click.argument("where", metavar="BUNDLE", type=_PATH)


@command("create", bundle)
@click.argument("recipes", metavar="RECIPE...", nargs=-1, required=True, type=_PATH)
@click.option("-o", "--output", "out", required=True, metavar="DIR/NAME", type=_PATH, help="What to write.")
@click.option("--part-size", metavar="SIZE", help="Cut it into parts of this size: 700MB, 4GiB.  [default: one file]")
@click.option(
    "--since",
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Leave out what the far side has, by an earlier bundle or by its inventory. Repeatable.",
)
@click.option(
    "--sign", "key", metavar="KEY", type=click.Path(path_type=Path, dir_okay=False), help="Sign it with this SSH key."
)
@click.option("--with-tool", is_flag=True, help="Put tricompose itself in, with the wheels that it needs.")
@click.option("--images-only", is_flag=True, help="Leave out recipes, models, wheels, locks and reports.")
@click.option(
    "--platform", "platforms", multiple=True, metavar="OS/ARCH", help="Only this platform of each. Repeatable."
)
@click.option("--no-validate", is_flag=True, help="Do not prove that the images serve; their labels will say so.")
@click.option(
    "--runner",
    type=click.Choice(["auto", "docker", "rootfs"]),
    default="auto",
    show_default=True,
    help="What starts the images to prove them.",
)
@click.pass_obj
def _create(
    desk: Desk,
    /,
    recipes: Sequence[Path],
    out: Path,
    part_size: str | None,
    since: Sequence[Path],
    key: Path | None,
    with_tool: bool,
    images_only: bool,
    platforms: Sequence[str],
    no_validate: bool,
    runner: str,
) -> None:
    """Put recipes with everything into files: images, upstream layers, models, wheels, locks, reports.

    What is not built yet is built and proved. The far side can load it, push it, and compose again with another set
    of backends. NAME.tar is a plain OCI archive; cut into parts it is NAME.tar.001 and so on, and NAME.bundle.json,
    which belongs to it, has their checksums. The same recipes give the same bytes.

    \b
    Examples:
      tricompose bundle create recipe.yaml -o /media/usb/triton
      tricompose bundle create a.yaml b.yaml -o out/triton --part-size 4GB --sign ~/.ssh/id_ed25519
      tricompose bundle create recipe.yaml -o out/triton-2 --since out/triton.bundle.json
      tricompose bundle create recipe.yaml -o out/triton --with-tool
    """
    from composer.bundling.packing import Packing, create
    from composer.console import bundles
    from composer.oci.image import Platform
    from composer.with_server import Proving

    size = _bytes_of(part_size) if part_size else None
    if key and not key.exists():
        raise Usage(f"there is no key {key}", hint=f"ssh-keygen -t ed25519 -f {key}")
    place = _place_of(out)
    loaded = desk.recipes(recipes)
    packing = Packing(
        part_size=size,
        since=since,
        key=key,
        with_tool=with_tool,
        images_only=images_only,
        platforms=[Platform.parse(one) for one in platforms] or None,
    )
    how = None if no_validate else Proving(runner=runner)
    made, path = create([(one, desk.place(one)) for one in loaded], place, packing, how=how)
    desk.console.result("bundle", bundles.bundle_json(made, path), *bundles.bundle_text(made, path))


def _place_of(out: Path) -> Path:
    """The folder and the name of a bundle that is to be written."""
    from composer.bundle.document import SUFFIX, document_of

    if out.is_dir():
        raise Usage(f"{out} is a folder: the bundle in it needs a name", hint=f"-o {out / 'triton'}")
    named = document_of(out)
    return named.with_name(named.name.removesuffix(SUFFIX))


def _bytes_of(text: str) -> int:
    """The bytes that a size means: `700MB`, `4GiB`, `4700000000`."""
    match = _SIZE.fullmatch(text.strip())
    found = int(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    if found < _LEAST:
        raise Usage(f"--part-size {text}: a size is wanted, of 64KiB or more", hint="--part-size 700MB, or 4GiB")
    return found


@command("verify", bundle, reach="none")
@_BUNDLE
@_KEY
@_ALLOWED
@_SIGNER
@click.pass_obj
def _verify(desk: Desk, /, where: Path, key: Path | None, allowed_signers: Path | None, signer: str | None) -> None:
    """Read a bundle's parts, and name those that are bad, with the images that this affects.

    Nothing is joined or unpacked. Where BUNDLE is one part, that one alone is read.

    \b
    Examples:
      tricompose bundle verify /media/usb/triton
      tricompose bundle verify /media/usb/triton.tar.002
      tricompose bundle verify /media/usb/triton --allowed-signers ~/.ssh/allowed_signers
    """
    from composer.bundle.checking import check_parts
    from composer.bundle.document import Found, is_part
    from composer.bundle.reading import BundleStore, refused
    from composer.bundle.signing import require_signature
    from composer.console import bundles

    found = Found.at(where)
    by = require_signature(found, _trust(key, allowed_signers, signer))
    only = [where.name] if is_part(where) else []
    _require_known(found, only)
    damaged = check_parts(BundleStore(found), only, emit=desk.console.emit)
    desk.console.result(
        "verified", bundles.verified_json(found, damaged, by), *bundles.verified_text(found, damaged, by, only)
    )
    if damaged:
        raise refused(list(damaged))


def _require_known(found: Found, only: Sequence[str]) -> None:
    from composer.errors import NotFound

    names = [part.name for part in found.bundle.parts]
    if unknown := [name for name in only if name not in names]:
        raise NotFound(f"{unknown[0]} is no part of {found.path}", hint=f"its parts: {names[0]} ... {names[-1]}")


def _trust(key: Path | None, allowed: Path | None, signer: str | None) -> Trust | None:
    from composer.bundle.signing import Trust

    if key and allowed:
        raise Usage("--key and --allowed-signers both say whom to trust", hint="give one of them")
    if signer and not allowed:
        raise Usage("--signer names one of --allowed-signers", hint="--allowed-signers FILE --signer ID")
    return Trust(key=key, allowed=allowed, signer=signer) if key or allowed else None


@command("inspect", bundle, reach="none")
@_BUNDLE
@click.pass_obj
def _inspect(desk: Desk, /, where: Path) -> None:
    """Show what is in a bundle, and what it builds on. Only its NAME.bundle.json is read.

    \b
    Examples:
      tricompose bundle inspect /media/usb/triton
      tricompose bundle inspect triton.bundle.json --json
    """
    from composer.bundle.document import Found
    from composer.console import bundles

    found = Found.at(where)
    desk.console.result(
        "bundle", bundles.bundle_json(found.bundle, found.path), *bundles.bundle_text(found.bundle, found.path)
    )


@command("load", bundle, reach="push")
@_BUNDLE
@click.option("--to", metavar="PLACE", help="docker://HOST/PREFIX, oci:DIR, docker-daemon:  [default: the cache]")
@click.option(
    "--into", metavar="DIR", type=click.Path(path_type=Path, file_okay=False), help="Write the recipes there as well."
)
@click.option(
    "--rules",
    "folder",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write the rules by which upstream images are found there: network.yaml, registries.conf and others.",
)
@_KEY
@_ALLOWED
@_SIGNER
@click.pass_obj
def _load(
    desk: Desk,
    /,
    where: Path,
    to: str | None,
    into: Path | None,
    folder: Path | None,
    key: Path | None,
    allowed_signers: Path | None,
    signer: str | None,
) -> None:
    """Put what is in a bundle where it is wanted: a registry, a layout, Docker, or the cache, to build from.

    Nobody but that place is asked. Parts are read where they lie, each byte once, and verified; tags come when all is
    there. What the place has is not moved again, and after a failure running it again goes on.

    \b
    Examples:
      tricompose bundle load /media/usb/triton --to docker://harbor.far.example/tools --rules rules
      tricompose bundle load /media/usb/triton --into recipes
      tricompose bundle load /media/usb/triton --to docker-daemon: --allowed-signers signers
    """
    from composer.bundle.document import Found
    from composer.bundling.loading import load
    from composer.console import bundles
    from composer.network import writing

    found = Found.at(where)
    outcome = load(found, to, desk.place(), into=into, trust=_trust(key, allowed_signers, signer))
    made = writing.written(outcome.rules) if outcome.rules else None
    files = writing.write(folder, made) if folder and made else ()
    network = writing.network_text(outcome.rules) if outcome.rules and not files else ""
    desk.console.result("loaded", bundles.loaded_json(outcome, files), *bundles.loaded_text(outcome, files, network))


@command("inventory", bundle)
@click.argument("places", metavar="[PLACE...]", nargs=-1)
@click.option(
    "-o", "--output", "out", required=True, metavar="FILE", type=click.Path(path_type=Path), help="What to write."
)
@click.pass_obj
def _inventory(desk: Desk, /, places: Sequence[str], out: Path) -> None:
    """Write down what a place holds, so that bundle create --since leaves it out. No layer is read.

    A place is docker://HOST/REPOSITORY or oci:DIR, with all its tags, or one of them. Without any it is the cache.

    \b
    Examples:
      tricompose bundle inventory docker://harbor.far.example/tools/tritonserver -o have.json
      tricompose bundle inventory -o have.json
    """
    from composer.bundling.having import take_inventory
    from composer.console import bundles
    from composer.oci.names import parse_reference

    found = take_inventory([parse_reference(one) for one in places], desk.place())
    found.write(out)
    desk.console.result("inventory", found.to_json(), *bundles.inventory_text(found, out))
