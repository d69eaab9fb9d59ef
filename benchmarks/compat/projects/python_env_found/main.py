from pathlib import Path

import humanize

Path("size.txt").write_text(humanize.naturalsize(123456789))
