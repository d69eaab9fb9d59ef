"""What all tests share."""

import os
import signal
import socket

import pytest
from local_world import LocalWorld


def pytest_configure():
    # A shell starts what is in its background with SIGINT ignored, and programs that tests interrupt would inherit it.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A state directory, a project that counts its starts, and nothing left at the end."""
    monkeypatch.setenv("MLPROJ_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("MLPROJ_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("MLPROJ_TRACKING", "off")
    world = LocalWorld(tmp_path)
    yield world
    world.close()


@pytest.fixture
def hanging_index(monkeypatch):
    """A package index that takes a connection and never answers; called, it waits for an installer to connect."""
    listener = socket.create_server(("127.0.0.1", 0))
    connections = []
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("UV_DEFAULT_INDEX", f"http://127.0.0.1:{listener.getsockname()[1]}/simple")
    listener.settimeout(60)
    yield lambda: connections.append(listener.accept()[0])
    for connection in connections:
        connection.close()
    listener.close()


def pytest_terminal_summary(terminalreporter):
    """Print the tables that tests wrote row by row with `record_property("table: TITLE", {column: value})`."""
    tables = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, row in getattr(report, "user_properties", ()):
                if name.startswith("table: ") and report.when == "call":
                    tables.setdefault(name.removeprefix("table: "), []).append(row)
    for title, rows in tables.items():
        columns = list(rows[0])
        widths = [max(len(str(row[column])) for row in [*rows, {column: column}]) for column in columns]
        terminalreporter.section(title)
        for cells in [columns, ["-" * width for width in widths], *([row[c] for c in columns] for row in rows)]:
            terminalreporter.write_line(
                "  ".join(str(cell).ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
            )
