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
# It is ready when its drivers are loaded: before that, nobody in it sees the power button.
chroot "$root" systemctl --quiet add-wants multi-user.target systemd-udev-settle.service
# Its systemd has the server started for connections to the machine's sockets; another one would listen on the network.
chroot "$root" systemctl --quiet disable ssh.service
chroot "$root" systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
    fstrim.timer e2scrub_reap.service systemd-networkd-wait-online.service

# It boots on an emulated processor, where each program that is started takes seconds beside other work. What this guest has
# no use for is not started: file systems that nothing mounts, drivers of devices that it has not, a journal that is kept,
# a terminal without a person.
chroot "$root" systemctl --quiet mask modprobe@configfs.service modprobe@drm.service modprobe@efi_pstore.service \
    modprobe@fuse.service modprobe@loop.service modprobe@dm_mod.service sys-fs-fuse-connections.mount \
    sys-kernel-config.mount sys-kernel-debug.mount sys-kernel-tracing.mount dev-hugepages.mount dev-mqueue.mount \
    systemd-modules-load.service systemd-journal-flush.service systemd-random-seed.service systemd-sysctl.service \
    systemd-networkd-persistent-storage.service systemd-udev-load-credentials.service \
    systemd-pstore.service systemd-binfmt.service proc-sys-fs-binfmt_misc.automount getty@tty1.service getty-static.service
# Nothing has changed since the packages were configured, and this is no first boot: its identity is the machine's.
touch "$root/etc/.updated" "$root/var/.updated"
: >"$root/etc/machine-id"

# The distribution's own initial root file system, with the drivers of this machine and no others.
printf '%s\n' virtio_pci virtio_blk virtio_net button evdev ext4 >>"$root/etc/initramfs-tools/modules"
sed -i 's/^MODULES=.*/MODULES=list/' "$root/etc/initramfs-tools/initramfs.conf"
chroot "$root" update-initramfs -u -k all
mv "$root"/boot/vmlinuz-* "$lab/vmlinux"
mv "$root"/boot/initrd.img-* "$lab/initrd"
rm -rf "$root/boot"/* "$root/var/cache/apt" "$root/var/lib/apt/lists" "$root/usr/share/doc" "$root/usr/share/locale" \
    "$root/usr/share/man"
