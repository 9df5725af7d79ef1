"""Templates filled in, and the texts beside them: what tricompose writes for people to read and edit."""

from __future__ import annotations

from pathlib import Path

from composer.errors import NotFound


def render(template: str, name: str, value: object) -> str:
    """The text of a template whose one variable is called `name`. In HTML every text of it is escaped.

    Raises `NotFound` where the installation lacks the template.
    """
    import jinja2

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=template.endswith(".html.j2"),
    )
    return environment.from_string(template_text(template)).render({name: value})


def template_text(template: str) -> str:
    """A template, or a file beside the templates, as it stands. Raises `NotFound` where the installation lacks it.

    Where the project is installed, templates lie in the package; in a checkout, beside it.
    """
    here = Path(__file__).parent
    for folder in (here / "templates", here.parent / "templates"):
        if (folder / template).is_file():
            return (folder / template).read_text(encoding="utf-8")
    raise NotFound(f"tricompose lacks its {template}", hint="pip install --force-reinstall tricompose")
