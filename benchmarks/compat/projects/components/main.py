import argparse
import subprocess

parser = argparse.ArgumentParser()
parser.add_argument("--steps")
for step in parser.parse_args().steps.strip("'").split(","):
    subprocess.run(["mlflow", "run", f"components/{step}", "--env-manager", "local"], check=True)
