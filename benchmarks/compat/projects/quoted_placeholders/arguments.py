import json
import sys
from pathlib import Path

Path("arguments.json").write_text(json.dumps(sys.argv[1:]))
