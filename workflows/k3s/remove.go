package k3s

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/edge-provision/edge-provision/workflows/remote"
)

// Loss lists what a removal destroys and nothing brings back. A server that could
// not be asked may hold data of the cluster, and is named as such.
func (c *Cluster) Loss(ctx context.Context) ([]string, error) {
	s, clients, err := c.survey(ctx)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, o := range s.seen {
		switch {
		case o.role != server:
		case o.err != nil:
			out = append(out, fmt.Sprintf("data of the cluster (etcd) that may be on %s, which could not be asked", o.node.Machine))
		case o.joined:
			out = append(out, fmt.Sprintf("the cluster's data (etcd) on %s, and its snapshots (%d)", o.node.Machine, len(o.snapshots)))
		}
	}
	for i, l := range clients {
		volumes, err := l.volumes(ctx)
		if err == nil {
			return append(out, volumes...), nil
		}
		if i == len(clients)-1 {
			return nil, err
		}
	}
	if len(out) > 0 {
		out = append(out, "volumes of pods, which cannot be listed because no API server answers")
	}
	return out, nil
}

// Remove takes K3s off all declared machines, agents first. Unless data is true,
// etcd, its snapshots, the cluster's certificates and tokens, and volumes of
// pods on the nodes' disks stay, and a later Apply goes on from them.
func (c *Cluster) Remove(ctx context.Context, data bool) error {
	mode := keepData
	if data {
		mode = keepNothing
	}
	var errs []error
	seen := c.observe(ctx)
	for i := range seen {
		o := seen[len(seen)-1-i]
		if o.err != nil {
			errs = append(errs, o.err)
			continue
		}
		h, err := c.host(ctx, o.node.Machine)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		c.say("%s: removing K3s", o.node.Machine)
		if err := c.uninstall(ctx, h, mode); err != nil {
			errs = append(errs, fmt.Errorf("%s: removing K3s: %w", o.node.Machine, err))
		}
		h.Close()
	}
	return errors.Join(errs...)
}

// keeping is what an uninstallation leaves on a machine.
type keeping string

const (
	keepNothing keeping = "all"
	// keepVolumes leaves the volumes of pods on the machine's disk.
	keepVolumes keeping = "volumes"
	// keepData leaves the cluster's own data too.
	keepData keeping = "keep"
)

// uninstall removes K3s, and all that it and its networks have made, from one
// machine. It may begin anywhere.
func (c *Cluster) uninstall(ctx context.Context, h *host, mode keeping) error {
	_, err := h.Run(ctx, remote.Command{
		Line:  fmt.Sprintf("sh -s -- %s %s", remote.Quote(h.root), mode),
		Stdin: strings.NewReader(uninstallScript()),
	})
	return err
}

func uninstallScript() string {
	return strings.NewReplacer(
		"@STARTED@", startedPath, "@SHARED@", strings.Join(sharedDirs, " "), "@LINKS@", strings.Join(links, " "),
		"@DATA@", dataDir, "@BINARY@", binaryPath, "@STAGED@", stagedPath, "@SYSCTL@", sysctlPath,
	).Replace(removal)
}

// removal does what K3s's own killall and uninstall scripts do, and also what
// they leave behind: pod networks' configuration, links and rules, which make a
// node that is installed again look Ready when it is not. $1 is a prefix of all
// paths, $2 is all, volumes or keep. It is plain POSIX sh. Each part is done as far as it
// can be, and the end tells what is left.
const removal = `R=$1 mode=$2
for bin in "$R@DATA@"/data/*/bin; do [ -d "$bin" ] && PATH=$PATH:$bin:$bin/aux; done
sys() { systemctl "$@" 2>/dev/null; }
for u in k3s k3s-agent; do
  group=$(sys show "$u.service" -p ControlGroup | cut -d= -f2)
  sys disable --quiet "$u.service"
  sys stop "$u.service"
  sys reset-failed "$u.service"
  rm -f "$R/etc/systemd/system/$u.service" "$R/etc/systemd/system/$u.service.env" "$R/run/systemd/system/$u.service.d/edge-leaving.conf"
  rmdir "$R/run/systemd/system/$u.service.d" 2>/dev/null
  # KillMode=process leaves the children of the service.
  [ -n "$group" ] && for root in /sys/fs/cgroup /sys/fs/cgroup/systemd /sys/fs/cgroup/unified; do
    [ -d "$root$group" ] && find "$root$group" -name cgroup.procs -exec cat {} + 2>/dev/null
  done | sort -un | while read -r p; do [ "$p" -gt 1 ] && kill -9 "$p" 2>/dev/null; done
done
sys daemon-reload

# Pods: the shims of K3s's own container runtime, everything below them, and
# everything in the cgroups of pods.
below() {
  for p in $(cat "/proc/$1/task/"*/children 2>/dev/null); do below "$p"; done
  echo "$1"
}
for i in 1 2 3; do
  all=$(for f in $(grep -sl -e "$R/run/k3s/" -e "$R/var/lib/rancher/k3s/data/" /proc/[0-9]*/cmdline); do
    case "$(tr '\0' ' ' <"$f" 2>/dev/null)" in
    *containerd-shim*" $R/run/k3s/"* | *"$R/var/lib/rancher/k3s/data/"*/bin/*) f=${f#/proc/}; below "${f%/cmdline}" ;;
    esac
  done; [ -z "$R" ] && find /sys/fs/cgroup -path '*kubepods*' -name cgroup.procs -exec cat {} + 2>/dev/null)
  all=$(echo "$all" | sort -un | awk '$1 > 1')
  [ -z "$all" ] && break
  kill -9 $all 2>/dev/null
  sleep 1
done

# Mounts, the innermost first. A disk that somebody mounted for K3s is none of them:
# its mount point is emptied and stays.
awk -v r="$R" '{print $2}' /proc/mounts | sort -ru | while read -r m; do
  case "$m" in
  "$R/run/k3s"* | "$R/var/lib/kubelet/pods/"* | "$R/var/lib/kubelet/plugins/"* | "$R/run/netns/cni-"* | "$R/run/calico"* | "$R/var/lib/calico"*) umount -l "$m" ;;
  esac
done

# Pod networks.
for n in $(ip netns list 2>/dev/null | cut -d' ' -f1); do
  case "$n" in cni-*) ip netns delete "$n" ;; esac
done
ip -o link show 2>/dev/null | awk -F': ' '{print $2 " " $3}' | while read -r link rest; do
  name=${link%%@*}
  case "$name $rest" in
  cni0\ * | flannel* | cali* | vxlan.calico* | vxlan-v6.calico* | wireguard.cali* | kube-ipvs0\ * | nodelocaldns\ * | *" master cni0 "*) ip link delete "$name" 2>/dev/null ;;
  esac
done
for t in iptables ip6tables; do
  command -v $t-save >/dev/null || continue
  rules=$($t-save 2>/dev/null)
  case "$rules" in *KUBE-* | *CNI-* | *cali-* | *FLANNEL* | *flannel*)
    echo "$rules" | grep -v -e KUBE- -e CNI- -e cali- -i -e flannel | $t-restore
    ;;
  esac
done
if command -v nft >/dev/null; then
  for f in ip ip6; do
    nft list table $f kube-proxy >/dev/null 2>&1 && nft delete table $f kube-proxy
    nft list table $f calico >/dev/null 2>&1 && nft delete table $f calico
  done
fi
if command -v ipset >/dev/null; then
  for s in $(ipset list -n 2>/dev/null); do
    case "$s" in cali* | KUBE-*) ipset destroy "$s" ;; esac
  done
fi
[ -z "$R" ] && find /sys/fs/cgroup -depth -type d -path '*kubepods*' -exec rmdir {} + 2>/dev/null

# Files.
for l in @LINKS@; do
  case "$(readlink "$R$l")" in k3s | */k3s) rm -f "$R$l" ;; esac
done
rm -f "$R@BINARY@" "$R@STAGED@" "$R@SYSCTL@".edge-* 
rm -rf "$R/etc/rancher/k3s" "$R/run/k3s"
# The cluster knows the node by its password.
[ "$mode" = keep ] || rm -rf "$R/etc/rancher/node"
found=" $(tr -d '\n' <"$R@STARTED@" 2>/dev/null | sed -n 's/.*"found":\[\([^]]*\)\].*/\1/p' | tr -d '"' | tr ',' ' ') "
case "$(cat "$R@STARTED@" 2>/dev/null)" in *@SYSCTL@*) rm -f "$R@SYSCTL@" ;; esac
for e in "$R@DATA@"/* "$R@DATA@"/server/*; do
  case "$mode ${e#"$R@DATA@/"}" in
  keep\ storage | volumes\ storage | keep\ server | keep\ server/db | keep\ server/tls | keep\ server/cred | keep\ server/*token) ;;
  *) rm -rf "$e" ;;
  esac
done
[ "$mode" = all ] && rm -rf "$R@DATA@"
rmdir "$R@DATA@" 2>/dev/null
held=
# Without a mark nothing says that the directories are ours.
[ -f "$R@STARTED@" ] && for d in @SHARED@; do
  case "$found" in *" $d "*) continue ;; esac
  [ -e "$R$d" ] || continue
  case "$d" in
  /run/netns) umount -l "$R$d" 2>/dev/null; rmdir "$R$d" 2>/dev/null ;;
  /etc/rancher | /var/lib/rancher) rmdir "$R$d" 2>/dev/null ;;
  # What is mounted below could be anybody's data.
  *) if grep -q -F " $R$d/" /proc/mounts; then held="$held $d"; else rm -rf "$R$d" 2>/dev/null; fi ;;
  esac
done
if [ "$mode" = all ]; then
  rm -f "$R@STARTED@"
  rmdir "$R/var/lib/edge-provision" 2>/dev/null
fi

left=$held
for p in @BINARY@ /etc/systemd/system/k3s.service /etc/systemd/system/k3s-agent.service; do [ -e "$R$p" ] && left="$left $p"; done
[ "$mode" = all ] && [ -n "$(find "$R@DATA@" ! -type d -print -quit 2>/dev/null)" ] && left="$left @DATA@"
[ -z "$left" ] || { echo "these could not be removed:$left" >&2; exit 1; }
exit 0
`
