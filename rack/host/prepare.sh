#!/bin/sh
# What an emulated machine would find and a container does not: runs at the
# host's start, before SSH answers.
set -eu

# The container runtime makes control groups in every hierarchy, and volumes are
# shared between mount namespaces.
for hierarchy in /sys/fs/cgroup/*; do
  if mountpoint -q "$hierarchy"; then
    mount -o remount,bind,rw "$hierarchy"
  fi
done
mount --make-rshared /

# The machine's own disks are none of the host's; its loop devices are shown as
# the virtual disks for which they stand.
tree=/run/edge-lab/devices/pci0000:00
mount -t tmpfs -o mode=755 tmpfs /sys/block
mkdir -p /dev/disk/by-id
while read -r name number sectors serial slot; do
  disk=$tree/0000:00:$slot.0/virtio$((0x$slot))/block/$name
  mkdir -p "$disk/queue"
  echo "7:$number" >"$disk/dev"
  echo "$sectors" >"$disk/size"
  echo "$serial" >"$disk/serial"
  echo 0 >"$disk/removable"
  echo 0 >"$disk/ro"
  echo 512 >"$disk/queue/logical_block_size"
  echo 512 >"$disk/queue/physical_block_size"
  echo 0 >"$disk/queue/rotational"
  echo '[none]' >"$disk/queue/scheduler"
  ln -s "../..$disk" "/sys/block/$name"
  rm -f "/dev/$name"
  mknod "/dev/$name" b 7 "$number"
  ln -sf "../../$name" "/dev/disk/by-id/virtio-$serial"
done </etc/edge-lab/disks
