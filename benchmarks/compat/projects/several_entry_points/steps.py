import sys
from pathlib import Path

Path("called.txt").write_text("\n".join(sys.argv[1:]))
