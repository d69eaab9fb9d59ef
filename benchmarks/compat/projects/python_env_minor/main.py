import sys
from pathlib import Path

import toml

Path("out.toml").write_text(toml.dumps({"python": list(sys.version_info[:2])}))
