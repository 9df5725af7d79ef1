"""What commands found out, for people as tables and for programs as JSON values."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from composer import config as configs
from composer import words
from composer.cache import CacheContents
from composer.checks.report import Report
from composer.console.proofs import proof_text
from composer.console.tables import facts, table
from composer.inventory import Component
from composer.oci.image import Descriptor, Image
from composer.pipeline import Outcome
from composer.plan import Add, Graft, Plan, Reuse, Slice, Split, Step, Unread, size_of, slice_size, split_of
from composer.releases import Release
from composer.with_docker import DockerPlan

_OUR_LABELS: Final = {
    configs.UPSTREAM_LABEL: "upstream",
    configs.BACKENDS_LABEL: "backends",
    configs.VALIDATION_LABEL: "proof",
}


# -- plan ---------------------------------------------------------------------------------------------------------


def plan_text(plan: Plan, recipe: str) -> Iterator[RenderableType]:
    """A plan: every layer, then what it comes to, then what cannot be known yet."""
    yield _steps(plan)
    yield Text()
    yield facts(_plan_facts(plan))
    yield from (Text(line) for line in _unknowns(plan, recipe))


def _steps(plan: Plan) -> Table:
    made = table("LAYER", "PLAN", "COMPRESSED", "UNPACKED", "WHY", numbers=("COMPRESSED", "UNPACKED"))
    for step in plan.steps:
        made.add_row(*(Text(cell) for cell in _step_row(step)))
        if split := split_of(step):
            for one in _told(step):
                made.add_row(*(Text(cell) for cell in _slice_row(split, one)))
    return made


def _step_row(step: Step) -> tuple[str, str, str, str, str]:
    match step:
        case Reuse():
            return words.short(step.layer.digest), "reused", words.size(step.layer.size), "", step.because
        case Unread():
            return words.short(step.layer.digest), "to be read", words.size(step.layer.size), "?", step.because
        case Graft():
            size = f"{'' if step.split.known else '~'}{words.size(size_of(step))}"
            unpacked = words.size(sum(one.content for one in _told(step)))
            return words.short(step.split.layer.digest), "taken", size, unpacked, f"of {step.donor.reference}"
        case Split():
            after = f"{'' if step.known else '~'}{words.size(size_of(step))}"
            unpacked = words.size(sum(one.content for one in step.slices))
            shrinks = f"{words.size(step.layer.size)} -> {after}"
            why = f"loses {sum(not one.kept for one in step.slices)} of {words.count(len(step.slices), 'part')}"
            return words.short(step.layer.digest), "split", shrinks, unpacked, why
        case Add():
            return step.title, "added", f"~{words.size(step.content)}", words.size(step.content), step.because


def _told(step: Step) -> Sequence[Slice]:
    """The parts of a layer that concern the image: of another image's layer only what is taken."""
    split = split_of(step)
    return [one for one in split.slices if one.kept or step is split] if split else ()


def _slice_row(step: Split, one: Slice) -> tuple[str, str, str, str, str]:
    about = "" if one.parts else "~"
    name, verb = f"  {one.component}", "  kept" if one.kept else "  dropped"
    why = "cut before, need not be read" if one.parts else words.count(one.files, "file")
    return name, verb, f"{about}{words.size(slice_size(step, one))}", words.size(one.content), why


def _plan_facts(plan: Plan) -> list[tuple[str, str]]:
    about = "" if plan.exact else "about "
    size = f"{about}{words.size(plan.size)}: {words.ratio(plan.upstream_size, plan.size)}"
    return [
        ("platform", str(plan.upstream.platform)),
        ("upstream", f"{words.size(plan.upstream_size)}: {plan.upstream.reference}"),
        ("result", size if plan.complete else f"{size}, or less{_besides(plan)}"),
        ("kept", _sum(plan.kept)),
        ("dropped", _sum(plan.dropped)),
        ("to read", words.size(plan.to_read) if plan.to_read else "nothing"),
        ("to write", f"about {words.size(plan.to_write)}" if plan.to_write else "nothing"),
    ]


def _besides(plan: Plan) -> str:
    foreign = any(isinstance(step, Unread) and step.donor for step in plan.steps)
    return "; and what is taken of other images" if foreign else ""


def _sum(components: Sequence[Component]) -> str:
    if not components:
        return "-"
    unpacked = words.size(sum(one.size for one in components))
    return f"{', '.join(one.key for one in components)}: {unpacked} unpacked"


def _unknowns(plan: Plan, recipe: str) -> Iterator[str]:
    unread = [step for step in plan.steps if isinstance(step, Unread)]
    own = sum(step.donor is None for step in unread)
    if unread:
        yield ""
    if own:
        yield (
            f"What {words.count(own, 'layer')} of the upstream hold{'s' if own == 1 else ''} is not "
            "known, because nobody has read them here: they are counted as if all of it stayed."
        )
    if unread:
        sizes = {step.layer.digest: step.layer.size for step in unread}
        size = words.size(sum(sizes.values()))
        yield f"build reads them once ({size}); to do it now: tricompose plan --scan new {recipe}"
    elif not plan.exact:
        yield ""
        yield "~ and about: estimated, by its share of the layer that it comes from; new layers are not compressed yet."


def plan_json(plan: Plan) -> dict[str, Any]:
    """A plan as a JSON object; sizes are bytes."""
    return {
        "platform": str(plan.upstream.platform),
        "upstream": {"reference": str(plan.upstream.reference), "size": plan.upstream_size},
        "size": plan.size,
        "exact": plan.exact,
        "complete": plan.complete,
        "to_read": plan.to_read,
        "to_write": plan.to_write,
        "kept": [_component_json(one) for one in plan.kept],
        "dropped": [_component_json(one) for one in plan.dropped],
        "models": [{"name": model.name, "backend": model.backend, "size": model.size} for model in plan.models],
        "steps": [_step_json(step) for step in plan.steps],
    }


def _component_json(one: Component) -> dict[str, Any]:
    return {"kind": one.kind, "name": one.name, "size": one.size, "files": one.files}


def _step_json(step: Step) -> dict[str, Any]:
    if isinstance(step, Add):
        return {"step": "add", "title": step.title, "content": step.content, "because": step.because}
    kinds: Mapping[type[Step], str] = {Reuse: "reuse", Unread: "read", Split: "split", Graft: "graft"}
    split = split_of(step)
    about = step.split if isinstance(step, Graft) else step
    found: dict[str, Any] = {
        "step": kinds[type(step)],
        "digest": about.layer.digest,
        "size": about.layer.size,
        "result": size_of(step),
        "because": about.because,
    }
    if isinstance(step, Graft):
        found["image"] = str(step.donor.reference)
    return found | {"slices": [_slice_json(split, one) for one in _told(step)]} if split else found


def _slice_json(step: Split, one: Slice) -> dict[str, Any]:
    return {
        "component": one.component,
        "kept": one.kept,
        "content": one.content,
        "files": one.files,
        "size": slice_size(step, one),
        "known": bool(one.parts),
    }


# -- build --------------------------------------------------------------------------------------------------------


def outcome_text(outcome: Outcome, name: str) -> Iterator[RenderableType]:
    """What a build made: what was saved, what was proved, where it is."""
    for plan, image in zip(outcome.plans, outcome.images, strict=True):
        yield from _savings(plan, image, outcome.reports.get(str(image.platform)), name)
    yield facts([("digest", outcome.root.digest), *(("delivered", place) for place in outcome.delivered)])
    if outcome.cached:
        yield Text(
            f"\nThe recipe has no outputs, so the image is in the cache. To get it:\n"
            f"  tricompose copy {outcome.cached} oci-archive:{name}.tar:{name}"
        )
    yield Text()


def _savings(plan: Plan | DockerPlan, image: Image, report: Report | None, name: str) -> Iterator[RenderableType]:
    size = layers_size(image)
    yield facts(
        [
            ("image", f"{name} for {image.platform}"),
            ("upstream", f"{words.size(plan.upstream_size)} in {_layers(plan.upstream.image)}"),
            ("result", f"{words.size(size)} in {_layers(image)}: {words.ratio(plan.upstream_size, size)}"),
            ("kept", _sum(plan.kept) if isinstance(plan, Plan) else ", ".join(plan.kept)),
        ]
    )
    yield Text()
    if isinstance(plan, Plan) and plan.dropped:
        dropped = table("DROPPED", "UNPACKED", "FILES", numbers=("UNPACKED", "FILES"))
        for one in sorted(plan.dropped, key=lambda one: one.size, reverse=True):
            dropped.add_row(Text(one.key), words.size(one.size), str(one.files))
        yield dropped
        yield Text()
    yield from proof_text(report)


def _layers(image: Image) -> str:
    return words.count(len(image.layers), "layer")


def layers_size(image: Image) -> int:
    """Compressed bytes of all layers."""
    return sum(layer.size for layer in image.layers)


def outcome_json(outcome: Outcome, recipe: str, name: str) -> dict[str, Any]:
    """What a build made, as a JSON object; sizes are bytes."""
    return {
        "recipe": recipe,
        "name": name,
        "digest": outcome.root.digest,
        "media_type": outcome.root.media_type,
        "delivered": list(outcome.delivered),
        "cached": str(outcome.cached) if outcome.cached else None,
        "images": [
            {
                "platform": str(image.platform),
                "digest": image.manifest.descriptor.digest,
                "size": layers_size(image),
                "upstream": {"reference": str(plan.upstream.reference), "size": plan.upstream_size},
                **_parts_json(plan),
                "validation": report.to_json() if (report := outcome.reports.get(str(image.platform))) else None,
            }
            for plan, image in zip(outcome.plans, outcome.images, strict=True)
        ],
    }


def _parts_json(plan: Plan | DockerPlan) -> dict[str, Any]:
    """What is kept and dropped; Docker does not tell sizes."""
    if isinstance(plan, Plan):
        return {
            "kept": [_component_json(one) for one in plan.kept],
            "dropped": [_component_json(one) for one in plan.dropped],
        }
    parts = (key.partition("/") for key in plan.kept)
    return {"kept": [{"kind": kind, "name": name} for kind, _, name in parts], "dropped": None}


# -- images and the cache -----------------------------------------------------------------------------------------


def images_text(name: str, root: Descriptor, images: Sequence[Image]) -> Iterator[RenderableType]:
    """What is in an image: what it says of itself, and its layers."""
    yield facts([("image", name), ("digest", root.digest), ("type", root.media_type)])
    for image in images:
        yield Text()
        yield facts(list(_about(image)))
        yield Text()
        if labels := _labels(image):
            yield facts([(label, str(value)) for label, value in sorted(labels.items()) if label not in _OUR_LABELS])
            yield Text()
        yield _image_layers(image)


def _about(image: Image) -> Iterator[tuple[str, str]]:
    settings = image.config.get("config") or {}
    labels = _labels(image)
    yield "platform", str(image.platform)
    if len(image.layers):
        yield "size", f"{words.size(layers_size(image))} in {_layers(image)}"
    yield "created", str(image.config.get("created") or "-")
    yield from ((title, str(labels[label])) for label, title in _OUR_LABELS.items() if label in labels)
    yield "starts", " ".join([*(settings.get("Entrypoint") or ()), *(settings.get("Cmd") or ())]) or "-"
    yield "user", str(settings.get("User") or "root")


def _labels(image: Image) -> Mapping[str, str]:
    return (image.config.get("config") or {}).get("Labels") or {}


def _image_layers(image: Image) -> Table:
    made = table("LAYER", "SIZE", "MADE BY", numbers=("SIZE",))
    history = [entry for entry, number in configs.upstream_history(image) if number is not None]
    for layer, entry in zip(image.layers, history, strict=True):
        made_by = " ".join(str(entry.get("created_by", "")).split())
        made.add_row(words.short(layer.digest), words.size(layer.size), Text(made_by[:100]))
    return made


def images_json(name: str, root: Descriptor, images: Sequence[Image]) -> dict[str, Any]:
    """What is in an image, as a JSON object."""
    return {
        "image": name,
        "digest": root.digest,
        "media_type": root.media_type,
        "images": [
            {
                "platform": str(image.platform),
                "digest": image.manifest.descriptor.digest,
                "size": layers_size(image),
                "layers": [layer.to_json() for layer in image.layers],
                "config": image.config,
            }
            for image in images
        ],
    }


def cache_text(contents: CacheContents) -> RenderableType:
    """What the cache holds."""
    return facts(
        [
            ("cache", str(contents.path)),
            ("size", f"{words.size(contents.size)} in {words.count(contents.blobs, 'blob')}"),
            ("images", str(contents.images)),
            ("layers read", str(contents.inventories)),
            ("layers cut", str(contents.cuts)),
            ("free disk", words.size(contents.free)),
        ]
    )


# -- releases -----------------------------------------------------------------------------------------------------

_UNKNOWN: Final = "?"
_NAMED: Final = {
    "triton": "Triton",
    "ubuntu": "Ubuntu",
    "python": "Python",
    "cuda": "CUDA",
    "cudnn": "cuDNN",
    "tensorrt": "TensorRT",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "dcgm": "DCGM",
    "repoagents": "repository agents",
}


def releases_text(releases: Sequence[Release]) -> Iterator[RenderableType]:
    """All releases, one a line, oldest first: of backends, how many there are, and which came and went."""
    versions = ("triton", "ubuntu", "python", "cuda", "tensorrt", "onnxruntime", "openvino", "dcgm")
    made = table("RELEASE", *(_NAMED[name].upper() for name in versions), "BACKENDS")
    last: tuple[str, ...] = ()
    for release in releases:
        cells = [Text(getattr(release, name) or _UNKNOWN) for name in versions]
        made.add_row(Text(release.name, style="bold"), *cells, Text(_came_and_went(last, release.backends)))
        last = release.backends or ()
    yield made
    yield Text()
    yield Text(f"{_UNKNOWN}: not known. All that is known of one: tricompose releases {releases[-1].name}")


def _came_and_went(last: Sequence[str], now: Sequence[str] | None) -> str:
    if now is None:
        return _UNKNOWN
    came, went = [f"+{name}" for name in now if name not in last], [f"-{name}" for name in last if name not in now]
    return " ".join([str(len(now)), *((*came, *went) if last else ())])


def release_text(release: Release, changed: Sequence[tuple[str, str, str]]) -> Iterator[RenderableType]:
    """One release: what is known of it, and what was different before it."""
    names = [name for name in _release_json(release) if name not in ("name", "composed")]
    rows = [(_NAMED.get(name, name), _listed(getattr(release, name))) for name in names]
    yield facts([("release", release.name), *rows, ("compose.py", "yes" if release.composed else "no")])
    if changed:
        yield Text()
        made = table("CHANGED", "BEFORE", "NOW")
        for what, before, now in changed:
            made.add_row(*(Text(one) for one in (_NAMED.get(what, what), before or "-", now or "-")))
        yield made


def _listed(value: str | tuple[str, ...] | None) -> str:
    if value is None:
        return _UNKNOWN
    return value if isinstance(value, str) else ", ".join(value) or "none"


def _release_json(release: Release) -> dict[str, Any]:
    return dataclasses.asdict(release)


def releases_json(releases: Sequence[Release]) -> list[dict[str, Any]]:
    """Releases as JSON objects; null is what is not known."""
    return [_release_json(release) for release in releases]


def release_json(release: Release, changed: Sequence[tuple[str, str, str]]) -> dict[str, Any]:
    """One release as a JSON object, and what changed with it: null stands for nothing."""
    changes = [{"what": what, "before": before or None, "now": now or None} for what, before, now in changed]
    return {**_release_json(release), "changed": changes}
