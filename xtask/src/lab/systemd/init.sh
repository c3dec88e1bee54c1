#!/bin/sh
# What the outer host with systemd is there for: drivers, the worker's package, the one script, and an
# orderly shutdown, after which `after-shutdown` tells the end.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin:/lab/bin HOME=/root

while read -r module; do
    name=$(basename "$module" .ko | tr - _)
    [ -d "/sys/module/$name" ] || insmod "/lab-disk/lib/modules/$module" || echo "lab: cannot load $module"
done </lab/modules

port_named() {
    for port in /sys/class/virtio-ports/*; do
        [ "$(cat "$port/name" 2>/dev/null)" = "$1" ] && echo "/dev/${port##*/}"
    done
}
relay=$(port_named procurator.relay)
pulse=$(port_named procurator.pulse)
if [ -z "$relay" ] || [ -z "$pulse" ]; then
    echo "lab: there is no relay port"
    systemctl poweroff --force --force
fi
(while sleep 5; do echo; done >"$pulse") &


mkdir -p /var/lib/lab /run/lab
cp /lab/after-shutdown /var/lib/lab/after-shutdown
exec >"$relay" 2>&1
if [ -e /dev/hvc0 ]; then
    (while true; do setsid -c sh -l; done </dev/hvc0 >/dev/hvc0 2>&1) &
fi
# Tests start the worker themselves.
if [ -e /lab/packages/lab1.deb ]; then
    dpkg --install /lab/packages/lab1.deb >/dev/null && systemctl disable --now --quiet procurator-worker.service
fi
sh /lab/script
status=$?
if [ -e /dev/hvc0 ]; then
    echo "@@lab ended $status"
    while true; do sleep 3600; done
fi
echo "$status" >/run/lab/status
echo "$relay" >/run/lab/relay
exec >/dev/null 2>&1
systemctl poweroff --no-block
