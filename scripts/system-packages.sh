#!/bin/sh
# What tests need of the system beside Python and git: git-lfs, a Docker engine, a registry, and busybox to make images
# of. Installed where that can be done without a question, as root on Debian and its kin; elsewhere a test that needs
# one of them says so, and fails in CI.
set -eu

wanted=""
for pair in git-lfs:git-lfs dockerd:docker.io docker-registry:docker-registry busybox:busybox-static; do
    command -v "${pair%%:*}" >/dev/null || wanted="$wanted ${pair#*:}"
done
[ -n "$wanted" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "not installed, so that tests of it are left out:$wanted" >&2
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
# The lists of packages may be old or missing, as in a fresh image.
# shellcheck disable=SC2086 # a list of packages
apt-get install --quiet --quiet --yes --no-install-recommends $wanted >/dev/null 2>&1 || {
    apt-get update --quiet --quiet
    apt-get install --quiet --quiet --yes --no-install-recommends $wanted >/dev/null
}
