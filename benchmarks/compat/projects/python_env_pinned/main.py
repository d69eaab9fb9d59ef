import platform
import sys
from pathlib import Path

import yaml

squares = [i * i for i in range(int(sys.argv[1]))]
Path("out.yaml").write_text(yaml.safe_dump({"python": platform.python_version(), "squares": squares}))
