#!/bin/bash
# PID 1 of a board (board.rs): board.sh FOLDER NUMBER PROGRAMS IMAGE...
# `/` is the machine's, read-only, below an overlay on the board's disk: what is written stays when the power is cut. FOLDER is the
# same here as on the machine, PROGRAMS is /opt/kubeedge.
folder=$1 number=$2 programs=$3
shift 3
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
modules=/usr/lib/uml/modules/$(uname -r)
say() { echo "board: $(cut -d' ' -f1 /proc/uptime) s: $*"; }

# --- the root ---
mount -t proc proc /proc
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/disk /run/root
mount -t ext4 /dev/ubda /run/disk || say "no disk"
busybox insmod "$modules/kernel/fs/overlayfs/overlay.ko" || say "no overlay"
mkdir -p /run/disk/upper /run/disk/work /run/disk/containerd
root=/run/root
mount -t overlay -o lowerdir=/,upperdir=/run/disk/upper,workdir=/run/disk/work overlay $root
mount -t proc proc $root/proc
mount -t sysfs sysfs $root/sys
mount -t cgroup2 cgroup2 $root/sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs $root/run
mount -t tmpfs -o mode=1777 tmpfs $root/tmp
mkdir -p "$root$folder" $root/opt/kubeedge $root/mnt/old
mount -t hostfs -o "$programs" none $root/opt/kubeedge
mount -t hostfs -o "$folder" none "$root$folder"
# An overlay takes no other one for its upper folder.
mkdir -p $root/var/lib/containerd
mount --bind /run/disk/containerd $root/var/lib/containerd
mount -t devtmpfs devtmpfs $root/dev
mkdir -p $root/dev/pts $root/dev/shm
mount -t devpts -o ptmxmode=666 devpts $root/dev/pts
mount -t tmpfs tmpfs $root/dev/shm
cd $root || say "no root"
pivot_root . mnt/old
umount -l /mnt/old
mount --make-rshared /

# --- the host: nothing of what the machine has of KubeEdge ---
if [ ! -e /etc/board ]; then
  rm -rf /etc/kubeedge /var/lib/kubeedge /var/lib/kubelet /var/log/pods /var/log/containers /etc/cni/net.d /var/lib/cni \
    /etc/containerd /opt/containerd
  mkdir -p /lib/modules /etc/cni/net.d /etc/containerd /etc/kubeedge/config
  # The kernel asks for modules by this name.
  ln -sf "$(command -v busybox)" /sbin/modprobe
  ln -sfn "$modules" "/lib/modules/$(uname -r)"
  cp "$folder/network.conflist" /etc/cni/net.d/10-edge.conflist
  cp "$folder/containerd.toml" /etc/containerd/config.toml
  cp "$folder/edgecore.yaml" /etc/kubeedge/config/edgecore.yaml
  tr -d - < /proc/sys/kernel/random/uuid > /etc/machine-id
  touch /etc/board
fi
hostname board
# This kernel does not tell the clock of its processor; a kubelet, and Go's edgecore with it, does not start without.
sed 's/^model name.*/&\ncpu MHz\t\t: 1000.000/' /proc/cpuinfo > /run/cpuinfo
mount --bind /run/cpuinfo /proc/cpuinfo
ip link set lo up
ip addr add "10.250.$number.2/24" dev eth0
ip link set eth0 up
ip route add default via "10.250.$number.1"
sysctl -qw net.ipv4.ip_forward=1

# --- its services ---
containerd >> "$folder/containerd.log" 2>&1 &
until ctr version > /dev/null 2>&1; do sleep 0.2; done
for image in "$@"; do
  # The kernel adds words of its own.
  [ -e "$image" ] || continue
  ctr -n k8s.io image import "$image" > /dev/null || say "no image $image"
done
say "boot is done"
while :; do
  /opt/kubeedge/edgecore --config /etc/kubeedge/config/edgecore.yaml >> "$folder/edgecore.log" 2>&1
  say "edgecore ended with $?"
  sleep 1
done
