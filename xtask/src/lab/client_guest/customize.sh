#!/bin/sh
# Run by mmdebstrap on the finished root: what makes it a guest. $1 is the root, $lab where the other files are, and where
# what is booted goes.
set -eu
root=$1
echo image >"$root/etc/hostname"
cp "$lab/try-clients.service" "$root/etc/systemd/system/"
cp "$lab/try-clients.sh" "$lab/udhcpc.sh" "$root/usr/local/lib/"
chmod +x "$root/usr/local/lib/udhcpc.sh"
chroot "$root" systemctl --quiet enable systemd-networkd.service
# They are started one after the other, each when it is its turn.
chroot "$root" systemctl --quiet disable NetworkManager.service NetworkManager-wait-online.service
# It boots on an emulated processor, where each program that is started takes seconds.
chroot "$root" systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
    fstrim.timer e2scrub_reap.service systemd-networkd-wait-online.service NetworkManager-dispatcher.service \
    modprobe@configfs.service modprobe@drm.service modprobe@efi_pstore.service modprobe@fuse.service \
    modprobe@loop.service modprobe@dm_mod.service sys-fs-fuse-connections.mount sys-kernel-config.mount \
    sys-kernel-debug.mount sys-kernel-tracing.mount dev-hugepages.mount dev-mqueue.mount systemd-pstore.service \
    systemd-binfmt.service proc-sys-fs-binfmt_misc.automount getty@tty1.service getty-static.service \
    serial-getty@ttyS0.service \
    systemd-journal-flush.service systemd-random-seed.service
# Of cloud-init, what sets up a machine and nothing that installs packages or grows disks.
cat >"$root/etc/cloud/cloud.cfg.d/90-lab.cfg" <<'END'
cloud_init_modules: [seed_random, write_files, set_hostname, update_hostname]
cloud_config_modules: [runcmd]
cloud_final_modules: [scripts_user]
END
touch "$root/etc/.updated" "$root/var/.updated"
: >"$root/etc/machine-id"
printf '%s\n' virtio_pci virtio_blk virtio_net button evdev ext4 isofs >>"$root/etc/initramfs-tools/modules"
sed -i 's/^MODULES=.*/MODULES=list/' "$root/etc/initramfs-tools/initramfs.conf"
chroot "$root" update-initramfs -u -k all
mv "$root"/boot/vmlinuz-* "$lab/vmlinux"
mv "$root"/boot/initrd.img-* "$lab/initrd"
rm -rf "$root/boot"/* "$root/var/cache/apt" "$root/var/lib/apt/lists" "$root/usr/share/doc" "$root/usr/share/locale" \
    "$root/usr/share/man"
