import sys
from pathlib import Path

if __name__ == "__main__":
    Path("words.txt").write_text(str(len(Path(sys.argv[1]).read_text().split())))
