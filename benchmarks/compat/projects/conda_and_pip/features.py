import argparse
from pathlib import Path

import numpy
from tabulate import tabulate

parser = argparse.ArgumentParser()
parser.add_argument("--rows", type=int)
rows = parser.parse_args().rows
Path("features.txt").write_text(tabulate(numpy.arange(2 * rows).reshape(rows, 2), headers=["x", "y"]))
