"""A YAML file as `yaml.safe_load` reads it, with the line and column of everything in it."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlproj_core.spec.problem import Problem, Snippet

if TYPE_CHECKING:
    import yaml

__all__ = ["Document", "UnreadableDocument", "kind", "read_document"]

_READ_DIFFERENTLY = re.compile(r"[\t?\ufeff]|[|>][-+0-9]*#|!(?:\s|\Z)")
"""What libyaml accepts, or reads otherwise, in places where PyYAML's own parser, and so MLflow, does not."""


class UnreadableDocument(Exception):
    """A file is not YAML, or not text, or cannot be opened.

    Attributes:
        problem: what is wrong with it.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


@dataclass
class Document:
    """The values of a YAML file, and where each stands.

    Attributes:
        file: the file's name, as messages show it.
        text: its text, with newlines as line ends and without a byte order mark.
        value: exactly what `yaml.safe_load` makes of it.
        warnings: keys that stand twice in one mapping; the last one counts, as in any YAML of Python.
    """

    file: str
    text: str
    value: Any = None
    warnings: list[Problem] = field(default_factory=list)
    _loader: Any = None
    _nodes: dict[int, yaml.Node] = field(default_factory=dict)
    _pairs: dict[int, dict[Any, tuple[yaml.Node, yaml.Node]]] = field(default_factory=dict)

    def key_position(self, container: Any, key: Any) -> tuple[int | None, int | None]:
        """Line and column of a key of a mapping, or of an item of a list."""
        pair = self._pair(container, key)
        return _start(pair[0]) if pair else self._own_position(container)

    def value_position(self, container: Any, key: Any) -> tuple[int | None, int | None]:
        """Line and column of the value under a key of a mapping, or of an item of a list."""
        pair = self._pair(container, key)
        return _start(pair[1]) if pair else self._own_position(container)

    def snippet(self, container: Any, key: Any) -> Snippet | None:
        """The value under a key as it is written."""
        pair = self._pair(container, key)
        if pair is None:
            return None
        node = pair[1]
        line, column = _start(node)
        return Snippet(self.text[node.start_mark.index : node.end_mark.index], self.file, line, column)

    def problem(
        self,
        message: str,
        remedy: str = "",
        *,
        at: tuple[int | None, int | None] = (None, None),
        severity: str = "error",
    ) -> Problem:
        """A problem of this file."""
        return Problem(message, remedy, self.file, *at, severity=severity)

    def _own_position(self, container: Any) -> tuple[int | None, int | None]:
        node = self._nodes.get(id(container))
        return _start(node) if node is not None else (None, None)

    def _pair(self, container: Any, key: Any) -> tuple[yaml.Node, yaml.Node] | None:
        node = self._nodes.get(id(container))
        if node is None:
            return None
        if isinstance(container, list):
            return (node.value[key], node.value[key])
        pairs = self._pairs.get(id(container))
        if pairs is None:
            pairs = {}
            for key_node, value_node in node.value:
                pairs[self._loader.construct_object(key_node, deep=True)] = (key_node, value_node)
            self._pairs[id(container)] = pairs
        return pairs.get(key)


def read_document(path: Path | str, file: str | None = None) -> Document:
    """Read a YAML file as MLflow does: one document, UTF-8, any line ends, a byte order mark allowed.

    Args:
        path: the file.
        file: how messages name it; its path by default.

    Raises:
        UnreadableDocument: it cannot be opened, is not UTF-8, or is not YAML.
    """
    file = file if file is not None else os.fspath(path)
    try:
        data = Path(path).read_bytes()
    except IsADirectoryError:
        raise UnreadableDocument(
            Problem(
                "this is a directory, but a file is expected",
                "rename it, or give the directory that holds the file",
                file,
            )
        ) from None
    except OSError as error:
        remedy = "check that it exists and may be read"
        raise UnreadableDocument(Problem(f"cannot be read: {error.strerror or error}", remedy, file)) from error
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        start = data.rfind(b"\n", 0, error.start) + 1
        line, column = data.count(b"\n", 0, error.start) + 1, error.start - start + 1
        raise UnreadableDocument(
            Problem(f"not UTF-8 text: byte 0x{data[error.start]:02x}", "save the file as UTF-8", file, line, column)
        ) from error
    # Python's text mode, by which MLflow reads the file, makes every line end a newline.
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    return _parse(Document(file, text))


def kind(value: Any) -> str:
    """What a YAML value is, in words."""
    if value is None:
        return "nothing"
    kinds = {dict: "a mapping", list: "a list", str: "text", bool: "a truth value", int: "a number", float: "a number"}
    return kinds.get(type(value), f"a {type(value).__name__}")


def _parse(document: Document) -> Document:
    import yaml

    fast, exact = _loaders()
    if _suits_libyaml(document.text):
        try:
            return _construct(document, fast)
        except (yaml.YAMLError, RecursionError):
            # MLflow reads by PyYAML's own parser, which refuses a little less than libyaml and explains errors better.
            document = Document(document.file, document.text)
    try:
        return _construct(document, exact)
    except RecursionError:
        raise UnreadableDocument(document.problem("nested too deeply to be read", "write it in fewer levels")) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = (mark.line + 1, mark.column + 1) if mark is not None else (None, None)
        message = " ".join(str(part) for part in (error.context, error.problem) if part)
        raise UnreadableDocument(
            document.problem(f"not valid YAML: {message}", _yaml_remedy(document, at, message), at=at)
        ) from error
    except yaml.reader.ReaderError as error:
        before = document.text[: error.position]
        at = (before.count("\n") + 1, error.position - (before.rfind("\n") + 1) + 1)
        character = error.character if isinstance(error.character, int) else ord(error.character)
        message = f"not valid YAML: the character U+{character:04X} is not allowed"
        raise UnreadableDocument(document.problem(message, "remove it", at=at)) from error


def _suits_libyaml(text: str) -> bool:
    """Whether libyaml reads a text as PyYAML does, and is safe with it: deep nesting overflows its stack."""
    return len(text) < 200_000 and sum(map(text.count, ("[", "{", "- "))) < 1000 and not _READ_DIFFERENTLY.search(text)


def _construct(document: Document, loader_class: Any) -> Document:
    loader = loader_class(document.text)
    loader.document = document
    document._loader = loader
    try:
        node = loader.get_single_node()
        document.value = loader.construct_document(node) if node is not None else None
    finally:
        loader.dispose()
    return document


def _start(node: yaml.Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1


def _yaml_remedy(document: Document, at: tuple[int | None, int | None], message: str) -> str:
    lines = document.text.split("\n")
    line = lines[at[0] - 1] if at[0] and at[0] <= len(lines) else ""
    if "\t" in line[: len(line) - len(line.lstrip())] or "'\\t'" in message:
        return "YAML does not allow tabs for indentation: use spaces"
    if "mapping values are not allowed" in message:
        return "quote the value if it contains a colon followed by a space"
    if "found character '%'" in message or "found character '@'" in message or "found character '`'" in message:
        return "quote the value: it must not begin with this character"
    if "single document" in message:
        return "keep one document: remove the line '---' and what follows it"
    if "could not determine a constructor" in message:
        return "remove the tag: only plain YAML is read"
    return "check the indentation and the quotes of this line and the one before"


@functools.cache
def _loaders() -> tuple[Any, Any]:
    """The loader of libyaml where there is one, and PyYAML's own, both noting where each value stands."""
    import yaml

    class Noting(yaml.constructor.SafeConstructor):
        document: Document

        def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
            try:
                return super().construct_object(node, deep=deep)
            except (ValueError, LookupError, AttributeError, TypeError, OverflowError) as error:
                # such as the date 2024-02-30, which the resolver takes for one and the constructor cannot make
                raise yaml.constructor.ConstructorError(
                    None, None, f"this value cannot be read as {node.tag.rpartition(':')[2]}: {error}", node.start_mark
                ) from error

        def construct_yaml_map(self, node: yaml.MappingNode) -> Generator[dict[Any, Any], None, None]:
            data: dict[Any, Any] = {}
            yield data
            self.note_duplicates(node)
            data.update(self.construct_mapping(node))
            self.document._nodes[id(data)] = node

        def construct_yaml_seq(self, node: yaml.SequenceNode) -> Generator[list[Any], None, None]:
            data: list[Any] = []
            yield data
            data.extend(self.construct_sequence(node))
            self.document._nodes[id(data)] = node

        def note_duplicates(self, node: yaml.MappingNode) -> None:
            first: dict[tuple[str, str], yaml.Mark] = {}
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    continue
                earlier = first.setdefault((key.tag, key.value), key.start_mark)
                if earlier is not key.start_mark:
                    self.document.warnings.append(
                        self.document.problem(
                            f"the key {key.value!r} stands here a second time, and this last one counts",
                            f"remove one; the first is on line {earlier.line + 1}",
                            at=_start(key),
                            severity="warning",
                        )
                    )

    def noting(base: Any) -> Any:
        loader: Any = type(f"Noting{base.__name__}", (Noting, base), {})
        loader.add_constructor("tag:yaml.org,2002:map", Noting.construct_yaml_map)
        loader.add_constructor("tag:yaml.org,2002:seq", Noting.construct_yaml_seq)
        return loader

    return noting(getattr(yaml, "CSafeLoader", yaml.SafeLoader)), noting(yaml.SafeLoader)
