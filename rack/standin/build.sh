#!/bin/sh
# Builds what tests of clusters run: the real components of Kubernetes, etcd and
# kubectl, with the stand-in for K3s, as one static program under several names.
# What is built is kept in the user's cache and built again only when its source
# has changed.
#
# The same source gives the same files, whatever the repository around it says.
#
# usage: build.sh [DIRECTORY]
#   DIRECTORY  where to keep it; by default
#              ${XDG_CACHE_HOME:-~/.cache}/edge-provision/kubernetes/v1.34.4
set -eu
cd "$(dirname "$0")"

version=v1.34.4
# The second version is the same code that calls itself another, for upgrades.
next=v1.35.1
out=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/edge-provision/kubernetes/$version}
GO=${GO:-go}

digest=$( (echo "$version $next"; $GO env GOVERSION GOARCH; find . -type f ! -name '*_test.go' ! -name '*.md' | LC_ALL=C sort | xargs sha256sum) | sha256sum | cut -d' ' -f1)
if [ "$(cat "$out/source.sha256" 2>/dev/null)" = "$digest" ]; then
  exit 0
fi
mkdir -p "$out"
# Two builds at once would double the time of both.
exec 9>"$out.lock"
flock 9
if [ "$(cat "$out/source.sha256" 2>/dev/null)" = "$digest" ]; then
  exit 0
fi

# build NAME VERSION PACKAGE
build() {
  echo "kubernetes: building $1 $2 (the first time takes about 5 minutes on two cores)" >&2
  base=k8s.io/component-base/version
  CGO_ENABLED=0 nice $GO build -buildvcs=false -trimpath -ldflags "-s -w -X $base.gitVersion=$2 -X $base.gitCommit=standin -X $base.gitMajor=1 -X $base.gitMinor=$(echo "$2" | cut -d. -f2)" -o "$out/$1.new" "$3"
  mv -f "$out/$1.new" "$out/$1"
}

build k3s-standin "$version+k3s1" ./cmd/k3s-standin
build k3s-standin-next "$next+k3s1" ./cmd/k3s-standin

for name in etcd kube-apiserver kube-controller-manager kube-proxy kube-scheduler kubectl kubelet; do
  ln -s k3s-standin "$out/$name.new"
  mv -f "$out/$name.new" "$out/$name"
done
# The images of the stand-in's own pods and of tests' pods.
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
for name in toolbox images calico-standin; do
  CGO_ENABLED=0 nice $GO build -buildvcs=false -trimpath -ldflags '-s -w' -o "$work/$name" "./cmd/$name"
done
shell="bin/busybox=/bin/busybox"
for applet in sh cat cut date echo env false grep head httpd ip ls mkdir nc nslookup printf rm sed sleep tail test timeout touch tr true wc wget; do
  shell="$shell;bin/$applet=->busybox"
done
"$work/images" "$out/k3s-standin-images.tar" \
  "docker.io/rancher/mirrored-library-busybox:1.37.0,docker.io/library/busybox:1.37=/bin/sh;$shell" \
  "quay.io/tigera/operator:v1.42.3,docker.io/edge-provision/calico-standin:1=/usr/local/bin/operator;usr/local/bin/operator=$work/calico-standin;calico-standin=->usr/local/bin/operator" \
  "docker.io/rancher/mirrored-pause:3.6=/toolbox,pause;toolbox=$work/toolbox" \
  "docker.io/edge-provision/toolbox:1=/toolbox;toolbox=$work/toolbox"

echo "$digest" >"$out/source.sha256.new"
mv -f "$out/source.sha256.new" "$out/source.sha256"
