import collections
import json
import sys
from pathlib import Path

Path("count.json").write_text(json.dumps(collections.Counter(sys.argv[1]), sort_keys=True))
