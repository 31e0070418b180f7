#!/usr/bin/env bash
# docker-registry.sh FILE: put Debian's docker-registry (distribution 2.8), which only the tests need, at FILE. The package is not installed but
# unpacked, as it would start a service on port 5000, at each boot too. One that is in PATH is taken as it is.
set -euo pipefail
out=$1

if found=$(command -v docker-registry); then
  ln -sf "$found" "$out"
  exit
fi
command -v apt-get >/dev/null || {
  echo "missing: docker-registry (Debian's name; distribution 2.8). Put it into PATH, or run this where there is apt-get." >&2
  exit 1
}
echo "unpacking docker-registry"
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
{ apt-get download -q docker-registry || { apt-get update -q && apt-get download -q docker-registry; }; } </dev/null >log 2>&1 || {
  cat log >&2
  exit 1
}
dpkg-deb -x docker-registry_*.deb .
install -m 755 usr/bin/docker-registry "$out"
