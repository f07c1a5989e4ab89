#!/bin/sh
# First process of a lab guest. Builds a private root over the host's own file system (overlay: the host's / below,
# read-only; a tmpfs above), then becomes the agent, or systemd with the agent as a unit.
# Words of the kernel command line arrive as environment: lab_host lab_addr lab_mac lab_repo lab_id lab_share
# lab_init (agent, systemd), lab_modules (a,b,c), lab_kernel (the folder of the kernel's modules).
# Never a busybox shell here: its applets are run through /proc/self/exe, and before /proc is mounted that is the
# HOST's /proc, where "self" is the UML kernel: each command would boot another kernel inside this one.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
export PATH
fail() { echo "lab init: $*" >&2; exec /bin/busybox poweroff -f; }

mount -t proc proc /proc || fail "no /proc"
kernel=$(uname -r)
insmod "$lab_kernel/$kernel/kernel/fs/overlayfs/overlay.ko" || fail "no overlay module"

mount -t tmpfs -o mode=755 root /mnt || fail "no tmpfs"
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work root /mnt/root || fail "no overlay"
cd /mnt/root || fail "no root"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t devtmpfs devtmpfs dev
mkdir -p dev/pts dev/shm
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts dev/pts
mount -t tmpfs -o mode=1777 shm dev/shm
for fd in 0 1 2; do ln -sf /proc/self/fd/$fd dev/$(echo stdin stdout stderr | cut -d' ' -f$((fd + 1))); done
ln -sf /proc/self/fd dev/fd
# What the host's own daemons left here is not this guest's.
for private in run var/log var/lib/nfs var/lib/libvirt var/cache/libvirt; do
    mkdir -p $private && mount -t tmpfs -o mode=755 tmpfs $private
done
rm -rf etc/libvirt/* etc/vmguard etc/systemd/system/vmguard*
mkdir -p etc/libvirt/hooks var/log/libvirt/qemu run/lock run/rpc_pipefs mnt/old lab
mount -t hostfs -o "$lab_share" share lab || fail "no share"
mkdir -p lib/modules && ln -sfn "$lab_kernel/$kernel" "lib/modules/$kernel"

# The name must be set before the first NFS mount: it is the identity of the NFS client.
echo "$lab_host" > /proc/sys/kernel/hostname
echo "$lab_host" > etc/hostname
echo "$lab_id" > etc/machine-id
printf '127.0.0.1 localhost\n%s %s\n' "${lab_addr%/*}" "$lab_host" > etc/hosts
: > etc/fstab
: > etc/exports

ip link set lo up
if [ -n "$lab_addr" ]; then
    ip link set vec0 address "$lab_mac" && ip link set vec0 up && ip addr add "$lab_addr" dev vec0 || fail "no network"
fi

pivot_root . mnt/old || fail "no pivot_root"
umount -l /mnt/old
cd /
for module in $(echo "$lab_modules" | tr , ' '); do modprobe "$module" || echo "lab init: no module $module" >&2; done

agent="/usr/bin/python3 -SEs $lab_repo/tests/lab/inside/agent.py /dev/ttyS0"
[ "$lab_init" = systemd ] || exec env -i PATH="$PATH" HOME=/root $agent
. "$lab_repo/tests/lab/inside/systemd.sh"
