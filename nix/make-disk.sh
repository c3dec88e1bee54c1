#!/bin/sh
# Makes a disk of a closure: make-disk.sh erofs|ext4 CLOSURE DISK
#
# CLOSURE is a file with a store path a line, DISK is written. `erofs` holds the paths at its top, to be mounted at
# /nix/store; `ext4` holds them below /nix/store, to be the root. Both are not compressed: the host's page cache then holds
# what guests read, once for all of them. The same closure gives the same bytes as `erofs`; an `ext4` also has the times at
# which it was filled.
set -eu

kind=$1 closure=$2 disk=$3
# File systems have an identity; that of an image is its store path.
identity=00000000-0000-4000-8000-000000000001
stage=$(mktemp -d)
trap 'chmod -R u+w "$stage"; rm -rf "$stage"' EXIT

case "$kind" in
erofs) top=$stage ;;
ext4) top=$stage/nix/store ;;
*)
    echo "make-disk.sh: $kind is no file system for a closure: erofs and ext4 are" >&2
    exit 2
    ;;
esac
mkdir -p "$top"
# Where both are on a file system that can, blocks are shared instead of copied.
while read -r path; do
    cp --archive --reflink=auto "$path" "$top/"
done <"$closure"

export SOURCE_DATE_EPOCH=1 E2FSPROGS_FAKE_TIME=1
if [ "$kind" = erofs ]; then
    mkfs.erofs --quiet -T1 -U "$identity" --all-root "$disk" "$stage"
else
    for directory in dev etc proc sys run tmp root var; do
        mkdir "$stage/$directory"
    done
    find "$stage" -exec touch --no-dereference --date=@1 {} +
    # What the files take, with room for what describes them; the volume that is made of it grows the file system.
    kibibytes=$(du --summarize --apparent-size --block-size=1K "$stage" | cut -f1)
    inodes=$(find "$stage" | wc -l)
    mke2fs -q -t ext4 -m 0 -b 4096 -L root -U "$identity" -N $((inodes + 4096)) \
        -E "hash_seed=$identity,root_owner=0:0,lazy_itable_init=0" -d "$stage" "$disk" "$((kibibytes * 5 / 4 + 65536))K" >/dev/null
fi
