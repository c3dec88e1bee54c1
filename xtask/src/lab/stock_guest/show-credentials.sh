#!/bin/sh
# Run with credentials: what each says, and what the system has.
for file in "$CREDENTIALS_DIRECTORY"/*; do
    echo "credential ${file##*/} says $(cat "$file")" >/dev/console
done
echo "root lets in $(cat /root/.ssh/authorized_keys)" >/dev/console
systemd-creds --system --no-legend list >/dev/console
