#!/bin/sh
# The whole job on emulated machines: an image from packages, a rack with one
# UEFI and one BIOS machine, apply, and a look at what is known afterwards.
# Needs root. KEEP=1 leaves the rack up and says how to end it.
set -eu

cd "$(dirname "$0")/.."
if [ "$(id -u)" != 0 ]; then
  echo "The demo makes a network namespace and boots machines in it: run it as root, 'sudo make demo'." >&2
  exit 1
fi

site=hcl-examples/demo.hcl
data=$(mktemp -d /tmp/edge-provision-demo.XXXXXX)
edge() { bin/edge-provision --data-dir "$data" "$@"; }
inside() { ip netns exec edge-demo bin/edge-provision --data-dir "$data" "$@"; }
step() { printf '\n\033[1m── %s\033[0m\n' "$*"; }
began=$(date +%s)

up=0
finish() {
  status=$?
  # A rack that this demo did not build is somebody else's.
  if [ "$up" = 0 ]; then
    rm -rf "$data"
    exit "$status"
  fi
  if [ "${KEEP:-}" = 1 ] && [ "$status" = 0 ]; then
    printf '\nThe rack is still up. End it with: bin/edge-provision rack down %s; rm -rf %s\n' "$site" "$data"
    exit 0
  fi
  if [ "$status" != 0 ]; then
    echo "The demo failed; what the machines said last:" >&2
    edge rack status "$site" >&2 || true
    for m in 'machine.node["a"]' 'machine.node["b"]'; do edge why --site "$site" "$m" >&2 || true; done
  fi
  edge rack down "$site" >/dev/null || true
  rm -rf "$data"
  exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

step "image build: Debian from packages, and the installer (cached)"
edge image build "$site"

step "rack up: two machines that are switched off, with a BMC each"
edge rack up "$site"
up=1

step "apply: from powered off to SSH"
inside apply --auto-approve "$site"

step "inventory list: what the catalog knows now"
edge inventory list
edge inventory query 'facts.memory.bytes >= MiB(900) && facts.firmware.mode == "uefi"'

step "trace: where the time of one machine went"
edge trace 'machine.node["a"]'

step "apply again: nothing is done twice"
inside apply --auto-approve "$site"

printf '\nFrom image build to here: %s s.\n' "$(($(date +%s) - began))"
