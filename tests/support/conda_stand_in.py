"""Stands in for the programs of a conda installation: notes what it is asked for, and makes the prefix by py-rattler.

No registry that the tests reach has a conda, mamba or micromamba. It knows no more of their command lines than
`env create` and `create` with the options below, and refuses any other.
"""

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path

import yaml
from rattler import MatchSpec, PackageRecord, RepoDataRecord, install, solve
from rattler.package_streaming import PackageArchive


def main():
    name, *arguments = sys.argv[1:]
    explicit_or_micromamba = arguments[0] == "create"
    parser = argparse.ArgumentParser(prog=name, allow_abbrev=False)
    for option in ("--prefix", "--file"):
        parser.add_argument(option, required=True)
    if explicit_or_micromamba:
        parser.add_argument("--yes", action="store_true")
    elif arguments[:2] != ["env", "create"] or name == "micromamba":
        parser.error(f"no such command: {arguments}")
    asked = parser.parse_args(arguments[1 if explicit_or_micromamba else 2 :])
    assert explicit_or_micromamba or os.environ["CONDA_ALWAYS_YES"] == "true"
    text = Path(asked.file).read_text()
    note = {"name": name, "arguments": arguments, "file": text, "cwd": str(Path.cwd())}
    Path(os.environ["STAND_IN_NOTES"]).write_text(json.dumps(note))
    print("Collecting package metadata: done", flush=True)
    asyncio.run(make(text, asked.prefix))
    os._exit(0)  # py-rattler's threads may outlive its work, and crash in an interpreter that ends


async def make(text, prefix):
    if "@EXPLICIT" in text:
        records = [await listed(line) for line in text.splitlines() if "://" in line]
    else:
        file = yaml.safe_load(text)
        channels = [channel for channel in file["channels"] if channel != "nodefaults"]
        try:
            records = await solve(
                [Path(one).as_uri() for one in channels], [MatchSpec(one) for one in file["dependencies"]]
            )
        except Exception as error:
            sys.exit(f"LibMambaUnsatisfiableError: {error}")
    await install(records, prefix, show_progress=False)


async def listed(line):
    url, _, digest = line.partition("#")
    path = Path(url.removeprefix("file://"))
    index = Path(os.environ["STAND_IN_NOTES"]).with_suffix(".index.json")
    index.write_bytes(await (await PackageArchive.from_path(path)).read_file("info/index.json"))
    return RepoDataRecord(PackageRecord.from_index_json(index, md5=digest), path.name, url, url.rpartition("/")[0])


if __name__ == "__main__":
    main()
