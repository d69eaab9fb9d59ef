from importlib.metadata import version
from pathlib import Path

Path("versions.txt").write_text(version("packaging"))
