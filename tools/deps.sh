#!/usr/bin/env bash
# deps.sh PACKAGE...: see that what these Debian packages bring is on the machine, whichever way it came there. What is
# missing is installed where apt-get and root are at hand; elsewhere it is named, and the exit code is 1. Says nothing
# when all is there.
set -euo pipefail
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin # runc is in sbin, which a user's PATH may lack

there() { # package
  case $1 in
    git) [ -x "$(git --exec-path 2>/dev/null)/git-http-backend" ] ;;
    busybox-static) command -v busybox && ! ldd "$(command -v busybox)" | grep -q '=>' ;;
    ca-certificates) [ -s /etc/ssl/certs/ca-certificates.crt ] || [ -s /etc/pki/tls/certs/ca-bundle.crt ] ;;
    util-linux) command -v unshare ;;
    libc6-dev) [ -e /usr/include/stdlib.h ] ;;
    gcc) command -v cc ;;
    openssh-client) command -v ssh ;;
    systemd) command -v systemd-analyze ;;
    *) command -v "$1" ;;
  esac >/dev/null 2>&1
}

missing() { # package...
  local package
  for package in "$@"; do there "$package" || echo "$package"; done
}

mapfile -t want < <(missing "$@")
[ ${#want[@]} -gt 0 ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "installing ${want[*]}"
  export DEBIAN_FRONTEND=noninteractive
  log=$(mktemp)
  { apt-get update -q && apt-get install -qy --no-install-recommends "${want[@]}"; } </dev/null >"$log" 2>&1 || cat "$log" >&2
  rm -f "$log"
  mapfile -t want < <(missing "$@")
fi
[ ${#want[@]} -eq 0 ] || {
  echo "missing: ${want[*]} (Debian's names). Install them, or run this as root where there is apt-get." >&2
  exit 1
}
