import sys
from pathlib import Path

Path("ranked.txt").write_text("\n".join(sorted(sys.argv[1].split())))
