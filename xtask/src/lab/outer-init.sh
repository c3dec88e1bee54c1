#!/bin/sh
# The outer host's init: drivers, file systems, the one script it is there for, and off.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
ln -s /proc/self/fd /dev/fd
ln -s fd/0 /dev/stdin
ln -s fd/1 /dev/stdout
ln -s fd/2 /dev/stderr
mount -t devpts pts /dev/pts
for folder in /dev/shm /run /tmp /var /etc; do
    mount -t tmpfs tmpfs "$folder"
done
[ "$(cat /sys/block/vdb/serial 2>/dev/null)" != kept ] || mount -t ext4 /dev/vdb /kept
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t debugfs debugfs /sys/kernel/debug
ip link set lo up
hostname lab

while read -r module; do
    name=$(basename "$module" .ko | tr - _)
    [ -d "/sys/module/$name" ] || insmod "/lib/modules/$module" || echo "lab: cannot load $module"
done </lab/modules

# What runs speaks to the outside through a port of its own: the kernel's messages stay on the serial console.
port_named() {
    for port in /sys/class/virtio-ports/*; do
        [ "$(cat "$port/name" 2>/dev/null)" = "$1" ] && echo "/dev/${port##*/}"
    done
}
relay=$(port_named procurator.relay)
pulse=$(port_named procurator.pulse)
if [ -z "$relay" ] || [ -z "$pulse" ]; then
    echo "lab: there is no relay port"
    poweroff -f
fi
(while sleep 5; do echo; done >"$pulse") &
exec >"$relay" 2>&1

if [ -e /dev/hvc0 ]; then
    (while true; do setsid -c sh -l; done </dev/hvc0 >/dev/hvc0 2>&1) &
fi

sh /lab/script
echo "@@lab ended $?"
if [ -e /dev/hvc0 ]; then
    while true; do sleep 3600; done
fi
sync
poweroff -f
