#!/bin/sh
# What tests need of the system beside Python and git: git-lfs. Installed where that can be done without a question,
# as root on Debian and its kin; elsewhere a test that needs it says so, and fails in CI.
set -eu

command -v git-lfs >/dev/null && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "git-lfs is not installed: tests of it are left out (install the package git-lfs)" >&2
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
# The lists of packages may be old or missing, as in a fresh image.
apt-get install --quiet --quiet --yes --no-install-recommends git-lfs >/dev/null 2>&1 || {
    apt-get update --quiet --quiet
    apt-get install --quiet --quiet --yes --no-install-recommends git-lfs >/dev/null
}
