#!/bin/sh
# Installs, from the Debian archive this machine is configured for, what
# building images, emulating a rack and running all tests need. Run as root.
# A second run is quick and changes nothing.
set -eu

packages="
  make gcc libc6-dev git ca-certificates
  qemu-system-x86 qemu-utils ovmf seabios ipxe-qemu
  iproute2 iptables nftables dnsmasq-base busybox-static isc-dhcp-client
  openipmi ipmitool openssh-client
  mmdebstrap dosfstools mtools e2fsprogs gdisk zstd cpio kmod xz-utils
  grub-efi-amd64-bin grub-pc-bin grub-common debian-archive-keyring
  postgresql util-linux procps systemd-container curl ansible-core chromium lldpd
"

missing=""
for p in $packages; do
  if ! dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed'; then
    missing="$missing $p"
  fi
done
if [ -z "$missing" ]; then
  exit 0
fi
if [ "$(id -u)" != 0 ]; then
  echo "setup: these Debian packages are missing and only root can install them:$missing" >&2
  echo "setup: run 'sudo make setup' and then this again" >&2
  exit 1
fi
echo "setup: installing$missing" >&2
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# A package must not start its daemon on the machine of whoever runs a demo.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
  trap 'rm -f "$policy"' EXIT
fi
# Nor at its next start: lldpd is wanted for emulated switches alone.
case " $missing " in
*" lldpd "*)
  if [ ! -e /etc/systemd/system/lldpd.service ]; then
    mkdir -p /etc/systemd/system
    ln -s /dev/null /etc/systemd/system/lldpd.service
  fi
  ;;
esac
# shellcheck disable=SC2086  # one word per package is wanted
apt-get install -y -qq --no-install-recommends $missing >&2
