#!/bin/sh
# The whole job on emulated machines: an image from packages, a rack with one
# UEFI and one BIOS machine, apply, and a look at what is known afterwards.
# CLUSTER=1 takes one machine further, to a node of a cluster with monitoring.
# Needs root. KEEP=1 leaves the rack up, serves the dashboard, and says how to
# end both; LISTEN is the dashboard's address on this host.
#
# usage: demo.sh [announce]
#   announce  only say what CLUSTER=1 is going to build, and how long that takes
set -eu

cd "$(dirname "$0")/.."
if [ "$(id -u)" != 0 ]; then
  echo "The demo makes a network namespace and boots machines in it: run it as root, 'sudo make demo'." >&2
  exit 1
fi

cluster=${CLUSTER:-}
kept=${XDG_CACHE_HOME:-$HOME/.cache}/edge-provision
kubernetes=$kept/kubernetes/v1.34.4
workload=$kept/workload

# built FILE TIME says whether FILE is there, or how long making it took on two
# cores.
built() {
  if [ -e "$1" ]; then echo "is there"; else echo "about $2"; fi
}
if [ "${1:-}" = announce ]; then
  cat <<END
One emulated machine is going to become a node of a cluster: from powered off over netboot, image and SSH to
Kubernetes and Prometheus, by one apply. What that needs is built first and kept in $kept:

  edge-provision itself                                      about 2 minutes, later seconds
  Kubernetes v1.34.4, etcd and a stand-in for K3s            $(built "$kubernetes/source.sha256" "5 minutes")
  Prometheus, node exporter and kube-state-metrics           $(built "$workload/source.sha256" "3 minutes")
  an image for the machine, from Debian packages             about 1 minute, later seconds

It is built again when its source has changed. Those are times on two cores with nothing beside it and all modules
downloaded: 134 s, 274 s, 163 s and 46 s. The apply took 263 s there, without KVM; a machine that does something else
meanwhile takes several times as long.

END
  exit 0
fi

if [ "$cluster" = 1 ]; then
  site=hcl-examples/shop.hcl namespace=edge-shop machines=machine.till
else
  site=hcl-examples/demo.hcl namespace=edge-demo machines='machine.node["a"] machine.node["b"]'
fi
data=$(mktemp -d /tmp/edge-provision-demo.XXXXXX)
values=$data/values.hcl
: >"$values"
# The disks are the demo's own: those of somebody's rack of the same site carry
# systems that this demo's catalog, a new one, does not know.
disks=$kept/racks/demo-$(basename "$site" .hcl)
edge() { bin/edge-provision --data-dir "$data" --var-file "$values" "$@"; }
rack() { edge rack --rack-dir "$disks" "$@" "$site"; }
inside() { ip netns exec "$namespace" bin/edge-provision --data-dir "$data" --var-file "$values" "$@"; }
step() { printf '\n\033[1m── %s\033[0m\n' "$*"; }
began=$(date +%s)

up=0
server=
finish() {
  status=$?
  # A rack that this demo did not build is somebody else's.
  if [ "$up" = 0 ]; then
    rm -rf "$data"
    exit "$status"
  fi
  if [ -n "$server" ] && [ "$status" = 0 ]; then
    cat <<END

Dashboard: http://$listen/
Find the machines with 1 GiB of memory or more: type facts.memory.bytes >= GiB(1) into its search.

The rack and the dashboard's server stay up. End them with:
  kill $server; tail --pid=$server -f /dev/null; bin/edge-provision --var-file $values rack --rack-dir $disks down $site; rm -rf $data
END
    exit 0
  fi
  if [ -n "$server" ]; then
    cat "$data/serve.log" >&2
    kill "$server" 2>/dev/null || true
    wait "$server" || true
  fi
  if [ "$status" != 0 ]; then
    echo "The demo failed; what the machines said last:" >&2
    rack status >&2 || true
    for m in $machines; do edge why --site "$site" "$m" >&2 || true; done
  fi
  rack down >/dev/null || true
  rm -rf "$data"
  exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

# keep serves the site from inside the rack, with the dashboard on this host: the
# socket is made out here and handed in, as systemd does for a service.
listen=${LISTEN:-127.0.0.1:8482}
keep() {
  if [ "${KEEP:-}" != 1 ]; then
    return
  fi
  step "serve: the catalog as an API and a dashboard"
  setsid systemd-socket-activate --fdname=api -l "$listen" ${XDG_CACHE_HOME:+-E XDG_CACHE_HOME} \
    ip netns exec "$namespace" "$PWD/bin/edge-provision" --data-dir "$data" --var-file "$values" serve "$site" >"$data/serve.log" 2>&1 </dev/null &
  server=$!
  # It begins to serve at the first request, with all that the site declares:
  # a few seconds, on a busy host more.
  curl -fsS -o /dev/null --retry 120 --retry-delay 1 --retry-max-time 120 --retry-all-errors "http://$listen/readyz"
  edge inventory query --server "http://$listen" 'facts.memory.bytes >= GiB(1)'
}

if [ "$cluster" = 1 ]; then
  step "make kubernetes workload: what runs on the machine (cached)"
  rack/standin/build.sh
  rack/workload/build.sh
  # file NAME PATH prints an entry of the site's variable "files".
  file() { printf '  %s = { source = "%s", sha256 = "%s" }\n' "$1" "$2" "$(sha256sum "$2" | cut -d' ' -f1)"; }
  {
    # The BMC is emulated and reachable inside the rack only.
    echo 'bmc_password = "emulated-only"'
    echo "k3s_version  = \"$("$kubernetes/k3s-standin" --version | awk 'NR == 1 {print $3}')\""
    echo 'kernel       = "cloud"'
    # The disk of a machine that may be thrown away waits for nobody else's.
    echo 'k3s_settings = "etcd-arg+: [unsafe-no-fsync]"'
    # K3s brings its container runtime and network plugins with it, its
    # stand-in takes those of Debian.
    echo 'packages = ["conntrack", "containerd", "containernetworking-plugins", "ethtool", "iptables", "nftables", "openssh-server", "runc", "socat"]'
    echo 'files = {'
    file k3s "$kubernetes/k3s-standin"
    file images "$workload/standin.tar"
    file monitoring "$workload/monitoring.tar"
    echo '}'
  } >"$values"
fi

step "image build: Debian from packages, and the installer (cached)"
edge image build "$site"

if [ "$cluster" = 1 ]; then
  step "rack up: a machine that is switched off, with a BMC"
else
  step "rack up: two machines that are switched off, with a BMC each"
fi
if [ -d "$disks" ] && ! ip netns list | grep -qw "$namespace"; then
  rack down # a demo that was killed left its disks
fi
rack up
up=1

if [ "$cluster" = 1 ]; then
  step "apply: from powered off to a node that Prometheus scrapes"
  applied=$(date +%s)
  inside apply --auto-approve "$site"
  printf '\nFrom powered off to here: %s s.\n' "$(($(date +%s) - applied))"

  step "trace: where the time went until SSH"
  edge trace machine.till

  step "plan: nothing is left to do"
  inside plan --detailed-exitcode "$site"

  printf '\nEverything, what was built included: %s s.\n' "$(($(date +%s) - began))"
  keep
  exit 0
fi

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
keep
