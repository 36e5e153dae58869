#!/bin/sh
# Builds what pods of the end-to-end tests run: the real Prometheus, node exporter
# and kube-state-metrics, and the stand-ins for images that cannot be had. What is
# built is kept in the user's cache and built again only when its source has
# changed.
#
# usage: build.sh [DIRECTORY]
#   DIRECTORY  where to keep it; by default
#              ${XDG_CACHE_HOME:-~/.cache}/edge-provision/workload
set -eu
cd "$(dirname "$0")"

out=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/edge-provision/workload}
GO=${GO:-go}

digest=$( ($GO env GOVERSION GOARCH; find . ../standin/cmd/images ../standin/cmd/toolbox -type f ! -name '*_test.go' | LC_ALL=C sort | xargs sha256sum) | sha256sum | cut -d' ' -f1)
if [ "$(cat "$out/source.sha256" 2>/dev/null)" = "$digest" ]; then
  exit 0
fi
mkdir -p "$out"

# build NAME PACKAGE [TAGS]
build() {
  echo "workload: building $1" >&2
  CGO_ENABLED=0 nice $GO build -trimpath -tags "${3:-}" -ldflags "-s -w" -o "$out/$1.new" "$2"
  mv -f "$out/$1.new" "$out/$1"
}

build standin ./standin
build node_exporter github.com/prometheus/node_exporter
build kube-state-metrics k8s.io/kube-state-metrics/v2
# Without the discovery of clouds it is half as large.
build prometheus github.com/prometheus/prometheus/cmd/prometheus remove_all_sd,enable_kubernetes_sd

# Each image is a program and, where our steps run a script in it, a shell.
images=$(cd ../standin && mkdir -p "$out/bin" && CGO_ENABLED=0 $GO build -o "$out/bin/images" ./cmd/images && echo "$out/bin/images")
prometheus="quay.io/prometheus/prometheus:v3.14.0=/bin/prometheus;/bin/prometheus=$out/prometheus"
node_exporter="quay.io/prometheus/node-exporter:v1.12.1=/bin/node_exporter;/bin/node_exporter=$out/node_exporter"
state_metrics="registry.k8s.io/kube-state-metrics/kube-state-metrics:v2.20.0=/kube-state-metrics;/kube-state-metrics=$out/kube-state-metrics"
"$images" "$out/images.tar" \
  "docker.io/edge-provision/fluentd-standin:1=/bin/fluentd-standin;/bin/fluentd-standin=$out/standin;bin/busybox=/bin/busybox;bin/sh=->busybox" \
  "docker.io/edge-provision/provisioner-standin:1=/bin/provisioner-standin;/bin/provisioner-standin=$out/standin" \
  "reg.site.local:5000/portworx/px-operator:26.2.1=/operator;/operator=$out/standin" \
  "$prometheus" "$node_exporter" "$state_metrics"
# For a machine that is emulated and takes long over each byte: monitoring alone,
# and of the stand-in's images those of its own pods.
"$images" "$out/monitoring.tar" "$prometheus" "$node_exporter" "$state_metrics"
(cd ../standin && CGO_ENABLED=0 $GO build -buildvcs=false -trimpath -ldflags '-s -w' -o "$out/bin/toolbox" ./cmd/toolbox)
"$images" "$out/standin.tar" \
  "docker.io/rancher/mirrored-pause:3.6=/toolbox,pause;toolbox=$out/bin/toolbox" \
  "docker.io/edge-provision/toolbox:1=/toolbox;toolbox=$out/bin/toolbox"

echo "$digest" >"$out/source.sha256.new"
mv -f "$out/source.sha256.new" "$out/source.sha256"
