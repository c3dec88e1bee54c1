#!/bin/sh
# Run by mmdebstrap on the finished root: what makes it an outer host. $1 is the root, $lab where the other files are.
set -eu
root=$1
mkdir -p "$root/lab-disk" "$root/lab" "$root/nix"
cp "$lab/lab.service" "$root/etc/systemd/system/lab.service"
mkdir -p "$root/usr/lib/systemd/system-shutdown"
cp "$lab/after-shutdown.sh" "$root/usr/lib/systemd/system-shutdown/lab"
chmod 755 "$root/usr/lib/systemd/system-shutdown/lab"
echo lab >"$root/etc/hostname"
# With an id it is no first boot.
echo 6a1f0c4e2b7d4e58a3f19c0d5b8e7f62 >"$root/etc/machine-id"
chroot "$root" systemctl --quiet enable lab.service
# Nobody logs in, and without udev no terminal ever appears to systemd.
chroot "$root" systemctl --quiet mask getty@.service serial-getty@.service apt-daily.timer apt-daily-upgrade.timer \
    dpkg-db-backup.timer e2scrub_all.timer fstrim.timer
rm -rf "$root/var/cache/apt" "$root/var/lib/apt/lists" "$root/usr/share/doc" "$root/usr/share/locale" "$root/usr/share/man"
