"""What a cluster's driver does with a Python file, as the service does: it executes the file's text in its own process.

So the file has no `__file__`, has what Databricks defines in a session, and ends with its last line: `SystemExit` is an
error of a task like any other, also with the status 0. (The service does it in IPython, from where the colours of its
traces come.)

Arguments: the file, and its own arguments. How it ends is written to /databricks/end.json.
"""

import json
import os
import sys
import traceback
from pathlib import Path

from databricks.sdk import runtime


def main(filename, arguments):
    os.dup2(1, 2)  # so that what is printed stays in its order
    sys.argv = [filename, *arguments]
    session = {"__name__": "__main__", "dbutils": runtime.dbutils, "spark": runtime.spark}
    try:
        try:
            text = Path(filename).read_bytes()
        except OSError as error:
            return {"unreadable": str(error)}
        exec(compile(text, filename, "exec"), session)
    except BaseException as error:
        name = type(error).__name__
        lines = "".join(traceback.format_exception(type(error), error, error.__traceback__.tb_next))
        trace = "\x1b[0;31m" + "-" * 75 + "\x1b[0m\n\x1b[0;31m" + name + "\x1b[0m" + " " * 20 + lines
        return {"error": f"{name}: {error}" if str(error) else name, "trace": trace}
    return {}


if __name__ == "__main__":
    end = main(sys.argv[1], sys.argv[2:])
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    Path("/databricks/end.json").write_text(json.dumps(end))
