#!/bin/sh
# Run by mmdebstrap on the finished root: what makes it a guest. $1 is the root, $lab where the other files are, and where
# what is booted goes.
set -eu
root=$1
echo stock >"$root/etc/hostname"
cp "$lab/wired.network" "$root/etc/systemd/network/"
cp "$lab/show-credentials.service" "$root/etc/systemd/system/"
cp "$lab/show-credentials.sh" "$root/usr/local/lib/"
chroot "$root" systemctl --quiet enable systemd-networkd.service show-credentials.service
chroot "$root" systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
    fstrim.timer systemd-networkd-wait-online.service
mv "$root"/boot/vmlinuz-* "$lab/vmlinux"
mv "$root"/boot/initrd.img-* "$lab/initrd"
rm -rf "$root/boot"/* "$root/var/cache/apt" "$root/var/lib/apt/lists" "$root/usr/share/doc" "$root/usr/share/locale" \
    "$root/usr/share/man"
