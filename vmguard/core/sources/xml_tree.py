"""Read the few wanted parts of a libvirt document, and nothing that could do harm.

::

    root = read_tree(xml, "domain", {"name": None, "devices": frozenset({"disk"})}, wrappers=("domstatus",))
    for disk in root.all("devices/disk"): ...

A whole tree of a 30 KB document costs more than the hook may spend. So only the wanted children of the root become
nodes (and, where a set is given, only the wanted children of such a child). Size, depth, count and text are limited,
and a document type is refused: without one there are no entities, so no entity bomb and no external reference.
"""

from __future__ import annotations

import pyexpat

from vmguard.errors import BadInput

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_BYTES = 8 << 20
MAX_DEPTH = 512
MAX_NODES = 100_000
MAX_TEXT_CHARS = 64 << 10


class Node:
    """One wanted element: ``tag``, ``attributes``, ``children``, ``text``."""

    __slots__ = ("attributes", "children", "tag", "text")

    def __init__(self, tag: str, attributes: dict[str, str]) -> None:
        self.tag = tag
        self.attributes = attributes
        self.children: list[Node] = []
        self.text = ""

    def get(self, attribute: str, default: str = "") -> str:
        """Return an attribute."""
        return self.attributes.get(attribute, default)

    def child(self, tag: str) -> Node | None:
        """Return the first child of that name."""
        for node in self.children:
            if node.tag == tag:
                return node
        return None

    def all(self, path: str) -> Iterator[Node]:
        """Yield every descendant along a path of names: ``all("source/host")``."""
        tag, _, rest = path.partition("/")
        for node in self.children:
            if node.tag == tag:
                if rest:
                    yield from node.all(rest)
                else:
                    yield node

    def first(self, path: str) -> Node | None:
        """Return the first descendant along a path of names."""
        return next(self.all(path), None)

    def value(self, path: str, attribute: str, default: str = "") -> str:
        """Return an attribute of the first element along a path; the default when either is missing."""
        node = self.first(path)
        return default if node is None else node.attributes.get(attribute, default)


class _Builder:
    """The callbacks for expat. ``skipping`` counts the open elements of an unwanted part."""

    __slots__ = ("count", "depth", "found", "root", "skipping", "stack", "wanted", "wrappers")

    def __init__(self, root: str, wanted: Mapping[str, frozenset[str] | None], wrappers: tuple[str, ...]) -> None:
        self.root = root
        self.wanted = wanted
        self.wrappers = wrappers
        self.depth = self.skipping = self.count = 0
        self.stack: list[Node] = []
        self.found: Node | None = None

    def _is_wanted(self, tag: str) -> bool:
        stack = self.stack
        if not stack:
            return tag == self.root and self.found is None
        if len(stack) == 1:
            return tag in self.wanted
        if len(stack) == 2:
            only = self.wanted[stack[1].tag]
            return only is None or tag in only
        return True

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise BadInput(f"{self.root} XML is nested deeper than {MAX_DEPTH} elements")
        if self.skipping:
            self.skipping += 1
            return
        if self.depth == 1 and tag != self.root:
            if tag in self.wrappers:
                return
            raise BadInput(f"this is not a {self.root} XML: its root element is <{tag[:80]}>")
        if not self._is_wanted(tag):
            self.skipping = 1
            return
        self.count += 1
        if self.count > MAX_NODES:
            raise BadInput(f"{self.root} XML has more than {MAX_NODES} elements")
        node = Node(tag, attributes)
        if self.stack:
            self.stack[-1].children.append(node)
        else:
            self.found = node
        self.stack.append(node)

    def end(self, tag: str) -> None:
        self.depth -= 1
        if self.skipping:
            self.skipping -= 1
        elif self.stack:
            self.stack.pop()

    def data(self, text: str) -> None:
        if self.skipping or not self.stack:
            return
        node = self.stack[-1]
        node.text += text
        if len(node.text) > MAX_TEXT_CHARS:
            raise BadInput(f"{self.root} XML: the text of <{node.tag}> is longer than {MAX_TEXT_CHARS} characters")

    def doctype(self, name: str, system: str | None, public: str | None, internal: bool) -> None:
        raise BadInput(
            f"{self.root} XML declares a document type: refused, libvirt writes none and entities are unsafe"
        )


def read_tree(
    xml: bytes, root: str, wanted: Mapping[str, frozenset[str] | None], wrappers: tuple[str, ...] = ()
) -> Node:
    """Return the root element with its wanted children. Raises BadInput, with line and column where known."""
    if len(xml) > MAX_BYTES:
        raise BadInput(f"{root} XML is too large: {len(xml)} bytes, at most {MAX_BYTES} are read")
    if not xml.strip():
        raise BadInput(f"{root} XML is empty")
    builder = _Builder(root, wanted, wrappers)
    parser = pyexpat.ParserCreate(None, " ")
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = builder.doctype
    try:
        parser.Parse(xml, True)
    except pyexpat.ExpatError as problem:
        reason = pyexpat.ErrorString(problem.code)
        raise BadInput(
            f"{root} XML is not well formed: {reason}: line {problem.lineno}, column {problem.offset}"
        ) from problem
    except (ValueError, LookupError) as problem:  # an encoding that Python does not know, or not an 8-bit one
        raise BadInput(f"{root} XML is in an encoding that cannot be read: {problem}") from problem
    if builder.found is None:
        raise BadInput(f"this is not a {root} XML: it holds no <{root}> element")
    return builder.found
