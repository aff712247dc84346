#!/bin/busybox sh
# First process of the guest: a root of this machine's files beneath a layer in memory, cgroup v2 alone, then the job.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in $(cat /modules); do modprobe "$module" || echo "no module $module"; done

mkdir -p /host /memory /root
mount -t virtiofs host /host
mount -t tmpfs -o size=90% memory /memory
mkdir -p /memory/upper /memory/work
mount -t overlay -o lowerdir=/host,upperdir=/memory/upper,workdir=/memory/work root /root
for place in proc sys dev; do mount --move /$place /root/$place; done
mkdir -p /root/dev/pts /root/dev/shm
mount -t devpts -o ptmxmode=666,gid=5 devpts /root/dev/pts
for place in dev/shm run tmp var/tmp; do mount -t tmpfs tmpfs /root/$place; done
mount -t cgroup2 cgroup2 /root/sys/fs/cgroup
ip link set lo up
cp /job /root/run/job
exec switch_root /root /bin/sh /run/job
