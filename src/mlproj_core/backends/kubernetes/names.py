"""What Kubernetes takes for a name, a label, a variable or a quantity."""

from __future__ import annotations

import hashlib
import re

__all__ = ["LONGEST_LABEL", "is_label_key", "is_label_value", "is_name", "is_quantity", "is_variable", "label_value"]

LONGEST_LABEL = 63
"""Characters of a label's value, of the name in a label's key, and of a name that is a DNS label."""

_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_LABEL_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
_VARIABLE = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")
_QUANTITY = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+|m|u|n|k|[KMGTPE]i?)?")


def is_name(text: str, *, dots: bool = True) -> bool:
    """Whether a text is a name of an object: an RFC 1123 subdomain, or a label of one.

    Args:
        text: the text.
        dots: whether dots are allowed, and 253 characters. A namespace's name has none, and 63 at most.
    """
    if not dots:
        return len(text) <= LONGEST_LABEL and _DNS_LABEL.fullmatch(text) is not None
    return len(text) <= 253 and all(_DNS_LABEL.fullmatch(part) for part in text.split("."))


def is_label_value(text: str) -> bool:
    """Whether a text may be the value of a label."""
    return len(text) <= LONGEST_LABEL and _LABEL_VALUE.fullmatch(text) is not None


def is_label_key(text: str) -> bool:
    """Whether a text may be the key of a label or of an annotation: a name, perhaps after a domain and a slash."""
    prefix, slash, name = text.rpartition("/")
    return bool(name) and is_label_value(name) and (not slash or is_name(prefix))


def is_variable(text: str) -> bool:
    """Whether a text may be the name of a pod's variable, in the clusters before 1.34 as well, and a Secret's key."""
    return len(text) <= 253 and text != "." and not text.startswith("..") and _VARIABLE.fullmatch(text) is not None


def is_quantity(value: object) -> bool:
    """Whether a value may be an amount of a resource: `2`, `0.5`, `"500m"`, `"4Gi"`."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return False
    return _QUANTITY.fullmatch(str(value)) is not None


def label_value(text: str) -> str:
    """The value of a label for any text: itself where it may be one, else made of it and of its digest.

    Two texts that differ have values that differ. The empty text stays empty.
    """
    if is_label_value(text):
        return text
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
    readable = re.sub(r"[^A-Za-z0-9_.]+", "-", text).strip("-_.")[: LONGEST_LABEL - len(digest) - 1].rstrip("-_.")
    return f"{readable}-{digest}" if readable else digest
