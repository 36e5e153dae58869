# Starts one host, in a mount namespace of its own that ends with it. The shell
# becomes systemd-nspawn, so that whoever started the shell may wait for the
# host's end. In the environment: HOST_DIR, NAME, NAMESPACE, BRIDGE, CGROUP.
set -eu

# Every pod's control groups end up below the host's own, in each hierarchy.
for hierarchy in /sys/fs/cgroup/*/; do
  group=$hierarchy$CGROUP
  mkdir -p "$group"
  for file in cpuset.cpus cpuset.mems; do
    if [ -e "$group/$file" ]; then
      cat "$hierarchy$file" >"$group/$file"
    fi
  done
  echo $$ >"$group/cgroup.procs"
done

cd "$HOST_DIR"
mkdir -p root
mount -o loop root.ext4 root
if [ -d stage ]; then
  cp -a stage/. root/
  rm -r stage
fi
cp disks root/etc/edge-lab/disks

export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=0 SYSTEMD_NSPAWN_API_VFS_WRITABLE=1 SYSTEMD_SECCOMP=0
exec nsenter --net="/run/netns/$NAMESPACE" systemd-nspawn --quiet --directory=root --boot \
  --machine="$NAME" --register=no --keep-unit --network-bridge="$BRIDGE" \
  --capability=all --private-users=no --bind=/dev/kmsg \
  --console=pipe --link-journal=no --resolv-conf=off --timezone=off
