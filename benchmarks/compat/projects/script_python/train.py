import argparse
import json
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--alpha", type=float, default=0.5)
parser.add_argument("--note", default="")
Path("arguments.json").write_text(json.dumps(vars(parser.parse_args())))
