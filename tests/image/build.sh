# Builds the test image; see default.nix for where the variables come from. File handling is busybox's, so that it is
# the same on every host.
set -eu
export PATH="$toolPath"
umask 022

# A store path's name begins with a hash, and busybox goes by the name it is called by.
cp "$busybox" "$NIX_BUILD_TOP/busybox"
busybox=$NIX_BUILD_TOP/busybox
bb() { "$busybox" "$@"; }

# Every time stamp is the store's: the same inputs give the same bytes.
settle() { bb find "$1" -exec "$busybox" touch -h -d @1 {} +; }

# Fills a directory with busybox under the names of its applets, as links relative to the root they end up in.
install_busybox() {
    bb mkdir -p "$1/bin" "$1/sbin" "$1/usr/bin" "$1/usr/sbin"
    bb cp "$busybox" "$1/bin/busybox"
    bb chmod 755 "$1/bin/busybox"
    for applet in $(bb --list-full); do
        [ "$applet" = bin/busybox ] || bb ln -sf /bin/busybox "$1/$applet"
    done
}

build_initrd() {
    tree=$1
    bb mkdir -p "$tree/bin" "$tree/dev" "$tree/proc" "$tree/root" "$tree/modules"
    bb cp "$busybox" "$tree/bin/busybox"
    bb cp "$initrdInit" "$tree/init"
    bb chmod 755 "$tree/init" "$tree/bin/busybox"
    number=10
    for module in $modules; do
        # The number keeps the loading order; the store's hash before the module's name goes.
        name=${module##*/}
        bb cp "$module" "$tree/modules/$number-${name#*-}"
        number=$((number + 1))
    done
    settle "$tree"
    (cd "$tree" && bb find . | bb sort | cpio --quiet --create --format=newc --reproducible --owner=0:0) \
        >"$out/initrd"
}

build_disk() {
    tree=$1
    bb mkdir -p "$tree"
    install_busybox "$tree"
    for program in $programs; do
        place=$tree${program%%=*}
        bb mkdir -p "${place%/*}"
        bb cp "${program#*=}" "$place"
        bb chmod 755 "$place"
    done
    bb cp -r "$root/." "$tree/"
    bb chmod -R u+w "$tree"
    bb mkdir -p "$tree/dev" "$tree/proc" "$tree/sys" "$tree/run" "$tree/tmp" "$tree/var" \
        "$tree/root" "$tree/etc/dropbear"
    # What the guest learns while it runs, under the names that programs look for.
    bb ln -s /run/index "$tree/www/index.html"
    bb ln -s /run/resolv.conf "$tree/etc/resolv.conf"
    bb seq 1 200000 | bb head -c 1048576 >"$tree/www/megabyte"
    # A place for records: of blocks that exist, so that writing to them changes nothing else on the file system.
    bb head -c 1048576 /dev/zero | bb tr '\000' '#' >"$tree/var/records"
    echo "$edition" >"$tree/etc/edition"
    settle "$tree"
    mke2fs -q -t ext4 -O ^has_journal -m 0 -b 4096 -I 256 -L procurator-test \
        -U 7d0c6d3c-6f0e-4b6e-9f0b-0d6a6f2b1c01 -E hash_seed=7d0c6d3c-6f0e-4b6e-9f0b-0d6a6f2b1c02,lazy_itable_init=0,root_owner=0:0 \
        -d "$tree" "$out/disk.img" 24M
    # mke2fs copies the time of each file's last status change, which nothing but it can set.
    (cd "$tree" && bb find . | bb sort | while read -r path; do
        echo "set_inode_field \"/${path#./}\" ctime @1"
        echo "set_inode_field \"/${path#./}\" crtime @1"
    done) >"$NIX_BUILD_TOP/times"
    debugfs -w -f "$NIX_BUILD_TOP/times" "$out/disk.img" >/dev/null
}

export SOURCE_DATE_EPOCH=1 E2FSPROGS_FAKE_TIME=1
bb mkdir -p "$out"
bb cp "$kernel" "$out/vmlinux"
bb cp "$vmConfig" "$out/vm-config.json"
build_initrd "$NIX_BUILD_TOP/initrd"
build_disk "$NIX_BUILD_TOP/disk"
