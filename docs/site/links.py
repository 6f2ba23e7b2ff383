"""Code in a text that names something public, such as `engine.gather` or `ops.add(x, y)`, links to its reference."""

import re
from collections.abc import Iterator, Mapping

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.nodes import make_refnode

# A dotted name, and nothing after it but the arguments of a call.
NAME = re.compile(r"@?((?:\w+\.)*\w+)(?:\(.*\))?", re.DOTALL)
PREFIXES = {
    "ops.": "engine.ops.",
    "h.": "handles.Handle.",
    "handle.": "handles.Handle.",
    "rng.": "engine.random.Generator.",
}


def candidates(text: str) -> Iterator[str]:
    """Yield the full names that a piece of code may mean, the likeliest first."""
    if not (found := NAME.fullmatch(text)):
        return
    name = found[1]
    yield name
    for short, full in PREFIXES.items():
        if name.startswith(short):
            yield full + name.removeprefix(short)
    if "." not in name and name[:1].isupper():  # a class by its bare name: `Config`, `BlockingSyncError`
        yield f"engine.{name}"
        yield f"handles.{name}"


def target(text: str, known: Mapping[str, object]) -> str | None:
    """Return the documented name that a piece of code means."""
    packages = ("engine.", "handles.")
    return next((name for name in candidates(text) if name.startswith(packages) and name in known), None)


class LinkNames(SphinxPostTransform):
    """Turns literals that name something documented into references."""

    default_priority = 5

    def run(self, **options: object) -> None:
        """Visit the literals of one page; headings and what is a link already stay."""
        known = self.env.domains.python_domain.objects
        for literal in list(self.document.findall(nodes.literal)):
            if any(isinstance(parent, (nodes.reference, nodes.title)) for parent in ancestors(literal)):
                continue
            name = target(literal.astext(), known)
            if name is None:
                continue
            entry = known[name]
            page = self.env.current_document.docname
            literal.replace_self(
                make_refnode(self.app.builder, page, entry.docname, entry.node_id, literal.deepcopy(), name)
            )


def ancestors(node: nodes.Node) -> Iterator[nodes.Node]:
    """Yield what a node stands in, from the inside out."""
    while (parent := node.parent) is not None:
        yield parent
        node = parent


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the transform."""
    app.add_post_transform(LinkNames)
    return {"parallel_read_safe": True}
