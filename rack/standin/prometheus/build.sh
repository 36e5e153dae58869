#!/bin/sh
# Builds the real Prometheus, with discovery by Kubernetes and by HTTP alone,
# into the user's cache, unless it is there.
#
# usage: build.sh [DIRECTORY]
#   DIRECTORY  by default ${XDG_CACHE_HOME:-~/.cache}/edge-provision/prometheus/v0.314.0
set -eu
cd "$(dirname "$0")"

version=v0.314.0
out=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/edge-provision/prometheus/$version}
GO=${GO:-go}

digest=$( (echo "$version"; $GO env GOVERSION GOARCH; cat go.mod go.sum build.sh) | sha256sum | cut -d' ' -f1)
mkdir -p "$out"
exec 9>"$out.lock"
flock 9
if [ "$(cat "$out/source.sha256" 2>/dev/null)" = "$digest" ]; then
  exit 0
fi
echo "prometheus: building $version (the first time takes about 2 minutes on two cores)" >&2
CGO_ENABLED=0 nice $GO build -buildvcs=false -trimpath -tags remove_all_sd,enable_kubernetes_sd -ldflags "-s -w -X github.com/prometheus/common/version.Version=3.14.0" \
  -o "$out/prometheus.new" github.com/prometheus/prometheus/cmd/prometheus
mv -f "$out/prometheus.new" "$out/prometheus"
echo "$digest" >"$out/source.sha256"
