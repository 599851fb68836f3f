# Run by a process of the host's network namespace: boot.sh FOLDER CGROUP PROGRAMS INIT...
# Makes the host's other namespaces and becomes its PID 1. `/` is an overlay of the machine's, so whatever is installed on the
# host goes with its folder; FOLDER and PROGRAMS (at /opt/kubeedge) are seen as they are.
set -e
edge=$1 cgroup=$2 programs=$3
shift 3
# The cgroup namespace begins where the process is when it is made.
for procs in /sys/fs/cgroup/*/"$cgroup"/cgroup.procs "/sys/fs/cgroup/$cgroup/cgroup.procs"; do
  # A named hierarchy may be read-only for us; the host does without.
  if [ -e "$procs" ]; then echo $$ > "$procs" || true; fi
done
# shellcheck disable=SC2016 # expanded by the inner shell
exec unshare --cgroup --mount --uts --ipc --pid --fork --kill-child --propagation private bash -ec '
  edge=$1 programs=$2 root=$1/root
  shift 2
  mkdir -p "$edge"/overlay/root "$edge"/overlay/work "$root"
  # A new mount namespace copies the mounts of other hosts and would keep them alive: they go with the old root below.
  mount -t overlay -o "lowerdir=/,upperdir=$edge/overlay/root,workdir=$edge/overlay/work" overlay "$root"
  mkdir -p "$root$edge" "$root/opt/kubeedge" "$root/mnt/old"
  mount --bind "$edge" "$root$edge"
  mount --bind "$programs" "$root/opt/kubeedge"
  # What systemd looks at to see that the kernel belongs to somebody else: /proc/sys and /sys are read-only. Of the network it
  # has its own.
  mount -t proc proc "$root/proc"
  mount --bind "$root/proc/sys" "$root/proc/sys"
  mount --bind "$root/proc/sys/net" "$root/proc/sys/net"
  mount -o remount,bind,ro "$root/proc/sys"
  mount -t tmpfs -o mode=755 tmpfs "$root/run"
  mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
  # The machine sees nothing of what is made in /dev.
  mount -t tmpfs -o mode=755 tmpfs "$root/dev"
  mkdir "$root/dev/pts" "$root/dev/shm"
  mount -t devpts -o newinstance,ptmxmode=666,mode=620 devpts "$root/dev/pts"
  mount -t tmpfs tmpfs "$root/dev/shm"
  for node in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0; do
    IFS=: read -r name major minor <<< "$node"
    mknod -m 666 "$root/dev/$name" c "$major" "$minor"
  done
  ln -s pts/ptmx "$root/dev/ptmx"
  ln -s /proc/self/fd "$root/dev/fd"
  ln -s /proc/self/fd/0 "$root/dev/stdin"
  ln -s /proc/self/fd/1 "$root/dev/stdout"
  ln -s /proc/self/fd/2 "$root/dev/stderr"
  hierarchies=$(ls /sys/fs/cgroup)
  version=1
  if [ -e /sys/fs/cgroup/cgroup.controllers ]; then version=2; fi
  mount -t sysfs -o ro sysfs "$root/sys"
  if [ $version = 2 ]; then
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
  else
    mount -t tmpfs -o mode=755 tmpfs "$root/sys/fs/cgroup"
    for one in $hierarchies; do
      mkdir "$root/sys/fs/cgroup/$one"
      case $one in
        unified) mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup/$one" ;;
        systemd) mount -t cgroup -o none,name=systemd cgroup "$root/sys/fs/cgroup/$one" ;;
        *) mount -t cgroup -o "$one" cgroup "$root/sys/fs/cgroup/$one" ;;
      esac
    done
  fi
  cd "$root"
  pivot_root . mnt/old
  umount -l /mnt/old
  mount --make-rshared /
  # Nothing of KubeEdge and of the machine'"'"'s own services is here.
  rm -rf /etc/kubeedge /var/lib/kubeedge /var/lib/kubelet /var/log/kubeedge /var/log/journal /etc/cni/net.d /var/lib/cni
  rm -rf /usr/local/bin/edgecore /etc/systemd/system
  mkdir -p /etc/systemd/system/multi-user.target.wants
  # Without an id this would be the first boot, on which every service that is installed gets enabled.
  tr -d - < /proc/sys/kernel/random/uuid > /etc/machine-id
  for unit in getty.target console-getty.service systemd-logind.service dbus.service dbus.socket systemd-udevd.service \
    dev-hugepages.mount dev-mqueue.mount sys-fs-fuse-connections.mount sys-kernel-debug.mount sys-kernel-tracing.mount \
    systemd-networkd.service systemd-networkd.socket systemd-networkd-wait-online.service nftables.service; do
    ln -s /dev/null "/etc/systemd/system/$unit"
  done
  cp "$edge/containerd.service" /etc/systemd/system/containerd.service
  ln -s ../containerd.service /etc/systemd/system/multi-user.target.wants/containerd.service
  echo host > /etc/hostname
  hostname host
  exec env -i container=docker PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root "$@"
' boot "$edge" "$programs" "$@"
