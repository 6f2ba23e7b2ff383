"""How the reference is made from the docstrings; every public name must have its place in it."""

import re
from enum import Enum
from importlib import import_module
from inspect import isclass

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode

PUBLIC_MODULES = (
    "engine",
    "engine.asgi",
    "engine.devices",
    "engine.ops",
    "engine.ops.linalg",
    "engine.ops.fft",
    "engine.observe",
    "engine.random",
    "engine.testing",
    "handles",
)
# Modules, which are in the tuple above, and what is documented under another name.
ELSEWHERE = {
    *("engine.asgi", "engine.observe", "engine.observe.profile", "engine.ops", "engine.ops.linalg", "engine.ops.fft"),
    *("engine.testing", "handles.CancelOutcome"),
    *("engine.devices.Array", "engine.devices.Device", "engine.devices.Operand"),
}
NOT_MADE_BY_USERS = {
    "engine.BatchStatistics",
    "engine.BufferStatistics",
    "engine.FunctionStatistics",
    "engine.Operation",
    "engine.Statistics",
    "engine.asgi.RequestStatistics",
    "engine.observe.OpRecord",
    "engine.observe.Profile",
    "engine.random.Generator",
}

DEFAULTS = {
    "<factory>": "{'CPU': 1}",
    "_INHERITED": "0",
    "MOST_OPS": "1_000_000",
    "NOT_GIVEN": "...",
    "COMPUTED": "...",
}
"""What stands in signatures for defaults that have a name of the engine's own, or are made for each call."""


class Names(SphinxDirective):
    """Documents the names in its body, all of the module that is its argument."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Write one directive of autodoc for each name."""
        module = import_module(self.arguments[0])
        lines: list[str] = []
        for name in " ".join(self.content).split():
            kind, options = how(getattr(module, name))
            lines += [f".. auto{kind}:: {module.__name__}.{name}", *(f"   :{option}:" for option in options), ""]
        return self.parse_text_to_nodes("\n".join(lines))


def how(documented: object) -> tuple[str, tuple[str, ...]]:
    """Tell which directive of autodoc documents something, and its options."""
    if not isclass(documented):
        return "function", ()
    if issubclass(documented, BaseException):
        return "exception", ("show-inheritance",)
    return "class", () if issubclass(documented, tuple) else ("members",)


def process_signature(
    app: Sphinx, what: str, name: str, documented: object, options: object, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Leave out how to make what users do not make, and show aliases by their names and defaults by their values."""
    if name in NOT_MADE_BY_USERS or (isclass(documented) and issubclass(documented, Enum)):
        return "", None
    for own, value in DEFAULTS.items():
        signature = signature and signature.replace(f"={own}", f"={value}").replace(f"= {own}", f"= {value}")
    alias = r"TypeAliasForwardRef\('(\w+)'\)"
    return signature and re.sub(alias, r"\1", signature), returned and re.sub(alias, r"\1", returned)


def resolve(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.reference | None:
    """Find a class, which annotations know by the module that defines it, under its public name."""
    package, _, name = node["reftarget"].rpartition(".")
    if package.partition(".")[0] not in ("", "engine", "handles"):
        return None
    for public in (f"engine.{name}", f"handles.{name}", f"engine.random.{name}"):
        if found := env.domains.python_domain.objects.get(public):
            page, builder = node["refdoc"], app.builder
            return make_refnode(builder, page, found.docname, found.node_id, content)
    return None


def public_names() -> set[str]:
    """What users can reach by its name: of the packages, and of a handle."""
    names = set()
    for module in map(import_module, PUBLIC_MODULES):
        own = getattr(module, "__all__", None) or [
            name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__
        ]
        names |= {f"{module.__name__}.{name}" for name in own if not name.startswith("__")}
    handle = import_module("handles").Handle
    there = [name for name in dir(handle) if not name.startswith("_") and hasattr(handle, name)]
    names |= {f"handles.Handle.{name}" for name in there}
    return names - ELSEWHERE


def check_complete(app: Sphinx, env: BuildEnvironment) -> None:
    """Warn, which fails the build, of each public name that no page has."""
    for name in sorted(public_names() - set(env.domains.python_domain.objects)):
        logging.getLogger(__name__).warning("%s is public and has no place in docs/reference", name)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register what this file adds to Sphinx."""
    app.add_directive("names", Names)
    app.connect("autodoc-process-signature", process_signature)
    app.connect("missing-reference", resolve)
    app.connect("env-check-consistency", check_complete)
    return {"parallel_read_safe": True}
